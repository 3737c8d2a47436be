"""Reading and writing of checkpoint files of every code base, without running code from them."""
