"""The share of lines and branches that the tests reach: `python -m benchmarks branches_covered [TESTS...]`.

It runs `make coverage`, which runs all tests that need no browser, those of optional libraries included. Code that only
runs in a child process counts as missed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from benchmarks.evidence import FOLDER_VARIABLE, ROOT, Benchmark, Column, Row, Table, save

BENCHMARK = Benchmark(
    "How many branches of the packages do the tests reach?",
    minutes=30,
    small=("tests/base/test_memory.py",),
)
PACKAGES = ("compressor", "recipes", "export")
COLUMNS = (
    Column("package", "package"),
    Column("lines", "lines", ",d"),
    Column("lines_percent", "reached, %", ".1f"),
    Column("branches", "branches", ",d"),
    Column("branches_percent", "reached, %", ".1f"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tests", nargs="*", help="test files or folders; none: all that need no browser")
    options = parser.parse_args()
    # Tests compare the docs with the results that are committed, wherever those of this run go. The exit code is 1 if a
    # share is below 90 %, which the table shows.
    environment = {name: value for name, value in os.environ.items() if name != FOLDER_VARIABLE}
    command = ["make", "coverage", f"TESTS={' '.join(options.tests)}"]
    subprocess.run(command, cwd=ROOT, env=environment, stdout=sys.stderr, check=False)
    save("branches_covered", Table(COLUMNS, [row(package, totals(package)) for package in PACKAGES]))


def totals(package: str) -> Mapping[str, float]:
    """Return coverage's totals of a package."""
    report = ROOT / "build" / "coverage" / "report.json"
    command = [sys.executable, "-m", "coverage", "json", "-q", f"--include={package}/*", "-o", str(report)]
    subprocess.run(command, cwd=ROOT, check=True)
    figures: Mapping[str, float] = json.loads(Path(report).read_text(encoding="utf-8"))["totals"]
    return figures


def row(package: str, figures: Mapping[str, float]) -> Row:
    """Return the row of a package from its totals."""
    return {
        "package": package,
        "lines": int(figures["num_statements"]),
        "lines_percent": 100 * figures["covered_lines"] / figures["num_statements"],
        "branches": int(figures["num_branches"]),
        "branches_percent": 100 * figures["covered_branches"] / figures["num_branches"],
    }
