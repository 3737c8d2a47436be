"""Kills and hostile files, counted: `python -m benchmarks robustness`.

It runs the long tests, which kill runs at random moments and open thousands of mutated files, and counts their cases. A
test that fails is a row that says so. Kills and files are tested at the same time, with a thread each.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from benchmarks.evidence import ROOT, Benchmark, Column, Row, Table, save

BENCHMARK = Benchmark(
    "Do killed runs end in the same bytes, and are hostile files refused?",
    minutes=10,
    small=("--small",),
)

KILLS = (
    "tests/training/test_resume.py::test_a_run_killed_at_random_moments_ends_in_the_same_bytes",
    "tests/training/test_resume.py::test_many_more_kills_change_nothing",
    "tests/training/test_resume.py::test_stopped_by_ctrl_c_then_a_full_disk_then_killed_in_a_save",
    "tests/training/test_resume.py::test_damaged_states_are_skipped_and_reported",
    "tests/srkd/test_then.py::test_a_run_that_died_goes_on_to_the_same_bytes",
)
CHECKPOINTS = "tests/models/test_hostile_checkpoints.py"
FILES = (
    "tests/srkd/test_mutated_files.py",
    f"{CHECKPOINTS}::test_seven_hundred_hostile_files",
    f"{CHECKPOINTS}::test_thousands_of_hostile_files",
)
COLUMNS = (
    Column("test", "test"),
    Column("cases", "cases"),
    Column("passed", "passed"),
    Column("seconds", "s", ".0f"),
    Column("note", ""),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="without the tests that take minutes")
    options = parser.parse_args()
    words = ("-m", "not slow") if options.small else ()
    with ThreadPoolExecutor() as threads:
        kills, files = threads.map(partial(run_tests, words=words), (KILLS, FILES))
    save("robustness", {"kills": table(kills), "files": table(files)})
    return 0


def run_tests(names: Sequence[str], words: Sequence[str]) -> ET.Element:
    """Run tests in a separate process with further arguments of pytest, and return its report."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", f"--junitxml={report}", *words, *names]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        if not report.is_file():
            raise SystemExit(f"pytest did not run: {done.stdout[-500:]}{done.stderr[-500:]}")
        return ET.parse(report).getroot()  # noqa: S314 - pytest has just written it


def table(report: ET.Element) -> Table:
    """Return a row per test with the sums over its cases; a case with a note has a row of its own."""
    rows: dict[str, dict[str, int | float | str]] = {}
    for case in report.iter("testcase"):
        name, _, words = str(case.get("name")).removeprefix("test_").replace("_", " ").partition("[")
        note = "; ".join(str(entry.get("value")) for entry in case.iter("property") if entry.get("name") == "note")
        title = f"{name} ({words[:-1]})" if note and words else name
        row = rows.setdefault(title, {"test": title, "cases": 0, "passed": 0, "seconds": 0.0, "note": note})
        failed = any(case.find(kind) is not None for kind in ("failure", "error", "skipped"))
        row["cases"] = int(row["cases"]) + 1
        row["passed"] = int(row["passed"]) + (not failed)
        row["seconds"] = float(row["seconds"]) + float(case.get("time", 0))
    ordered: list[Row] = list(rows.values())
    return Table(COLUMNS, ordered)


if __name__ == "__main__":
    sys.exit(main())
