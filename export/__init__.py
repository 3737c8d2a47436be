"""Deployment formats, one file each, their verification, and the profiler of whatever was exported."""
