"""Networks, checkpoints, students derived from networks, computational cost, and access to features."""
