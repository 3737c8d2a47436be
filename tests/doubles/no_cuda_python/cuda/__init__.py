"""What a machine without cuda-python has in its place: nothing, even where the tests' own environment has it."""

raise ModuleNotFoundError("No module named 'cuda'", name="cuda")
