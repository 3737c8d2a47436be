"""OpenVINO's files (an .xml, and its weights in a .bin beside it), ours and foreign ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from compressor.base.errors import SrkdError, UsageError, one_line
from compressor.models.networks.base import Descriptor, Spec
from compressor.runtimes.base import require_input, require_output
from compressor.runtimes.metadata import Image, describe, spec_in

PRECISIONS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {"fp32": ("f32", "FP32"), "bf16": ("bf16", "BF16"), "fp16": ("f16", "FP16")}
)
"""Ours → OpenVINO's word for a hint, and for what a device can."""

HEAD_BYTES = 4096


class OpenVinoRuntime:
    """A model compiled once, for latency. `threads` None: as many as torch uses, so that both are compared alike.

    Left alone OpenVINO computes in bf16 wherever the processor can: here fp32 is fp32, and half precision is asked for.
    """

    name = "openvino"
    layout = "runtime"

    def __init__(
        self,
        path: Path,
        *,
        label: str | None = None,
        device: str = "cpu",
        threads: int | None = None,
        precision: str = "fp32",
    ) -> None:
        import openvino

        self.label = label or path.stem
        self.threads = threads or torch.get_num_threads()
        _require_files(path)
        core = openvino.Core()
        place = _place(core, device)
        _require_precision(core, place, precision)
        self.device, self.precision = place.lower().replace(".", ":"), precision
        with one_line(f"{path} is not a model OpenVINO can open"):
            model = core.read_model(path)
        self._image = _image(model, self.label)
        self.metadata = _metadata(model)
        with one_line(f"{path} cannot be compiled by OpenVINO for {place}"):
            self._compiled = core.compile_model(model, place, self._settings(place))
        self.spec: Spec | None = spec_in(self.metadata, self.label)
        self.descriptor: Descriptor = describe(self.spec, self._image, self.label, self._run)

    def run(self, lr: torch.Tensor) -> torch.Tensor:
        require_input(lr, self.descriptor, self.label)
        sr = self._run(lr)
        require_output(lr, sr, self.descriptor, self.label)
        return sr

    def _run(self, lr: torch.Tensor) -> torch.Tensor:
        with one_line(f"{self.label}: OpenVINO failed on {tuple(lr.shape)}"):
            # A copy: what OpenVINO gives is its own memory, written over by the next run.
            return self._image.run(lr, lambda fed: np.array(self._compiled(fed)[0]))

    def _settings(self, place: str) -> dict[str, Any]:
        settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": PRECISIONS[self.precision][0],
            "PERFORMANCE_HINT": "LATENCY",
        }
        if place == "CPU":
            # Threads tied to cores would share them with those of any other process that ties its own.
            settings |= {"INFERENCE_NUM_THREADS": self.threads, "NUM_STREAMS": 1, "ENABLE_CPU_PINNING": False}
        return settings


def _require_files(path: Path) -> None:
    """What is no model ends here: OpenVINO tries all its readers on it, and they print."""
    if not path.is_file():
        raise SrkdError(f"{path}: no such file")
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError as error:
        raise SrkdError(f"{path} cannot be read: {error.strerror or error}") from error
    if b"<net" not in head:
        raise SrkdError(f"{path} is not an OpenVINO model: no <net> at its beginning")
    weights = path.with_suffix(".bin")
    if not weights.is_file():
        raise SrkdError(f"{path} keeps its weights in {weights.name}, which is not beside it: put both in one folder")


def _place(core: Any, device: str) -> str:
    """`cpu`, or `openvino:GPU`, as OpenVINO calls it."""
    offered: list[str] = core.available_devices
    kind, _, rest = device.partition(":")
    wanted = (rest.upper() or "CPU") if kind == "openvino" else device.upper().replace(":", ".")
    if wanted not in offered:
        told = ", ".join(["cpu", *(f"openvino:{name}" for name in offered if name != "CPU")])
        raise SrkdError(f"device {device!r}: OpenVINO runs on {told} here")
    return wanted


def _require_precision(core: Any, place: str, precision: str) -> None:
    if precision not in PRECISIONS:
        raise UsageError(f"precision {precision!r} is not one of {', '.join(PRECISIONS)} (runtime openvino)")
    able = core.get_property(place, "OPTIMIZATION_CAPABILITIES")
    # Asked for what it has not, a processor silently computes in fp32.
    if precision != "fp32" and PRECISIONS[precision][1] not in able:
        have = ", ".join(name for name, (_, word) in PRECISIONS.items() if name == "fp32" or word in able)
        raise UsageError(f"precision {precision}: OpenVINO has {have} on this {place}")


def _image(model: Any, label: str) -> Image:
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise SrkdError(
            f"{label} has {len(model.inputs)} inputs and {len(model.outputs)} outputs: "
            "a super-resolution model has one each"
        )
    given, taken = model.inputs[0], model.outputs[0]
    kinds = given.element_type.get_type_name(), taken.element_type.get_type_name()
    last = kinds[0] == "u8"
    if kinds not in (("f32", "f32"), ("u8", "u8")):
        raise SrkdError(f"{label} takes {kinds[0]} and gives {kinds[1]}: float32 in [0,1] or bytes are understood")
    shape = given.partial_shape
    sizes: list[Any] = (
        [None if size.is_dynamic else size.get_length() for size in shape] if shape.rank.is_static else []
    )
    if len(sizes) != 4 or sizes[3 if last else 1] not in (1, 3):
        wanted = "(N, H, W, 3) or (N, H, W, 1)" if last else "(N, 3, H, W) or (N, 1, H, W)"
        raise SrkdError(f"{label} takes images of shape {shape}: expected {wanted}")
    channels = sizes.pop(3 if last else 1)
    batch, height, width = sizes
    return Image(channels, height, width, one=batch == 1, last=last, whole=last)


def _metadata(model: Any) -> dict[str, str]:
    """The `srkd.*` keys in the model's `rt_info`."""
    return {key: str(value.value) for key, value in model.get_rt_info().items() if key.startswith("srkd.")}
