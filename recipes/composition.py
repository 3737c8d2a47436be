"""Methods that cannot be combined in a preset, as a table with reasons, and conflicting weights of terms.

Allowed are the pixel loss with anything; outputs, one feature loss, upcycled data, contrast and heads with each other;
joint training with upcycled data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

from compressor.base.errors import SrkdError
from compressor.training.method import Kind, Method, term_weights

if TYPE_CHECKING:
    from compressor.training.calibration import Blend, Calibrated

IMAGE_TERM, GATED_IMAGE_TERM, ROUNDED_IMAGE_TERM = "logits", "gated_logits", "rounded_logits"
"""Names of the L1 terms to the teacher's image: of all patches, of those that pass a gate, and to it in bytes."""
COMPARED = {IMAGE_TERM: "whole", GATED_IMAGE_TERM: "by the patch", ROUNDED_IMAGE_TERM: "rounded"}
NO_FROZEN_TEACHER = "its teacher is trained with the student, so there is no frozen one to learn from"
QUANTISATION_LAST = "quantisation is the last stage: distil first, then quantise (--recipe NAME --then pams)"
DISTILS: tuple[Kind, ...] = ("feature", "data", "contrast", "heads", "bands", "looks")
"""Kinds of losses that no quantised student can have; besides the pixel loss, it can use the teacher's image."""
REFUSED: Mapping[frozenset[Kind], str] = {
    frozenset({"feature"}): "one feature loss at a time: two pull the same features towards different targets",
    frozenset({"output"}): "the teacher's image would count twice: change its weight instead",
    frozenset({"data"}): "the upcycled images would count twice",
    frozenset({"contrast"}): "one contrast at a time",
    frozenset({"heads"}): "one set of auxiliary heads at a time",
    frozenset({"bands"}): "the bands would count twice",
    frozenset({"looks"}): "one game with a discriminator at a time",
    frozenset({"looks", "output"}): "the teacher's image would count twice: change its weight instead",
    frozenset({"joint"}): "a teacher can be trained jointly once",
    frozenset({"joint", "output"}): NO_FROZEN_TEACHER,
    frozenset({"joint", "feature"}): NO_FROZEN_TEACHER,
    frozenset({"joint", "contrast"}): "joint training already has a contrast",
    frozenset({"joint", "heads"}): "heads need a student of its own weights, and this one is part of the teacher",
    frozenset({"joint", "bands"}): NO_FROZEN_TEACHER,
    frozenset({"joint", "looks"}): NO_FROZEN_TEACHER,
    frozenset({"bands", "feature"}): "both use the intermediate features: one at a time",
    frozenset({"quantised"}): "a student is quantised once",
    frozenset({"quantised", "joint"}): "a student inside its teacher shares the teacher's float weights",
    **{frozenset({"quantised", kind}): QUANTISATION_LAST for kind in DISTILS},
}


def refusals(methods: Sequence[Method]) -> list[str]:
    """Return one line for each pair of incompatible methods."""
    lines = []
    for first, second in combinations(methods, 2):
        reason = REFUSED.get(frozenset({first.kind, second.kind})) or _different_gates(first, second)
        reason = reason or _teacher_image_twice(first, second) or _different_updates(first, second)
        if reason is not None:
            lines.append(f"{first.name} and {second.name} do not go together: {reason}")
    return lines


def _different_gates(first: Method, second: Method) -> str | None:
    """Return a reason against two different gates: they select different patches, and share a log entry."""
    if "off" in (first.gate, second.gate) or first.gate == second.gate:
        return None
    return f"their gates are {first.gate} and {second.gate}: set one for both, --set gate={first.gate}"


def _teacher_image_twice(first: Method, second: Method) -> str | None:
    """Refuse two methods that compare the student with the teacher's image in different ways.

    Two methods that do it in one way share a term, or are refused as methods of one kind.
    """
    used = {term: method for method in (first, second) for term in COMPARED if method.weights.get(term)}
    if len(used) < 2:
        return None
    how = " and ".join(f"{COMPARED[term]} in {used[term].name}" for term in COMPARED if term in used)
    both = "" if ROUNDED_IMAGE_TERM in used else "both one gate (--set gate=...), or "
    one = "the other" if ROUNDED_IMAGE_TERM in used else "one of them"
    way_out = f"give {both}{one} no such term (its weight 0; dukd: logits=false)"
    return f"the teacher's image would count twice, {how}: {way_out}"


def _different_updates(first: Method, second: Method) -> str | None:
    other, more = sorted((first, second), key=lambda method: method.updates)
    if more.updates == other.updates:
        return None
    return f"{more.name} makes {more.updates} updates a step, and {other.name} would count in each"


def disagreements(methods: Sequence[Method], weights: Mapping[str, float], blend: Blend | None = None) -> list[str]:
    """Return one line for each term to which methods give different weights and the preset none.

    With `blend` they are added; then there is a line for weights that have no sum.
    """
    if blend is not None:
        try:
            term_weights(methods, weights, blend)
        except SrkdError as error:
            return [str(error)]
        return []
    first_weights: dict[str, tuple[str, float | Calibrated]] = {}
    lines = []
    for method in methods:
        for term, weight in method.weights.items():
            name, other = first_weights.setdefault(term, (method.name, weight))
            if other != weight and term not in weights:
                number = next(
                    (f"{declared:g}" for declared in (weight, other) if isinstance(declared, (int, float))), "NUMBER"
                )
                lines.append(
                    f"the term {term} is {_describe_weight(other)} in {name} and {_describe_weight(weight)} in "
                    f"{method.name}: it is one quantity: blend the methods, blend={1 / len(methods):.2g} "
                    f"(the factor of each), or give its weight, weights.{term}={number}"
                )
    return lines


def _describe_weight(weight: float | Calibrated) -> str:
    if isinstance(weight, (int, float)):
        return f"weighed {weight:g}"
    return f"calibrated to {weight.share:g} of {weight.against}"
