"""Results as Markdown: the tables of the site's pages, the README's table, a page a result, and the list of all.

A line `[result: NAME](path/of/FILE.json)` on a page of the docs stands for a table: the site shows the table in its
place, a code host the link. `NAME.TABLE` selects one of several tables in a file; `NAME/ROW` shows the sentences of the
rows of that name (`*`: any). What has not been measured yet has no link. The README has its tables itself, between
`<!-- result: NAME -->` and `<!-- end of result -->`; `python -m benchmarks docs` writes them there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from benchmarks.evidence import ROOT, Result, benchmarks, find_result, results_of

README = ROOT / "README.md"
NAME = r"([\w-]+)(?:\.([\w-]+)|/([\w*-]+))?"
MARK = re.compile(rf"^\[result: {NAME}\](?:\([^)\n]*\))?$", re.MULTILINE)
FILLED = re.compile(rf"^(<!-- result: {NAME} -->\n).*?^(<!-- end of result -->)", re.DOTALL | re.MULTILINE)


def pages() -> Iterator[Path]:
    """Yield the pages whose marks the site replaces by results."""
    yield from sorted((ROOT / "docs").rglob("*.md"))


def with_results(text: str, folder: Path) -> str:
    """Return a page with its results in place of their marks."""
    return MARK.sub(lambda match: rendered(match[1], match[2], match[3], folder), text)


def filled(text: str, folder: Path) -> str:
    """Return the README with its results as they are now."""
    return FILLED.sub(lambda match: f"{match[1]}{rendered(match[2], match[3], match[4], folder)}\n{match[5]}", text)


def rendered(name: str, table: str | None, row: str | None, folder: Path) -> str:
    """Return a table of a result, or the sentences of a row."""
    result = find_result(name, folder)
    if result is None or not (row or (table or "") in result.tables):
        return f"*Not run yet: `{command_of(name)}`.*"
    return result.sentences(row) if row else result.tables[table or ""].render()


def command_of(name: str) -> str:
    """Return the command that measures a result; `make evidence-gpu` makes all that need a GPU."""
    question, _, variant = name.partition("-")
    if variant.startswith("gpu"):
        return "make evidence-gpu"
    return f"python -m benchmarks {question}" + (f" --variant {variant}" if variant else "")


def question_of(name: str) -> str:
    """Return the name of the benchmark that writes a result."""
    return name.partition("-")[0]


def shown_results() -> set[str]:
    """Return the names of the results that pages show, measured or not."""
    return {match[1] for page in pages() for match in MARK.finditer(page.read_text(encoding="utf-8"))}


def index(folder: Path) -> str:
    """Return the table of every question that can be asked, with its results, and those that pages still miss."""
    lines = ["| question | command | measured |", "|---|---|---|"]
    names = results_of(folder).keys() | shown_results()
    for benchmark_name, benchmark in benchmarks().items():
        of_benchmark = sorted(name for name in names if question_of(name) == benchmark_name)
        lines += [_index_row(name, benchmark.question, folder) for name in of_benchmark or [benchmark_name]]
    return "\n".join(lines) + "\n"


def _index_row(name: str, question: str, folder: Path) -> str:
    variant, file = name.partition("-")[2], folder / f"{name}.json"
    question += f" ({variant})" if variant else ""
    if not file.is_file():
        return f"| {question} | `{command_of(name)}` | not run yet |"
    result = Result.read(file)
    return f"| [{question}]({name}.json) | `{result.command}` | {result.date[:10]} |"
