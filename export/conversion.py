"""What a converter is given, and how it says no."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from compressor.errors import SrkdError
from compressor.progress import Progress, silent

if TYPE_CHECKING:
    from compressor.networks.base import Network

IO = Literal["float", "uint8"]
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

    def named(self) -> dict[str, str]:
        """What was chosen otherwise than the default, in the words of the command line."""
        told = {} if self.lr_size is None else {"static": "{}x{}".format(*self.lr_size)}
        if self.io != "float":
            told["io"] = self.io
        if self.shuffle != "crd":
            told["shuffle"] = self.shuffle
        return told


@dataclass(frozen=True)
class Conversion:
    """One file to be made. `network` is the converter's own copy: CPU, float32, eval, without gradients. `path` is the
    main file, under its final name in an empty temporary folder; companions (weights, for one) are put beside it."""

    network: Network
    path: Path
    metadata: Mapping[str, str]
    choices: Choices = field(default_factory=Choices)
    progress: Progress = silent


class CannotConvert(SrkdError):
    """This network cannot be had in this format, for a reason that lies in the format or its converter."""
