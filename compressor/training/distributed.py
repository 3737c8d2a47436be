"""Several processes, started by torchrun: gloo between CPUs, NCCL between GPUs, and one line when a process is lost.

A thread in each process sends heartbeats and watches the next process in the ring, so that a killed, hung or
disconnected process is noticed, whatever the others wait for.
"""

from __future__ import annotations

import os
import platform
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NoReturn, TypeVar, cast

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, Store, TCPStore, rendezvous  # type: ignore[attr-defined]

from compressor.base.errors import SrkdError, UsageError
from compressor.base.interrupts import Interrupted, ignore_sigterm, report_sigterm
from compressor.base.processes import LostProcess, Processes, Rank, ReportedElsewhere, SharedFailure

T = TypeVar("T")

HEARTBEAT_SECONDS = 2.0
MAX_MISSED_HEARTBEATS = 8
"""Heartbeats of this process without one of its neighbour after which the neighbour counts as lost. A clock would not
do: a process that was itself suspended must not blame the others."""

MEETING_TIMEOUT = timedelta(minutes=10)
"""Time within which every process has to start: machines differ in how long they take to import torch."""

STORE_TIMEOUT = timedelta(seconds=15)
JOIN_SECONDS = 60.0
"""Time for the heartbeat thread to end: the store's answer, on a machine so busy that it takes four times as long."""

COLLECTIVE_TIMEOUT = timedelta(hours=12)
"""Time limit of a collective while all processes are alive, as decoding a large set may take long."""


class Heartbeat(threading.Thread):
    """A thread that sends heartbeats to the store, watches the next process in the ring, and reads the others' reports.

    A collective's own time limit cannot replace it: that would have to exceed the slowest validation, decoding or save,
    and NCCL's limit aborts without a line. The thread costs three small requests every two seconds, whatever the number
    of processes. `on_loss` is called with the reason when a process is lost.
    """

    def __init__(self, host: str, port: int, rank: Rank, on_loss: Callable[[str], None]) -> None:
        super().__init__(name="srkd-watch", daemon=True)
        self.rank, self.next, self.on_loss = rank.index, (rank.index + 1) % rank.world_size, on_loss
        self.address, self.prefix = (host, port), f"srkd-watch-{rank.restarts}"
        self.all_met, self.parting, self.stopped = threading.Event(), threading.Event(), threading.Event()

    def run(self) -> None:
        try:
            reason = self._watch()
        except RuntimeError as error:
            # At the end of the run, the process with the store may be the first to leave.
            host, port = self.address
            reason = f"{host}:{port}, where the processes meet, does not answer: {network_error(error)}"
            if self.parting.is_set():
                return
        if reason is not None and not self.stopped.is_set():
            self.on_loss(reason)

    def stop(self) -> None:
        """Stop, and wait for the end: a thread that is inside a library when Python exits crashes the process."""
        self.stopped.set()
        self.join(JOIN_SECONDS)

    def _watch(self) -> str | None:
        """Send heartbeats until stopped, or return a line about the lost process."""
        client = TCPStore(*self.address, is_master=False, wait_for_workers=False, timeout=MEETING_TIMEOUT)
        client.set_timeout(STORE_TIMEOUT)
        store = PrefixStore(self.prefix, client)
        last, missed = 0, 0
        while not self.stopped.is_set():
            store.add(f"beat/{self.rank}", 1)
            beats = store.add(f"beat/{self.next}", 0)
            last, missed = beats, 0 if beats != last else missed + 1
            meeting = MEETING_TIMEOUT.total_seconds() / HEARTBEAT_SECONDS
            if missed > (MAX_MISSED_HEARTBEATS if self.all_met.is_set() else meeting):
                store.set("lost", f"rank {self.next} gave no sign of life for {missed * HEARTBEAT_SECONDS:.0f} s")
            if store.check(["lost"]):
                return store.get("lost").decode(errors="replace")
            self.stopped.wait(HEARTBEAT_SECONDS)
        return None


def network_error(error: BaseException) -> str:
    """Return a network error without source lines, advice to programmers and a stack trace."""
    lines = str(error).strip().splitlines()
    return lines[0].rpartition("] ")[2].partition(". ")[0][:160] if lines else type(error).__name__


class ProcessGroup(Processes):
    """One of several processes. `print_error` prints the error line when no exception can be raised any more.

    `is_ending` is set when another process is lost: from then on SIGTERM must not replace the line about that.
    """

    def __init__(self, rank: Rank, print_error: Callable[[str], None], is_ending: threading.Event) -> None:
        super().__init__(rank)
        self.print_error, self.is_ending = print_error, is_ending
        self.position: Callable[[], str] = lambda: "before the first step"
        self.command = "start again"
        try:
            host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        except (KeyError, ValueError) as error:
            raise UsageError("RANK is set and MASTER_ADDR:MASTER_PORT is not: start with torchrun") from error
        self.heartbeat = Heartbeat(host, port, rank, self._end)
        # NCCL is used for tensors on a GPU; gloo for those on the CPU (objects, checks).
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
        self.heartbeat.start()
        try:
            with self._collective():
                dist.init_process_group(
                    backend,
                    timeout=COLLECTIVE_TIMEOUT,
                    rank=rank.index,
                    world_size=rank.world_size,
                    store=_open_store(rank),
                )
        except BaseException:
            self.heartbeat.stop()
            raise
        self.heartbeat.all_met.set()

    def mean_(self, tensor: torch.Tensor) -> None:
        self.sum_(tensor)
        tensor.div_(self.rank.world_size)

    def sum_(self, tensor: torch.Tensor) -> None:
        with self._collective():
            dist.all_reduce(tensor)

    def all_gather(self, tensor: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, _AllGather.apply(tensor, self))  # type: ignore[no-untyped-call]

    def gather_rows(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the rows of every process, without gradients."""
        rows = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(self.rank.world_size)]
        with self._collective():
            dist.all_gather(rows, tensor.contiguous())
        return torch.cat(rows)

    def broadcast(self, value: T | None) -> T:
        box = [value if self.is_leader else None]
        with self._collective():
            dist.broadcast_object_list(box, src=0)
        return cast(T, box[0])

    def gather_objects(self, value: T) -> list[T]:
        values: list[Any] = [None] * self.rank.world_size
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
        outcomes = self.gather_objects(None if failure is None else _describe(failure))
        failures = [(index, *outcome) for index, outcome in enumerate(outcomes) if outcome is not None]
        if not failures:
            return cast(T, result)
        index, line, code = failures[0]
        if failure is not None and (self.is_leader or not isinstance(failure, SrkdError)):
            raise failure
        if not self.is_leader:
            raise ReportedElsewhere(code)
        prefix = "" if index == 0 else f"rank {index} of {self.rank.world_size}: "
        raise (UsageError if code == UsageError.exit_code else SrkdError)(f"{prefix}{line}")

    def close(self, *, success: bool) -> None:
        """Wait for the other processes after a success; leave at once after a failure."""
        try:
            if success:
                self.heartbeat.parting.set()
                self.gather_objects(None)
        finally:
            self.heartbeat.stop()
            # NCCL's shutdown waits for the others, which may have ended after a failure.
            if success or dist.get_backend() == "gloo":
                dist.destroy_process_group()

    @contextmanager
    def _collective(self) -> Iterator[None]:
        """Turn a network error within the block into one line."""
        try:
            yield
        except RuntimeError as error:
            self.is_ending.set()
            raise LostProcess(self._loss_line(network_error(error))) from error

    def _loss_line(self, reason: str) -> str:
        report = f"rank {self.rank.index} of {self.rank.world_size} noticed: {reason}"
        return f"another process was lost {self.position()} ({report}); {self.command}"

    def set_resume_hint(self, position: Callable[[], str], command: str) -> None:
        self.position, self.command = position, f"continue with: {command}"

    def _end(self, reason: str) -> NoReturn:
        """End the process from the heartbeat thread: the main one waits in a library for an ended process."""
        self.print_error(self._loss_line(reason))
        os._exit(1)


class _AllGather(torch.autograd.Function):
    """Gather the rows of all processes; in the backward pass every process gets all processes' gradients for its rows.

    Process r computes L_r from G = (x_1 … x_w); the global term is the mean L = 1/w · Σ_r L_r (if every process
    computes the same, L = L_r). With the gradient Σ_r ∂L_r/∂x_s = w · ∂L/∂x_s for x_s, the average over processes of
    the resulting weight gradients is 1/w · Σ_s w · ∂L/∂x_s · ∂x_s/∂θ = ∂L/∂θ: the gradient of a single process with all
    rows.
    """

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, group: ProcessGroup) -> torch.Tensor:
        ctx.group, ctx.rows = group, tensor.shape[0]
        return group.gather_rows(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        summed = gradients[0].contiguous().clone()
        ctx.group.sum_(summed)
        first = ctx.group.rank.index * ctx.rows
        return summed[first : first + ctx.rows], None


@contextmanager
def open_processes(rank: Rank, print_error: Callable[[str], None]) -> Iterator[Processes]:
    """Yield the processes of this run."""
    if rank.world_size == 1:
        yield Processes(rank)
        return
    with report_sigterm() as is_ending:
        group = ProcessGroup(rank, print_error, is_ending)
        try:
            yield group
        except (Interrupted, SharedFailure) as error:
            group.close(success=True)
            if rank.is_leader:
                raise
            raise ReportedElsewhere(error.exit_code) from error
        except BaseException as error:
            # torchrun ends the other processes as soon as one has ended: print the line about the reason first.
            ignore_sigterm()
            group.close(success=False)
            silent = rank.is_leader or isinstance(error, (LostProcess, ReportedElsewhere))
            if isinstance(error, SrkdError) and not silent:
                error.args = (f"rank {rank.index} of {rank.world_size}: {error}",)
            raise
        group.close(success=True)


def process_device(name: str, rank: Rank) -> str:
    """Return the device of this process: `cuda` means a GPU per process; a numbered one would be shared by all."""
    if rank.world_size == 1 or name == "cpu":
        return name
    if name != "cuda":
        raise UsageError(f"--device {name} with {rank.world_size} processes: say cuda, and each takes a GPU of its own")
    count = torch.cuda.device_count()
    if 0 < count <= rank.local_rank:
        raise UsageError(f"there are {count} GPUs and more processes on {platform.node()}: --nproc-per-node {count}")
    return f"cuda:{rank.local_rank}"


def _open_store(rank: Rank) -> Store:
    """Open the store in which the processes exchange their addresses, under the names of this attempt.

    torchrun keeps the store after a restart, and an early process would find the address of one that has ended.
    """
    store, _, _ = next(rendezvous("env://", rank.index, rank.world_size, timeout=COLLECTIVE_TIMEOUT))
    return PrefixStore(f"srkd-attempt-{rank.restarts}", store)


def _describe(failure: Exception) -> tuple[str, int]:
    """Return the line and the exit code of a failure."""
    if isinstance(failure, SrkdError):
        return f"{failure}", failure.exit_code
    return f"{platform.node()}: {type(failure).__name__}: {failure}", 1
