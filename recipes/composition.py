"""Which methods go together in one preset. The table is data.

Allowed are the pixel loss with anything; outputs, one feature loss, upcycled data, contrast and heads with each other;
joint training with upcycled data. What is refused is listed, with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from compressor.training.method import Calibrated, Method

Kind = Literal["pixel", "output", "feature", "data", "contrast", "heads", "bands", "joint"]
"""What a method adds to the pixel loss."""


@runtime_checkable
class AddsToPixelLoss(Protocol):
    """A method that says what it adds to the pixel loss; one that does not adds nothing."""

    @property
    def kind(self) -> Kind: ...


def kind_of(method: Method) -> Kind:
    """What the method adds to the pixel loss."""
    return method.kind if isinstance(method, AddsToPixelLoss) else "pixel"


WHOLE, GATED = "logits", "gated_logits"
"""What the L1 to the teacher's image is called, of all patches and of those that a gate lets through."""
MOVING = "its teacher is trained with the student, so that there is no frozen one to learn from"
REFUSED: Mapping[frozenset[Kind], str] = {
    frozenset({"feature"}): "one feature loss at a time: two pull the same features towards different things",
    frozenset({"output"}): "the teacher's image would count twice: change its weight instead",
    frozenset({"data"}): "the upcycled images would count twice",
    frozenset({"contrast"}): "one contrast at a time",
    frozenset({"heads"}): "one set of auxiliary heads at a time",
    frozenset({"bands"}): "the bands would count twice",
    frozenset({"joint"}): "a teacher can be trained jointly once",
    frozenset({"joint", "output"}): MOVING,
    frozenset({"joint", "feature"}): MOVING,
    frozenset({"joint", "contrast"}): "joint training has its own contrast",
    frozenset({"joint", "heads"}): "heads hang on a student of its own, and this one lives inside the teacher",
    frozenset({"joint", "bands"}): MOVING,
    frozenset({"bands", "feature"}): "both use the intermediate features: one at a time",
}


def refusals(methods: Sequence[Method]) -> list[str]:
    """One line for each pair that does not go together."""
    from compressor.training.stage import updates_of

    found = []
    for first, second in combinations(methods, 2):
        reason = REFUSED.get(frozenset({kind_of(first), kind_of(second)}))
        reason = reason or _gated_apart(first, second) or _learnt_twice(first, second)
        other, more = sorted((first, second), key=updates_of)
        if updates_of(more) != updates_of(other):
            text = f"{more.name} makes {updates_of(more)} updates a step, and {other.name} would count in each"
            reason = reason or text
        if reason is not None:
            found.append(f"{first.name} and {second.name} do not go together: {reason}")
    return found


def _gated_apart(first: Method, second: Method) -> str | None:
    """Two gates of one run would choose other patches for what both learn of the teacher, and be logged as one."""
    gates = [getattr(one, "gate", "off") for one in (first, second)]
    if "off" in gates or gates[0] == gates[1]:
        return None
    return f"their gates are {gates[0]} and {gates[1]}: set one for both, --set gate={gates[0]}"


def _learnt_twice(first: Method, second: Method) -> str | None:
    """Two outputs are refused; a gate on one of them makes no other image of it."""
    for whole, gated in ((first, second), (second, first)):
        if whole.weights.get(WHOLE) and gated.weights.get(GATED):
            return (
                f"the teacher's image would count twice, whole in {whole.name} and by the patch in {gated.name}: give "
                "both one gate (--set gate=...), or one of them no such term (its weight 0; dukd: logits=false)"
            )
    return None


def disagreements(methods: Sequence[Method], weights: Mapping[str, float]) -> list[str]:
    """One line for each term that methods share and weigh differently, where the preset does not say its weight."""
    seen: dict[str, tuple[str, float | Calibrated]] = {}
    found = []
    for method in methods:
        for term, weight in method.weights.items():
            name, other = seen.setdefault(term, (method.name, weight))
            if other != weight and term not in weights:
                number = next((f"{one:g}" for one in (weight, other) if isinstance(one, (int, float))), "NUMBER")
                found.append(
                    f"the term {term} is {_weighed(other)} in {name} and {_weighed(weight)} in {method.name}: it is "
                    f"one quantity and counts once, so say by how much, weights.{term}={number}"
                )
    return found


def _weighed(weight: float | Calibrated) -> str:
    """A weight as a reader knows it."""
    if isinstance(weight, (int, float)):
        return f"weighed {weight:g}"
    return f"calibrated to {weight.share:g} of {weight.against}"
