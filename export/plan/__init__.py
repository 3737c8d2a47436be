"""Plans: measured searches for the largest student that meets a target."""
