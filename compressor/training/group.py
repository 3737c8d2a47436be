"""Several processes, started by torchrun: gloo between CPUs, NCCL between GPUs, and one line when one is lost."""

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
from torch.distributed import PrefixStore, Store, rendezvous  # type: ignore[attr-defined]

from compressor.errors import SrkdError, UsageError
from compressor.training.interrupt import Interrupted
from compressor.training.place import Place
from compressor.training.processes import LostProcess, Processes, ToldElsewhere, Unanimous
from compressor.training.watch import Watch, first_line

T = TypeVar("T")

PATIENCE = timedelta(hours=12)
"""How long a collective waits for a process that lives: decoding a large set takes what it takes."""


class Group(Processes):
    """One of several processes. `last_words` prints the line of a process that cannot raise an error any more."""

    def __init__(self, place: Place, last_words: Callable[[str], None]) -> None:
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

    def together(self, work: Callable[[], T]) -> T:
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
def processes(place: Place, last_words: Callable[[str], None]) -> Iterator[Processes]:
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


def own_device(name: str, place: Place) -> str:
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


def _store(place: Place) -> Store:
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
