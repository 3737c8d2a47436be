"""A model's files: converted, proved, recorded and described by a card."""
