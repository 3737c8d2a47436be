"""Models as a caller names them, opened; the scale they share; the teacher of a run folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressor.assets import embedded_teacher
from compressor.base.context import Context, Note
from compressor.base.errors import SrkdError, UsageError
from compressor.base.files import file_sha256
from compressor.inference.checkpoint_runtime import ForeignRuntime
from compressor.inference.open import open_model
from compressor.models.networks.base import ImageModel
from compressor.runtimes.base import Runtime
from compressor.runtimes.table import OpenOptions
from compressor.runtimes.torch_runtime import TorchRuntime
from srkd.verb_options import Model, RuntimeOptions


def as_tuple(values: object) -> tuple[Any, ...]:
    """Return one value or several as a tuple. A string is one value."""
    return tuple(values) if isinstance(values, Sequence) and not isinstance(values, str) else (values,)


def open_runtime(model: Model, options: RuntimeOptions, context: Context) -> Runtime:
    """Open one model. What takes minutes, such as an engine for another GPU, is announced first."""
    if isinstance(model, ImageModel):
        label = model.architecture
        if model.network is None:
            return ForeignRuntime(model, label=label, device=options.device)
        return TorchRuntime(model.network, label=label, device=options.device, precision=options.precision or "fp32")
    if not isinstance(model, (str, Path)):
        return model
    open_options = OpenOptions(
        scale=options.scale,
        arch_options=options.arch_options,
        device=options.device,
        runtime=options.runtime,
        threads=options.threads,
        precision=options.precision,
    )
    return open_model(model, open_options, context)


def common_scale(runtimes: Sequence[Runtime], scale: int | None) -> int:
    """Return the scale that all models share; without a model, `scale`."""
    scales = {runtime.descriptor.scale for runtime in runtimes}
    if not scales:
        if scale is None:
            raise UsageError("no model and no scale: name a model, or give --scale for the bicubic row alone")
        return scale
    if len(scales) > 1:
        scale_list = ", ".join(f"{runtime.label} x{runtime.descriptor.scale}" for runtime in runtimes)
        raise UsageError(f"the models differ in scale ({scale_list}): compare models of one scale")
    return scales.pop()


@dataclass(frozen=True)
class RunTeacher:
    """The teacher of a run folder, the scale it was used at, and the options its file was read with."""

    path: Path
    scale: int | None
    options: Mapping[str, object]


def find_run_teacher(run: Path, note: Note) -> RunTeacher | None:
    """Return the teacher named in run.json, if its file is there and unchanged."""
    facts_file = run / "run.json"
    if not facts_file.is_file():
        return None
    try:
        facts: Any = json.loads(facts_file.read_text(encoding="utf-8"))
        teacher = facts["teacher"]
        if teacher is None:
            return None
        path, sha256, scale = Path(teacher["path"]), str(teacher["sha256"]), facts["student"].get("scale")
        options = dict(teacher.get("options") or {})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SrkdError(f"{facts_file} does not say what the teacher was ({error}): give --teacher FILE") from error
    for candidate in (path, embedded_teacher()):
        if candidate.is_file() and file_sha256(candidate) == sha256:
            note(f"teacher: {candidate}, from {facts_file}")
            return RunTeacher(candidate, scale, options)
    note(f"the teacher of {run}, {path}, is missing or has changed: continuing without it (--teacher FILE names one)")
    return None
