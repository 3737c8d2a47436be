"""Any model as a teacher: our networks with features, foreign models with outputs only."""
