"""The time of a model by layer: in torch by hooks at its modules, in ONNX Runtime by its own profile."""

from __future__ import annotations

import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compressor.base.precision import synchronise
from compressor.models.networks.cost import layer_costs
from compressor.runtimes.base import Runtime
from compressor.runtimes.onnx_runtime import OnnxRuntime
from compressor.runtimes.table import OpenOptions
from compressor.runtimes.torch_runtime import TorchCompiledRuntime, TorchRuntime

CALLS = 5


@dataclass(frozen=True)
class LayerTime:
    """One layer: milliseconds per batch without layers inside it, and its multiply-accumulates for one image.

    Shares are fractions of the whole model. MACs are None if a runtime has fused layers. `method` names the clock.
    """

    layer: str
    kind: str
    ms: float
    share: float
    macs: int | None
    macs_share: float | None
    method: str


def measure_layers(runtime: Runtime, path: Path, lr: torch.Tensor) -> tuple[LayerTime, ...] | None:
    """The layers in their order; None if the runtime does not show them."""
    if isinstance(runtime, TorchRuntime) and not isinstance(runtime, TorchCompiledRuntime):
        return _torch_layers(runtime, lr)
    if isinstance(runtime, OnnxRuntime):
        return _onnx_layers(runtime, path, lr)
    return None


def _torch_layers(runtime: TorchRuntime, lr: torch.Tensor) -> tuple[LayerTime, ...]:
    """Time every module by hooks. On a CPU the clock is the CPU time of all threads of this process, which other
    programs do not lengthen."""
    device = torch.device(runtime.device)
    clock, method = _clock(device)
    seconds: dict[str, float] = defaultdict(float)
    open_layers: list[list[Any]] = []

    def enter(name: str) -> Callable[..., None]:
        return lambda *_: open_layers.append([name, clock(), 0.0])

    def leave(*_: object) -> None:
        name, started, inside = open_layers.pop()
        took = clock() - started
        seconds[name] += took - inside
        if open_layers:
            open_layers[-1][2] += took

    runtime.run(lr)
    handles = []
    for name, module in runtime.network.named_modules():
        handles.append(module.register_forward_pre_hook(enter(name)))
        handles.append(module.register_forward_hook(leave))
    try:
        for _ in range(CALLS):
            runtime.run(lr)
    finally:
        for handle in handles:
            handle.remove()
    kinds = {name: _kind(module) for name, module in runtime.network.named_modules()}
    size = (lr.shape[3], lr.shape[2])
    macs = {layer.name: layer.macs for layer in layer_costs(runtime.spec, size)}
    whole, whole_macs = sum(seconds.values()), sum(macs.values())
    return tuple(
        LayerTime(
            layer=name or "(the network itself)",
            kind=kinds[name],
            ms=1000 * seconds[name] / CALLS,
            share=seconds[name] / whole,
            macs=macs.get(name, 0),
            macs_share=macs.get(name, 0) / whole_macs if whole_macs else None,
            method=method,
        )
        for name in kinds
        if name in seconds
    )


def _kind(module: nn.Module) -> str:
    return type(module).__name__


def _clock(device: torch.device) -> tuple[Callable[[], float], str]:
    """A clock in seconds and words for what it measures: CPU time, or the time of a synchronised GPU."""
    if device.type == "cpu":
        return time.process_time, "CPU time of all threads, by hooks"

    def synchronised() -> float:
        synchronise(device)
        return time.perf_counter()

    return synchronised, "wall clock, the device synchronised after each layer"


class _ProfiledSession(OnnxRuntime):
    """A second session of the same file, which writes ONNX Runtime's profile to a folder."""

    def __init__(self, runtime: OnnxRuntime, path: Path, folder: str) -> None:
        self._folder = folder
        model = runtime.descriptor
        probed = {"scale": model.scale, "min_size": model.min_size, "size_multiple": model.size_multiple}
        super().__init__(path, OpenOptions(device=runtime.device, threads=runtime.threads), probed=probed)

    def _session_options(self) -> Any:
        options = super()._session_options()
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(self._folder) / "profile")
        return options

    def end(self) -> list[dict[str, Any]]:
        """End profiling and return the events of all runs."""
        events: list[dict[str, Any]] = json.loads(Path(self._session.end_profiling()).read_text(encoding="utf-8"))
        return events


def _onnx_layers(runtime: OnnxRuntime, path: Path, lr: torch.Tensor) -> tuple[LayerTime, ...]:
    """The layers by ONNX Runtime's profile of the same file."""
    kinds: dict[str, str] = {}
    microseconds: dict[str, float] = defaultdict(float)
    with tempfile.TemporaryDirectory(prefix="srkd-layers-") as folder:
        session = _ProfiledSession(runtime, path, folder)
        for _ in range(CALLS + 1):
            session.run(lr)
        events = session.end()
    runs: dict[str, int] = defaultdict(int)
    for event in events:
        name = str(event.get("name", ""))
        if event.get("cat") != "Node" or not name.endswith("_kernel_time"):
            continue
        node = name.removesuffix("_kernel_time")
        runs[node] += 1
        if runs[node] == 1:
            kinds[node] = str(event.get("args", {}).get("op_name", "node"))
            continue  # the first run warms up
        microseconds[node] += float(event["dur"])
    whole = sum(microseconds.values()) or 1.0
    return tuple(
        LayerTime(
            layer=node,
            kind=kinds[node],
            ms=microseconds[node] / 1000 / CALLS,
            share=microseconds[node] / whole,
            macs=None,
            macs_share=None,
            method="wall clock, ONNX Runtime's profile",
        )
        for node in microseconds
    )
