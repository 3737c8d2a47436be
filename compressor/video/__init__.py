"""Films: their frames as RGB and back, encoding, and joining with the streams that are copied; no networks."""
