"""The training loop, the protocols of distillation methods, and the run folder."""
