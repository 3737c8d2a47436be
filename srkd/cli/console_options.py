"""The options that control printing, which every verb and `srkd` itself have."""

from __future__ import annotations

import click


def console_options(*, json: bool, csv: bool = False, latex: bool = False) -> list[click.Parameter]:
    rows = (("json", "one JSON object", json), ("csv", "the table as CSV", csv), ("latex", "the table as LaTeX", latex))
    where = "on stdout, everything else on stderr"
    return [
        *(
            click.Option([f"--{name}", f"as_{name}"], is_flag=True, help=f"Print {what} {where}.")
            for name, what, is_there in rows
            if is_there
        ),
        click.Option(["-v", "--verbose"], is_flag=True, help="Print more; show the traceback of an error."),
        click.Option(["-q", "--quiet"], is_flag=True, help="Print only results, warnings and errors."),
    ]
