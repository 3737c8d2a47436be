"""The files of the two ends of a run whose student is a blend of them."""

FAITHFUL, TEXTURED = "faithful.safetensors", "textured.safetensors"
