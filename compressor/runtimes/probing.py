"""Experiments that find the requirements of a foreign model: scale, channels, size multiple, smallest size.

An experiment on an ONNX file may crash, hang or use all memory, so experiments run in a child process with limits, once
per file: the results are stored under the hash of its bytes.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any

import torch

from compressor.base.cache_folder import default_folder
from compressor.base.child import ChildFailed, ResourceLimits, run_in_child
from compressor.base.context import Progress
from compressor.base.errors import SrkdError, report_unwritable
from compressor.base.files import write_text
from compressor.models.networks.base import Descriptor
from compressor.runtimes.base import find_scale

PROBE_SIDES = (64, 61, 96)
"""Sides in pixels: a multiple of every common window, an odd number, and one for models that refuse small images."""
MULTIPLES = (1, 2, 4, 8, 16, 32, 64)
SIDES = (48, 40, 32, 28, 24, 20, *range(16, 0, -1))
MOST_CRASHES = 12
Run = Callable[[torch.Tensor], torch.Tensor]
"""A program that runs on images in its own value range."""


def probe(run: Run, channels: int | None, label: str) -> Descriptor:
    """Return scale, channels, size multiple and smallest size, each found by the smallest sufficient experiment."""
    reason = ""
    for count, side in product((3, 1) if channels is None else (channels,), PROBE_SIDES):
        try:
            scale = find_scale(run, (1, count, side, side), "it")
        except SrkdError as error:
            reason = str(error)
            continue
        multiple = smallest_multiple(run, count, scale)
        smallest = smallest_side(run, count, scale, multiple, side)
        return Descriptor(scale=scale, channels=count, size_multiple=multiple, min_size=smallest)
    raise SrkdError(
        f"{label} enlarges no image of {', '.join(map(str, PROBE_SIDES))} pixels a side ({reason[:200]}): "
        "a super-resolution model takes (N, 3, H, W), or (N, 1, H, W), of any size"
    )


def smallest_multiple(run: Run, channels: int, scale: int) -> int:
    """The smallest number of which sides must be multiples: an odd multiple of it, near a usual size, works."""
    for multiple in MULTIPLES:
        height, width = (multiple * (max(1, side // multiple) | 1) for side in (57, 64))
        if _enlarges(run, (1, channels, height, width), scale):
            return multiple
    return PROBE_SIDES[0]


def smallest_side(run: Run, channels: int, scale: int, multiple: int, works: int) -> int:
    """The smallest side that the program accepts, searching down from one that works to the first failure.

    Smaller images are padded to it: a pooling block may need more pixels than the image has, and may crash the process.
    """
    smallest = -(-works // multiple) * multiple
    for side in dict.fromkeys(-(-side // multiple) * multiple for side in SIDES):
        if not _enlarges(run, (1, channels, side, side), scale):
            break
        smallest = side
    return smallest


def _enlarges(run: Run, shape: tuple[int, int, int, int], scale: int) -> bool:
    try:
        return find_scale(run, shape, "it") == scale
    except SrkdError:
        return False


def run_but(run: Run, crashed: Collection[str], progress: Progress) -> Run:
    """Return `run`, announcing each image by its shape, and refusing those that ended an earlier process."""

    def run_or_refuse(images: torch.Tensor) -> torch.Tensor:
        shape = "x".join(map(str, images.shape))
        if shape in crashed:
            raise SrkdError(f"it ends the process on {shape}")
        progress(shape, 0, 1)
        return run(images)

    return run_or_refuse


def tried_folder() -> Path:
    return default_folder() / "tried"


def run_experiments(
    function: str, job: Mapping[str, object], content: bytes, *, what: str, key: str, limits: ResourceLimits
) -> dict[str, Any]:
    """The result of `function` on a file's bytes in a child process, or the stored result under `key`.

    `function` gets a copy of the bytes as `path`, as the file itself may change meanwhile. After a crash it runs again
    without that experiment; it gets the shapes of such images as `crashed`.
    """
    record = tried_folder() / f"{key}.json"
    with suppress(OSError, ValueError):
        results: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
        return results
    with tempfile.TemporaryDirectory(prefix="srkd-") as folder:
        copy = Path(folder) / "program"
        with report_unwritable(copy):
            copy.write_bytes(content)
        values = _experiment(function, {**job, "path": str(copy)}, what, limits)
    keep_result(key, values)
    return values


def _experiment(function: str, job: Mapping[str, object], what: str, limits: ResourceLimits) -> dict[str, Any]:
    crashed: list[str] = []
    tried: list[str] = []
    while True:
        tried.clear()
        try:
            values: dict[str, Any] = run_in_child(
                function,
                {**job, "crashed": crashed},
                what=what,
                environment={"CUDA_VISIBLE_DEVICES": ""},
                progress=lambda shape, done, total: tried.append(shape),
                limits=limits,
            )
            return values
        except ChildFailed as error:
            if not (tried and error.crashed) or len(crashed) == MOST_CRASHES:
                raise SrkdError(
                    f"{error}; files of others are first run in a process of at most {limits.seconds:g} s and "
                    f"{limits.memory_mb} MB: --limits 4 (limits=4) allows four times as much"
                ) from error
            crashed.append(tried[-1])


def keep_result(key: str, values: Mapping[str, Any]) -> None:
    """Store the trial result of a file, so that it is not tried again."""
    with suppress(SrkdError, OSError):
        write_text(tried_folder() / f"{key}.json", json.dumps(values))
