"""Programs and chips that run students: what each takes, in a folder that is ready to copy."""
