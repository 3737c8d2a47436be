"""Networks, one per file: spec, module, axis plan, taps and the dialects of its checkpoints."""
