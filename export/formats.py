"""The table of formats: help, validation, documentation and export itself read it. One row and one file a format."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Protocol, cast

from compressor.errors import UsageError
from compressor.networks.base import Network, nearest
from compressor.runtimes.base import Runtime
from export.verify import Bounds


class FormatModule(Protocol):
    """What a format's file offers."""

    def convert(self, network: Network, path: Path, metadata: Mapping[str, str]) -> Mapping[str, object]:
        """Write the file and give facts for the report (opset, nodes …). `network` is this function's own copy."""
        ...

    def open_runtime(self, path: Path) -> Runtime:
        """The file, ready to run, so that it can be compared with the network."""
        ...


@dataclass(frozen=True)
class Format:
    """A row of the table. `name` is also the flag: --onnx."""

    name: str
    title: str
    suffix: str
    precision: str
    module: str
    needs: tuple[str, ...]
    """Modules that must be importable."""
    extra: str | None
    """The extra of the distribution that brings them; None where a plain installation does."""
    bounds: Bounds
    opens_with: str
    """The runtime that runs such a file (`compressor.runtimes.open.RUNTIMES`)."""

    def missing(self) -> tuple[str, ...]:
        """What this installation lacks for it."""
        return tuple(name for name in self.needs if importlib.util.find_spec(name) is None)

    def load(self) -> FormatModule:
        return cast(FormatModule, importlib.import_module(self.module))


FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        row.name: row
        for row in (
            Format(
                name="onnx",
                title="ONNX, float32, any batch and image size",
                suffix=".onnx",
                precision="fp32",
                module="export.to_onnx",
                needs=("onnx", "onnxscript", "onnxruntime", "onnxsim"),
                extra=None,
                bounds=Bounds(max_abs=1e-4),
                opens_with="onnxruntime",
            ),
        )
    }
)
DEFAULT_FORMATS = ("onnx",)


def find_formats(names: Iterable[str]) -> tuple[Format, ...]:
    """Rows by name, each once, in the order given; none: the default."""
    wanted = tuple(dict.fromkeys(names)) or DEFAULT_FORMATS
    for name in wanted:
        if name not in FORMATS:
            raise UsageError(f"no format is called {name!r}; {nearest(name, FORMATS)}")
    return tuple(FORMATS[name] for name in wanted)
