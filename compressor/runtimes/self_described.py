"""Files that carry their `srkd.*` keys inside: from these to a descriptor, and foreign files by a small image."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch

from compressor.errors import SrkdError, UsageError
from compressor.networks.base import Descriptor, Spec
from compressor.networks.registry import spec_from_dict
from compressor.runtimes.base import require_output
from compressor.runtimes.sidecar import described

Array: TypeAlias = "np.ndarray[Any, Any]"

PROBE_SIDE = 16
"""Pixels a side of the grey image by which the scale of a foreign file is found out."""


@dataclass(frozen=True)
class Image:
    """What a file takes: channels, and height and width where they are fixed. `one`: a batch is one image; `last`:
    N,H,W,C; `whole`: bytes in 0..255, in and out."""

    channels: int
    height: int | None = None
    width: int | None = None
    one: bool = False
    last: bool = False
    whole: bool = False

    @property
    def fixed_size(self) -> tuple[int, int] | None:
        return None if self.height is None or self.width is None else (self.width, self.height)

    def run(self, lr: torch.Tensor, one: Callable[[Array], Array]) -> torch.Tensor:
        """N,C,H,W in [0,1] as the file wants it, through `one`, and back; image by image where a batch is one."""
        images = lr.detach().to("cpu", torch.float32)
        if self.whole:
            images = images.clamp(0, 1).mul(255).round().to(torch.uint8)
        if self.last:
            images = images.permute(0, 2, 3, 1)
        fed = np.ascontiguousarray(images.numpy())
        outputs = [one(batch) for batch in (np.split(fed, len(fed)) if self.one and len(fed) > 1 else [fed])]
        sr = torch.from_numpy(outputs[0] if len(outputs) == 1 else np.concatenate(outputs)).float()
        if self.last and sr.dim() == 4:
            sr = sr.permute(0, 3, 1, 2).contiguous()
        return (sr.div(255) if self.whole else sr).to(lr.device)


def spec_in(metadata: Mapping[str, str], label: str) -> Spec | None:
    """The network's spec; None for a foreign file."""
    if "srkd.spec" not in metadata:
        return None
    try:
        return spec_from_dict(json.loads(metadata["srkd.spec"]))
    except (ValueError, TypeError, AttributeError, RecursionError, UsageError) as error:
        raise SrkdError(f"{label}: its srkd.spec cannot be used: {error}") from error


def describe(spec: Spec | None, image: Image, label: str, run: Callable[[torch.Tensor], torch.Tensor]) -> Descriptor:
    """From the spec of our own files; the scale of others is found by running a grey image."""
    if spec is not None:
        descriptor = described(spec, image.fixed_size)
        if descriptor.channels == image.channels:
            return descriptor
        raise SrkdError(f"{label} takes {image.channels} channels, but its srkd.spec says {descriptor.channels}")
    probe = torch.full((1, image.channels, image.height or PROBE_SIDE, image.width or PROBE_SIDE), 0.5)
    out = run(probe)
    scale = out.shape[-1] // probe.shape[-1] if out.dim() == 4 else 0
    if scale < 1:
        raise SrkdError(f"{label} gives shape {tuple(out.shape)} for {tuple(probe.shape)}: not an enlarged image")
    descriptor = Descriptor(scale=scale, channels=image.channels, fixed_size=image.fixed_size)
    require_output(probe, out, descriptor, label)
    return descriptor


@contextmanager
def one_line(what: str) -> Iterator[None]:
    """Native libraries raise what they like, over several lines of which the last says most."""
    try:
        yield
    except SrkdError:
        raise
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[-1] if lines else type(error).__name__
        raise SrkdError(f"{what}: {reason[:300]}") from error
