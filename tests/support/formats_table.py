"""A table with a row for each format, for the tests that every format must pass."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pytest

from export.formats.table import FORMATS


@dataclass(frozen=True)
class FormatCase:
    """A format's files, and the errors of a truncated file and of a wrong device."""

    name: str
    files: tuple[str, ...]
    damaged: str
    wrong_device: str
    free_windows: bool = False
    """True if a network with windows converts for any size."""
    selects_precision: bool = False


CASES = (
    FormatCase("onnx", ("small.onnx",), "is not an ONNX file", "ONNX Runtime runs on cpu", free_windows=True),
    FormatCase(
        "openvino",
        ("small.openvino.bin", "small.openvino.xml"),
        "is not a model OpenVINO can open",
        "OpenVINO runs on cpu",
        free_windows=True,
        selects_precision=True,
    ),
    FormatCase(
        "ncnn",
        ("small.bin", "small.param", "small.param.json"),
        "are damaged or not of one export",
        "ncnn runs on cpu here",
    ),
    FormatCase("litert", ("small.tflite",), "is not a model LiteRT can open", "LiteRT runs on cpu here"),
    FormatCase(
        "executorch", ("small.pte", "small.pte.json"), "damaged or changed; export it again", "ExecuTorch runs on cpu"
    ),
)
"""Formats whose files run on a processor; half precision, TensorRT and Core ML have tests of their own."""


def cases(items: Iterable[FormatCase] = CASES) -> list[object]:
    """Return the cases as test parameters, those of optional libraries marked."""
    return [
        pytest.param(case, id=case.name, marks=() if FORMATS[case.name].extra is None else pytest.mark.extras)
        for case in items
    ]
