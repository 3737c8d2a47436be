"""TensorRT engines: building from ONNX files, storing, rebuilding for another machine, and running."""
