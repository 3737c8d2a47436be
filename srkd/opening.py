"""Models as a caller names them (files, run folders, networks, open runtimes) as runtimes, and data folders as sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from compressor.base.context import Context, Note, no_note
from compressor.base.errors import UsageError
from compressor.images.sets import ImageSet, embedded_pairs, find_sets
from compressor.inference.checkpoint_runtime import ForeignRuntime
from compressor.inference.open import open_model
from compressor.models.networks.base import ImageModel
from compressor.runtimes.base import Runtime
from compressor.runtimes.table import OpenOptions
from compressor.runtimes.torch_runtime import TorchRuntime

Model: TypeAlias = "str | Path | ImageModel | Runtime"
"""A checkpoint, a run folder, an exported file, a network or teacher, or a runtime that is open already."""


@dataclass(frozen=True)
class Opening:
    """How models are opened: the command line's options that every measuring verb shares."""

    scale: int | None = None
    arch_options: Mapping[str, object] | None = None
    device: str = "cpu"
    runtime: str | None = None
    precision: str | None = None
    threads: int | None = None

    def open(self, model: Model, announce: Note = no_note) -> Runtime:
        """One model, ready to run; what takes minutes first, such as another GPU's engine, is announced."""
        if isinstance(model, ImageModel):
            label = model.architecture
            if model.network is None:
                return ForeignRuntime(model, label=label, device=self.device)
            return TorchRuntime(model.network, label=label, device=self.device, precision=self.precision or "fp32")
        if not isinstance(model, (str, Path)):
            return model
        options = OpenOptions(
            scale=self.scale,
            arch_options=self.arch_options,
            device=self.device,
            runtime=self.runtime,
            threads=self.threads,
            precision=self.precision,
        )
        return open_model(model, options, Context(note=announce))


def listed(models: Model | Sequence[Model]) -> tuple[Model, ...]:
    """One model or several, as several."""
    if isinstance(models, Sequence) and not isinstance(models, str):
        return tuple(models)
    return (models,)


def common_scale(runtimes: Sequence[Runtime], scale: int | None) -> int:
    """The scale that all models share, or the one that was asked for where there are none."""
    scales = {runtime.descriptor.scale for runtime in runtimes}
    if not scales:
        if scale is None:
            raise UsageError("no model and no scale: name a model, or give --scale for the bicubic row alone")
        return scale
    if len(scales) > 1:
        told = ", ".join(f"{runtime.label} x{runtime.descriptor.scale}" for runtime in runtimes)
        raise UsageError(f"the models differ in scale ({told}): compare models of one scale")
    return scales.pop()


def image_sets(data: str | Path | None, *, scale: int, lr: str | Path | None, announce: Note) -> tuple[ImageSet, ...]:
    """The sets of a data folder, or the embedded validation photos."""
    if data is None:
        if lr is not None:
            raise UsageError(f"an LR folder without its images: give --data beside --lr {lr}")
        announce("no --data: scoring on the embedded validation photos")
        return (ImageSet("embedded", embedded_pairs("val")),)
    return find_sets(Path(data), scale=scale, lr=None if lr is None else Path(lr))
