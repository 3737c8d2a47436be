"""What `--teacher-cache` may keep of a recipe's teacher."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from compressor.base.errors import UsageError
from compressor.data.batches import View
from compressor.data.teacher_cache import teacher_views
from compressor.training.method import Method
from compressor.training.stage import HasEarlierStages
from recipes.catalogue import teacher_needs


def views_to_cache(recipe: str, methods: Sequence[Method], *, lr_only: bool) -> tuple[View, ...]:
    """The views of the teacher that the recipe's terms ask outputs of, or one line that says why there are none."""
    if Path(recipe).stem.endswith("-paper"):
        raise UsageError(
            f"--teacher-cache changes what the teacher sees, and {recipe} repeats a published run: "
            "leave it out, or take the recipe without -paper"
        )
    for method in methods:
        if isinstance(method, HasEarlierStages) and any(one.tunes_teacher for one in method.earlier_stages()):
            raise UsageError(
                f"--teacher-cache keeps the outputs of the teacher as it came, and {method.name} tunes a copy of it "
                "that teaches: leave it out"
            )
    # Without HR images the teacher's output for the batch is the label.
    asked: list[View] = ["whole"] if lr_only else []
    views = tuple(dict.fromkeys([*asked, *teacher_views(methods)]))
    if not views:
        has_teacher = any(teacher_needs(method) != "nothing" for method in methods)
        why = "wants other things of its teacher" if has_teacher else "has no teacher"
        raise UsageError(f"--teacher-cache keeps a teacher's outputs, and recipe {recipe} {why}: leave it out")
    return views
