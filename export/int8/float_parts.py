"""Search for the parts that stay in float when a runtime's own tool quantises: first none, then more and more of the
network's ends, then its last layers, whose errors no later layer averages.

Our own quantiser times every choice (`quantise/search.py`). A runtime's tool takes up to a minute for each, so the
order is fixed here: first wider ranges, which cost no time, then cheap parts. A try must stay within the bound on
photos and pass the comparison of every file, which is stricter on flat colours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from compressor.runtimes.base import Runtime
from compressor.runtimes.torch_runtime import TorchRuntime
from export.formats.conversion import CannotConvert, Conversion
from export.formats.table import INT8
from export.proof.quality import QualityLoss, QualityPhotos
from export.proof.verify import verify

Product = TypeVar("Product")


@dataclass(frozen=True)
class LayerNames:
    """The layers with weights of a graph, by their names there, in the order in which they run."""

    names: tuple[str, ...]
    before_shuffle: frozenset[str] = frozenset()
    """Layers whose results a pixel shuffle rearranges."""

    @property
    def upsampler(self) -> frozenset[str]:
        """Return the layers from the first shuffle on, without the last layer."""
        first = min((self.names.index(name) for name in self.before_shuffle), default=len(self.names))
        return frozenset(self.names[first:-1])


@dataclass(frozen=True)
class FloatParts:
    """Parts that stay in float: in words, the layers by name, and whether sums and products of values do."""

    words: str = "nothing"
    layers: frozenset[str] = frozenset()
    sums: bool = False
    whole_ranges: bool = False
    """True if a value's range holds everything measured in calibration. A range that leaves out outliers is finer, but
    may leave out the borders of a flat colour."""

    def __str__(self) -> str:
        return f"{self.words}, whole ranges" if self.whole_ranges else self.words


def ends_of(layers: LayerNames) -> Iterator[FloatParts]:
    """Yield the parts to leave in float if a file without any is not good enough, in order of their cost."""
    first, last = layers.names[:1], layers.names[-1:]
    yield FloatParts("last layer", frozenset(last))
    ends = FloatParts("first layer, last layer", frozenset(first + last))
    yield ends
    if layers.upsampler:
        ends = FloatParts(f"{ends.words}, upsampler", ends.layers | layers.upsampler)
        yield ends
    yield FloatParts(f"{ends.words}, sums", ends.layers, sums=True)
    for share in (4, 2):
        count = -(-len(layers.names) // share)
        if not ends.layers >= (last_layers := frozenset(layers.names[-count:])):
            yield FloatParts(f"last {count} of {len(layers.names)} layers", last_layers)


@dataclass(frozen=True)
class TriedParts(Generic[Product]):
    """A file with these parts in float, its loss of quality, and in one line why it is refused, or None."""

    product: Product
    parts: FloatParts
    quality: QualityLoss
    reason: str | None

    def describe(self, flavour: str, calibration: str, weight_bits: int = 8) -> dict[str, object]:
        """Return the file's facts for its metadata and the report, under the names that our own quantiser uses."""
        return {
            "precision": "int8",
            "flavour": flavour,
            "bits": 8,
            "weight_bits": weight_bits,
            "calibration": calibration,
            "in_float": self.parts.words,
            "float_layers": sorted(self.parts.layers),
            "whole_ranges": self.parts.whole_ranges,
            **self.quality.facts(),
        }


@dataclass(frozen=True)
class Search(Generic[Product]):
    """The search with one tool. `make` quantises with some parts in float; it returns the file and the opened file."""

    tool: str
    job: Conversion
    photos: QualityPhotos
    layers: LayerNames
    make: Callable[[FloatParts], tuple[Product, Runtime]]

    def run(self) -> TriedParts[Product]:
        """Return the first file within the bound."""
        narrow = self.attempt(FloatParts())
        if narrow.reason is None:
            return narrow
        whole = self.attempt(FloatParts(whole_ranges=True))
        tries = [narrow, whole]
        wide = _distance(whole) < _distance(narrow)
        ends = ends_of(self.layers)
        while tries[-1].reason is not None and (parts := next(ends, None)) is not None:
            tries.append(self.attempt(replace(parts, whole_ranges=wide)))
        if tries[-1].reason is None:
            return tries[-1]
        nearest = min(tries, key=_distance)
        raise CannotConvert(
            f"in eight bits by {self.tool} it {nearest.reason}; tried with {tries[-1].parts.words} in float, too"
        )

    def attempt(self, parts: FloatParts) -> TriedParts[Product]:
        product, file = self.make(parts)
        quality = self.photos.measure(file.run)
        reason = quality.reason(self.job.options.int8.max_drop)
        if reason is None and self.job.inputs:
            network = TorchRuntime(self.job.network, label="the network")
            reason = verify(file, network, self.job.inputs, INT8, io=self.job.options.io).reason
        refused = "" if reason is None else f"; refused, because it {reason}"
        self.job.context.note(f"{self.tool}, in float {parts}: {quality}{refused}")
        return TriedParts(product, parts, quality, reason)


def _distance(result: TriedParts[Product]) -> tuple[bool, float]:
    """Return a sorting key, best first: accepted files, then less loss in dB, then images nearer to the source's."""
    to_source = 100.0 if result.quality.psnr_to_source is None else result.quality.psnr_to_source
    return result.reason is not None, result.quality.drop - 1e-3 * to_source
