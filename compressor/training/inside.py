"""A student inside its teacher: it runs on slices of the teacher's own parameters, without a second copy."""

from __future__ import annotations

from typing import cast

import torch

from compressor.networks.axes import Segments
from compressor.networks.base import Network, Spec
from compressor.networks.registry import build
from compressor.students import buffers_of, student_cuts


class Inside:
    """The forward of a student of `spec` inside `whole`; every gradient lands in `whole` (CSD, model/edsr.py).

    `skeleton` is the student's own module: its features are read there. Its weights are never used.
    """

    def __init__(self, whole: Network, spec: Spec, segments: Segments = "each") -> None:
        some = next(whole.parameters())
        self.whole, self.skeleton = whole, build(spec).to(some.device, some.dtype).requires_grad_(False).train()
        self.skeleton.load_state_dict(buffers_of(whole), strict=False)
        self.cuts = student_cuts(whole.spec, spec, segments)

    def __call__(self, lr: torch.Tensor) -> torch.Tensor:
        own = dict(self.whole.named_parameters())
        slices = {name: cut.take(own[cut.source]) for name, cut in self.cuts.items()}
        return cast(torch.Tensor, torch.func.functional_call(self.skeleton, slices, (lr,)))
