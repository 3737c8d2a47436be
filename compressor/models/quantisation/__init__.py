"""Quantised networks: the description in a file, and the quantisers that training and export share."""
