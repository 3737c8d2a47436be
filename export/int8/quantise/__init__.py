"""Our own quantiser of ONNX graphs: which values are rounded, on which grids, how later layers compensate errors."""
