"""A runtime for Core ML packages (.mlpackage), which run on macOS only. It has not been tested, for lack of macOS."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from compressor.base.context import QUIET, Context
from compressor.base.errors import SrkdError, UsageError, one_line
from compressor.base.metadata import srkd_keys
from compressor.runtimes.file_runtime import Array, FileRuntime, ImageFormat, image_format, require_one_image
from compressor.runtimes.table import DEFAULTS, OpenOptions

UNITS: Mapping[str, str] = {"cpu": "CPU_ONLY", "coreml": "ALL", "coreml:gpu": "CPU_AND_GPU", "coreml:ane": "CPU_AND_NE"}
"""Core ML's compute units by device; the neural engine computes in fp16 and does not run float32 programs."""


def read_metadata(path: Path) -> Mapping[str, str]:
    import coremltools as ct

    with one_line(f"{path} cannot be read as a Core ML package"):
        entries = ct.utils.load_spec(str(path)).description.metadata.userDefined
        return srkd_keys(entries)


class CoreMLRuntime(FileRuntime):
    """A package that is loaded once and runs image by image. Core ML selects the number of threads itself."""

    name = "coreml"

    def __init__(self, path: Path, options: OpenOptions = DEFAULTS, context: Context = QUIET) -> None:
        super().__init__(path, options)
        self.device = options.device
        if self.device not in UNITS:
            raise UsageError(f"device {self.device!r}: Core ML runs on {', '.join(UNITS)}")
        import coremltools as ct

        with one_line(f"{path} cannot be opened by Core ML"):
            self._model = ct.models.MLModel(str(path), compute_units=ct.ComputeUnit[UNITS[self.device]])
            spec = self._model.get_spec()
        self._input, self._output = spec.description.input[0].name, spec.description.output[0].name
        self._take(read_image_format(spec, self.label), srkd_keys(self._model.user_defined_metadata))
        self.descriptor = replace(self.descriptor, max_size=read_max_size(spec))
        if self._image.channels_last:
            self.precision = "fp16"

    def _run(self, lr: torch.Tensor) -> torch.Tensor:
        with one_line(f"{self.label}: Core ML failed on {tuple(lr.shape)}"):
            return self._image.run_arrays(lr, self._run_array)

    def _run_array(self, images: Array) -> Array:
        if not self._image.channels_last:
            output: Array = self._model.predict({self._input: images})[self._output]
            return output.astype(np.float32, copy=False)
        mode = "RGB" if self._image.channels == 3 else "L"
        picture = Image.fromarray(images[0] if mode == "RGB" else images[0, :, :, 0])
        large = np.array(self._model.predict({self._input: picture})[self._output].convert(mode))
        return large.reshape(1, *large.shape[:2], self._image.channels)


open_file = CoreMLRuntime


def read_image_format(spec: Any, label: str) -> ImageFormat:
    """The image format of a package, from its description; a picture of Core ML is bytes with channels last."""
    require_one_image(label, len(spec.description.input), len(spec.description.output))
    kind = spec.description.input[0].type
    if kind.WhichOneof("Type") == "imageType":
        picture = kind.imageType
        if picture.WhichOneof("SizeFlexibility") is not None:
            raise SrkdError(f"{label} takes pictures of several sizes: expected one size")
        channels = channels_of(picture, label)
        return ImageFormat(channels, picture.height, picture.width, 1, channels_last=True, dtype=torch.uint8)
    if kind.WhichOneof("Type") != "multiArrayType":
        raise SrkdError(f"{label} takes {kind.WhichOneof('Type')}: expected tensors in [0,1]")
    shape: list[int | None] = [int(length) for length in kind.multiArrayType.shape]
    if read_max_size(spec) is not None:
        shape[2:] = [None, None]
    return replace(image_format(label, shape, torch.float32, channels_last=False), batch=1)


def channels_of(picture: Any, label: str) -> int:
    """The channels of Core ML's picture, by its space of colours."""
    space = picture.ColorSpace.Name(picture.colorSpace)
    if space not in ("RGB", "GRAYSCALE"):
        raise SrkdError(f"{label} takes pictures in {space}: expected RGB or GRAYSCALE")
    return 3 if space == "RGB" else 1


def read_max_size(spec: Any) -> tuple[int, int] | None:
    """Return width and height of the largest image if sizes are flexible; None if there is only one size."""
    ranges = spec.description.input[0].type.multiArrayType.shapeRange.sizeRanges
    if len(ranges) != 4 or all(size.lowerBound == size.upperBound for size in ranges):
        return None
    return int(ranges[3].upperBound), int(ranges[2].upperBound)
