"""The parts of a network that stay in float, and the orders in which a search returns parts to float."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class LayerNames:
    """The layers with weights of a graph, by their names there, in the order in which they run."""

    names: tuple[str, ...]
    before_shuffle: frozenset[str] = frozenset()
    """Names of layers whose results a pixel shuffle rearranges."""
    has_sums: bool = True
    """False if the graph has no sums or products of two values."""

    @property
    def upsampler(self) -> tuple[str, ...]:
        """The layers from the first shuffle on, without the last layer."""
        first = min((self.names.index(name) for name in self.before_shuffle), default=len(self.names))
        return self.names[first:-1]


@dataclass(frozen=True)
class FloatParts:
    """The parts that stay in float, and in which of its two ways the tool quantises the others."""

    names: tuple[str, ...] = ()
    """What the parts are called in notes and metadata."""
    layers: frozenset[str] = frozenset()
    sums: bool = False
    """True if sums and products of two values stay in float."""
    variant: bool = False
    """True for the tool's second way to quantise, which costs no time at run time (`Tool.variant`)."""

    @property
    def words(self) -> str:
        return ", ".join(self.names) or "nothing"

    def keeping(self, name: str, *layers: str, sums: bool = False) -> FloatParts:
        """The parts with a further one, which has these layers or the sums."""
        return replace(self, names=(*self.names, name), layers=self.layers | set(layers), sums=self.sums or sums)


NOTHING = FloatParts()


def choices_of(layers: LayerNames) -> dict[str, FloatParts]:
    """The parts that a search may combine, by name."""
    names = layers.names
    choices = {"sums": FloatParts(sums=True)} if layers.has_sums else {}
    choices["last layer"] = FloatParts(layers=frozenset(names[-1:]))
    choices["first layer"] = FloatParts(layers=frozenset(names[:1]))
    if layers.upsampler:
        choices["upsampler"] = FloatParts(layers=frozenset(layers.upsampler))
    return choices


def ends_of(layers: LayerNames) -> Iterator[FloatParts]:
    """Yield more and more parts by their cost: the network's ends, then its last layers, which no later averages."""
    first, last = layers.names[:1], layers.names[-1:]
    yield NOTHING.keeping("last layer", *last)
    ends = NOTHING.keeping("first layer", *first).keeping("last layer", *last)
    yield ends
    if layers.upsampler:
        ends = ends.keeping("upsampler", *layers.upsampler)
        yield ends
    if layers.has_sums:
        yield ends.keeping("sums", sums=True)
    for share in (4, 2):
        count = -(-len(layers.names) // share)
        if not ends.layers >= set(last_layers := layers.names[-count:]):
            yield NOTHING.keeping(f"last {count} of {len(layers.names)} layers", *last_layers)
