"""Results for the docs: measured rows are written to docs/results/NAME.json, from which `pages.py` renders every table.

docs/results/README.md describes the whole.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pkgutil
import platform
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeAlias

from compressor.base.files import atomic_path
from compressor.base.machine import installed_version, machine_facts

ROOT = Path(__file__).resolve().parents[1]
SCHEMA = "srkd.result/1"
FOLDER_VARIABLE = "SRKD_RESULTS"
"""Environment variable for another folder than docs/results, such as that of samples."""

Cell: TypeAlias = "str | int | float | bool | None"
Row: TypeAlias = Mapping[str, Cell]


@dataclass(frozen=True)
class Benchmark:
    """The question of a file. `{sets}`, `{photos}`, `{checkpoints}`, `{clones}` in arguments are folders."""

    question: str
    minutes: float
    """Duration of the full form on two threads of a CPU."""
    arguments: tuple[str, ...] = ()
    small: tuple[str, ...] = ()
    """Arguments of the small form, which tests the command in a minute or two."""


@dataclass(frozen=True)
class Column:
    """A column: its key in a row, its title, and the format of numbers, such as `.2f`."""

    key: str
    title: str
    form: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of JSON values under columns, a caption above, and lines of conclusions below."""

    columns: Sequence[Column]
    rows: Sequence[Row]
    caption: str = ""
    conclusions: Sequence[str] = ()

    def render(self) -> str:
        """Return the table as Markdown."""
        titles, rows = [column.title for column in self.columns], [self._cells(row) for row in self.rows]
        lines = [titles, ["---"] * len(titles), *rows]
        table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
        # The site's Markdown takes a list for one only between blank lines.
        joined = "\n".join(self.conclusions)
        conclusions = re.sub(r"^(?!- )(.+)\n(?=- )|^(- .+)\n(?=[^-\n])", r"\1\2\n\n", joined, flags=re.MULTILINE)
        return "\n\n".join(part for part in (self.caption, table, conclusions) if part)

    def _cells(self, row: Row) -> list[str]:
        return [_written(row.get(column.key), column.form) for column in self.columns]


def _written(value: Cell, form: str) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else format(value, form)


@dataclass(frozen=True)
class Result:
    """The tables of a benchmark, with date, machine and command of their measurement."""

    benchmark: str
    question: str
    command: str
    date: str
    machine: Mapping[str, object]
    versions: Mapping[str, str | None]
    seeds: Sequence[int]
    tables: Mapping[str, Table] = field(default_factory=dict)

    @classmethod
    def read(cls, file: Path) -> Result:
        (result,) = cls.read_all(file)
        return result

    @classmethod
    def read_all(cls, file: Path) -> list[Result]:
        """Return the results of a file: one, or those of the settled questions."""
        content = json.loads(file.read_text(encoding="utf-8"))
        return [cls._of(one, file) for one in (content if isinstance(content, list) else [content])]

    @classmethod
    def _of(cls, content: dict[str, Any], file: Path) -> Result:
        if content.pop("schema") != SCHEMA:
            raise ValueError(f"{file}: written by another version of this code: run its command again")
        tables = {
            name: Table(**{**table, "columns": [Column(**column) for column in table["columns"]]})
            for name, table in content.pop("tables").items()
        }
        return cls(**content, tables=tables)

    def write(self, folder: Path) -> Path:
        """Write NAME.json, and return its path."""
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{self.benchmark}.json"
        with atomic_path(file) as temporary:
            temporary.write_text(json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1) + "\n", encoding="utf-8")
        return file

    def sentences(self, pattern: str) -> str:
        """Return a list of the sentences of the rows whose names match; a row's `sentence` has no column."""
        rows = [row for table in self.tables.values() for row in table.rows if row.get("sentence")]
        lines = [f"- {row['sentence']}" for row in rows if fnmatchcase(str(row["name"]), pattern)]
        if not lines:
            raise KeyError(f"{self.benchmark}.json: no row with a sentence is named {pattern}")
        return "\n".join(lines)

    def page(self) -> str:
        """Return the result as a page of Markdown."""
        machine = self.machine
        threads = machine["torch_threads"]  # None for a measurement without torch
        lines = [
            f"# {self.question}",
            "",
            f"    {self.command}",
            "",
            f"{self.date[:10]}; {machine['cpu']}, "
            + ("" if threads is None else f"{threads} thread(s) in torch, ")
            + f"{machine['os']}; "
            + ", ".join(f"{name} {version}" for name, version in self.versions.items() if version)
            + (f"; seeds {', '.join(map(str, self.seeds))}." if self.seeds else "."),
        ]
        for table in self.tables.values():
            lines += ["", table.render()]
        return "\n".join(lines)


FACTS = ("cpu", "usable_cores", "memory_mb", "torch_threads", "python", "gpu")
LIBRARIES = (*("torch", "onnx", "onnxruntime", "openvino", "ncnn", "ai-edge-litert", "ai-edge-quantizer", "numpy"),)


def results_folder() -> Path:
    return Path(os.environ.get(FOLDER_VARIABLE, ROOT / "docs" / "results"))


SETTLED = "settled.json"
"""The file of the results of settled questions."""


def find_result(name: str, folder: Path) -> Result | None:
    """Return a result, from its own file or from that of the settled ones; None if it was not measured."""
    file = folder / f"{name}.json"
    if file.is_file():
        return Result.read(file)
    settled = Result.read_all(folder / SETTLED) if (folder / SETTLED).is_file() else []
    return next((result for result in settled if result.benchmark == name), None)


def results_of(folder: Path) -> dict[str, tuple[Path, Result]]:
    """Return every result of a folder by name, with its file; the settled ones share a file."""
    files = sorted(folder.glob("*.json"))
    return {result.benchmark: (file, result) for file in files for result in Result.read_all(file)}


def add_variant_option(parser: argparse.ArgumentParser) -> None:
    """Add `--variant`, which `save` takes."""
    parser.add_argument("--variant", default="", help="what the result is called beside that of the plain command")


def save(
    name: str,
    tables: Mapping[str, Table] | Table,
    *,
    seeds: Sequence[int] = (),
    variant: str = "",
    threads: int | None = None,
    parts: Sequence[str] = (),
) -> Path:
    """Write and print the result of a benchmark.

    Folders in its command are shortened to their last part; where it keeps its runs is left out, and so are `parts`,
    options that choose which tables are measured anew while the file keeps the others.

    A `variant` is the same question for other networks or devices, in a separate file NAME-VARIANT. `threads` are those
    of processes that measured apart from this one.
    """
    from srkd.runs.code import own_version  # it imports torch, which pages do without

    facts, question = machine_facts(), benchmark_of(name)
    if threads is not None:
        facts = {**facts, "torch_threads": threads}
    assert question is not None, f"benchmarks/{name}.py asks no question"
    given = without_private(sys.argv[1:], (*PRIVATE, *parts))
    words = [Path(word).name if "/" in word else word for word in given]
    result = Result(
        benchmark=f"{name}-{variant}" if variant else name,
        question=question.question,
        command=" ".join(["python -m benchmarks", name, *map(shlex.quote, words)]),
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        machine={"os": platform.system(), **{name: facts[name] for name in FACTS}},
        versions={"srkd": own_version(), **{library: installed_version(library) for library in LIBRARIES}},
        seeds=tuple(seeds),
        tables={"": tables} if isinstance(tables, Table) else dict(tables),
    )
    print(result.page())
    return result.write(results_folder())


PRIVATE = ("--out", "--rows")
"""Options that say where runs and rows are kept, which changes no figure. A number after --rows is a limit instead."""


def without_private(words: Sequence[str], private: Sequence[str] = PRIVATE) -> list[str]:
    """Return a command's words without the options that say only where something is kept."""
    kept, skipped = list[str](), False
    for word, following in zip(words, [*words, ""][1:], strict=True):
        option, _, value = word.partition("=")
        if skipped:
            skipped = False
        elif option in private and not (value or following).isdecimal():
            skipped = not value
        else:
            kept.append(word)
    return kept


class Rows:
    """A cache of rows in a file, written as they are measured, so that a repeated command continues."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.kept: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}

    def get(self, key: str, measure: Callable[[], Any]) -> Any:
        """Return the row of this key; measure it if it is missing."""
        if key not in self.kept:
            self.kept[key] = measure()
            print(f"{key}: {json.dumps(self.kept[key])}", file=sys.stderr, flush=True)
            with atomic_path(self.file) as temporary:
                temporary.write_text(json.dumps(self.kept, indent=1), encoding="utf-8")
        return self.kept[key]


def module_names() -> list[str]:
    """Return the names of the modules in this folder."""
    modules = pkgutil.iter_modules([str(ROOT / "benchmarks")])
    return sorted(module.name for module in modules if module.name[0] != "_")


def benchmark_of(name: str) -> Benchmark | None:
    """Return the benchmark of a module, or None."""
    question: Benchmark | None = getattr(importlib.import_module(f"benchmarks.{name}"), "BENCHMARK", None)
    return question


def benchmarks() -> dict[str, Benchmark]:
    """Return all benchmarks in this folder by module name."""
    questions = {name: benchmark_of(name) for name in module_names()}
    return {name: question for name, question in questions.items() if question is not None}
