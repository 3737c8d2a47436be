"""torch.export programs (.pt2): read by torch.export.load, after a search for anything that loading would run."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compressor.errors import SrkdError
from compressor.foreign.archive import check_export
from compressor.foreign.base import ForeignFacts, ModuleModel, Run, one_line, probe, run_module
from compressor.networks.base import Descriptor


class ExportedModel(ModuleModel):
    """Devices are written into the graph, so a program is moved by a pass over it."""

    def __init__(self, program: Any, facts: ForeignFacts, what: str) -> None:
        super().__init__(_callable(program), facts, what)
        self._program = program

    def move(self, device: torch.device) -> torch.device:
        from torch.export.passes import move_to_device_pass

        with one_line(f"{self.what} cannot go to {device}"):
            self._program = move_to_device_pass(self._program, str(device))
            self.module = _callable(self._program)
        return device


def open_exported_program(path: Path) -> ExportedModel:
    """A program of one image input and one image output."""
    check_export(path)
    with one_line(f"{path} is no torch.export program that this torch {torch.__version__} can open"):
        program = torch.export.load(str(path))
    what = f"torch.export program {path.name}"
    batch, channels, height, width = _input_shape(program, what)
    module = _callable(program)

    def run(images: torch.Tensor) -> torch.Tensor:
        return run_module(module, images, what)

    fixed = (width, height) if height is not None and width is not None else None
    descriptor = probe(run, channels, what) if fixed is None else _of_fixed_size(run, channels, fixed, batch or 1, what)
    params = sum(tensor.numel() for name, tensor in program.named_parameters())
    return ExportedModel(program, ForeignFacts("torch.export", "unknown", descriptor, params, fixed, batch), what)


def _callable(program: Any) -> nn.Module:
    """The program as a module, without the guards that newer versions keep as Python text and would run."""
    guarded = "check_guards" in inspect.signature(program.module).parameters
    module: nn.Module = program.module(check_guards=False) if guarded else program.module()
    return module


def _input_shape(program: Any, what: str) -> tuple[int | None, int, int | None, int | None]:
    """Batch, channels, height and width of the only input; None where they may vary."""
    names = program.graph_signature.user_inputs
    nodes = [node for node in program.graph.nodes if node.op == "placeholder" and node.name in names]
    shapes: list[tuple[object, ...]] = [getattr(node.meta.get("val"), "shape", ()) for node in nodes]
    if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][1] not in (1, 3):
        raise SrkdError(f"{what} takes {[tuple(map(str, shape)) for shape in shapes]}: expected one (N, 3, H, W)")
    batch, channels, height, width = (size if isinstance(size, int) else None for size in shapes[0])
    assert channels is not None  # an int, as it is 1 or 3
    return batch, channels, height, width


def _of_fixed_size(run: Run, channels: int, fixed: tuple[int, int], batch: int, what: str) -> Descriptor:
    width, height = fixed
    output = run(torch.full((batch, channels, height, width), 0.5))
    scale = output.shape[-1] // width if output.dim() == 4 else 0
    if scale < 1 or tuple(output.shape) != (batch, channels, height * scale, width * scale):
        raise SrkdError(f"{what} gives shape {tuple(output.shape)} for {batch, channels, height, width}: no image")
    return Descriptor(scale=scale, channels=channels)
