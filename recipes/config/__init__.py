"""Recipes as YAML files: their models, their reader with all mistakes at once, their JSON schema, their list."""
