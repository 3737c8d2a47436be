"""Each process shows that it lives: one that is killed, hung or cut off is noticed, whatever the others wait for.

Several processes, started by torchrun: gloo between CPUs, NCCL between GPUs, and one line when one is lost.
"""

from __future__ import annotations

import os
import platform
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType
from typing import Any, NoReturn, TypeVar, cast

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, Store, TCPStore, rendezvous  # type: ignore[attr-defined]

from compressor.base.errors import SrkdError, UsageError
from compressor.base.processes import Interrupted, LostProcess, Processes, ToldElsewhere, Unanimous
from compressor.base.rank import Rank

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


T = TypeVar("T")

PATIENCE = timedelta(hours=12)
"""How long a collective waits for a process that lives: decoding a large set takes what it takes."""


class Group(Processes):
    """One of several processes. `last_words` prints the line of a process that cannot raise an error any more."""

    def __init__(self, place: Rank, last_words: Callable[[str], None]) -> None:
        super().__init__(place)
        self.last_words = last_words
        self.where: Callable[[], str] = lambda: "before the first step"
        self.command = "start again"
        host, port = _meeting_point()
        self.watch = Watch(host, port, place.restarts, place.rank, place.world, self._perish)
        # NCCL begins with the first tensor that lies on a GPU; what lies on the CPU (objects, checks) goes by gloo.
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
        self.watch.start()
        try:
            with self._collective():
                dist.init_process_group(
                    backend, timeout=PATIENCE, rank=place.rank, world_size=place.world, store=_store(place)
                )
        except BaseException:
            self.watch.stop()
            raise
        self.watch.all_met.set()

    def mean_(self, tensor: torch.Tensor) -> None:
        self.total_(tensor)
        tensor.div_(self.place.world)

    def total_(self, tensor: torch.Tensor) -> None:
        with self._collective():
            dist.all_reduce(tensor)

    def everyone(self, tensor: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, _Everyone.apply(tensor, self))  # type: ignore[no-untyped-call]

    def rows_of_all(self, tensor: torch.Tensor) -> torch.Tensor:
        rows = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(self.place.world)]
        with self._collective():
            dist.all_gather(rows, tensor.contiguous())
        return torch.cat(rows)

    def from_leader(self, value: T | None) -> T:
        box = [value if self.leads else None]
        with self._collective():
            dist.broadcast_object_list(box, src=0)
        return cast(T, box[0])

    def gathered(self, value: T) -> list[T]:
        values: list[Any] = [None] * self.place.world
        with self._collective():
            dist.all_gather_object(values, value)
        return values

    def run_on_all(self, work: Callable[[], T]) -> T:
        result, failure = None, None
        try:
            result = work()
        except LostProcess:
            raise
        except Exception as error:  # noqa: BLE001
            failure = error
        outcomes = self.gathered(None if failure is None else _told(failure))
        failed = [(rank, *outcome) for rank, outcome in enumerate(outcomes) if outcome is not None]
        if not failed:
            return cast(T, result)
        rank, line, code = failed[0]
        if failure is not None and (self.leads or not isinstance(failure, SrkdError)):
            raise failure
        if not self.leads:
            raise ToldElsewhere(code)
        where = "" if rank == 0 else f"rank {rank} of {self.place.world}: "
        raise (UsageError if code == UsageError.exit_code else SrkdError)(f"{where}{line}")

    def close(self, *, well: bool) -> None:
        """Leave together when all went well, at once when not."""
        try:
            if well:
                self.watch.parting.set()
                self.gathered(None)
        finally:
            self.watch.stop()
            # NCCL waits for the others when it is taken down, and after a failure they may be gone.
            if well or dist.get_backend() == "gloo":
                dist.destroy_process_group()

    @contextmanager
    def _collective(self) -> Iterator[None]:
        """Whatever the network says becomes one line."""
        try:
            yield
        except RuntimeError as error:
            raise LostProcess(self._line(first_line(error))) from error

    def _line(self, why: str) -> str:
        place = self.place
        noticed = f"rank {place.rank} of {place.world} noticed: {why}"
        return f"another process was lost {self.where()} ({noticed}); {self.command}"

    def going_on(self, where: Callable[[], str], command: str) -> None:
        self.where, self.command = where, f"continue with: {command}"

    def _perish(self, why: str) -> NoReturn:
        """End from the watching thread: the main one waits inside a library for a process that is gone."""
        self.last_words(self._line(why))
        os._exit(1)


class _Everyone(torch.autograd.Function):
    """Rows of all processes forward; backward every process gets the gradients that all of them have for its rows.

    Process r computes L_r from G = (x_1 … x_w); the global term is the mean L = 1/w · Σ_r L_r (where every process
    computes the same, L = L_r). Handing x_s the gradient Σ_r ∂L_r/∂x_s = w · ∂L/∂x_s, and averaging over processes what
    it becomes in the weights, gives 1/w · Σ_s w · ∂L/∂x_s · ∂x_s/∂θ = ∂L/∂θ: the gradient of one process with all rows.
    """

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, group: Group) -> torch.Tensor:
        ctx.group, ctx.rows = group, tensor.shape[0]
        return group.rows_of_all(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        summed = gradients[0].contiguous().clone()
        ctx.group.total_(summed)
        first = ctx.group.place.rank * ctx.rows
        return summed[first : first + ctx.rows], None


@contextmanager
def processes(place: Rank, last_words: Callable[[str], None]) -> Iterator[Processes]:
    """The processes of this run, for as long as it lasts."""
    if place.world == 1:
        yield Processes(place)
        return
    with _sigterm_told():
        group = Group(place, last_words)
        try:
            yield group
        except (Interrupted, Unanimous) as error:
            group.close(well=True)
            if place.leads:
                raise
            raise ToldElsewhere(error.exit_code) from error
        except BaseException as error:
            # torchrun ends the others as soon as one has ended: not before the line that says why.
            _ignore_sigterm()
            group.close(well=False)
            if isinstance(error, SrkdError) and not (place.leads or isinstance(error, (LostProcess, ToldElsewhere))):
                error.args = (f"rank {place.rank} of {place.world}: {error}",)
            raise
        group.close(well=True)


def own_device(name: str, place: Rank) -> str:
    """`cuda` is each process's own GPU; a numbered one would be shared by all of them."""
    if place.world == 1 or name == "cpu":
        return name
    if name != "cuda":
        raise UsageError(f"--device {name} with {place.world} processes: say cuda, and each takes a GPU of its own")
    found = torch.cuda.device_count()
    if 0 < found <= place.local_rank:
        raise UsageError(f"there are {found} GPUs and more processes on {platform.node()}: --nproc-per-node {found}")
    return f"cuda:{place.local_rank}"


def _meeting_point() -> tuple[str, int]:
    try:
        return os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    except (KeyError, ValueError) as error:
        raise UsageError("RANK is set and MASTER_ADDR:MASTER_PORT is not: start with torchrun") from error


def _store(place: Rank) -> Store:
    """Where the processes tell each other their addresses, under names of this attempt: torchrun keeps the store when
    it begins anew, and one that is early would find the address of a process that has ended."""
    store, _, _ = next(rendezvous("env://", place.rank, place.world, timeout=PATIENCE))
    return PrefixStore(f"srkd-attempt-{place.restarts}", store)


def _told(failure: Exception) -> tuple[str, int]:
    if isinstance(failure, SrkdError):
        return f"{failure}", failure.exit_code
    return f"{platform.node()}: {type(failure).__name__}: {failure}", 1


@contextmanager
def _sigterm_told() -> Iterator[None]:
    """Outside of training, where it asks to stop, SIGTERM ends a process: with a line."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: FrameType | None) -> NoReturn:
        raise SrkdError("ended by SIGTERM: the job was stopped, or another process was lost")

    before = signal.signal(signal.SIGTERM, end)
    yield
    signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


def _ignore_sigterm() -> None:
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
