"""Recipes as YAML files: their models, their reader (which reports all mistakes at once), JSON schema and list."""
