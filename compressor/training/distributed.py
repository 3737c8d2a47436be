"""Several processes, started by torchrun: gloo between CPUs, NCCL between GPUs, and one line when a process is lost.

A process whose connection closes ends the others' collectives; torchrun ends those of a machine where one has ended.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, rendezvous  # type: ignore[attr-defined]

from compressor.base.compute_device import ComputeDevice
from compressor.base.errors import SrkdError, UsageError
from compressor.base.interrupts import Interrupted, set_handlers
from compressor.base.processes import LostProcess, Processes, Rank, ReportedElsewhere, SharedFailure

T = TypeVar("T")

COLLECTIVE_TIMEOUT = timedelta(hours=3)
"""Time limit of a collective, for a process that hangs: the others wait for as long while one decodes a large set."""


class ProcessGroup(Processes):
    """One of several processes."""

    def __init__(self, rank: Rank) -> None:
        super().__init__(rank)
        self.position: Callable[[], str] = lambda: "before the first step"
        self.command = "start again"
        if not {"MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
            raise UsageError("RANK is set and MASTER_ADDR:MASTER_PORT is not: start with torchrun")
        # NCCL is used for tensors on a GPU; gloo for those on the CPU (objects, checks).
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
        with self._collective():
            store, _, _ = next(rendezvous("env://", rank.index, rank.world_size, timeout=COLLECTIVE_TIMEOUT))
            dist.init_process_group(
                backend,
                timeout=COLLECTIVE_TIMEOUT,
                rank=rank.index,
                world_size=rank.world_size,
                # torchrun keeps the store after a restart, with the address of a process that has ended.
                store=PrefixStore(f"srkd-attempt-{rank.restarts}", store),
            )

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

    def from_leader(self, work: Callable[[], T]) -> T:
        return self.broadcast(self.run_on_all(lambda: work() if self.is_leader else None))

    def close(self, *, success: bool) -> None:
        """Wait for the other processes after a success; leave at once after a failure."""
        try:
            if success:
                self.gather_objects(None)
        finally:
            # NCCL's shutdown waits for the others, which may have ended after a failure.
            if success or dist.get_backend() == "gloo":
                dist.destroy_process_group()

    @contextmanager
    def _collective(self) -> Iterator[None]:
        """Turn a network error within the block into one line."""
        try:
            yield
        except RuntimeError as error:
            # Without source lines, advice to programmers and a stack trace.
            lines = str(error).strip().splitlines()
            reason = lines[0].rpartition("] ")[2].partition(". ")[0][:160] if lines else type(error).__name__
            report = f"rank {self.rank.index} of {self.rank.world_size} noticed: {reason}"
            raise LostProcess(f"another process was lost {self.position()} ({report}); {self.command}") from error

    def set_resume_hint(self, position: Callable[[], str], command: str) -> None:
        self.position, self.command = position, f"continue with: {command}"


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
def open_processes(rank: Rank) -> Iterator[Processes]:
    """Yield the processes of this run; SIGTERM, which torchrun sends to the others, still lets them print a reason."""
    if rank.world_size == 1:
        yield Processes(rank)
        return
    group = ProcessGroup(rank)
    set_handlers(group.stop_request.handlers)
    try:
        yield group
    except (Interrupted, SharedFailure) as error:
        group.close(success=True)
        if rank.is_leader:
            raise
        raise ReportedElsewhere(error.exit_code) from error
    except BaseException as error:
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
    kind, numbered, _ = name.partition(":")
    if numbered:
        raise UsageError(f"--device {name} with {rank.world_size} processes: say {kind}, and each takes one of its own")
    if 0 < (count := ComputeDevice.named(kind).count) <= rank.local_rank:
        raise UsageError(f"{platform.node()} has {count} {kind} devices, and more processes: --nproc-per-node {count}")
    return f"{kind}:{rank.local_rank}"


def _describe(failure: Exception) -> tuple[str, int]:
    """Return the line and the exit code of a failure."""
    if isinstance(failure, SrkdError):
        return f"{failure}", failure.exit_code
    return f"{platform.node()}: {type(failure).__name__}: {failure}", 1
