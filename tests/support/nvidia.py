"""A machine with an NVIDIA GPU, as far as srkd can tell: doubles of TensorRT and of both CUDA bindings."""

from __future__ import annotations

import _ctypes
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compressor.runtimes.tensorrt import driver

DOUBLES = Path(__file__).resolve().parents[1] / "doubles"
DOUBLED = ("tensorrt", "cuda", "pycuda", "double_device")
CUDA_PYTHON = ("device", "cuda_python", "tensorrt")
PYCUDA = ("device", "pycuda", "no_cuda_python", "tensorrt")

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="the doubles stand in for Linux libraries")


class Nvidia:
    """What the doubles are told, and what they noted."""

    def __init__(self, patch: pytest.MonkeyPatch, folder: Path) -> None:
        self._patch, self._log = patch, folder / "calls.jsonl"
        patch.setenv("SRKD_DOUBLE_LOG", str(self._log))

    def is_(self, **facts: str) -> None:
        """Version (trt), gpu, driver, fault, gpus: from the next import or call on."""
        for name, value in facts.items():
            self._patch.setenv(f"SRKD_DOUBLE_{name.upper()}", value)
        if "trt" in facts:
            forget()

    def calls(self, *names: str) -> list[list[object]]:
        """In order, those of the given names or all."""
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        noted: list[list[object]] = [json.loads(line) for line in lines]
        return [call for call in noted if not names or call[0] in names]

    def forget_calls(self) -> None:
        self._log.unlink(missing_ok=True)


def forget() -> None:
    """Doubles are imported anew; real ones too, should they be installed."""
    for name in [name for name in sys.modules if name.partition(".")[0] in DOUBLED]:
        del sys.modules[name]


@contextmanager
def nvidia(folder: Path, doubles: tuple[str, ...] = CUDA_PYTHON) -> Iterator[Nvidia]:
    """Doubles instead of what is installed, here and in processes started from here."""
    patch = pytest.MonkeyPatch()  # its own: a test's may be undone later than this
    library = folder / "libcuda.so.1"
    library.symlink_to(_ctypes.__file__)
    forget()
    try:
        patch.setattr(driver, "LIBRARY", str(library))
        patch.setenv("LD_LIBRARY_PATH", f"{folder}{os.pathsep}{os.environ.get('LD_LIBRARY_PATH', '')}")
        paths = [str(DOUBLES / double) for double in doubles]
        patch.setenv("PYTHONPATH", os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")]))
        for path in paths:
            patch.syspath_prepend(path)
        yield Nvidia(patch, folder)
    finally:
        patch.undo()
        forget()


def small_onnx(path: Path, *, fixed: tuple[int, int] | None = None, half: int | None = None) -> Path:
    """A convolution of 3x3 and a shuffle, twice as large. `half`: the kind of 16-bit weights; float in and out."""
    weights = np.random.default_rng(0).normal(0, 0.2, (12, 3, 3, 3)).astype(np.float32)
    height, width = (fixed[1], fixed[0]) if fixed else ("h", "w")
    kept = numpy_helper.from_array(weights, "weights")
    nodes = [
        helper.make_node("Conv", ["lr", "weights"], ["wide"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("DepthToSpace", ["wide"], ["sr"], "shuffle", blocksize=2, mode="CRD"),
    ]
    if half is not None:
        kept = helper.make_tensor("half", half, weights.shape, weights.flatten())
        nodes.insert(0, helper.make_node("Cast", ["half"], ["weights"], "cast", to=TensorProto.FLOAT))
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("lr", TensorProto.FLOAT, [1 if fixed else "n", 3, height, width])],
        [helper.make_tensor_value_info("sr", TensorProto.FLOAT, None)],
        [kept],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save_model(model, str(path))
    return path


def quantized_onnx(path: Path, *, zero: int = 0, kind: int = TensorProto.INT8) -> Path:
    """The same between explicit quantization, as TensorRT wants it or not."""
    model = onnx.load_model(str(small_onnx(path)))
    scale, point = (
        helper.make_tensor("scale", TensorProto.FLOAT, [], [0.01]),
        helper.make_tensor("zero", kind, [], [zero]),
    )
    model.graph.initializer.extend([scale, point])
    model.graph.node[0].input[0] = "after"
    model.graph.node.insert(0, helper.make_node("DequantizeLinear", ["bytes", "scale", "zero"], ["after"], "dq"))
    model.graph.node.insert(0, helper.make_node("QuantizeLinear", ["lr", "scale", "zero"], ["bytes"], "q"))
    onnx.save_model(model, str(path))
    return path
