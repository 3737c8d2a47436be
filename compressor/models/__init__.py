"""Networks, their checkpoints, students made of them, their cost, and access to their features."""
