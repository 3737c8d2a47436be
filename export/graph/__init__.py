"""The ONNX graph of a network: made, searched for a difference, kept within the range of fp16."""
