"""Distillation methods, what their terms share, and their presets as data."""
