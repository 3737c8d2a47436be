"""`srkd hosts`: a list of the programs that `srkd export --for` writes for."""

from __future__ import annotations

import click

from export.hosts.table import HOSTS, Host
from srkd.cli.verb import verb
from srkd.terminal.console import Console
from srkd.terminal.tables import Table


@verb("hosts", examples=("srkd hosts", "srkd hosts upscayl mpv", "srkd hosts --json"), csv=True)
@click.argument("names", nargs=-1)
def command(console: Console, names: tuple[str, ...]) -> None:
    """List the programs that srkd export --for writes for.

    The table says what is written for each, where such files were run, and what does not run there. NAMES are those of
    --for; all without them.
    """
    hosts = tuple(HOSTS.find(name) for name in names) or tuple(HOSTS.values())
    console.report("hosts", {"hosts": hosts}, show, rows=lambda listed: listed["hosts"])


def show(console: Console, listed: dict[str, tuple[Host, ...]]) -> None:
    rows = [(host.name, host.title, host.writes, host.proved, host.limits) for host in listed["hosts"]]
    console.table(Table(["--for", "program", "writes", "proved", "limits"], rows))
    for note in HOSTS.notes:
        console.warn(note)
