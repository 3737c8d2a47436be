"""A teacher whose images are reduced to a smaller scale: what a student of that scale learns to give.

    label    imresize(T(x), t/s), antialiased bicubic, of a teacher of scale s for a student of scale t < s

Features, costs and φ are those of the whole network. Where it has a form for the smaller scale (`Network.at_scale`),
students are cut from that, or solved for with it: its image is the mean of squares of pixels, nearly the label.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from compressor.images.resize import imresize
from compressor.models.networks.base import Descriptor, ImageModel, Network, reduced_sizes
from compressor.models.networks.dialect import SeveralScales
from compressor.teachers.teacher import Teacher, TeacherOrigin, load_teacher


class ReducedTeacher(Teacher):
    """A teacher of a smaller scale than its network's."""

    def __init__(self, model: ImageModel, origin: TeacherOrigin | None, scale: int) -> None:
        super().__init__(model, origin)
        self.scale = scale
        self._descriptor = reduced_sizes(model.descriptor, scale)

    @property
    def descriptor(self) -> Descriptor:
        return self._descriptor

    @property
    def own_sizes(self) -> Descriptor:
        return reduced_sizes(self.model.own_sizes, self.scale)

    @cached_property
    def _at_scale(self) -> Network | None:
        network = self.model.network
        return None if network is None else network.at_scale(self.scale)

    @property
    def donor(self) -> Network | None:
        return self.model.network if self._at_scale is None else self._at_scale.to(self.device)

    def as_output(self, image: torch.Tensor) -> torch.Tensor:
        return imresize(self.model.as_output(image), self.scale / self.model.descriptor.scale)

    def with_settings(self, settings: Mapping[str, Any]) -> ReducedTeacher:
        return ReducedTeacher(self.model.with_settings(settings), self.origin, self.scale)

    def line(self) -> str:
        own = self.model.descriptor.scale
        return (
            f"scale: the teacher's x{own} images, reduced to x{self.scale} by antialiased bicubic, are what is learnt"
        )

    def fingerprint(self) -> str:
        return f"{self.model.fingerprint()} x{self.scale}"


def load_at_scale(path: str | Path, scale: int | None, **reading: Any) -> Teacher:
    """Return the teacher in a file at a scale, one of the file's or a smaller one; `reading` is for `load_teacher`."""
    try:
        teacher = load_teacher(path, **reading)
    except SeveralScales:
        return load_teacher(path, scale=scale, **reading)
    known = teacher.network
    if known is not None and "scale" in known.spec.undetectable and (scale or 0) > known.spec.scale:
        return load_teacher(path, scale=scale, **reading)
    if scale is None or scale == teacher.descriptor.scale:
        return teacher
    return ReducedTeacher(teacher.model, teacher.origin, scale)
