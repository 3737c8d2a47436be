"""Charts drawn with Pillow: curves over steps, and labelled points."""
