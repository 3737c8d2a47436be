"""Open any model file, upscale images in exact tiles, and score models on image sets."""
