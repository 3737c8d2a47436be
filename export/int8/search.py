"""The search for the parts that stay in float, the same for every tool that quantises.

First nothing stays in float. Then the tool's second way is tried, which costs no time at run time, and then more and
more parts stay in float, until a file is within the bound on photos and passes the comparison of every file, which is
stricter on flat colours.

A quick tool takes seconds for a file: each of a few choices is tried, and the best are combined. The other tools take
up to a minute, so the order is fixed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import torch

from compressor.models.networks.base import Descriptor
from compressor.runtimes.base import Runtime
from compressor.runtimes.file_runtime import FileRuntime
from compressor.runtimes.torch_runtime import TorchRuntime
from export.formats.conversion import CannotConvert
from export.formats.table import INT8
from export.int8.float_parts import NOTHING, FloatParts, LayerNames, choices_of, ends_of
from export.int8.task import Int8Task, describe_file
from export.proof.quality import QualityDrop
from export.proof.verify import verify

File = TypeVar("File")

TIE = 0.05
"""Times that differ by less than this share count as equal, and quality decides."""

SENSITIVE = (1, 2, 4, 8, 16)
"""Numbers of layers to keep in float one after the other, the most sensitive first."""


class Tool(ABC, Generic[File]):
    """Quantises the layers of a network. A quick one takes seconds for a file, which it can time, and ranks layers."""

    is_quick: bool = False
    name: str
    flavour: str
    """What a file is made for, as its facts name it."""
    layers: LayerNames
    variant: str = "whole ranges"
    """The second way to quantise. Ranges that hold everything measured are coarser than those that leave out outliers,
    but these may leave out the borders of a flat colour."""
    weight_bits: int = 8
    bits: int = 8
    """Bits of the values."""
    mixes: bool = True
    """False if the file's chip runs nothing in float, so that no part can stay there."""

    @abstractmethod
    def write(self, parts: FloatParts) -> File:
        """The quantised file, with these parts in float."""

    @abstractmethod
    def open(self, file: File) -> Runtime:
        """The file as it will compute."""

    def time(self, file: File) -> Times | None:
        """Times of a quick tool's file."""
        return None

    def ranking(self, parts: FloatParts) -> Sequence[str]:
        """The layers that are not in float, those first whose rounding changes the image most."""
        return ()


@dataclass(frozen=True)
class Times:
    """Milliseconds that a file and the float graph, with which it took turns, take for one image."""

    ms: float
    float_ms: float
    lr_size: tuple[int, int]

    def __str__(self) -> str:
        return f"{self.ms:.1f} ms for {self.lr_size[0]}x{self.lr_size[1]} (float {self.float_ms:.1f} ms)"


class Unwritten(FileRuntime):
    """A file that is not written yet, as its tool computes it."""

    precision = "int8"

    def __init__(self, name: str, descriptor: Descriptor, run: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.name, self.label, self.threads = name, "the file", torch.get_num_threads()
        self.descriptor, self._compute = descriptor, run

    def _run(self, lr: torch.Tensor) -> torch.Tensor:
        return self._compute(lr)


@dataclass(frozen=True)
class TriedParts(Generic[File]):
    """A file with these parts in float, its loss of quality, and in one line why it is refused, or None."""

    file: File
    parts: FloatParts
    quality: QualityDrop
    reason: str | None
    times: Times | None = None

    @property
    def distance(self) -> tuple[bool, float]:
        """A sorting key, best first: accepted files, then the drop in dB and a term for how far the source is."""
        to_source = 100.0 if self.quality.psnr_to_source is None else self.quality.psnr_to_source
        return self.reason is not None, max(self.quality.drop, 0.0) + 10 ** (-to_source / 10) * 1e3


@dataclass(frozen=True)
class Search(Generic[File]):
    tool: Tool[File]
    task: Int8Task

    def run(self) -> TriedParts[File]:
        """The first try within the bound; of a quick tool's tries with equally many choices, the fastest one."""
        best = self.attempt(NOTHING)
        if best.reason is not None:
            best = _nearest([best, self.attempt(replace(NOTHING, variant=True))])
        if best.reason is None:
            return best
        if not self.tool.mixes:
            raise self.refusal(best, best.parts)
        return self.best_first(best) if self.tool.is_quick else self.in_order(best)

    def facts(self, tried: TriedParts[File]) -> dict[str, object]:
        tool, parts = self.tool, tried.parts
        more = {
            "in_float": parts.words,
            "float_layers": sorted(parts.layers),
            tool.variant.replace(" ", "_"): parts.variant,
        }
        return describe_file(
            tool.flavour, (tool.weight_bits, tool.bits), self.task.calibration.source, tried.quality, **more
        )

    def in_order(self, best: TriedParts[File]) -> TriedParts[File]:
        tries = [best]
        for parts in ends_of(self.tool.layers):
            tries.append(self.attempt(replace(parts, variant=best.parts.variant)))
            if tries[-1].reason is None:
                return tries[-1]
        raise self.refusal(_nearest(tries), tries[-1].parts)

    def best_first(self, best: TriedParts[File]) -> TriedParts[File]:
        """Combine the choices, each time the best; then keep the most sensitive layers in float."""
        choices = choices_of(self.tool.layers)
        while choices and best.reason is not None:
            tries = {
                name: self.attempt(best.parts.keeping(name, *choice.layers, sums=choice.sums))
                for name, choice in choices.items()
            }
            name = _cheapest(tries)
            if tries[name].distance >= best.distance:
                break
            best = tries[name]
            choices.pop(name)
        if best.reason is None:
            return best
        parts, ranking = best.parts, self.tool.ranking(best.parts)
        for count in SENSITIVE:
            if count > len(ranking):
                break
            best = self.attempt(parts.keeping(f"{count} most sensitive layers", *ranking[:count]))
            if best.reason is None:
                return best
        raise self.refusal(best, best.parts)

    def refusal(self, nearest: TriedParts[File], last: FloatParts) -> CannotConvert:
        return CannotConvert(f"in int8 ({self.tool.name}) it {nearest.reason}; tried with {last.words} in float, too")

    def attempt(self, parts: FloatParts) -> TriedParts[File]:
        tool, job, max_drop = self.tool, self.task.job, self.task.job.options.int8.max_drop
        file = tool.write(parts)
        runtime = tool.open(file)
        quality = self.task.photos.measure(runtime.run)
        reason = quality.reason(max_drop)
        if reason is None and max_drop is not None and job.inputs:
            network = TorchRuntime(job.network, label="the network")
            reason = verify(runtime.run, network.run, job.inputs, INT8, io=job.options.io).reason
        times = tool.time(file)
        words = [f"{tool.name}, in float {parts.words}", *([tool.variant] if parts.variant else [])]
        figures = [str(quality), *([] if times is None else [str(times)])]
        refused = "" if reason is None else f"; refused, because it {reason}"
        job.context.note(f"{', '.join(words)}: {', '.join(figures)}{refused}")
        return TriedParts(file, parts, quality, reason, times)


def _nearest(tries: Sequence[TriedParts[File]]) -> TriedParts[File]:
    return min(tries, key=lambda tried: tried.distance)


def _cheapest(tries: Mapping[str, TriedParts[File]]) -> str:
    """The name of the fastest accepted try, of equally fast ones the nearest; if none is accepted, of the nearest."""
    accepted = {name: tried.times for name, tried in tries.items() if tried.reason is None and tried.times}
    shares = {name: times.ms / times.float_ms for name, times in accepted.items()}
    quick = [name for name, share in shares.items() if share <= min(shares.values()) * (1 + TIE)]
    return min(quick or tries, key=lambda name: tries[name].distance)
