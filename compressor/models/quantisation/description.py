"""The description of a network's quantisation, as in files: the key `srkd.quant` of the header.

This module imports no torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from compressor.base.errors import UsageError

KEY = "srkd.quant"
"""The metadata key of files that hold a quantised network."""

QuantisationMethod = Literal["pams", "pact"]
Placement = Literal["paper", "all"]
FEWEST_BITS, MOST_BITS = 2, 32
EDGE_BITS = 8
"""The fewest bits of the first and the last layer, which read and write the image itself."""


@dataclass(frozen=True)
class Quantisation:
    """The quantisation of a network.

    `placement="paper"`: the layers inside the residual blocks, one scale per tensor. `"all"`: every convolution and
    linear layer with its input, one weight scale per output channel. `compat="pams"`: a block's first convolution reads
    the block's input in float, and a value at ±α gives half of its gradient to each, as in PAMS's code.
    """

    method: QuantisationMethod
    bits: int = 8
    placement: Placement = "paper"
    compat: Literal["", "pams"] = ""

    def __post_init__(self) -> None:
        choices = {"method": get_args(QuantisationMethod), "placement": get_args(Placement), "compat": ("", "pams")}
        for name, allowed in choices.items():
            value = getattr(self, name)
            if value not in allowed:
                raise UsageError(f"{name}={str(value)[:40]!r} is not one of {', '.join(map(repr, allowed))}")
        if self.compat and self.method != "pams":
            raise UsageError(
                f"compat={self.compat} is for PAMS, whose code quantises so: leave it out with {self.method}"
            )
        if type(self.bits) is not int or not FEWEST_BITS <= self.bits <= MOST_BITS:
            raise UsageError(f"bits={str(self.bits)[:40]} is not a whole number from {FEWEST_BITS} to {MOST_BITS}")

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    def line(self) -> str:
        """Return a short description, such as `pams, 8 bits, placement paper`."""
        compat = f", compat {self.compat}" if self.compat else ""
        return f"{self.method}, {self.bits} bits, placement {self.placement}{compat}"

    @classmethod
    def from_json(cls, text: str) -> Quantisation:
        """Return the quantisation in a value of `srkd.quant`; anything but the output of `to_json` is refused."""
        try:
            values: Any = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{KEY} is not JSON ({str(error)[:60]})") from error
        names = {field.name for field in fields(cls)}
        if not isinstance(values, dict) or set(values) != names:
            raise UsageError(f"{KEY} is not an object with {', '.join(sorted(names))}")
        return cls(**values)


def read_quantisation(metadata: Mapping[str, str]) -> Quantisation | None:
    """Return the quantisation in a file's metadata; None for a float network."""
    text = metadata.get(KEY)
    return None if text is None else Quantisation.from_json(text)
