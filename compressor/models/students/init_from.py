"""Initialisation of a student from another file's weights: of another scale, or of another shape.

Tensors of equal name and shape are copied, the others keep their initial values, and both are reported. DUKD
initialises its ×4 students from those of ×2 like this (options/EDSR: the body and the first convolution of the
upsampler are reused).
"""

from __future__ import annotations

from pathlib import Path

import torch

from compressor.base.decided import InitReport
from compressor.base.errors import SrkdError, UsageError
from compressor.models.checkpoints.licence import read_licence
from compressor.models.checkpoints.load import load_checkpoint
from compressor.models.networks.base import Network


def initialise_from(student: Network, path: str | Path) -> InitReport:
    """Copy into `student` every parameter of the file's network with the same name and shape."""
    if Path(path).suffix.lower() == ".onnx":
        raise UsageError(f"--init-from {path}: an ONNX file gives outputs, not weights to copy; give a checkpoint")
    try:
        try:  # the student's scale if the file holds several, else the file's only one
            loaded = load_checkpoint(path, scale=student.spec.scale)
        except SrkdError:
            loaded = load_checkpoint(path)
    except SrkdError as error:
        raise UsageError(f"--init-from: {error}") from error
    fields, in_file = student.spec.to_dict(), loaded.network.spec.to_dict()
    source = dict(loaded.network.named_parameters())
    target = dict(student.named_parameters())
    copied = tuple(name for name in target if name in source and source[name].shape == target[name].shape)
    if not copied:
        raise UsageError(
            f"--init-from {path}: it is a {loaded.network.spec.arch}, and none of its {len(source)} tensors has the "
            f"name and shape of one of the student's ({student.spec.arch})"
        )
    with torch.no_grad():
        for name in copied:
            target[name].copy_(source[name])
    return InitReport(
        path=loaded.path,
        sha256=loaded.sha256,
        architecture=loaded.network.spec.arch,
        scale=loaded.network.spec.scale,
        copied=copied,
        missing=tuple(name for name in target if name not in source),
        misshaped=tuple(name for name in target if name in source and name not in set(copied)),
        unused=tuple(name for name in source if name not in target),
        differences=tuple(
            f"{name} is {in_file[name]} in the file and {fields[name]} in the student"
            for name in student.spec.undetectable
            if name in in_file and fields[name] != in_file[name]
        ),
        licence=read_licence(loaded.header),
    )
