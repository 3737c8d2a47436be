"""The base of the runtimes for exported files: conversion of images to a file's input format, and file descriptors."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

from compressor.base.errors import SrkdError, UsageError
from compressor.models.networks.base import Descriptor, Spec
from compressor.models.networks.registry import build, spec_from_dict
from compressor.runtimes.base import Runtime, find_scale
from compressor.runtimes.table import OpenOptions

Array: TypeAlias = "np.ndarray[Any, Any]"
RunBatch: TypeAlias = Callable[[torch.Tensor], torch.Tensor]

PROBE_SIDES = (64, 8)
"""Sides in pixels of the images that reveal the scale of a foreign file; some models crash on small ones."""


class FileRuntime(Runtime):
    threads: int
    """CPU threads: by default as many as torch uses, so that comparisons with torch are fair."""

    def __init__(self, path: Path, options: OpenOptions) -> None:
        self.label = options.label or path.stem
        self.threads = options.threads or torch.get_num_threads()

    def _take(self, image: ImageFormat, metadata: Mapping[str, str]) -> None:
        """Take the format of the file's images and its metadata; without a spec in it a small image is run."""
        self._image, self.metadata = image, metadata
        self.spec = read_spec(metadata, self.label)
        self.descriptor = describe(self.spec, image, self.label, self._run)


@dataclass(frozen=True)
class ImageFormat:
    """The input and output images of a file. Batch, height and width are None if they are dynamic. uint8 images are in
    0..255, all others in [0,1]; `channels_last` is N,H,W,C.
    """

    channels: int
    height: int | None = None
    width: int | None = None
    batch: int | None = None
    channels_last: bool = False
    dtype: torch.dtype = torch.float32

    @property
    def fixed_size(self) -> tuple[int, int] | None:
        return None if self.height is None or self.width is None else (self.width, self.height)

    def encode(self, lr: torch.Tensor) -> torch.Tensor:
        """Return N,C,H,W images in [0,1] in the file's format."""
        images = lr.detach()
        if self.dtype == torch.uint8:
            images = images.float().clamp(0, 1).mul(255).round()
        images = images.to(self.dtype)
        return (images.permute(0, 2, 3, 1) if self.channels_last else images).contiguous()

    def decode(self, sr: torch.Tensor) -> torch.Tensor:
        """The output as float32 N,C,H,W; one that is not an image keeps its shape, for error messages."""
        if self.channels_last and sr.dim() == 4:
            sr = sr.permute(0, 3, 1, 2).contiguous()
        return sr.float().div(255) if self.dtype == torch.uint8 else sr.float()

    def run(self, lr: torch.Tensor, run_batch: RunBatch) -> torch.Tensor:
        """The decoded output of the encoded images, in batches of the file's size: the last image fills the last."""
        outputs = []
        for images in torch.split(lr, self.batch or len(lr)):
            missing = (self.batch or len(images)) - len(images)
            filled = torch.cat([images, images[-1:].expand(missing, -1, -1, -1)]) if missing else images
            outputs.append(self.decode(run_batch(self.encode(filled)))[: len(images)])
        return (outputs[0] if len(outputs) == 1 else torch.cat(outputs)).to(lr.device)

    def run_arrays(self, lr: torch.Tensor, run_batch: Callable[[Array], Array]) -> torch.Tensor:
        """Do the same as `run`, for a library that works on numpy arrays."""
        return self.run(lr, lambda images: torch.from_numpy(run_batch(images.cpu().numpy())))


def require_one_image(label: str, inputs: int, outputs: int) -> None:
    if inputs != 1 or outputs != 1:
        raise SrkdError(f"{label} has {inputs} inputs and {outputs} outputs: a super-resolution model has one each")


def image_format(
    label: str, sizes: Sequence[int | None], dtype: torch.dtype, *, channels_last: bool, shape: object = None
) -> ImageFormat:
    """The format of images of these sizes (None: dynamic); `shape` is the library's description of them."""
    axis = 3 if channels_last else 1
    if len(sizes) != 4 or sizes[axis] not in (1, 3):
        expected = "(N, H, W, 3) or (N, H, W, 1)" if channels_last else "(N, 3, H, W) or (N, 1, H, W)"
        kind, printed = str(dtype).removeprefix("torch."), list(sizes) if shape is None else shape
        remedy = ", or export it with float32 images" if dtype == torch.uint8 else ""
        raise SrkdError(f"{label} takes {kind} images of shape {printed}: expected {expected} of {kind}{remedy}")
    batch, height, width = (size for index, size in enumerate(sizes) if index != axis)
    return ImageFormat(sizes[axis] or 0, height, width, batch, channels_last, dtype)


def read_spec(metadata: Mapping[str, str], label: str) -> Spec | None:
    """The network's spec; None for a foreign file."""
    if "srkd.spec" not in metadata:
        return None
    try:
        return spec_from_dict(json.loads(metadata["srkd.spec"]))
    except (ValueError, TypeError, AttributeError, RecursionError, UsageError) as error:
        raise SrkdError(f"{label}: its srkd.spec cannot be used: {error}") from error


def build_descriptor(spec: Spec, fixed_size: tuple[int, int] | None) -> Descriptor:
    """The descriptor of a spec's network, for a file that may support only one size."""
    with torch.device("meta"):
        return replace(build(spec).descriptor, fixed_size=fixed_size)


def describe(spec: Spec | None, image: ImageFormat, label: str, run: RunBatch) -> Descriptor:
    """The descriptor of a file: from its spec, or, for a foreign one, by running a small image."""
    if spec is not None:
        descriptor = build_descriptor(spec, image.fixed_size)
        if descriptor.channels == image.channels:
            return descriptor
        raise SrkdError(f"{label} takes {image.channels} channels, but its srkd.spec says {descriptor.channels}")
    usual, small = (
        (image.batch or 1, image.channels, image.height or side, image.width or side) for side in PROBE_SIDES
    )
    try:
        scale = find_scale(run, usual, label)
    except SrkdError:
        scale = find_scale(run, small, label)
    return Descriptor(scale=scale, channels=image.channels, fixed_size=image.fixed_size)
