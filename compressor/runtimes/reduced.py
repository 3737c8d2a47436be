"""A model in any runtime whose images are reduced to a smaller scale, once, by antialiased bicubic."""

from __future__ import annotations

import torch

from compressor.base.context import Note
from compressor.images.resize import imresize
from compressor.models.networks.base import reduced_sizes
from compressor.runtimes.base import Runtime


class Reduced(Runtime):
    def __init__(self, runtime: Runtime, scale: int) -> None:
        self.runtime, self.descriptor = runtime, reduced_sizes(runtime.descriptor, scale, runtime.label)
        for name in ("name", "label", "device", "precision", "layout", "emulated", "metadata", "spec"):
            setattr(self, name, getattr(runtime, name))

    def _run(self, lr: torch.Tensor) -> torch.Tensor:
        return imresize(self.runtime.run(lr), self.descriptor.scale / self.runtime.descriptor.scale)


def at_scale(runtime: Runtime, scale: int, note: Note) -> Runtime:
    """Return a runtime that enlarges `scale` times: this one, or its images reduced; refuse a larger scale."""
    own = runtime.descriptor.scale
    if scale == own:
        return runtime
    reduced = Reduced(runtime, scale)
    note(f"{runtime.label} enlarges x{own}: its images are reduced to x{scale} once, by antialiased bicubic")
    return reduced
