"""Films: their frames as RGB, encoding in segments, and joining with the streams that are copied; no networks."""
