"""Models of other programs, one file a kind: they give outputs, and nothing else."""
