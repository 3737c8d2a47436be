"""A simulated machine with an NVIDIA GPU: doubles of TensorRT, of torch's CUDA and of pycuda."""

from __future__ import annotations

import _ctypes
import importlib
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from compressor.runtimes.tensorrt import device, installation
from tests.support.onnx_files import model_of

DOUBLES = Path(__file__).resolve().parents[1] / "doubles"
DOUBLED = ("tensorrt", "pycuda", "double_device", "double_torch")

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="the doubles stand in for Linux libraries")


class Nvidia:
    """Controls the doubles, and reads the calls that they recorded."""

    def __init__(self, patch: pytest.MonkeyPatch, folder: Path) -> None:
        self._patch, self._log = patch, folder / "calls.jsonl"
        patch.setenv("SRKD_DOUBLE_LOG", str(self._log))

    def is_(self, **facts: str) -> None:
        """Set version (trt), gpu, driver, fault or gpus, from the next import or call on."""
        for name, value in facts.items():
            self._patch.setenv(f"SRKD_DOUBLE_{name.upper()}", value)
        if "trt" in facts:
            forget("tensorrt")

    def calls(self, *names: str) -> list[list[object]]:
        """Return the calls with these names, or all calls, in order."""
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        calls: list[list[object]] = [json.loads(line) for line in lines]
        return [call for call in calls if not names or call[0] in names]

    def forget_calls(self) -> None:
        self._log.unlink(missing_ok=True)


def forget(*modules: str) -> None:
    """Make Python import these modules again, doubles and real ones."""
    for name in [name for name in sys.modules if name.partition(".")[0] in modules]:
        del sys.modules[name]


@contextmanager
def nvidia(folder: Path, *, torch_cuda: bool = True) -> Iterator[Nvidia]:
    """Replace installed modules by doubles. Without `torch_cuda` torch was built without CUDA."""
    patch = pytest.MonkeyPatch()  # separate, as a test's may be undone later than this
    library = folder / "libcuda.so.1"
    library.symlink_to(_ctypes.__file__)
    forget(*DOUBLED)
    try:
        patch.setattr(installation, "DRIVER", str(library))
        patch.setattr(installation, "cuda_version", lambda: int(os.environ.get("SRKD_DOUBLE_DRIVER", "13000")))
        for double in ("device", "pycuda", "tensorrt"):
            patch.syspath_prepend(DOUBLES / double)
        patch.setattr(torch.version, "cuda", "12.8" if torch_cuda else None)
        if torch_cuda:
            patch.setattr(device, "torch", importlib.import_module("double_torch"))
        yield Nvidia(patch, folder)
    finally:
        patch.undo()
        forget(*DOUBLED)


def small_onnx(path: Path, *, fixed: tuple[int, int] | None = None, half: int | None = None) -> Path:
    """Write a 3x3 convolution and a shuffle for scale 2. `half` is the type of 16-bit weights; images are float."""
    weights = np.random.default_rng(0).normal(0, 0.2, (12, 3, 3, 3)).astype(np.float32)
    batch, height, width = (1, fixed[1], fixed[0]) if fixed else ("n", "h", "w")
    model = model_of(
        f"""small (float[{batch}, 3, {height}, {width}] lr) => (float[] sr) {{
            {"weights = Cast <to = 1> (half)" if half else ""}
            wide = Conv <pads = [1, 1, 1, 1]> (lr, weights)
            sr = DepthToSpace <blocksize = 2, mode = "CRD"> (wide)
        }}""",
        ir_version=10,
    )
    for node, name in zip(reversed(model.graph.node), ("shuffle", "conv", "cast"), strict=False):
        node.name = name
    stored = helper.make_tensor("half", half, weights.shape, weights.flatten()) if half else None
    model.graph.initializer.append(stored or numpy_helper.from_array(weights, "weights"))
    onnx.save_model(model, str(path))
    return path
