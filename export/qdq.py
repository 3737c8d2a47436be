"""ONNX with explicit quantization as TensorRT takes it: signed bytes around zero, weights per channel, biases float."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch


def quantized(onnx: Path, out: Path, images: Sequence[torch.Tensor]) -> None:
    """Convolutions between QuantizeLinear and DequantizeLinear; the range of each tensor is that seen on `images`."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = [image.numpy() for image in images]

        def get_next(self) -> Any:  # a dict, or None at the end
            return {"lr": self.left.pop(0)} if self.left else None

    level = logging.root.level
    logging.root.setLevel(logging.ERROR)  # it recommends a pass that the exporter's graph does not need
    try:
        quantize_static(
            str(onnx),
            str(out),
            Reader(),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            op_types_to_quantize=["Conv"],
            extra_options={
                "ActivationSymmetric": True,
                "WeightSymmetric": True,
                "AddQDQPairToWeight": True,
                "QuantizeBias": False,
            },
        )
    finally:
        logging.root.setLevel(level)
