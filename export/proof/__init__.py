"""What is measured of a file before it gets its name: its difference, its loss, its speed."""
