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


def test_a_loop_that_is_left_does_not_say_that_all_is_done() -> None:
    seen = list[int]()
    for item in Context(progress=lambda title, done, total: seen.append(done)).each("work", (1, 2, 3)):
        if item == 2:
            break
    assert seen == [0, 1]
