"""Deployment formats, one file each, their verification, and the profiler of models and exported files."""
