"""The degradation that an option asks for, and the protocol of scores by it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from compressor.base.context import Context
from compressor.base.errors import UsageError
from compressor.degradation.names import LIKE, NONE
from compressor.images.protocol import Protocol
from compressor.images.sets import AnySet, makes_lr
from srkd.options.shared import ScoringOptions

if TYPE_CHECKING:
    from compressor.degradation.chain import Degradation

FLAG = "--degrade"


def degradation_of(text: str, context: Context) -> Degradation | None:
    """The degradation of `--degrade`; None for none, for which no torch is needed. A note says what was measured."""
    if text == NONE:
        return None
    from compressor.degradation.chain import read_degradation

    text = measured(text, context)
    try:
        return read_degradation(text)
    except UsageError as error:
        raise UsageError(f"{FLAG}: {error}") from error


def measured(text: str, context: Context) -> str:
    """The text with what the pictures of like:DIR have in place of the folder."""
    if not text.startswith(LIKE):
        return text
    from compressor.degradation.like import measure_like

    folder = text.removeprefix(LIKE)
    steps, pictures = measure_like(Path(folder), f"{FLAG} {LIKE}", context)
    context.note(f"{pictures} pictures of {folder} are as by {FLAG} {steps}; change it as you like")
    return steps


def protocol_of(options: ScoringOptions, degradation: Degradation | None, sets: Iterable[AnySet]) -> Protocol:
    """The protocol of scores; refuse options that contradict each other, and a border by which no LR image is made."""
    if degradation is not None and options.lr_images is not None:
        raise UsageError(f"{FLAG} makes LR images from the originals, and --lr-images has others: leave one out")
    if options.lr_border != ScoringOptions.lr_border:
        if degradation is not None:
            raise UsageError(f"--lr-border {options.lr_border}: {FLAG} makes LR images its own way; leave it out")
        if not any(makes_lr(image_set.sources) for image_set in sets):
            raise UsageError(f"--lr-border {options.lr_border}: all LR images are stored; leave it out")
    name = "" if degradation is None else degradation.label
    return Protocol(border=options.border, lr_border=options.lr_border, grey=options.grey, degradation=name)
