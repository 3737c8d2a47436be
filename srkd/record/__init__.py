"""What a run leaves behind: run.json and the results in it, as typed values."""
