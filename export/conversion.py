"""What a converter is given, and how it says no."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from compressor.base.context import Progress, no_progress
from compressor.base.errors import SrkdError, UsageError

if TYPE_CHECKING:
    from compressor.models.networks.base import Network

IO = Literal["float", "uint8"]
Size = tuple[int, int]
"""Width and height."""

Shuffle = Literal["crd", "dcr"]


@dataclass(frozen=True)
class Choices:
    """What a user may choose beside the format. `Format.choices` names those that a format has."""

    lr_size: tuple[int, int] | None = None
    """`--static WxH`: the only image that the file will take, in a batch of one; None: any."""
    io: IO = "float"
    """float: N,C,H,W in [0,1], unclamped. uint8: N,H,W,C in 0..255, so that an app needs no image code."""
    shuffle: Shuffle = "crd"
    """Order of channels at DepthToSpace; some accelerators know dcr only."""
    sizes: tuple[Size, Size] | None = None
    """`--sizes WxH,WxH`: what a file for many sizes is tuned for, and the largest that it takes, in those formats that
    are tuned; the others take any size."""

    def __post_init__(self) -> None:
        if self.lr_size is not None and self.sizes is not None:
            raise UsageError("--static is for one size and --sizes for many: give one of them")

    def named(self) -> dict[str, str]:
        """What was chosen otherwise than the default and makes another file of it, in the words of the command line."""
        told = {} if self.lr_size is None else {"static": "{}x{}".format(*self.lr_size)}
        if self.io != "float":
            told["io"] = self.io
        if self.shuffle != "crd":
            told["shuffle"] = self.shuffle
        return told


def tuned_and_largest(sizes: Sequence[Size] | None) -> tuple[Size, Size] | None:
    """One size or two, as two."""
    if sizes is None:
        return None
    if not 1 <= len(sizes) <= 2:
        raise UsageError(f"--sizes has {len(sizes)} sizes: give what to tune for and the largest, 320x180,640x360")
    tuned, largest = sizes[0], sizes[-1]
    if tuned[0] > largest[0] or tuned[1] > largest[1]:
        told = "{}x{},{}x{}".format(*tuned, *largest)
        raise UsageError(f"--sizes {told}: the second is the largest and must hold the first")
    return tuned, largest


@dataclass(frozen=True)
class Conversion:
    """One file to be made. `network` is the converter's own copy: CPU, float32, eval, without gradients. `path` is the
    main file, under its final name in an empty temporary folder; companions (weights, for one) are put beside it."""

    network: Network
    path: Path
    metadata: Mapping[str, str]
    choices: Choices = field(default_factory=Choices)
    progress: Progress = no_progress
    precision: str = "fp32"
    """That of the format's row, for a converter of several."""


class CannotConvert(SrkdError):
    """This network cannot be had in this format, for a reason that lies in the format or its converter."""
