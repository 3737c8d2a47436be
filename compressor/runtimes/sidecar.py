"""What an exported file says about itself where its format has no room for it: a JSON file beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from compressor.errors import SrkdError, UsageError
from compressor.networks.base import Descriptor, Spec
from compressor.networks.registry import build, spec_from_dict

SCHEMA = "srkd.sidecar/1"
LARGEST_BYTES = 1_000_000


@dataclass(frozen=True)
class Sidecar:
    """`lr_size` is (width, height) of the only image that the file takes, None for any; `facts` are the converter's."""

    format: str
    precision: str
    lr_size: tuple[int, int] | None
    io: str
    metadata: Mapping[str, str]
    facts: Mapping[str, Any]
    spec: Spec
    descriptor: Descriptor


def sidecar_path(path: Path) -> Path:
    """`student.param` → `student.param.json`."""
    return path.with_name(path.name + ".json")


def sidecar_text(
    *,
    format: str,
    precision: str,
    lr_size: tuple[int, int] | None,
    io: str,
    metadata: Mapping[str, str],
    facts: Mapping[str, object],
) -> str:
    """The content of a sidecar; the same for the same file."""
    said = {
        "schema": SCHEMA,
        "format": format,
        "precision": precision,
        "lr_size": None if lr_size is None else "{}x{}".format(*lr_size),
        "io": io,
        "metadata": dict(sorted(metadata.items())),
        "facts": dict(facts),
    }
    return json.dumps(said, indent=1) + "\n"


def read_sidecar(path: Path) -> Sidecar:
    """The sidecar of an exported file; one line where it is missing or says something else than it should."""
    file = sidecar_path(path)
    if not file.is_file():
        raise SrkdError(f"{path} does not say what it is: {file.name} is not beside it; export it again")
    try:
        if file.stat().st_size > LARGEST_BYTES:
            raise ValueError(f"it has more than {LARGEST_BYTES} bytes")
        told = json.loads(file.read_text(encoding="utf-8"))
        if told["schema"] != SCHEMA:
            raise ValueError(f"its schema is {told['schema']!r}, not {SCHEMA!r}")
        size = None if told["lr_size"] is None else _size(told["lr_size"])
        metadata = {str(key): str(value) for key, value in told["metadata"].items() if str(key).startswith("srkd.")}
        spec = spec_from_dict(json.loads(metadata["srkd.spec"]))
        facts = dict(told["facts"])
        words = str(told["format"]), str(told["precision"]), str(told["io"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, UsageError, OSError) as error:
        told_of = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise SrkdError(f"{file} cannot be used: {told_of}; export the model again") from error
    return Sidecar(words[0], words[1], size, words[2], metadata, facts, spec, described(spec, size))


def described(spec: Spec, lr_size: tuple[int, int] | None) -> Descriptor:
    """The descriptor of a spec's network, for a file that may take one size only."""
    with torch.device("meta"):
        return replace(build(spec).descriptor, fixed_size=lr_size)


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    size = int(width), int(height)
    if min(size) < 1:
        raise ValueError(f"lr_size {text!r} is no size")
    return size
