"""Exported files: written in each format, compared with their network, timed; the profiler and the planner.

docs/design/house.md says what each package is, and docs/design/export.md how a file is exported.
"""
