"""Programs saved by torch, TorchScript and torch.export (.pt2), as teachers.

Such a file is a program of its author, and opening it already runs parts of it: it opens only for a user who trusts it.
"""

from __future__ import annotations

import inspect
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compressor.base.errors import SrkdError, one_line
from compressor.models.checkpoints.files import require_whole
from compressor.models.networks.base import Descriptor
from compressor.runtimes.base import find_scale
from compressor.runtimes.probing import probe
from compressor.teachers.foreign import ForeignFacts, ModuleProgram, count_params, run_module

LABELS = {"torchscript": "TorchScript program", "export": "torch.export program"}


def archive_kind(path: Path) -> str | None:
    """Return "torchscript" or "export"; None for anything else, such as a plain checkpoint."""
    try:
        with open(path, "rb") as handle:
            if handle.read(4) != b"PK\x03\x04":
                return None
            names = {name.partition("/")[2] or name for name in zipfile.ZipFile(handle).namelist()}
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, OverflowError, NotImplementedError):
        return None  # zipfile's errors on damaged archives
    if "constants.pkl" in names and any(name.startswith("code/") for name in names):
        return "torchscript"
    return "export" if any(name.startswith("models/") and name.endswith(".json") for name in names) else None


def open_program(kind: str, path: Path, *, trust_code: bool = False) -> ModuleProgram:
    """Open a file of the kind "torchscript" or "export", and find its facts by running it on small images."""
    if not trust_code:
        raise SrkdError(
            f"{path}: a {LABELS[kind]} may run any code: export the model to ONNX, or, if you trust the file, give "
            "--trust-code (trust_code=True)"
        )
    with one_line(str(path), first=True), zipfile.ZipFile(path) as archive:
        require_whole(archive, f"{path}: ")
    label = f"{LABELS[kind]} {path.name}"
    with one_line(f"{path} is not a {LABELS[kind]} that this torch {torch.__version__} can open"):
        if kind == "export":
            return _open_export(path, label)
        module: nn.Module = torch.jit.load(str(path), map_location="cpu").eval()  # type: ignore[no-untyped-call]
        descriptor = probe(partial(run_module, module, label=label), None, label)
        architecture = str(getattr(module, "original_name", "unknown"))
        facts = ForeignFacts("TorchScript", architecture, descriptor, count_params(module) or None)
        return ModuleProgram(module, facts, label)


class ExportedProgram(ModuleProgram):
    """A program of torch.export, whose graph contains devices."""

    def __init__(self, program: Any, facts: ForeignFacts, label: str) -> None:
        super().__init__(_module(program), facts, label)
        self._program = program

    def move_to(self, device: torch.device) -> torch.device:
        from torch.export.passes import move_to_device_pass

        self.module = _module(move_to_device_pass(self._program, str(device)))
        return device


def _open_export(path: Path, label: str) -> ModuleProgram:
    program = torch.export.load(path)
    module = _module(program)
    inputs = program.graph_signature.user_inputs
    nodes = [node for node in program.graph.nodes if node.op == "placeholder" and node.name in inputs]
    shapes: list[tuple[object, ...]] = [tuple(getattr(node.meta.get("val"), "shape", ())) for node in nodes]
    if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][1] not in (1, 3):
        raise SrkdError(f"{label} takes {[tuple(map(str, shape)) for shape in shapes]}: expected one (N, 3, H, W)")
    # None: a size that may vary.
    batch, channels, height, width = (size if isinstance(size, int) else None for size in shapes[0])
    assert channels is not None  # an int: it is 1 or 3
    run = partial(run_module, module, label=label)
    if height is None or width is None:
        descriptor = probe(run, channels, label)
    else:
        scale = find_scale(run, (batch or 1, channels, height, width), label)
        descriptor = Descriptor(scale=scale, channels=channels, fixed_size=(width, height))
    params = sum(tensor.numel() for _, tensor in program.named_parameters())
    return ExportedProgram(program, ForeignFacts("torch.export", "unknown", descriptor, params, batch), label)


def _module(program: Any) -> nn.Module:
    """Return a program of torch.export as a module, without the guards on its sizes."""
    checks = "check_guards" in inspect.signature(program.module).parameters
    module: nn.Module = program.module(check_guards=False) if checks else program.module()
    return module
