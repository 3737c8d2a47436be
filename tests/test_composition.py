"""Several methods in one preset: what goes together, what is refused with its reason, whose weight counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import get_args

import pytest

from compressor.errors import UsageError
from compressor.training.losses import asked_weights
from compressor.training.method import Kind, PlainMethod
from recipes.composition import REFUSED, disagreements, refusals
from recipes.loading import read_preset

ALLOWED: tuple[tuple[Kind, Kind], ...] = (
    ("output", "feature"),
    ("output", "data"),
    ("data", "feature"),
    ("data", "contrast"),
    ("data", "joint"),
    ("heads", "output"),
    ("heads", "feature"),
    ("heads", "data"),
    ("quantised", "output"),
)
"""What the compatibility table of the specification names as allowed."""

EXCLUSIVE: tuple[tuple[Kind, Kind], ...] = (
    ("feature", "feature"),
    ("joint", "output"),
    ("joint", "feature"),
    ("joint", "contrast"),
    ("joint", "heads"),
    ("joint", "bands"),
    ("joint", "quantised"),
)


@dataclass(frozen=True)
class Any(PlainMethod):
    name: str
    kind: Kind
    needs_teacher: bool = False
    needs_network: bool = False
    weights: Mapping[str, float] = field(default_factory=lambda: {"pixel": 1.0})


@pytest.mark.parametrize(("first", "second"), ALLOWED)
def test_what_goes_together(first: Kind, second: Kind) -> None:
    assert refusals([Any("a", first), Any("b", second)]) == []


@pytest.mark.parametrize(("first", "second"), EXCLUSIVE)
def test_what_does_not_is_refused_by_name_with_the_reason(first: Kind, second: Kind) -> None:
    (line,) = refusals([Any("left", first), Any("right", second)])
    assert line.startswith("left and right do not go together: ") and len(line) > 60


def test_the_pixel_loss_goes_with_everything_and_only_known_kinds_are_in_the_table() -> None:
    kinds = get_args(Kind)
    assert all(not refusals([Any("a", "pixel"), Any("b", kind)]) for kind in kinds)
    assert {kind for pair in REFUSED for kind in pair} <= set(kinds)
    three = [Any("a", "joint"), Any("b", "output"), Any("c", "feature")]
    assert len(refusals(three)) == sum(frozenset({a.kind, b.kind}) in REFUSED for a, b in combinations(three, 2))


def test_shared_terms_must_agree_or_be_told() -> None:
    methods = [Any("a", "pixel"), Any("b", "data", weights={"pixel": 5.0, "zoom": 1.0})]
    (line,) = disagreements(methods, {})
    assert "pixel weighs 1.0 in a and 5.0 in b" in line
    assert disagreements(methods, {"pixel": 5.0}) == []


TWO = """
title: two
source: a test
methods:
  - name: {first}
  - name: {second}
weights: {weights}
"""


def test_a_preset_of_two_methods_that_do_not_go_together_is_refused() -> None:
    with pytest.raises(UsageError, match="logits and logits do not go together"):
        read_preset(TWO.format(first="logits", second="logits", weights="{}"), "mine")


def test_a_weight_of_a_term_that_nobody_has_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"weights\.pixl.*pixel"):
        read_preset(TWO.format(first="scratch", second="logits", weights="{pixl: 2}"), "mine")


def test_the_presets_weight_wins() -> None:
    preset = read_preset(TWO.format(first="scratch", second="logits", weights="{pixel: 3, logits: 0.5}"), "mine")
    assert asked_weights(preset.stages(preset.build_methods())[-1]) == {"pixel": 3.0, "logits": 0.5}
