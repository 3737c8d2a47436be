"""A caller's models (open networks, files or run folders): opened, their specs and files, their common scale."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from compressor.base.context import Context
from compressor.base.errors import SrkdError, UsageError
from compressor.inference.checkpoint_runtime import ForeignRuntime
from compressor.inference.open import model_file, open_model, read_metadata
from compressor.models.checkpoints.save import save_network
from compressor.models.networks.base import ImageModel, Spec
from compressor.runtimes.base import Runtime
from compressor.runtimes.file_runtime import read_spec
from compressor.runtimes.table import OpenOptions, runtime_of
from compressor.runtimes.torch_runtime import TorchRuntime
from compressor.teachers.teacher import Teacher, load_teacher
from srkd.options.option import settings_of
from srkd.options.shared import Model, ModelOrPath, ProgramOptions, RuntimeOptions
from srkd.options.values import A_MODEL, read_model


@dataclass(frozen=True)
class ModelFile:
    """A file that holds a model, and the options for reading it."""

    path: Path
    options: Mapping[str, object] = field(default_factory=dict)


def path_of_model(model: object) -> Path:
    path = read_model(model)
    if isinstance(path, (str, os.PathLike)):
        return Path(path)
    raise UsageError(f"{reprlib.repr(model)} is not {A_MODEL}")


def open_network(model: ModelOrPath) -> ImageModel:
    """An open network unchanged, or load the one in a checkpoint or a run folder."""
    return model if isinstance(model, ImageModel) else load_teacher(path_of_model(model))


def refuse_file_options(scale: int | None, arch_options: Mapping[str, object] | None) -> None:
    names = [*(["scale"] if scale is not None else []), *(arch_options or {})]
    if names:
        raise UsageError(f"{', '.join(names)}: for a file; the network is open already: set it in srkd.load")


def spec_of(model: ModelOrPath | Spec) -> Spec:
    """The spec of a network or of any file that states it; refuse a foreign model, which has none."""
    if isinstance(model, Spec):
        return model
    if isinstance(model, ImageModel):
        return model.require_network("a spec").spec
    file = model_file(path_of_model(model))
    if runtime_of(file) == "torch":
        return load_teacher(file).require_network("a spec").spec
    spec = read_spec(read_metadata(file), file.name)
    if spec is None:
        raise SrkdError(f"{file} does not state its network: srkd.inspect and srkd.profile show what is known of it")
    return spec


def file_of(model: ModelOrPath, path: Path) -> ModelFile:
    """The file of a model; an open network is written to `path`, a foreign one has its original file."""
    if not isinstance(model, ImageModel):
        return ModelFile(path_of_model(model))
    if model.network is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_network(model.network, path)
        return ModelFile(path)
    origin = model.origin if isinstance(model, Teacher) else None
    if origin is None:
        raise SrkdError(f"the {model.backend} model came from no file: give its path")
    return ModelFile(origin.path, origin.options)


def load_by(load: Callable[..., Teacher], path: str | Path, options: ProgramOptions) -> Teacher:
    """Load a checkpoint or a foreign program by a function, with the options that a verb has for reading one."""
    return load(
        path,
        scale=options.scale,
        arch_options=options.arch_options,
        limits=options.limits,
        trust_code=options.trust_code,
    )


def open_runtime(model: Model, options: RuntimeOptions, context: Context) -> Runtime:
    """Open one model. A step of minutes, such as building an engine for another GPU, is announced first."""
    if isinstance(model, ImageModel):
        label, is_its = model.architecture, options.scale == model.descriptor.scale
        refuse_file_options(None if is_its else options.scale, options.arch_options)
        if options.strength is not None:
            raise UsageError("strength: for a run folder; the network is open already: srkd.blend makes one")
        if options.runtime not in (None, "torch"):
            raise UsageError(f"runtime {options.runtime}: an open network runs in torch; export it, and name the file")
        if model.network is None:
            return ForeignRuntime(model, label=label, device=options.device)
        return TorchRuntime(model.network, label=label, device=options.device, precision=options.precision or "fp32")
    if not isinstance(model, (str, Path)):
        return model
    return open_model(model, settings_of(OpenOptions, options), context)


def common_scale(runtimes: Sequence[Runtime], scale: int | None) -> int:
    """The scale that all models share; without a model, `scale`."""
    scales = {runtime.descriptor.scale for runtime in runtimes}
    if not scales:
        if scale is None:
            raise UsageError("no model and no scale: name a model, or give --scale for the bicubic row alone")
        return scale
    if len(scales) > 1:
        scale_list = ", ".join(f"{runtime.label} x{runtime.descriptor.scale}" for runtime in runtimes)
        raise UsageError(f"the models differ in scale ({scale_list}): compare models of one scale")
    return scales.pop()
