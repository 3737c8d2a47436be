"""Advice for long runs without a teacher cache that would be much shorter with one.

It is only advice: the cache changes the targets a little (docs/use/teacher-cache.md), so a measured time must not
switch it on.
"""

from __future__ import annotations

import shutil
import statistics
import time
from dataclasses import dataclass

import torch

from compressor.base.cache_folder import SPARE_BYTES, format_bytes
from compressor.base.choices import Precision
from compressor.base.durations import format_duration
from compressor.base.errors import UsageError
from compressor.base.precision import autocast, synchronise
from compressor.data.batches import View
from compressor.data.teacher_cache import FP16_BYTES
from compressor.teachers.teacher import Teacher
from srkd.runs.config import RunConfig, cache_precision, data_choice, views_to_cache

LONG_SECONDS = 600.0
"""Least duration of a run: a shorter one is not worth restarting."""

WORTH = 1.25
"""The line is printed if the run, with the time to fill the cache, would take less than 1/WORTH of its time."""

FORWARDS = 3


@dataclass(frozen=True)
class CacheCost:
    """Seconds of the teacher in a step, and seconds to fill and bytes of a cache of its outputs."""

    step_seconds: float
    fill_seconds: float
    size: int
    price: str = "targets differ a little"

    def advice(self, seconds_per_step: float, steps: int, free: int) -> str | None:
        """The line for a run with `steps` left, if the cache saves enough time and fits; `free` is in bytes."""
        without = seconds_per_step * steps
        share = min(self.step_seconds / seconds_per_step, 1.0)
        cached = without * (1 - share) + self.fill_seconds
        if without < LONG_SECONDS or cached * WORTH > without or self.size + SPARE_BYTES > free:
            return None
        return (
            f"the teacher takes {share:.0%} of a step: with --teacher-cache these {steps:,} steps would take about "
            f"{format_duration(cached)} in place of {format_duration(without)}, {format_duration(self.fill_seconds)} "
            f"of it to run the teacher once ({format_bytes(self.size)} on disk; {self.price}, see "
            "docs/use/teacher-cache.md)"
        )


def cache_advice(config: RunConfig, teacher: Teacher | None, seconds_per_step: float, steps: int) -> str | None:
    """The line for a run without a cache; if its recipe could use one, the teacher is timed on a batch."""
    if teacher is None or config.cache is not None or seconds_per_step * steps < LONG_SECONDS:
        return None
    rule, images = config.preset.schedule, config.data.train.lr
    try:
        views = views_to_cache(config.recipe, config.methods, labels=config.labels)
    except UsageError:  # the recipe has nothing to cache, or must not
        return None
    side = config.teacher_side or rule.lr_patch
    patch = torch.zeros(rule.batch, 3, side, side, device=config.device)
    in_step = _seconds(teacher, patch, config.mode.teacher_precision)
    in_fill = _seconds(teacher, patch, cache_precision(config.preset))
    scale = config.student.spec.scale
    areas: dict[View, float] = {"whole": 1.0, "zoom-out": 1 / scale**2}
    area = sum(areas[view] for view in views)
    in_steps: dict[View, float] = {"whole": 1.0, "zoom-out": rule.lr_patch**2 / side**2 / scale**2}
    pixels = int((images.heights * images.widths).sum()) * area
    cost = CacheCost(
        step_seconds=in_step * sum(in_steps[view] for view in views),
        fill_seconds=in_fill * pixels / (rule.batch * side**2),
        size=round(3 * FP16_BYTES * scale**2 * pixels),
        price="targets differ a little" if config.data.train.degraded is None else "each image is degraded only once",
    )
    folder = data_choice(config.options).cache()
    existing = next(place for place in (folder.path, *folder.path.parents) if place.exists())
    return cost.advice(seconds_per_step, steps, min(folder.limit, shutil.disk_usage(existing).free))


def _seconds(teacher: Teacher, lr: torch.Tensor, precision: Precision) -> float:
    """The teacher's median time on a batch in seconds, after one warm-up call."""
    times = []
    for _ in range(1 + FORWARDS):
        start = time.perf_counter()
        with torch.no_grad(), autocast(precision, lr.device):
            teacher(lr)
        synchronise(lr.device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])
