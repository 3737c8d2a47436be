"""Students solved for layer by layer, by least squares, without a gradient."""
