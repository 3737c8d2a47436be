"""The table of networks lists every network, with today's measurements."""

from __future__ import annotations

import pytest

from benchmarks.evidence import Result, Row, results_folder
from benchmarks.networks_table import SMALL, dialects
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
    """Counts, slices, ONNX and tiles are measured by tests of their own."""
    cells = {name: str(cell) for name, cell in table()[arch].items()}
    assert cells["names"] == dialects(arch)
    met, _, expected = cells["counts"].partition(" of ")
    assert met == expected
    assert float(cells["slices"].removeprefix("≤ ")) <= 1e-5
    assert float(cells["onnx"].removeprefix("≤ ")) <= 1e-4
    assert cells["tiles"].split()[0] == ("seam" if arch in ("rcan", "swinir") else "exactly")
