"""`srkd data`: what a run would see of a folder of images, as figures and as a picture."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from compressor.base.context import Context
from compressor.base.files import atomic_path, require_writable_folder
from compressor.data.batches import Batches
from compressor.data.prepare import VALIDATION_PATCH, DataChoice, prepare_data
from compressor.data.store import ImageStore
from compressor.images.metrics import to_u8
from srkd.options.degradation import degradation_of
from srkd.options.function import public
from srkd.options.shared import originals_and_lr_only, path_of
from srkd.options.values import as_tuple
from srkd.options.verbs import SeenOptions

SHEET = "patches.png"
LR_PATCH = 48
"""Side of the patches of most recipes."""
COLUMNS, ROWS = 8, 4
PANEL_PIXELS, CAPTION_PIXELS, GAP_PIXELS = 144, 22, 4
EXAMPLES = COLUMNS * ROWS


@dataclass(frozen=True)
class DataReport:
    """The images of a run: their source, number and sizes, and what their LR images suffer."""

    origin: str
    images: int
    skipped: dict[str, str]
    """Images that cannot be used, and why."""
    lr_sizes: dict[str, int]
    """How many LR images have each size, the most frequent first."""
    degradation: dict[str, Any] | None
    sheet: Path | None


def run_data(options: SeenOptions, context: Context) -> DataReport:
    """Read the images that a run would train on, and show patches of them as the network sees them.

    >>> srkd.data("photos", degrade="jpeg=30..90").images
    """
    show = path_of(options.show)
    if show is not None:
        require_writable_folder(show, "--show")
    data, lr_only = originals_and_lr_only(options.data, options.lr_only)
    choice = DataChoice(data=data, lr_only=lr_only, degradation=degradation_of(options.degrade, context))
    least = options.lr_patch or VALIDATION_PATCH
    store = prepare_data(choice, scale=options.scale, lr_patch=least, context=context).train
    lr_patch = options.lr_patch or min(LR_PATCH, int(store.lr.heights.min()), int(store.lr.widths.min()))
    degradation = choice.degradation
    sizes = Counter(
        f"{width}x{height}" for width, height in zip(store.lr.widths.tolist(), store.lr.heights.tolist(), strict=True)
    )
    return DataReport(
        origin=", ".join(map(str, as_tuple(options.data or options.lr_only or "embedded photos"))),
        images=len(store),
        skipped={str(image.path): image.reason for image in store.skipped},
        lr_sizes=dict(sizes.most_common()),
        degradation=None if degradation is None else degradation.to_json(),
        sheet=None if show is None else write_patches(store, lr_patch, options.seed, show / SHEET),
    )


data = public(SeenOptions, SeenOptions, run_data, "data")


def write_patches(store: ImageStore, lr_patch: int, seed: int, path: Path) -> Path:
    """Write the first patches of a run as one picture: each as it is, and below it as the network sees it."""
    kinds = {"as they are": replace(store, degraded=None)}
    if store.degraded is not None:
        kinds[store.degraded.degradation.name] = store
    patches = {
        caption: Batches.for_store(images, batch=EXAMPLES, lr_patch=lr_patch, seed=seed).at(0).lr
        for caption, images in kinds.items()
    }
    rows = [
        (caption, lr[first : first + COLUMNS])
        for first in range(0, EXAMPLES, COLUMNS)
        for caption, lr in patches.items()
    ]
    across, down = PANEL_PIXELS + GAP_PIXELS, PANEL_PIXELS + CAPTION_PIXELS
    sheet = Image.new("RGB", (COLUMNS * across - GAP_PIXELS, len(rows) * down), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for row, (caption, lr) in enumerate(rows):
        draw.text((2, row * down + 3), caption, fill="black", font=font)
        for column, patch in enumerate(lr):
            picture = Image.fromarray(to_u8(patch).permute(1, 2, 0).contiguous().numpy())
            panel = picture.resize((PANEL_PIXELS, PANEL_PIXELS), Image.Resampling.NEAREST)
            sheet.paste(panel, (column * across, row * down + CAPTION_PIXELS))
    with atomic_path(path) as temporary:
        sheet.save(temporary, format="PNG")
    return path
