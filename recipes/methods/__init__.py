"""Distillation methods, one file each: formula, source, options, weights and terms."""
