"""`srkd export`: a model's files written, proved, recorded and described by a card."""
