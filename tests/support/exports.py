"""One file of an export, for the tests of formats."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from compressor.base.context import QUIET, Context
from compressor.models.networks.base import Network
from export.formats.conversion import DEFAULTS, FileOptions
from export.formats.table import FORMATS, find_formats
from export.writing.exporting import FileReport, Source, convert_to, export_model

SOURCE = Source("small", "ab" * 32, {"srkd.recipe": "logits", "srkd.scores": '{"Set5 <Y>": "30 & more"}'})


def export_file(
    network: Network, name: str, folder: Path, options: FileOptions = DEFAULTS, context: Context = QUIET
) -> FileReport:
    """Export to one format and return what became of its file."""
    (file,) = export_model(network, SOURCE, [name], folder, context, options=options).files
    return file


def unproved_file(
    network: Network, name: str, folder: Path, options: FileOptions = DEFAULTS, source: Source = SOURCE
) -> tuple[Path, Mapping[str, object]]:
    """Write a file without the comparison; return it with its facts."""
    (row,) = find_formats([name])
    path = folder / f"small{row.suffix}"
    return path, convert_to(row, network, source, path, options)


def new_format(patch: pytest.MonkeyPatch, convert: object, name: str = "new", **changes: Any) -> None:
    """Add a format like that of ONNX with the converter `convert`."""
    module = ModuleType(f"to_{name}")
    module.convert = convert  # type: ignore[attr-defined]
    patch.setitem(sys.modules, module.__name__, module)
    row = replace(FORMATS["onnx"], name=name, module=module.__name__, title="New, of its kind", **changes)
    patch.setitem(FORMATS.rows, name, row)


def run_as_an_app(interpreter: Any, path: Path | None, *images: np.ndarray) -> list[np.ndarray]:
    """Run images (N,H,W,3) without srkd: by the module of LiteRT's interpreter, resized by the library's own call."""
    model = interpreter.Interpreter(str(path))
    (source,), (output,) = model.get_input_details(), model.get_output_details()
    assert (source["name"], output["name"]) == ("input", "output")
    assert list(source["shape_signature"]) == [-1, -1, -1, 3]
    found = []
    for image in images:
        model.resize_tensor_input(source["index"], image.shape)
        model.allocate_tensors()
        model.set_tensor(source["index"], image)
        model.invoke()
        found.append(model.get_tensor(output["index"]))
    return found


def play_core_ml(patch: pytest.MonkeyPatch, coremltools: Any, predict: Callable[[Any], Any]) -> list[object]:
    """Let `predict` stand in for that of Core ML as on a Mac; return the units that models are opened on.

    Everything else is coremltools' own.
    """
    real, opened = coremltools.models.MLModel, list[object]()

    def played(path: str, *, compute_units: object) -> object:
        opened.append(compute_units)
        model = real(path, skip_model_load=True)
        return SimpleNamespace(
            get_spec=model.get_spec, user_defined_metadata=model.user_defined_metadata, predict=predict
        )

    patch.setattr(sys, "platform", "darwin")
    patch.setattr(coremltools.models, "MLModel", played)
    return opened
