"""The training loop, what a distillation method is to it, and the run folder it writes."""
