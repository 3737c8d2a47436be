"""How the steps of a run use its teacher: on which images it runs, and which of its outputs may be kept."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch

from compressor.base.cache_folder import CacheFolder
from compressor.base.choices import Goal, Precision
from compressor.base.context import Context
from compressor.base.decided import LabelMargin
from compressor.base.errors import UsageError
from compressor.data.label_margin import given_margin, measure_margin
from compressor.data.prepare import Data
from compressor.data.store import ImageStore
from compressor.data.teacher_cache import TeacherCache
from compressor.models.networks.cost import cost
from compressor.teachers.teacher import Teacher
from compressor.training.method import Method, declares
from compressor.training.speed import PASSES_OF_A_STEP
from recipes.catalogue import PIXEL_ONLY, teacher_needs
from recipes.config.preset import Preset
from srkd.options.compress import CompressOptions, TrainingOptions
from srkd.runs.recipe import needs_teacher, repeats_published, trains_teacher, tunes_teacher


@dataclass(frozen=True)
class TeacherUse:
    """The methods of a recipe with their teacher, and what the student learns to give."""

    recipe: str
    """As `--recipe` has it."""
    methods: Sequence[Method]
    teacher: Teacher | None
    labels: Goal

    @property
    def runs_teacher(self) -> bool:
        return self.labels == "teacher" or needs_teacher(self.methods)

    @property
    def runs_on_patches(self) -> bool:
        """Whether a step runs the teacher, as it came, on the patches of the batch."""
        if self.teacher is None or any(map(trains_teacher, self.methods)):
            return False
        return self.labels == "teacher" or any(
            method.name not in PIXEL_ONLY
            and teacher_needs(method) != "nothing"
            and (not declares(method, "takes_outputs") or method.takes_outputs)
            for method in self.methods
        )

    @property
    def compares_unshuffled(self) -> bool:
        """Whether a method takes features of a teacher that unshuffles its image: they have no exact crop."""
        network = None if self.teacher is None else self.teacher.network
        is_unshuffled = network is not None and getattr(network.spec, "unshuffle", 1) > 1
        return is_unshuffled and any(teacher_needs(method) == "network" for method in self.methods)

    @property
    def sees_windows(self) -> bool:
        """Whether the teacher can run on windows around patches, and its images of them be cropped."""
        takes_any = self.teacher is not None and self.teacher.own_sizes.fixed_size is None
        return takes_any and self.runs_on_patches and not self.compares_unshuffled

    def macs(self, side: int) -> int:
        """Multiply-accumulates of the teacher for each patch, in windows of `side` LR pixels; 0 if they are unknown."""
        network = None if self.teacher is None else self.teacher.network
        passes = PASSES_OF_A_STEP if any(map(trains_teacher, self.methods)) else int(self.runs_on_patches)
        return 0 if network is None else passes * cost(network, (side, side)).macs

    def require_cacheable(self) -> None:
        """Refuse `--teacher-cache` for a recipe that has no use for the teacher's outputs, or must not take others."""
        if repeats_published(self.recipe):
            raise UsageError(
                f"--teacher-cache changes what the teacher sees, and {self.recipe} keeps to its sources: "
                "leave it out, or take the recipe without -paper or -code"
            )
        for method in self.methods:
            if tunes_teacher(method):
                raise UsageError(
                    f"--teacher-cache keeps the outputs of the teacher as it came, and {method.name} tunes a copy of "
                    "it that teaches: leave it out"
                )
        if self.labels != "teacher" and not any(method.takes_outputs for method in self.methods):
            has_teacher = any(teacher_needs(method) != "nothing" for method in self.methods)
            reason = "needs other things of its teacher" if has_teacher else "has no teacher"
            raise UsageError(
                f"--teacher-cache keeps a teacher's outputs, and recipe {self.recipe} {reason}: leave it out"
            )

    def require_sound(self, training: TrainingOptions) -> None:
        """Refuse a cache that cannot be, and a margin where the teacher sees no windows."""
        if training.teacher_cache:
            self.require_cacheable()
        given = training.label_margin
        if not given:
            return
        if self.teacher is not None and self.teacher.own_sizes.fixed_size is not None:
            reason = "the teacher takes images of one size only"
        elif training.teacher_cache:
            reason = "with --teacher-cache the teacher sees whole images"
        elif not self.runs_on_patches:
            reason = f"recipe {self.recipe} does not run a frozen teacher on patches"
        elif self.compares_unshuffled:
            reason = (
                f"recipe {self.recipe} compares features of a teacher that unshuffles its image, and they cannot be "
                "cropped to patches"
            )
        else:
            return
        raise UsageError(f"--label-margin {given}: {reason}; leave it out")


def plan_cache(preset: Preset, teacher: Teacher, images: ImageStore, folder: CacheFolder) -> TeacherCache:
    """The cache of the teacher's outputs for a run's images.

    They are computed once for all steps, and perhaps for other runs: half precision would save little time.
    """
    precision: Precision = "bf16" if preset.schedule.teacher_precision == "bf16" else "fp32"
    return TeacherCache.plan(teacher, images, folder=folder, precision=precision)


def choose_margin(
    options: CompressOptions, use: TeacherUse, data: Data, lr_patch: int, device: torch.device, context: Context
) -> LabelMargin | None:
    """The margin, given or measured, and announce it; None if no teacher runs on patches."""
    given, teacher = options.training.label_margin, use.teacher
    if teacher is None or not use.sees_windows:
        return None
    if given is not None:
        margin = given_margin(given, teacher, data.train, lr_patch)
    elif repeats_published(options.training.recipe):
        return None
    else:
        margin = context.once(
            "margin",
            *(id(teacher), id(data), lr_patch, str(device)),
            read=lambda: measure_margin(teacher.move_to(device), data.train, lr_patch, context),
        )
    if given != 0:
        advice = ""
        if given is None and margin.pixels:
            advice = " (--label-margin 0: no margin)"
            with suppress(UsageError):
                use.require_cacheable()
                advice = " (--teacher-cache: it runs once over the whole images; --label-margin 0: no margin)"
        context.note(margin.line(lr_patch) + advice)
    return margin
