"""`srkd upscale --on ray`: the pictures of an archive in small groups, each of them a task."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from compressor.base.context import Context
from compressor.base.errors import SrkdError, UsageError
from compressor.inference.films import UpscaledFilm
from compressor.inference.upscale import upscale, upscale_jobs
from compressor.inference.upscale_outputs import Job, UpscaleSettings
from compressor.inference.upscale_report import Failed, Outcomes, SkippedPicture, Upscaled, UpscaleReport
from compressor.runtimes.base import Runtime
from srkd.options.models import open_runtime
from srkd.options.option import from_json, to_json
from srkd.options.values import as_tuple
from srkd.options.verbs import UpscaleOptions
from srkd.runs.on_ray import Cluster, open_cluster

WORKER = "srkd.runs.archives:UpscaleWorker"
GROUPS_OF_A_PROCESSOR, MOST_PICTURES = 4, 16
"""Groups that each processor gets, so that none waits long for the last, and pictures of a group at most."""


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
    request = to_json(replace(options, model=model, inputs=(), threads=options.threads or 1))
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
    size = min(MOST_PICTURES, math.ceil(len(jobs) / (GROUPS_OF_A_PROCESSOR * cluster.processors))) or 1
    groups = [jobs[start : start + size] for start in range(0, len(jobs), size)]
    tasks = [
        cluster.start(WORKER, "upscale", {"options": request, "settings": settings, "jobs": group}) for group in groups
    ]
    done, failed, skipped = list[Upscaled](), list[Failed](), list[SkippedPicture]()
    films = list[UpscaledFilm]()
    for group, task in zip(groups, tasks, strict=True):
        context.progress("pictures", len(done) + len(films) + len(failed), len(jobs))
        try:
            outcomes: Outcomes = cluster.result(task)
        except SrkdError as error:
            failed += [Failed(job.source, str(error)) for job in group]
            continue
        done += outcomes.done
        failed += outcomes.failed
        skipped += outcomes.skipped
        films += outcomes.films
    context.progress("pictures", len(jobs), len(jobs))
    return Outcomes(done, failed, skipped, films)
