"""One file per verb. Each holds `command`, and imports slow packages inside the function."""
