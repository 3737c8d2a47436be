"""`srkd hosts`: a list of the programs that `srkd export --for` writes for."""

from __future__ import annotations

from export.hosts.table import HOSTS, Host
from srkd.cli.verb import verb
from srkd.options.values import as_tuple
from srkd.options.verbs import HostsOptions
from srkd.terminal.console import Console, Records


@verb("hosts", HostsOptions, examples=("srkd hosts", "srkd hosts upscayl mpv", "srkd hosts --json"), csv=True)
def command(console: Console, options: HostsOptions) -> None:
    """List the programs that srkd export --for writes for.

    The table says what is written for each, where such files were run, and what does not run there. NAMES are those of
    --for; all without them.
    """
    hosts = tuple(HOSTS.find(name) for name in as_tuple(options.names)) or tuple(HOSTS.values())
    if console.wants_json:
        console.emit("hosts", {"hosts": records(hosts)})
    elif console.wants_csv:
        console.write_csv(records(hosts))
    else:
        rows = [(host.name, host.title, host.writes, host.proved, host.limits) for host in hosts]
        console.table(["--for", "program", "writes", "proved", "limits"], rows)
        for note in HOSTS.notes:
            console.warn(note)


def records(hosts: tuple[Host, ...]) -> Records:
    """A row of values for each host."""
    return [
        {
            "name": host.name,
            "title": host.title,
            "writes": host.writes,
            "proved": host.proved,
            "limits": host.limits,
            "package": host.distribution,
        }
        for host in hosts
    ]
