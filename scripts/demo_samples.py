"""Drawing of the demo's samples of text and leaves, which the embedded photographs lack. Run it manually.

Each is drawn at four times the size and downscaled by srkd's bicubic, like images in training.
"""

from __future__ import annotations

import math
import random
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from compressor.images.resize import downscale_u8

FOLDER = Path(__file__).resolve().parent.parent / "demo" / "samples"
WIDTH, HEIGHT = 320, 240
SHRINK = 4
SEED = 7
CUT = 24

PAPER, INK, RED, BLUE = "#f4efe2", "#1d2328", "#b3261e", "#14507a"
DEPARTURES = (
    ("06:12", "Ashford, Brookside, Kingsmere", "2"),
    ("06:47", "Northgate via Millbridge", "5"),
    ("07:05", "Harbour Quay, all stops", "1a"),
    ("07:31", "Westfield & Old Town", "3"),
    ("08:20", "Lakeside, Queensbury, Fell", "4b"),
    ("09:16", "Zeal Monachorum (Sundays)", "2"),
)
SMALL_PRINT = (
    "Trains marked with a circle do not run on public holidays. Bicycles travel free after 9:30.",
    "Tickets bought on the train cost 2.50 more. Lost property: room 17, first floor, 8 to 18 h.",
)


def draw_text() -> Image.Image:
    """Return a timetable with letters from large to so small that only sharp edges keep them readable."""
    # Rotated slightly, as in a photo; the empty edges are cropped.
    width, height = WIDTH * SHRINK + 2 * CUT, HEIGHT * SHRINK + 2 * CUT
    sheet = Image.new("RGB", (width, height), PAPER)
    canvas = ImageDraw.Draw(sheet)
    canvas.rectangle((0, 0, width, 176), fill=BLUE)
    canvas.text((72, 54), "Departures", fill="white", font=ImageFont.load_default(88))
    canvas.text((width - 370, 92), "valid 1 May to 30 Sept", fill="#cfe3f1", font=ImageFont.load_default(27))
    top = 208
    for row, (time, places, platform) in enumerate(DEPARTURES):
        size = 60 - 5 * row
        font = ImageFont.load_default(size)
        canvas.text((72, top), time, fill=RED if row % 2 else INK, font=font)
        canvas.text((280, top), places, fill=INK, font=font)
        canvas.text((width - 140, top), platform, fill=BLUE, font=font)
        top += round(size * 1.8)
        canvas.line((72, top - 15, width - 72, top - 15), fill="#9aa19c", width=3)
    for line in SMALL_PRINT:
        canvas.text((72, top + 10), line, fill=INK, font=ImageFont.load_default(27))
        top += 42
    for index in range(46):
        left = 72 + index * 12
        canvas.rectangle((left, height - 116, left + 2 + index * 7 % 6, height - 56), fill=INK)
    for turn in range(5):
        box = (width - 200 + 12 * turn, height - 170 + 12 * turn, width - 80 - 12 * turn, height - 50 - 12 * turn)
        canvas.ellipse(box, outline=RED, width=5)
    return sheet.rotate(-1.2, Image.Resampling.BICUBIC).crop((CUT, CUT, width - CUT, height - CUT))


def draw_leaves() -> Image.Image:
    """Return foliage: about a thousand leaves with veins, in layers, nearer ones lighter and larger, and some twigs."""
    chance = random.Random(SEED)
    width, height = WIDTH * SHRINK, HEIGHT * SHRINK
    picture = Image.new("RGB", (width, height), "#0d1710")
    layers = 5
    for layer in range(layers):
        near = layer / (layers - 1)
        canvas = ImageDraw.Draw(picture)
        for _ in range(7):
            _draw_twig(canvas, chance, width, height, near)
        for _ in range(int(520 - 330 * near)):
            at = (chance.uniform(-40, width + 40), chance.uniform(-40, height + 40))
            _draw_leaf(canvas, chance, at, near)
        if layer < layers - 1:
            picture = picture.filter(ImageFilter.GaussianBlur(1.6 * (1 - near)))
    noise = np.random.default_rng(SEED).normal(0, 5, (height, width, 1))
    return Image.fromarray(np.clip(np.asarray(picture) + noise, 0, 255).astype(np.uint8))


def _draw_twig(canvas: ImageDraw.ImageDraw, chance: random.Random, width: int, height: int, near: float) -> None:
    x, y = chance.uniform(0, width), chance.uniform(0, height)
    angle = chance.uniform(0, math.tau)
    for step in range(60):
        angle += chance.gauss(0, 0.12)
        end = (x + 12 * math.cos(angle), y + 12 * math.sin(angle))
        shade = int(40 + 60 * near)
        thickness = max(2, int((4 + 6 * near) * (1 - step / 70)))
        canvas.line((x, y, *end), fill=(shade + 18, shade, shade - 18), width=thickness)
        x, y = end


def _draw_leaf(canvas: ImageDraw.ImageDraw, chance: random.Random, at: tuple[float, float], near: float) -> None:
    """Draw one pointed leaf: its blade in two halves of different brightness, a midrib and side veins."""
    length = chance.uniform(46, 84) * (0.7 + 0.9 * near)
    breadth = length * chance.uniform(0.16, 0.24)
    angle = chance.uniform(0, math.tau)
    light = (0.32 + 0.68 * near) * chance.uniform(0.7, 1.1)
    hue = chance.uniform(-18, 26)
    across, along = (-math.sin(angle), math.cos(angle)), (math.cos(angle), math.sin(angle))

    def place(share: float, offset: float) -> tuple[float, float]:
        return (
            at[0] + along[0] * share * length + across[0] * offset,
            at[1] + along[1] * share * length + across[1] * offset,
        )

    def blade(share: float) -> float:
        return breadth * math.sin(math.pi * share**0.8) * (1 - 0.25 * share)

    shares = [step / 14 for step in range(15)]
    spine = [place(share, 0) for share in shares]
    for side, brightness in ((1, 1.0), (-1, 0.76)):
        outline = [place(share, side * blade(share)) for share in shares]
        canvas.polygon([*spine, *reversed(outline)], fill=_green(light * brightness, hue))
    vein = _green(light * 1.45, hue + 12)
    canvas.line(spine, fill=vein, width=2 + round(2 * near))
    for share in (0.2, 0.34, 0.48, 0.62, 0.76):
        for side in (1, -1):
            tip = place(share + 0.11, side * blade(share + 0.11) * 0.86)
            canvas.line((*place(share, 0), *tip), fill=vein, width=1 + round(near))


def _green(light: float, hue: float) -> tuple[int, int, int]:
    parts = (84 + hue, 142 + 0.4 * hue, 52 - 0.5 * hue)
    red, green, blue = (int(min(255, max(0, light * part))) for part in parts)
    return red, green, blue


def shrink(drawing: Image.Image) -> Image.Image:
    """Return the drawing as a sample, at a quarter of the size."""
    pixels = torch.from_numpy(np.array(drawing)).permute(2, 0, 1).contiguous()
    small = downscale_u8(pixels, SHRINK)
    return Image.fromarray(small.reshape(small.shape[-3:]).permute(1, 2, 0).contiguous().numpy())


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, drawing in (("timetable", draw_text()), ("leaves", draw_leaves())):
        shrink(drawing).save(FOLDER / f"{name}.webp", lossless=True, quality=100, method=6)


if __name__ == "__main__":
    main()
