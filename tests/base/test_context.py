"""The progress of a loop: before each item, and when all are done."""

from __future__ import annotations

from compressor.base.context import Context


def test_each_item_is_reported_before_it_is_worked_on() -> None:
    seen = list[tuple[str, int, int]]()
    context = Context(progress=lambda title, done, total: seen.append((title, done, total)))
    for number, item in enumerate(context.each("work", "ab")):
        assert seen[-1] == ("work", number, 2) and item == "ab"[number]
    assert seen[-1] == ("work", 2, 2)
    assert list(context.each("nothing", ())) == [] and seen[-1] == ("nothing", 0, 0)
