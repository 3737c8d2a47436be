"""Programs saved by torch, TorchScript and torch.export (.pt2), as teachers.

An untrusted file is first opened and run in a child process without rights to change anything (`isolation.py`), which
checks its operators and probes its sizes. This process then opens exactly the bytes that were checked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from compressor.base.context import Progress
from compressor.base.errors import SrkdError, one_line, report_unreadable
from compressor.base.files import read_bytes
from compressor.base.isolation import ResourceLimits
from compressor.models.networks.base import Descriptor
from compressor.runtimes.probing import Attempts, probe, run_experiments
from compressor.teachers.exported_program import ExportedProgram, describe_program, load_program, rebuild_archive
from compressor.teachers.foreign import ForeignFacts, ModuleProgram, count_params, run_module
from compressor.teachers.torchscript import check_torchscript, load_torchscript

MOST_BYTES = 2**31 - 1
"""The most bytes of a program, ONNX's limit; super-resolution models are smaller."""
CHECKS = 2
"""Version of the checks: a file that passed only earlier ones is tried again."""
LABELS = {"torchscript": "TorchScript", "export": "torch.export program"}


def open_program(kind: str, path: Path, limits: ResourceLimits) -> ModuleProgram:
    """Open a file of a kind returned by `archive_kind`, on the CPU."""
    with report_unreadable(path):
        content = read_bytes(path, MOST_BYTES)
    if kind == "export":
        content = rebuild_archive(content, path)
    facts, label = examine(kind, content, path, limits), f"{LABELS[kind]} {path.name}"
    if kind == "torchscript":
        return ModuleProgram(load_torchscript(content, path), facts, label)
    return ExportedProgram(load_program(content, path), facts, label)


def examine(kind: str, content: bytes, path: Path, limits: ResourceLimits) -> ForeignFacts:
    """Return the facts of a program, checked in a child process."""
    key = hashlib.sha256(f"{kind} {torch.__version__} {CHECKS} ".encode() + content).hexdigest()
    job = {"kind": kind, "shown": str(path)}
    values = run_experiments(f"{__name__}:examine_in_child", job, content, what=str(path), key=key, limits=limits)
    try:
        return _read_facts(values)
    except (KeyError, TypeError, ValueError) as error:
        raise SrkdError(f"{path}: the process that tried it gave no usable answer ({error})") from error


def examine_in_child(progress: Progress, *, kind: str, path: str, shown: str, crashed: list[str]) -> dict[str, Any]:
    """Return the facts of a program from running it on small images, in the child process."""
    attempts = Attempts.in_child(progress, crashed)
    with one_line(f"{shown} is not a {LABELS[kind]} that this torch {torch.__version__} can open"):
        return asdict(_examine(kind, Path(path).read_bytes(), Path(shown), attempts))


def _examine(kind: str, content: bytes, name: Path, attempts: Attempts) -> ForeignFacts:
    label = f"{LABELS[kind]} {name.name}"
    if kind == "export":
        return describe_program(load_program(content, name), label, attempts)
    check_torchscript(content, name)
    module = load_torchscript(content, name)
    descriptor = probe(lambda images: run_module(module, images, label), None, label, attempts)
    architecture = str(getattr(module, "original_name", "unknown"))[:80]
    return ForeignFacts("TorchScript", architecture, descriptor, count_params(module) or None)


def _read_facts(values: Mapping[str, Any]) -> ForeignFacts:
    """Return the facts after validation: a child that ran an untrusted file is not trusted."""
    entry = values["descriptor"]
    scale, channels, multiple, least = (int(entry[name]) for name in ("scale", "channels", "size_multiple", "min_size"))
    if min(scale, channels, multiple, least) < 1:
        raise ValueError(f"a program of scale {scale}, {channels} channels, multiples of {multiple}, from {least}")
    fixed = None if entry["fixed_size"] is None else (int(entry["fixed_size"][0]), int(entry["fixed_size"][1]))
    descriptor = Descriptor(scale, channels, size_multiple=multiple, min_size=least, fixed_size=fixed)
    params, batch = values["params"], values["largest_batch"]
    return ForeignFacts(
        str(values["backend"]),
        str(values["architecture"]),
        descriptor,
        None if params is None else int(params),
        None if batch is None else int(batch),
    )
