"""Photos for whoever has none at hand: small ones as a model of this scale sees them in training, and a larger one."""

from __future__ import annotations

import io
from dataclasses import dataclass

import torch
from PIL import Image

from compressor.images.files import read_rgb_u8
from compressor.images.resize import downscale_u8
from compressor.images.sets import embedded_photos
from demo.files import hashed_address


@dataclass(frozen=True)
class Sample:
    """A PNG and what to say about it."""

    name: str
    title: str
    credit: str
    content: bytes
    width: int
    height: int

    @property
    def address(self) -> str:
        return hashed_address("samples", self.name, ".png", self.content)


def samples(scale: int) -> tuple[Sample, ...]:
    """Two photos made smaller by `scale`, and one as it is; the embedded networks were trained on none of them."""
    small, large = embedded_photos("val"), embedded_photos("train")
    return (
        _sample("chelsea", "A cat", "Stéfan van der Walt, CC0", downscale_u8(read_rgb_u8(small["chelsea"]), scale)),
        _sample(
            "astronaut", "An astronaut", "NASA, public domain", downscale_u8(read_rgb_u8(small["astronaut"]), scale)
        ),
        _sample("coffee", "Coffee, larger", "Rachel Michetti, CC0", read_rgb_u8(large["coffee"])),
    )


def _sample(name: str, title: str, credit: str, rgb_u8: torch.Tensor) -> Sample:
    pixels = rgb_u8.reshape(rgb_u8.shape[-3:]).permute(1, 2, 0).contiguous().numpy()
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, "PNG", optimize=True)
    return Sample(name, title, credit, written.getvalue(), width=pixels.shape[1], height=pixels.shape[0])
