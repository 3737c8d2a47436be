"""The base of every package: errors, files, the cache folder, the machine, random numbers, ranks and processes."""
