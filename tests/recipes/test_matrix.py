"""All methods on all networks at all scales, in the last result of `make test-matrix`. `make test` has one of each
kind: every method on EDSR, every network with one method.
"""

from __future__ import annotations

import pytest

from benchmarks.methods_matrix import SCALES, WORKS, cell, cells_of, documented, methods, table
from compressor.models.networks.registry import NETWORKS

CELLS = [(method, arch, scale) for method in sorted(methods()) for arch in NETWORKS for scale in SCALES]


def test_what_was_measured_is_of_methods_and_networks_that_exist():
    cells = documented()
    measured = {method for method, _, _ in cells}
    assert set(cells) == {(method, arch, scale) for method, arch, scale in CELLS if method in measured}
    assert cells_of(table(cells)) == cells


def test_a_refusal_is_a_footnote_once_and_read_back():
    outcomes = [WORKS] * 3, ["too deep"] * 3, [WORKS, "too odd", "too deep"]
    cells = {
        (f"m{index}", "edsr", scale): outcome
        for index, of in enumerate(outcomes)
        for scale, outcome in zip(SCALES, of, strict=True)
    }
    text = table(cells).render()
    assert cells_of(table(cells)) == cells
    assert "| `m2` | x2, no (2), no (1) |" in text and "1. too deep\n2. too odd" in text


@pytest.mark.parametrize("method", sorted(methods()))
def test_every_method_on_one_network(method: str):
    outcome = cell(method, "edsr", 3)
    assert outcome == documented().get((method, "edsr", 3), outcome)


@pytest.mark.parametrize("arch", NETWORKS)
def test_one_method_on_every_network(arch: str):
    assert cell("logits", arch, 4) == documented()["logits", arch, 4]


@pytest.mark.slow
@pytest.mark.matrix
@pytest.mark.parametrize(("method", "arch", "scale"), CELLS)
def test_the_matrix(method: str, arch: str, scale: int):
    assert cell(method, arch, scale, export=True) == documented().get((method, arch, scale), WORKS)
