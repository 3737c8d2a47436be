"""Background threads: one reads the next picture or frame ahead, another finishes the previous result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from types import TracebackType
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def one_ahead(items: Iterator[Item]) -> Iterator[Iterator[Future[Item]]]:
    """Yield an iterator over the items, which are made in a thread: the next one while the current one is in use.

    The thread ends with the block. An error of an item is raised by its result; a `map` goes on after it.
    """
    nothing: Any = object()
    with ThreadPoolExecutor(max_workers=1) as maker:

        def results() -> Iterator[Future[Item]]:
            current = maker.submit(next, items, nothing)
            while current.exception() is not None or current.result() is not nothing:
                following = maker.submit(next, items, nothing)
                yield current
                current = following

        try:
            yield results()
        finally:
            maker.shutdown(wait=False, cancel_futures=True)


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
