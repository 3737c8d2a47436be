"""Blur, noise, JPEG and codec blocks, as real low-resolution pictures have them; each picture from its own draws."""
