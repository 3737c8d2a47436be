"""Options of the verbs: how one is declared, all of them, and a caller's models."""
