"""ONNX with weights and arithmetic in fp16; images stay float32, so that an app changes nothing but the name."""

from __future__ import annotations

from collections.abc import Mapping

from onnx import TensorProto

from export.conversion import Conversion
from export.onnx_half_file import convert_half, open_rounded

__all__ = ["convert", "open_runtime"]

OPSET = 18
"""As for float32."""

open_runtime = open_rounded


def convert(job: Conversion) -> Mapping[str, object]:
    return convert_half(job, TensorProto.FLOAT16, OPSET)
