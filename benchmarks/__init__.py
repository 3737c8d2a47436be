"""Long evidence: each file is a command that regenerates it."""
