"""Background threads: one reads the next picture or frame ahead, another finishes the previous result."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from types import TracebackType
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def read_ahead(
    items: Sequence[Item], read: Callable[[Item], Result]
) -> Iterator[Iterator[tuple[Item, Future[Result]]]]:
    """Yield an iterator over the items with their results; it reads the next item while the current one is in use.

    The thread ends with the block.
    """
    with ThreadPoolExecutor(max_workers=1) as reader:

        def results() -> Iterator[tuple[Item, Future[Result]]]:
            following: Future[Result] | None = None
            for number, item in enumerate(items, start=1):
                current = following or reader.submit(read, item)
                following = None
                if number < len(items):
                    following = reader.submit(read, items[number])
                yield item, current

        try:
            yield results()
        finally:
            reader.shutdown(wait=False, cancel_futures=True)


def one_ahead(items: Iterator[Item]) -> Generator[Item, None, None]:
    """Yield the items; the next one is made in a thread while the current one is in use, which ends with the items."""
    with ThreadPoolExecutor(max_workers=1) as maker:
        nothing = object()
        following: Future[Any] = maker.submit(next, items, nothing)
        while (item := following.result()) is not nothing:
            following = maker.submit(next, items, nothing)
            yield item


class OneBehind:
    """A thread that runs one task at a time, in order, without a queue. All tasks end within the block."""

    def __init__(self) -> None:
        self._worker = ThreadPoolExecutor(max_workers=1)
        self._last: Future[Any] | None = None

    def __enter__(self) -> OneBehind:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Wait for the last task and raise its error, in preference to a later Exception but not to a Ctrl-C."""
        self._worker.shutdown(wait=True)
        if error is None or isinstance(error, Exception):
            self.finish()

    def submit(self, task: Callable[[], Result]) -> Future[Result]:
        """Wait for the previous task, raising its error if it failed, then start this one."""
        self.finish()
        self._last = future = self._worker.submit(task)
        return future

    def finish(self) -> None:
        """Wait for the last task, and raise its error."""
        if self._last is not None:
            last, self._last = self._last, None
            wait([last])
            last.result()
