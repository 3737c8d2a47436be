"""Sidecars: the JSON file beside an exported file, for formats without metadata of their own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressor.base.errors import SrkdError, UsageError
from compressor.base.files import read_text
from compressor.base.metadata import srkd_keys
from compressor.models.networks.base import Descriptor, Spec
from compressor.models.networks.registry import spec_from_dict
from compressor.runtimes.file_runtime import build_descriptor

SCHEMA = "srkd.sidecar/1"
MAX_BYTES = 1_000_000


@dataclass(frozen=True)
class Sidecar:
    """What a runtime needs of a sidecar; `facts` are the converter's."""

    precision: str
    metadata: Mapping[str, str]
    facts: Mapping[str, Any]
    spec: Spec
    descriptor: Descriptor


def sidecar_path(path: Path) -> Path:
    """Return `student.param.json` for `student.param`."""
    return path.with_name(path.name + ".json")


def format_sidecar(
    *,
    precision: str,
    lr_size: tuple[int, int] | None,
    metadata: Mapping[str, str],
    facts: Mapping[str, object],
) -> str:
    """The text of a sidecar; equal contents always give the same text."""
    content = {
        "schema": SCHEMA,
        "precision": precision,
        "lr_size": None if lr_size is None else "{}x{}".format(*lr_size),
        "metadata": dict(sorted(metadata.items())),
        "facts": dict(facts),
    }
    return json.dumps(content, indent=1) + "\n"


def read_sidecar(path: Path) -> Sidecar:
    """Return the sidecar of an exported file; one line if it is missing or damaged."""
    file = sidecar_path(path)
    if not file.is_file():
        raise SrkdError(
            f"{path} cannot be described: {file.name} is not beside it: copy that from the export; or, if "
            "another program wrote the file, give srkd the model as ONNX or TorchScript"
        )
    try:
        content = json.loads(read_text(file, MAX_BYTES))
        if content["schema"] != SCHEMA:
            raise ValueError(f"its schema is {content['schema']!r}, not {SCHEMA!r}")
        size = None
        if content["lr_size"] is not None:
            width, height = content["lr_size"].split("x")
            size = int(width), int(height)
            if min(size) < 1:
                raise ValueError(f"lr_size {content['lr_size']!r} is not a size")
        metadata = {key: str(value) for key, value in srkd_keys(content["metadata"]).items()}
        spec = spec_from_dict(json.loads(metadata["srkd.spec"]))
        return Sidecar(
            precision=str(content["precision"]),
            metadata=metadata,
            facts=dict(content["facts"]),
            spec=spec,
            descriptor=build_descriptor(spec, size),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, UsageError, OSError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise SrkdError(f"{file} cannot be used: {reason}; export the model again") from error
