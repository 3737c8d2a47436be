"""The table of networks lists every network, with today's measurements."""

from __future__ import annotations

import pytest

from benchmarks.evidence import Result, Row, results_folder
from benchmarks.networks_table import SMALL, dialects, slices, tiles
from compressor.models.networks.registry import NETWORKS


def table() -> dict[str, Row]:
    """Return the rows of the last result, by network."""
    rows = Result.read(results_folder() / "networks_table.json").tables[""].rows
    return {str(row["network"]): row for row in rows}


def test_every_network_has_its_row_and_no_other() -> None:
    assert list(table()) == list(NETWORKS) == list(SMALL)
    assert all(row["golden"] != "not measured" for row in table().values())


@pytest.mark.parametrize("arch", NETWORKS)
def test_what_the_result_says_is_what_is_measured(arch: str) -> None:
    cells = {name: str(cell) for name, cell in table()[arch].items()}
    assert cells["names"] == dialects(arch)
    met, _, expected = cells["counts"].partition(" of ")
    assert met == expected  # tests/models/test_cost.py counts them
    assert float(slices(arch).removeprefix("≤ ")) <= 1e-5
    assert float(cells["slices"].removeprefix("≤ ")) <= 1e-5
    assert float(cells["onnx"].removeprefix("≤ ")) <= 1e-4


@pytest.mark.parametrize("arch", NETWORKS)
def test_tiles_are_exact_or_their_seam_is_told(arch: str) -> None:
    message = str(table()[arch]["tiles"])
    assert message.split()[0] == tiles(arch).split()[0] == ("seam" if arch in ("rcan", "swinir") else "exactly")
