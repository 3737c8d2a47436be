"""Teachers of any kind: srkd's networks with features, foreign models with outputs only."""
