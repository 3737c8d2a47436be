"""The spaces that a network's linear layers read and write, declared beside each network, to rotate or solve layers.

A space is a set of units that several layers share. The operations between its producers and its consumers decide how
it may be changed:

    linear   only sums: any orthogonal change of basis can be folded into the layers, exactly
    mixed    gates or a normalisation: another basis is an approximation, for which the next layers can be solved
    units    an activation: units can only be selected
    fixed    the image: never changed
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, TypeAlias

from compressor.models.networks.axes import AxisPlan, renumbered


@dataclass(frozen=True)
class Tap:
    """A feature: the output or the first input of a submodule."""

    module: str
    side: Literal["output", "input"] = "output"


SpaceKind: TypeAlias = Literal["linear", "mixed", "units", "fixed"]


@dataclass(frozen=True)
class OwnGate:
    """A gate that a layer's output opens by itself: outputs above `bend` are added up at `at`, by the factor `gain`."""

    at: Tap
    gain: float
    bend: float


@dataclass(frozen=True)
class HeldGate:
    """A gate that another layer makes, and that is constant if this layer, `by`, has a bias alone: `bias` everywhere.
    Then what the gate multiplies is added up at `at`, by the factor `gain`.
    """

    by: str
    bias: float
    at: Tap
    gain: float


@dataclass(frozen=True)
class LinearLayer:
    """A linear layer: the spaces of its input segments, that of its output, and its target.

    `at` is the tap where the layer is compared with the teacher, for a layer whose output is added to something else,
    and `gain` the factor of the output on the way there; without `at` the layer's own output is compared. Before a
    pixel shuffle each unit of the output has one row per offset. `gate` is the layer whose output, through a sigmoid,
    multiplies this one's; `opens` describes an output that multiplies itself, and `held` the gate that is constant
    where a student follows another kind of network. `parts` is the number of times that the output's units are
    repeated: three for queries, keys and values. A LayerNorm counts as a layer that scales and shifts each unit
    separately.
    """

    name: str
    inputs: tuple[str, ...]
    output: str
    at: Tap | None = None
    gain: float = 1.0
    gate: str | None = None
    opens: OwnGate | None = None
    held: HeldGate | None = None
    parts: int = 1

    @property
    def target(self) -> Tap:
        return self.at or Tap(self.name)


@dataclass(frozen=True)
class FeatureStream:
    """What a student of another kind can follow, step by step: features that only sums change, and the units between.

    `states` are these features in the order of execution, with all that skips later add to them: of its state alone, a
    network can compute the rest. `units[t]` are the spaces that are computed from state t on the way to state t + 1. If
    there are as many as states, the last ones lead to the end. `end` are features behind the body, of which the
    network's own tail is a linear function. In a residual stream each state is the one before it and a sum.
    """

    states: tuple[tuple[Tap, ...], ...]
    units: tuple[tuple[str, ...], ...]
    end: tuple[Tap, ...] = ()
    is_residual: bool = True


@dataclass(frozen=True)
class LinearPlan:
    """The layers in the order of execution, the kind of each space, and the modules that the body runs in turn.

    `sweeps` is the number of times that all layers are solved: more than one if a layer is used several times. `values`
    are the parameters with one value per unit of a space, such as slopes: a student copies those of its units. Units of
    a space in `blocks` are kept in whole blocks of that size, the channels of an attention head; a value of such a
    space belongs to a block. `slopes` are those of the activations on units below zero, by space: a number, 0 for ReLU,
    or the name of a parameter. A rounded activation, such as SiLU, has them only farther from zero than its space's
    number in `bends`. `stream` is what students of other kinds follow; `image_layers` last layers make the image of it.
    A skip passes by the modules `bypassed`, which the stream of another network does not pass: there a student that
    follows one keeps random weights, and the last layer within them, whose output is added to the skip, is zero.
    """

    layers: tuple[LinearLayer, ...]
    spaces: Mapping[str, SpaceKind]
    stages: tuple[str, ...] = ()
    sweeps: int = 1
    values: Mapping[str, str] = field(default_factory=dict)
    blocks: Mapping[str, int] = field(default_factory=dict)
    slopes: Mapping[str, float | str] = field(default_factory=dict)
    bends: Mapping[str, float] = field(default_factory=dict)
    stream: FeatureStream | None = None
    image_layers: int = 1
    bypassed: tuple[str, ...] = ()

    @cached_property
    def producers(self) -> dict[str, tuple[LinearLayer, ...]]:
        return {space: tuple(layer for layer in self.layers if layer.output == space) for space in self.spaces}

    @cached_property
    def consumers(self) -> dict[str, tuple[tuple[LinearLayer, int], ...]]:
        """The layers that read a space, each with the index of its input segment."""
        reads = [(name, layer, index) for layer in self.layers for index, name in enumerate(layer.inputs)]
        return {space: tuple((layer, index) for name, layer, index in reads if name == space) for space in self.spaces}

    @cached_property
    def by_name(self) -> dict[str, LinearLayer]:
        return {layer.name: layer for layer in self.layers}

    @cached_property
    def gates(self) -> frozenset[str]:
        return frozenset(layer.gate for layer in self.layers if layer.gate is not None)

    @property
    def is_exact(self) -> bool:
        """True if a change of basis preserves the function: non-linear spaces are hidden within one module."""
        kinds = {kind for space, kind in self.spaces.items() if not self.is_hidden(space)}
        return "linear" in kinds and kinds <= {"linear", "fixed"}

    @property
    def body_layers(self) -> tuple[LinearLayer, ...]:
        return self.layers[: -self.image_layers]

    @cached_property
    def bypassed_layers(self) -> tuple[LinearLayer, ...]:
        inside = tuple(f"{name}." for name in self.bypassed)
        return tuple(layer for layer in self.layers if f"{layer.name}.".startswith(inside))

    @property
    def following(self) -> LinearPlan:
        """The plan by which a student follows the stream of another network: its own gates are open, and the others
        are held, so that what they multiply is a sum, and no layer before them matters. A layer that is used several
        times follows where it is first used. What bypassed layers read is never scaled.
        """
        making = {layer.held.by for layer in self.layers if layer.held}
        for layer in reversed(self.layers):
            readers = {reader.name for reader, _ in self.consumers[layer.output]}
            if readers and readers <= making:
                making.add(layer.name)
        kinds: dict[str, SpaceKind] = {layer.output: "linear" for layer in self.layers if layer.held}
        left_out = making | {layer.name for layer in self.bypassed_layers}
        kinds |= {space: "fixed" for layer in self.bypassed_layers for space in layer.inputs}
        layers = tuple(_at_constant_gate(layer) for layer in self.layers if layer.name not in left_out)
        return replace(self, layers=layers, spaces={**self.spaces, **kinds}, sweeps=1)

    @property
    def can_follow(self) -> bool:
        """True if another network's stream passes: between layers are only sums, known slopes, open or held gates."""
        plan = self.following
        passed = {space for space, kind in plan.spaces.items() if kind in ("linear", "fixed")} | set(plan.slopes)
        passed |= {layer.output for layer in plan.layers if layer.opens}
        return not plan.gates and all(layer.output in passed and layer.parts == 1 for layer in plan.layers)

    @property
    def lifts_stream(self) -> bool:
        """True if activations are on the stream itself, which that of another network passes by offsets."""
        return any(layer.at is not None and layer.output in self.slopes for layer in self.layers)

    def is_hidden(self, space: str) -> bool:
        """Return True for the units between two consecutive layers of the same module."""
        names = {layer.name for layer in self.producers[space]} | {layer.name for layer, _ in self.consumers[space]}
        return len(names) == 2 and len({name.rpartition(".")[0] for name in names}) == 1


def _at_constant_gate(layer: LinearLayer) -> LinearLayer:
    gate = layer.held or layer.opens
    return layer if gate is None else replace(layer, at=gate.at, gain=gate.gain, gate=None)


class Correspondence:
    """A student's parts in its teacher: block j of n' replaces blocks ⌊j·n/n'⌋ to ⌊(j+1)·n/n'⌋ - 1."""

    def __init__(self, teacher: AxisPlan, student: AxisPlan) -> None:
        self.repeats = tuple(zip(teacher.repeats, student.repeats, strict=True))

    def all_of(self, name: str) -> list[str]:
        """Return the teacher's names for a part of the student: one for each block that its block replaces."""
        names = [name]
        for long, short in self.repeats:
            replaced = [
                range(j * long.count // short.count, (j + 1) * long.count // short.count) for j in range(short.count)
            ]
            names = [other for one in names for other in renumbered(one, long, replaced)]
        return names

    def last_of(self, name: str) -> str:
        """Return the last name of `all_of`: its block's output is the target of the student's block."""
        return self.all_of(name)[-1]
