"""The code that runs in the jailed child process of a TorchScript or torch.export program (`programs.py`)."""

from __future__ import annotations

import inspect
import zipfile
from collections.abc import Callable
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn

from compressor.base.choices import Layout, Precision
from compressor.base.context import Progress
from compressor.base.errors import SrkdError, is_out_of_memory, one_line, reason_of
from compressor.base.machine import peak_resident_bytes
from compressor.base.memory import keep_freed_memory
from compressor.base.precision import autocast
from compressor.base.shared_memory import SharedMemory, layout_of
from compressor.models.networks.base import Descriptor
from compressor.runtimes.probing import Attempts, find_scale, probe
from compressor.teachers.foreign import (
    ForeignFacts,
    count_params,
    named_tensors,
    require_finite,
    run_module,
    weights_digest,
)
from compressor.teachers.programs import LABELS


def try_program(progress: Progress, *, kind: str, path: str, shown: str, crashed: list[str]) -> dict[str, Any]:
    """Return the facts of a program from running it on small images."""
    attempts = Attempts.in_child(progress, crashed)
    name, content = Path(shown), Path(path).read_bytes()
    _require_whole(content, name)
    label = f"{LABELS[kind]} {name.name}"
    with one_line(f"{shown} is not a {LABELS[kind]} that this torch {torch.__version__} can open"):
        opened = OPENERS[kind](content, torch.device("cpu"))
        facts = _describe(kind, opened, label, attempts)
    require_finite(named_tensors(_module(opened)), facts.backend)
    return asdict(facts)


def _require_whole(content: bytes, path: Path) -> None:
    """Refuse an archive whose bytes are not those that were written: torch does not compare their checksums."""
    try:
        with zipfile.ZipFile(BytesIO(content)) as archive:
            damaged = archive.testzip()
    except Exception as error:
        raise SrkdError(f"{path}: a damaged archive ({str(error)[:80]}): download or export it again") from error
    if damaged is not None:
        raise SrkdError(f"{path}: a damaged archive (record {damaged[-60:]!r}): download or export it again")


def _open_torchscript(content: bytes, device: torch.device) -> nn.Module:
    module: nn.Module = torch.jit.load(BytesIO(content), map_location=device)  # type: ignore[no-untyped-call]
    return module.eval()


def _open_export(content: bytes, device: torch.device) -> Any:
    from torch.export.passes import move_to_device_pass

    program = torch.export.load(BytesIO(content))
    # The graph contains devices.
    return program if device.type == "cpu" else move_to_device_pass(program, str(device))


OPENERS: dict[str, Callable[[bytes, torch.device], Any]] = {"torchscript": _open_torchscript, "export": _open_export}


def _module(opened: Any) -> nn.Module:
    """Return an opened program as a module; one of torch.export without the guards on its sizes."""
    if isinstance(opened, nn.Module):
        return opened
    checks = "check_guards" in inspect.signature(opened.module).parameters
    module: nn.Module = opened.module(check_guards=False) if checks else opened.module()
    return module


def _describe(kind: str, opened: Any, label: str, attempts: Attempts) -> ForeignFacts:
    """Return the facts of a program with one image input and one image output."""
    module = _module(opened)

    def run(images: torch.Tensor) -> torch.Tensor:
        return run_module(module, images, label)

    if kind == "torchscript":
        architecture = str(getattr(module, "original_name", "unknown"))[:80]
        return ForeignFacts(
            "TorchScript", architecture, probe(run, None, label, attempts), count_params(module) or None
        )
    inputs = opened.graph_signature.user_inputs
    nodes = [node for node in opened.graph.nodes if node.op == "placeholder" and node.name in inputs]
    shapes: list[tuple[object, ...]] = [tuple(getattr(node.meta.get("val"), "shape", ())) for node in nodes]
    if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][1] not in (1, 3):
        raise SrkdError(f"{label} takes {[tuple(map(str, shape)) for shape in shapes]}: expected one (N, 3, H, W)")
    # None: a size that may vary.
    batch, channels, height, width = (size if isinstance(size, int) else None for size in shapes[0])
    assert channels is not None  # an int: it is 1 or 3
    if height is None or width is None:
        descriptor = probe(run, channels, label, attempts)
    else:
        with one_line(f"{label} is not a super-resolution model"):
            scale = find_scale(run, (batch or 1, channels, height, width))
        descriptor = Descriptor(scale=scale, channels=channels, fixed_size=(width, height))
    params = sum(tensor.numel() for _, tensor in opened.named_parameters())
    return ForeignFacts("torch.export", "unknown", descriptor, params, batch)


class ProgramInChild:
    """A program that runs on images in shared memory, and writes its outputs after them."""

    def __init__(self, progress: Progress, *, kind: str, shown: str, size: int, memory: int, device: str) -> None:
        keep_freed_memory()
        self._memory, self._device = SharedMemory(memory), torch.device(device)
        self._label = f"{LABELS[kind]} {Path(shown).name}"
        # The first convolution loads code that must not count as the program's.
        torch.nn.functional.conv2d(torch.zeros(1, 8, 16, 16), torch.zeros(8, 8, 3, 3))
        self._bytes_before = psutil.Process().memory_info().rss
        with one_line(f"{self._label} cannot go to {device}"):
            self._module = _module(OPENERS[kind](self._memory.read(size), self._device))

    def run(self, *, shape: list[int], layout: Layout, threads: int, precision: Precision) -> dict[str, Any]:
        """Run the program with the threads and the precision that srkd itself uses; return the shape and the layout of
        its output.
        """
        if threads != torch.get_num_threads():
            torch.set_num_threads(threads)
        images = self._memory.tensor(shape, layout)
        try:
            with autocast(precision, self._device):
                outputs = run_module(self._module, images.to(self._device), self._label).float()
            outputs_layout = layout_of(outputs)
            self._memory.tensor(outputs.shape, outputs_layout, after=images.nbytes).copy_(outputs)
        except Exception as error:
            if is_out_of_memory(error):  # for an exception the process would end
                raise SrkdError(f"{self._label}: {reason_of(error)}") from error
            raise
        return {"shape": list(outputs.shape), "layout": outputs_layout}

    def memory_bytes(self) -> int:
        """Return the peak memory since before the program was opened; on CUDA, of torch's allocator."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        return max(0, peak_resident_bytes() - self._bytes_before)

    def digest(self, *, settings: str) -> str:
        return weights_digest(settings, named_tensors(self._module))
