"""Build TensorRT engines from ONNX files, keep them, and run them."""
