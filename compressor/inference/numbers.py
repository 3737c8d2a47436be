"""The number format of an open model: its precision, and how it was quantised."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from compressor.models.quantisation.description import Quantisation
from compressor.models.quantisation.file_facts import QuantisedFile, read_quantised_file, read_training
from compressor.runtimes.base import Runtime
from compressor.runtimes.torch_runtime import TorchRuntime


@dataclass(frozen=True)
class Numbers:
    """The number format of a model; `quantised`: what an 8-bit file says of itself, or how a float one was trained."""

    precision: str
    quantised: QuantisedFile | Quantisation | None = None

    def line(self) -> str | None:
        """Return one line on quantisation for a reader of scores and times; None for a float network."""
        if isinstance(self.quantised, Quantisation):
            return f"trained quantised ({self.quantised.line()}), rounded in {self.precision}"
        if self.quantised is None and self.precision == "int8":
            return "int8; the file does not say what it loses"
        return None if self.quantised is None else self.quantised.line()

    def to_dict(self) -> dict[str, Any]:
        """Return the entry of `srkd evaluate --json`."""
        return {"precision": self.precision, "quantised": None if self.quantised is None else asdict(self.quantised)}


def numbers_of(model: Runtime) -> Numbers:
    if isinstance(model, TorchRuntime):
        return Numbers(model.precision, model.network.quantisation)
    return Numbers(model.precision, read_quantised_file(model.metadata) or read_training(model.metadata))


def lines_about(numbers: Mapping[str, Numbers]) -> list[str]:
    lines = {label: entry.line() for label, entry in numbers.items()}
    return [f"{label}: {line}" for label, line in lines.items() if line is not None]
