"""Read and write checkpoint files of every code base, without running code from them."""
