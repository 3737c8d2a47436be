"""TensorRT without torch: driver, CUDA, engine files, building. What may crash runs in a process of its own."""
