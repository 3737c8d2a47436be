"""One way to run any model file."""
