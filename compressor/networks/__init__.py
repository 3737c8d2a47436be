"""Networks: one file each with its spec, axis plan, taps, parts, descriptor and dialects."""
