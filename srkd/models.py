"""Conversion of a caller's model, which is an open network, a file or a run folder."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from compressor.base.errors import SrkdError, UsageError
from compressor.inference.open import model_file, read_metadata
from compressor.models.checkpoints.save import save_network
from compressor.models.networks.base import ImageModel, Spec
from compressor.runtimes.file_runtime import read_spec
from compressor.runtimes.table import runtime_of
from compressor.teachers.teacher import Teacher, load_teacher
from srkd.parameters import MODEL
from srkd.verb_options import ModelOrPath


@dataclass(frozen=True)
class ModelFile:
    """A file that holds a model, and the options for reading it."""

    path: Path
    options: Mapping[str, object] = field(default_factory=dict)


def path_of_model(model: object) -> Path:
    """Return a caller's model as a path; refuse anything that is not one."""
    if isinstance(model, (str, os.PathLike)):
        return Path(model)
    raise UsageError(f"{reprlib.repr(model)} is not {MODEL.what}")


def open_network(model: ModelOrPath) -> ImageModel:
    """Return an open network unchanged, or load the one in a checkpoint or a run folder."""
    return model if isinstance(model, ImageModel) else load_teacher(path_of_model(model))


def refuse_file_options(scale: int | None, arch_options: Mapping[str, object] | None) -> None:
    """Refuse options for reading a file if the model is an open network."""
    names = [*(["scale"] if scale is not None else []), *(arch_options or {})]
    if names:
        raise UsageError(f"{', '.join(names)}: for a file; the network is open already: set it in srkd.load")


def spec_of(model: ModelOrPath | Spec) -> Spec:
    """Return the spec of a network or of any file that states it; refuse a foreign model, which has none."""
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
    """Return the file of a model; an open network is written to `path`, a foreign one has its original file."""
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
