VERSION_TEXT = "2026.1"  # of a double of pycuda, on the double GPU
