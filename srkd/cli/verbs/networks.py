"""`srkd networks`: a list of the networks and their named sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from srkd.cli.verb import verb
from srkd.options.verbs import NetworksOptions
from srkd.terminal.console import Console, cell
from srkd.terminal.tables import Table

if TYPE_CHECKING:
    from srkd.api.network_list import NetworkList


@verb(
    "networks",
    NetworksOptions,
    "srkd.api.network_list.run_networks",
    examples=("srkd networks", "srkd networks plain compact-xs --time --threads 1", "srkd networks --scale 2 --json"),
    rows=lambda listed: listed.networks,
)
def command(console: Console, listed: NetworkList) -> None:
    """List the networks and their named sizes, with their cost.

    Each name is a student for --student, plain-s or plain-s:scale=2,act=prelu. A network without named sizes has its
    published default. NAMES are networks or sizes; all without them.
    """
    size = "{}x{}".format(*listed.lr_size)
    columns = ["--student", "params", f"GMAC at {size}", *(["ms"] if listed.place else [])]
    lines = []
    for row in listed.networks:
        spread = cell(row.spread_percent and row.spread_percent / 2, " ±{:.0f}%")
        times = [cell(row.ms, "{:.1f}") + spread] if listed.place else []
        lines.append([row.name, f"{row.params:,}", f"{row.macs / 1e9:.2f}", *times])
    console.table(Table(columns, lines, f"networks at x{listed.scale}"))
    if listed.place:
        console.result(f"timed untrained, in turns: {listed.place}")
