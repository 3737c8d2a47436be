"""Which methods go together in one preset. The table is data.

Allowed are the pixel loss with anything; outputs, one feature loss, upcycled data, contrast and heads with each other;
joint training with upcycled data. What is refused is listed, with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from compressor.training.method import Calibrated, Kind, Method

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
    frozenset({"quantised"}): "a student is quantised once",
    frozenset({"joint", "output"}): MOVING,
    frozenset({"joint", "feature"}): MOVING,
    frozenset({"joint", "contrast"}): "joint training has its own contrast",
    frozenset({"joint", "heads"}): "heads hang on a student of its own, and this one lives inside the teacher",
    frozenset({"joint", "bands"}): MOVING,
    frozenset({"joint", "quantised"}): "quantisation is the last stage: start it from the distilled student",
    frozenset({"bands", "feature"}): "both use the intermediate features: one at a time",
    frozenset({"quantised", "feature"}): "a quantised student learns from pixels and the teacher's image or attention",
    frozenset({"quantised", "data"}): "a quantised student learns from pixels and the teacher's image or attention",
    frozenset({"quantised", "contrast"}): "a quantised student learns from pixels and the teacher's image or attention",
    frozenset({"quantised", "heads"}): "a quantised student learns from pixels and the teacher's image or attention",
    frozenset({"quantised", "bands"}): "a quantised student learns from pixels and the teacher's image or attention",
}


def refusals(methods: Sequence[Method]) -> list[str]:
    """One line for each pair that does not go together."""
    found = []
    for first, second in combinations(methods, 2):
        reason = REFUSED.get(frozenset({first.kind, second.kind}))
        reason = reason or _gated_apart(first, second) or _learnt_twice(first, second)
        if first.updates != second.updates:
            more, other = (first, second) if first.updates > second.updates else (second, first)
            reason = reason or f"{more.name} makes {more.updates} updates a step, and {other.name} would count in each"
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
