"""What `--teacher-cache` may keep of a recipe's teacher."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from compressor.base.errors import UsageError
from compressor.data.batches import View
from compressor.training.method import Method


def views_to_cache(recipe: str, methods: Sequence[Method], *, lr_only: bool) -> tuple[View, ...]:
    """The views of the teacher that the recipe's terms ask outputs of, or one line that says why there are none."""
    if Path(recipe).stem.endswith("-paper"):
        raise UsageError(
            f"--teacher-cache changes what the teacher sees, and {recipe} repeats a published run: "
            "leave it out, or take the recipe without -paper"
        )
    for method in methods:
        if any(prelude.trains == "teacher" for prelude in method.preludes()):
            raise UsageError(
                f"--teacher-cache keeps the outputs of the teacher as it came, and {method.name} tunes a copy of it "
                "that teaches: leave it out"
            )
    # Without HR images the teacher's output for the batch is the label.
    asked: list[View] = ["whole"] if lr_only else []
    for method in methods:
        # A method of another package may say nothing of views: then the teacher itself answers it.
        asked += getattr(method, "teacher_views", ())
    views = tuple(dict.fromkeys(asked))
    if not views:
        why = (
            "wants other things of its teacher" if any(method.needs_teacher for method in methods) else "has no teacher"
        )
        raise UsageError(f"--teacher-cache keeps a teacher's outputs, and recipe {recipe} {why}: leave it out")
    return views
