"""Speed, memory, cost and quality of models, measured in turns."""
