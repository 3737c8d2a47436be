"""Students: cut from a teacher, turned, reordered, or started from another file."""
