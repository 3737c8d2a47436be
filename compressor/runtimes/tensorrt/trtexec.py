"""The same build by NVIDIA's own command, for a machine that has TensorRT and not srkd."""

from __future__ import annotations

import shlex

from compressor.runtimes.tensorrt.shapes import Shape, Shapes


def trtexec_command(onnx: str, engine: str, input: str, shapes: Shapes, precision: str) -> str:
    """One line for the shell. --stronglyTyped makes 10.x take the precision from the ONNX file; 11.x always does."""
    words = ["trtexec", f"--onnx={onnx}", "--stronglyTyped"]
    if precision == "fp32":
        words.append("--noTF32")
    if shapes.fixed is None:
        for name, shape in (("min", shapes.smallest), ("opt", shapes.tuned), ("max", shapes.largest)):
            words.append(f"--{name}Shapes={input}:{_told(shape)}")
    return " ".join(shlex.quote(word) for word in [*words, f"--saveEngine={engine}"])


def _told(shape: Shape) -> str:
    return "x".join(str(side) for side in shape)
