"""The protocol of an evaluation as a value. Importing this module imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from compressor.base.choices import Border


@dataclass(frozen=True)
class Protocol:
    """The conditions of a PSNR figure. `border` None crops `scale` pixels."""

    border: int | None = None
    lr_border: Border = "mirror"
    grey: Literal["rgb", "raw"] = "rgb"
    degradation: str = ""
    """The name of the degradation of the LR images; empty for none."""

    def at(self, scale: int) -> Protocol:
        """Return the same protocol with its border in pixels."""
        return replace(self, border=scale if self.border is None else self.border)

    def __str__(self) -> str:
        border = "scale" if self.border is None else str(self.border)
        words = ["psnr@y", f"border={border}", "bicubic=matlab", f"grey={self.grey}"]
        words += ["lr_border=clamp"] if self.lr_border == "clamp" else []
        return ",".join([*words, f"degraded={self.degradation}"] if self.degradation else words)
