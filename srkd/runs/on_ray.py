"""Work on a Ray cluster (`--on ray`): runs of a plan, and pictures of an archive, as tasks.

Ray starts a task elsewhere when its node dies.

A task names a class of srkd and calls one of its methods; the process of the task keeps the object for its next task.
All nodes must see the same files under the same paths, as the folder of the work is where its results go.
"""

from __future__ import annotations

import logging
import math
import os
import re
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from compressor.base.child import ROOT, ChildFailed
from compressor.base.context import Context
from compressor.base.errors import MissingExtra, SrkdError, UsageError, reason_of
from compressor.base.interrupts import Interrupted, signal_handlers
from compressor.inference.upscale import upscale, upscale_jobs
from compressor.inference.upscale_outputs import Job, UpscaleSettings
from compressor.inference.upscale_report import Failed, Outcomes, UpscaleReport
from compressor.runtimes.base import Runtime
from compressor.training.run_folder import LOCK
from srkd.options.models import open_runtime
from srkd.options.option import from_json
from srkd.options.values import as_tuple
from srkd.options.verbs import UpscaleOptions
from srkd.runs.workers import MOST_DEATHS, WORKER, BegunRun, Slot

UPSCALE_WORKER = "srkd.runs.on_ray:UpscaleWorker"
GROUPS_OF_A_PROCESSOR, MOST_PICTURES = 4, 16
"""Groups that each processor gets, so that none waits long for the last, and pictures of a group at most."""
ANYWHERE = "ray"
"""The address of the cluster that this machine belongs to, or of one that is started here."""
ANSWER_SECONDS, SEEN_SECONDS, SAVED_SECONDS = 10.0, 120.0, 60.0
LOCK_SECONDS = 120.0
"""Time for the lock of a lost node to end: on a shared disk it ends some time after the node."""

_kept: dict[str, Any] = {}
"""The objects of this process's tasks."""


def execute(target: str, method: str, job: Mapping[str, Any]) -> dict[str, Any]:
    """Call a method of the object `target` ("module:Class"); return its result, or the line of its error."""
    if target not in _kept:
        module, _, name = target.partition(":")
        _kept[target] = getattr(import_module(module), name)()
    try:
        return {"result": getattr(_kept[target], method)(**job)}
    except Interrupted:
        raise  # its node goes away, and the work goes on elsewhere
    except SrkdError as error:
        return {"error": str(error)}


def can_write(folder: str) -> bool:
    return os.access(folder, os.W_OK | os.X_OK)


class Cluster:
    """An open connection; `threads` and `on_gpu` are what a task needs."""

    def __init__(self, ray: Any, threads: int, *, on_gpu: bool) -> None:
        self.ray = ray
        task = ray.remote(execute).options(
            num_cpus=threads, num_gpus=1 if on_gpu else 0, max_retries=MOST_DEATHS - 1, retry_exceptions=[Interrupted]
        )
        self.start = task.remote

    def result(self, reference: Any) -> Any:
        try:
            answer = self.ray.get(reference)
        except self.ray.exceptions.TaskCancelledError as error:
            raise Interrupted("interrupted") from error
        except self.ray.exceptions.RayError as error:
            raise ChildFailed("its task on Ray", reason_of(error, first=True), crashed=False) from error
        if "error" in answer:
            raise SrkdError(answer["error"])
        return answer["result"]

    def require_shared(self, folder: Path) -> None:
        """Refuse a folder of --out that a node of the cluster cannot write under this path."""
        strategy = import_module("ray.util.scheduling_strategies").NodeAffinitySchedulingStrategy
        look = self.ray.remote(can_write)
        nodes = {node["NodeID"]: node["NodeManagerAddress"] for node in self.ray.nodes() if node["Alive"]}
        looks = {
            node: look.options(num_cpus=0, scheduling_strategy=strategy(node, soft=False)).remote(str(folder.resolve()))
            for node in nodes
        }
        for node, reference in looks.items():
            try:
                sees = self.ray.get(reference, timeout=SEEN_SECONDS)
            except self.ray.exceptions.RayError as error:
                reason = reason_of(error, first=True)
                raise SrkdError(f"the node {nodes[node]} of the Ray cluster cannot run srkd: {reason}") from error
            if not sees:
                raise SrkdError(
                    f"--out {folder}: the node {nodes[node]} of the Ray cluster cannot write there; choose a "
                    "folder on a disk that all nodes share under the same path"
                )


@contextmanager
def open_cluster(address: str, *, threads: int, on_gpu: bool) -> Iterator[Cluster]:
    """Connect to a cluster: the one of the address, or that of RAY_ADDRESS or of this machine, or a new one here."""
    try:
        import ray
    except ImportError as error:
        raise MissingExtra("Ray", "ray") from error
    if ray.is_initialized():  # by the program that calls srkd
        yield Cluster(ray, threads, on_gpu=on_gpu)
        return
    given = os.environ.get("RAY_ADDRESS", "") if address == ANYWHERE else address
    found = re.fullmatch(r"(?:ray://)?([^\s/:]+):(\d+)", given)
    if found is not None:
        try:  # where nothing answers, Ray would wait for minutes, and end the process
            socket.create_connection((found[1], int(found[2])), timeout=ANSWER_SECONDS).close()
        except OSError as error:
            raise SrkdError(f"--on {address}: no Ray cluster answers at {given} ({error})") from error
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    with signal_handlers({}):
        try:
            ray.init(address="auto" if address == ANYWHERE else address, **quiet)
        except ConnectionError as error:
            if given:
                raise SrkdError(f"--on {address}: no Ray cluster answers at {given}") from error
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
            ray.init(include_dashboard=False, runtime_env={"env_vars": {"PYTHONPATH": path}}, **quiet)
    try:
        yield Cluster(ray, threads, on_gpu=on_gpu)
    finally:
        with signal_handlers({}):
            ray.shutdown()


class RaySlot(Slot):
    """A task of the cluster; Ray itself starts it again if its process or node dies."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster, self._is_killed = cluster, False
        self._reference: Any = None

    def train(self, run: BegunRun) -> None:
        self._reference = self._cluster.start(WORKER, "train", {**run.job, "wait_seconds": LOCK_SECONDS})
        try:
            self._cluster.result(self._reference)
        except Interrupted:
            # Ray gives up the task before it has saved its state and let go of the folder.
            deadline = time.monotonic() + SAVED_SECONDS
            while (run.folder / LOCK).exists() and time.monotonic() < deadline and not self._is_killed:
                time.sleep(0.1)
            raise

    def stop(self) -> None:
        if self._reference is not None:
            self._cluster.ray.cancel(self._reference)

    def kill(self) -> None:
        self._is_killed = True
        if self._reference is not None:
            self._cluster.ray.cancel(self._reference, force=True)


@contextmanager
def ray_slots(address: str, count: int, *, folder: Path, threads: int, on_gpu: bool) -> Iterator[list[Slot]]:
    """A task for each of `count` runs in `folder`; Ray decides how many of them run at once."""
    with open_cluster(address, threads=threads, on_gpu=on_gpu) as cluster:
        cluster.require_shared(folder)
        yield [RaySlot(cluster) for _ in range(count)]


# Pictures.


class UpscaleWorker:
    """Enlarges groups of pictures with the model that it opened for the first of them."""

    def __init__(self) -> None:
        self._opened: tuple[dict[str, Any], Runtime] | None = None

    def upscale(self, options: dict[str, Any], settings: UpscaleSettings, jobs: Sequence[Job]) -> Outcomes:
        if self._opened is None or self._opened[0] != options:
            read = from_json(UpscaleOptions, options, "--on ray")
            self._opened = options, open_runtime(read.model, read, Context())
        return upscale_jobs(self._opened[1], jobs, settings)


def upscale_on_ray(options: UpscaleOptions, settings: UpscaleSettings, context: Context) -> UpscaleReport:
    """Enlarge files and folders on the cluster of the options. A group whose node dies is done again elsewhere."""
    assert options.on is not None
    if not isinstance(options.model, (str, Path)):
        raise UsageError(f"--on {options.on}: give the model as a file that all nodes see, not an open one")
    model = str(Path(options.model).absolute())
    inputs = [Path(str(path)).absolute() for path in as_tuple(options.inputs)]
    runtime = open_runtime(model, options, context)
    request = replace(options, model=model, inputs=(), threads=options.threads or 1).to_json()
    on_gpu = options.device.startswith("cuda")
    with open_cluster(options.on, threads=options.threads or 1, on_gpu=on_gpu) as cluster:

        def do_jobs(jobs: Sequence[Job], settings: UpscaleSettings) -> Outcomes:
            for folder in dict.fromkeys(job.output.parent for job in jobs):
                folder.mkdir(parents=True, exist_ok=True)
            if jobs:
                cluster.require_shared(jobs[0].output.parent)
            return _do_groups(cluster, jobs, request, settings, context)

        return upscale(inputs, runtime, settings, do_jobs=do_jobs)


def _do_groups(
    cluster: Cluster, jobs: Sequence[Job], request: dict[str, Any], settings: UpscaleSettings, context: Context
) -> Outcomes:
    """Enlarge pictures in groups; all of a group fail if its task does."""
    processors = max(1, int(cluster.ray.cluster_resources().get("CPU", 1)))
    size = min(MOST_PICTURES, math.ceil(len(jobs) / (GROUPS_OF_A_PROCESSOR * processors))) or 1
    groups = [jobs[start : start + size] for start in range(0, len(jobs), size)]
    jobs_of = {"options": request, "settings": settings}
    tasks = [cluster.start(UPSCALE_WORKER, "upscale", {**jobs_of, "jobs": group}) for group in groups]
    outcomes, ended = Outcomes(), 0
    for group, task in zip(groups, tasks, strict=True):
        context.progress("pictures", ended, len(jobs))
        try:
            outcomes += cluster.result(task)
        except SrkdError as error:
            outcomes += Outcomes(failed=[Failed(job.source, str(error)) for job in group])
        ended += len(group)
    context.progress("pictures", len(jobs), len(jobs))
    return outcomes
