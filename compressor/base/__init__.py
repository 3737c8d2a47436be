"""What every package stands on: errors, files, the cache folder, the machine, random numbers, ranks and processes."""
