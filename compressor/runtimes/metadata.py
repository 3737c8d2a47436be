"""What an exported file says about itself where its format has no room for it: a JSON file beside it.

Files that carry their `srkd.*` keys inside: from these to a descriptor, and foreign files by a small image.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

from compressor.base.errors import SrkdError, UsageError
from compressor.models.networks.base import Descriptor, Spec
from compressor.models.networks.registry import build, spec_from_dict
from compressor.runtimes.base import require_output

SCHEMA = "srkd.sidecar/1"
LARGEST_BYTES = 1_000_000


@dataclass(frozen=True)
class Sidecar:
    """`lr_size` is (width, height) of the only image that the file takes, None for any; `facts` are the converter's."""

    format: str
    precision: str
    lr_size: tuple[int, int] | None
    io: str
    metadata: Mapping[str, str]
    facts: Mapping[str, Any]
    spec: Spec
    descriptor: Descriptor


def sidecar_path(path: Path) -> Path:
    """`student.param` → `student.param.json`."""
    return path.with_name(path.name + ".json")


def sidecar_text(
    *,
    format: str,
    precision: str,
    lr_size: tuple[int, int] | None,
    io: str,
    metadata: Mapping[str, str],
    facts: Mapping[str, object],
) -> str:
    """The content of a sidecar; the same for the same file."""
    said = {
        "schema": SCHEMA,
        "format": format,
        "precision": precision,
        "lr_size": None if lr_size is None else "{}x{}".format(*lr_size),
        "io": io,
        "metadata": dict(sorted(metadata.items())),
        "facts": dict(facts),
    }
    return json.dumps(said, indent=1) + "\n"


def read_sidecar(path: Path) -> Sidecar:
    """The sidecar of an exported file; one line where it is missing or says something else than it should."""
    file = sidecar_path(path)
    if not file.is_file():
        raise SrkdError(f"{path} does not say what it is: {file.name} is not beside it; export it again")
    try:
        if file.stat().st_size > LARGEST_BYTES:
            raise ValueError(f"it has more than {LARGEST_BYTES} bytes")
        told = json.loads(file.read_text(encoding="utf-8"))
        if told["schema"] != SCHEMA:
            raise ValueError(f"its schema is {told['schema']!r}, not {SCHEMA!r}")
        size = None if told["lr_size"] is None else _size(told["lr_size"])
        metadata = {str(key): str(value) for key, value in told["metadata"].items() if str(key).startswith("srkd.")}
        spec = spec_from_dict(json.loads(metadata["srkd.spec"]))
        facts = dict(told["facts"])
        words = str(told["format"]), str(told["precision"]), str(told["io"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, UsageError, OSError) as error:
        told_of = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise SrkdError(f"{file} cannot be used: {told_of}; export the model again") from error
    return Sidecar(words[0], words[1], size, words[2], metadata, facts, spec, described(spec, size))


def described(spec: Spec, lr_size: tuple[int, int] | None) -> Descriptor:
    """The descriptor of a spec's network, for a file that may take one size only."""
    with torch.device("meta"):
        return replace(build(spec).descriptor, fixed_size=lr_size)


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    size = int(width), int(height)
    if min(size) < 1:
        raise ValueError(f"lr_size {text!r} is no size")
    return size


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
