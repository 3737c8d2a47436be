"""TorchScript files: read by torch.jit.load, whose interpreter runs the graph and no Python."""

from __future__ import annotations

from pathlib import Path

import torch

from compressor.foreign.archive import check_torchscript
from compressor.foreign.base import ForeignFacts, ModuleModel, one_line, params_of, probe, run_module


def open_torchscript(path: Path) -> ModuleModel:
    """A traced or scripted module in eval mode, on the CPU; its scale is found by running small images."""
    check_torchscript(path)
    with one_line(f"{path} is no TorchScript file that this torch {torch.__version__} can open"):
        module = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    module.eval()
    what = f"TorchScript {path.name}"
    descriptor = probe(lambda images: run_module(module, images, what), None, what)
    facts = ForeignFacts("TorchScript", module.original_name, descriptor, params_of(module) or None)
    return ModuleModel(module, facts, what)
