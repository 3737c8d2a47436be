"""Plans: the largest student that meets a target, by measurement."""
