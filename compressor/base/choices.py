"""Values of command-line options that the code below shares; importing this module loads nothing heavy."""

from __future__ import annotations

from typing import Literal, TypeAlias

Border: TypeAlias = Literal["mirror", "clamp"]
"""Padding beyond the image: mirror (the edge pixel is repeated), or clamp to the edge pixel (older MATLAB)."""

TrackerName: TypeAlias = Literal["tensorboard", "wandb"]
"""A tracker that receives the numbers of a run in addition to metrics.jsonl."""

TRACKERS: tuple[TrackerName, ...] = ("tensorboard", "wandb")
DEFAULT_TRACKERS: tuple[TrackerName, ...] = ("tensorboard",)

Init: TypeAlias = Literal["fit", "inherit", "random"]
"""A student's initial weights: fitted to the teacher's features, cut from the teacher's weights, or random."""

Select: TypeAlias = Literal["leading", "l1", "principal"]
"""The units that a narrower student keeps: the first ones, those with the largest weights (L1), or the principal
directions of the teacher's features."""

MOST_LIMITS = 1000
"""The largest factor by which the limits of a foreign program are widened."""
