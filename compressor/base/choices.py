"""Words that options of the command line share with the code below; importing this loads nothing heavy."""

from __future__ import annotations

from typing import Literal, TypeAlias

Border: TypeAlias = Literal["mirror", "clamp"]
"""The pixels beyond the edge: the image mirrored with its edge pixel repeated, or (older MATLAB) its edge pixel."""

TrackerName: TypeAlias = Literal["tensorboard", "wandb"]
"""Where the numbers of a run can be watched beside metrics.jsonl."""

TRACKERS: tuple[TrackerName, ...] = ("tensorboard", "wandb")
DEFAULT_TRACKERS: tuple[TrackerName, ...] = ("tensorboard",)

Init: TypeAlias = Literal["fit", "inherit", "random"]
"""The weights a student starts from: solved for, so that it computes what its teacher does; cut from the teacher's; or
random."""

Select: TypeAlias = Literal["leading", "l1", "principal"]
"""What a narrower student keeps: the leading units, those that the largest weights touch, or the principal directions
of its teacher's features."""

MOST_LIMITS = 1000
"""The largest factor by which the limits of a foreign program are widened."""
