"""The options that control printing, which every verb and `srkd` itself have."""

from __future__ import annotations

import click


def console_options(*, json: bool, csv: bool = False, latex: bool = False) -> list[click.Parameter]:
    """The options that control printing; `json` adds --json, `csv` --csv, `latex` --latex."""
    options: list[click.Parameter] = [
        click.Option(["-v", "--verbose"], is_flag=True, help="Print more; show the traceback of an error."),
        click.Option(["-q", "--quiet"], is_flag=True, help="Print only results, warnings and errors."),
    ]
    if latex:
        help_text = "Print the table as LaTeX on stdout, everything else on stderr."
        options.insert(0, click.Option(["--latex", "as_latex"], is_flag=True, help=help_text))
    if csv:
        help_text = "Print the table as CSV on stdout, everything else on stderr."
        options.insert(0, click.Option(["--csv", "as_csv"], is_flag=True, help=help_text))
    if json:
        help_text = "Print one JSON object on stdout, everything else on stderr."
        options.insert(0, click.Option(["--json", "as_json"], is_flag=True, help=help_text))
    return options
