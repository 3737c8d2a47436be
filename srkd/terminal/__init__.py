"""What is printed: lines, tables, progress, JSON and CSV."""
