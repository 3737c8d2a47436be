"""Each process shows that it lives: one that is killed, hung or cut off is noticed, whatever the others wait for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta

from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

EVERY = 2.0
"""Seconds between two signs of life."""

SILENCE = 8
"""So many of its own beats a process waits for a sign of its neighbour; own beats, because a process that was stopped
itself must not blame the others."""

MEETING = timedelta(minutes=10)
"""In which every process has to appear: machines differ in how long they take to import torch."""

ANSWER = timedelta(seconds=15)
"""How long the store may take."""

LEAVE = 60.0
"""Seconds in which the thread ends: the store's answer, and a machine so busy that it takes four times as long."""


class Watch(threading.Thread):
    """A thread that beats into the store, watches the next process round the ring, and reads what others noticed.

    A collective's own time limit cannot do this: it would have to outlast the slowest validation, decoding or save, and
    NCCL's ends in an abort without a line. The thread costs three small requests every other second, whatever the
    number of processes.
    """

    def __init__(self, host: str, port: int, attempt: int, rank: int, world: int, lost: Callable[[str], None]) -> None:
        super().__init__(name="srkd-watch", daemon=True)
        self.rank, self.next, self.lost = rank, (rank + 1) % world, lost
        self.address, self.prefix = (host, port), f"srkd-watch-{attempt}"
        self.all_met, self.parting, self.stopped = threading.Event(), threading.Event(), threading.Event()

    def run(self) -> None:
        try:
            what = self._watched()
        except RuntimeError as error:
            # When all part, who holds the store may be the first to go.
            host, port = self.address
            what = f"{host}:{port}, where the processes meet, does not answer: {first_line(error)}"
            if self.parting.is_set():
                return
        if what is not None and not self.stopped.is_set():
            self.lost(what)

    def stop(self) -> None:
        """And wait for it: a thread inside a library when Python ends brings the whole process down."""
        self.stopped.set()
        self.join(LEAVE)

    def _watched(self) -> str | None:
        """Beat until stopped; what was lost, if anything."""
        client = TCPStore(*self.address, is_master=False, wait_for_workers=False, timeout=MEETING)
        client.set_timeout(ANSWER)
        store = PrefixStore(self.prefix, client)
        seen, silent = 0, 0
        while not self.stopped.is_set():
            store.add(f"beat/{self.rank}", 1)
            beats = store.add(f"beat/{self.next}", 0)
            seen, silent = beats, 0 if beats != seen else silent + 1
            if silent > (SILENCE if self.all_met.is_set() else MEETING.total_seconds() / EVERY):
                store.set("lost", f"rank {self.next} gave no sign of life for {silent * EVERY:.0f} s")
            if store.check(["lost"]):
                return store.get("lost").decode(errors="replace")
            self.stopped.wait(EVERY)
        return None


def first_line(error: BaseException) -> str:
    """What an error of the network says, without the place in a library's source, advice to programmers and a stack."""
    text = str(error).strip().splitlines()
    return text[0].rpartition("] ")[2].partition(". ")[0][:160] if text else type(error).__name__
