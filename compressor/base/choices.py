"""Values of options that the code below shares; importing this module loads nothing heavy."""

from __future__ import annotations

from typing import Literal, TypeAlias

FilmCodec: TypeAlias = Literal["h264", "hevc", "vp9", "ffv1"]
"""A codec in which films are written."""

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

Decay: TypeAlias = Literal["constant", "milestones", "cosine"]
"""The course of the learning rate: constant, multiplied by a factor at each milestone, or falling to zero."""

OptimiserName: TypeAlias = Literal["adam", "soap"]
"""The optimiser of training: Adam, or SOAP, which is Adam in bases of each weight's own."""

PrecisionOption: TypeAlias = Literal["auto", "fp32", "bf16"]
"""The precision of training, auto: by facts of machine and run; and that of a frozen teacher, auto: the student's."""

CompileOption: TypeAlias = Literal["auto", "on", "off"]
"""Compilation of the networks in training; auto: by facts of machine and run."""

Precision: TypeAlias = Literal["fp32", "bf16"]
"""The number format in which a network computes in training."""

Layout: TypeAlias = Literal["channels_last", "contiguous"]
"""The memory layout of a network and its images in training."""

BaselineName: TypeAlias = Literal["scratch", "inherit", "fit", "init-from", "logits"]
"""Baselines: L1 to the label from four kinds of first weights, and logits from the recipe's own."""

Goal: TypeAlias = Literal["original", "teacher"]
"""What a student is judged by: how near its images are to the originals, or to those of its teacher."""

GoalOption: TypeAlias = Literal["auto", "original", "teacher"]
"""A goal; auto: the originals for a teacher that is nearer to them than bicubic, else the teacher."""

MOST_LIMITS = 1000
"""The largest factor by which the limits of a foreign program are widened."""
