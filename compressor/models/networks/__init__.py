"""One file a network: spec, module, axis plan, taps and the dialects of its checkpoints."""
