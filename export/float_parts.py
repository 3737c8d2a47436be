"""What stays in float where a runtime's own tool quantises: nothing at first, then more and more of the network's ends,
then its last layers, whose errors no layer averages any more.

Our own quantiser times every choice (`quantise/search.py`). Such tools take up to a minute for each, so that the order
is fixed here: wider ranges cost no time, then cheap parts come first. A try must stay within the bound on photos, and
pass the comparison that every file must pass, which holds flat colours to more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from compressor.runtimes.base import Runtime
from compressor.runtimes.torch_runtime import TorchRuntime
from export.conversion import CannotConvert, Conversion
from export.formats import INT8
from export.quality import Quality, QualityPhotos
from export.verify import verify

Made = TypeVar("Made")


@dataclass(frozen=True)
class Layers:
    """The layers with weights of a graph, by their names there, in the order in which they run."""

    names: tuple[str, ...]
    before_shuffle: frozenset[str] = frozenset()
    """Those whose results a pixel shuffle rearranges."""

    @property
    def upsampler(self) -> frozenset[str]:
        """The layers from the first shuffle on, without the last layer."""
        first = min((self.names.index(name) for name in self.before_shuffle), default=len(self.names))
        return frozenset(self.names[first:-1])


@dataclass(frozen=True)
class FloatParts:
    """What stays in float: in words, the layers by name, and the sums and products of values."""

    words: str = "nothing"
    layers: frozenset[str] = frozenset()
    sums: bool = False
    whole_ranges: bool = False
    """The range of a value holds all that was seen of it. One that leaves out a little is finer, but the borders of a
    flat colour may lie outside."""

    def __str__(self) -> str:
        return f"{self.words}, whole ranges" if self.whole_ranges else self.words


def ends_of(layers: Layers) -> Iterator[FloatParts]:
    """Yield what is kept in float after nothing was, each time at more cost."""
    first, last = layers.names[:1], layers.names[-1:]
    yield FloatParts("last layer", frozenset(last))
    kept = FloatParts("first layer, last layer", frozenset(first + last))
    yield kept
    if layers.upsampler:
        kept = FloatParts(f"{kept.words}, upsampler", kept.layers | layers.upsampler)
        yield kept
    yield FloatParts(f"{kept.words}, sums", kept.layers, sums=True)
    for share in (4, 2):
        count = -(-len(layers.names) // share)
        if not kept.layers >= (last_layers := frozenset(layers.names[-count:])):
            yield FloatParts(f"last {count} of {len(layers.names)} layers", last_layers)


@dataclass(frozen=True)
class Tried(Generic[Made]):
    """A file that was made with these parts in float, what it loses, and in one line why that is too much, or None."""

    made: Made
    parts: FloatParts
    quality: Quality
    reason: str | None

    def describe(self, flavour: str, calibration: str, weight_bits: int = 8) -> dict[str, object]:
        """Return the facts of the file, for its metadata and the report, by the names that our own quantiser uses."""
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
class Search(Generic[Made]):
    """The tries of one tool. `make` returns a file, and the same opened."""

    tool: str
    job: Conversion
    photos: QualityPhotos
    layers: Layers
    make: Callable[[FloatParts], tuple[Made, Runtime]]

    def run(self) -> Tried[Made]:
        """Return the first file within the bound."""
        narrow = self.attempt(FloatParts())
        if narrow.reason is None:
            return narrow
        whole = self.attempt(FloatParts(whole_ranges=True))
        tries = [narrow, whole]
        wide = _distance(whole) < _distance(narrow)
        kept = ends_of(self.layers)
        while tries[-1].reason is not None and (parts := next(kept, None)) is not None:
            tries.append(self.attempt(replace(parts, whole_ranges=wide)))
        if tries[-1].reason is None:
            return tries[-1]
        nearest = min(tries, key=_distance)
        raise CannotConvert(
            f"in eight bits by {self.tool} it {nearest.reason}; tried with {tries[-1].parts.words} in float, too"
        )

    def attempt(self, parts: FloatParts) -> Tried[Made]:
        made, file = self.make(parts)
        quality = self.photos.measure(file.run)
        reason = quality.reason(self.job.options.int8.max_drop)
        if reason is None and self.job.inputs:
            network = TorchRuntime(self.job.network, label="the network")
            reason = verify(file, network, self.job.inputs, INT8, io=self.job.options.io).reason
        refused = "" if reason is None else f"; refused, because it {reason}"
        self.job.context.note(f"{self.tool}, in float {parts}: {quality}{refused}")
        return Tried(made, parts, quality, reason)


def _distance(tried: Tried[Made]) -> tuple[bool, float]:
    """Return how far a file is from the bound: the dB that it loses; of equal losses, nearer images are better."""
    to_source = 100.0 if tried.quality.psnr_to_source is None else tried.quality.psnr_to_source
    return tried.reason is not None, tried.quality.drop - 1e-3 * to_source
