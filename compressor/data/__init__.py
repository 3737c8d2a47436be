"""Training data: decoded images, samplers, batches, and cached outputs of the teacher."""
