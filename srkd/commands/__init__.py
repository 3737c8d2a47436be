"""One file a verb. Each holds `command`, and imports whatever is heavy inside the function body."""
