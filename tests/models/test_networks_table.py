"""docs/networks.md names every network, and holds today's measurements."""

from __future__ import annotations

import pytest

from benchmarks.networks_table import COLUMNS, NOTES, PAGE, SMALL, dialects, slices, tiles
from compressor.models.networks.registry import NETWORKS


def table() -> dict[str, dict[str, str]]:
    """The page's cells by network and column."""
    rows = [line.strip("| ").split(" | ") for line in PAGE.read_text(encoding="utf-8").splitlines() if line[:1] == "|"]
    assert tuple(rows[0]) == COLUMNS
    return {row[0]: dict(zip(COLUMNS, row, strict=True)) for row in rows[2:]}


def test_every_network_has_its_row_and_no_other() -> None:
    assert list(table()) == list(NETWORKS) == list(SMALL)


def test_the_page_is_the_generators() -> None:
    assert PAGE.read_text(encoding="utf-8").endswith(NOTES)
    assert "not measured" not in PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("arch", NETWORKS)
def test_what_the_page_says_is_what_is_measured(arch: str) -> None:
    cells = table()[arch]
    assert cells["reads and writes the names of"] == dialects(arch)
    met, _, expected = cells["counts to the last digit"].partition(" of ")
    assert met == expected  # tests/models/test_cost.py counts them
    assert float(slices(arch).removeprefix("≤ ")) <= 1e-5
    assert float(cells["slices"].removeprefix("≤ ")) <= 1e-5
    assert float(cells["ONNX at odd sizes"].removeprefix("≤ ")) <= 1e-4


@pytest.mark.parametrize("arch", NETWORKS)
def test_tiles_are_exact_or_their_seam_is_told(arch: str) -> None:
    message = table()[arch]["tiles"]
    assert message.split()[0] == tiles(arch).split()[0] == ("seam" if arch in ("rcan", "swinir") else "exactly")
