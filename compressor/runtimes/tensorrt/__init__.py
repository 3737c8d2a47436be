"""TensorRT engines: build them from ONNX files, keep them in files, rebuild them for another machine, run them."""
