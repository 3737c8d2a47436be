"""Distillation methods, one file each, and their presets as data."""
