"""Running of commands one after the other, each once: its output is written to a JSON file as soon as it ends.

A command that succeeded, according to its file, is not repeated, so that the whole can be stopped and restarted.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.evidence import ROOT
from compressor.base.files import atomic_path
from compressor.base.machine import machine_facts


@dataclass(frozen=True)
class Part:
    """A question, its approximate duration in minutes, and the command (of `python -m`) that answers it."""

    name: str
    question: str
    minutes: float
    command: tuple[str, ...]
    needs: str = ""
    """Missing requirements, such as options that were not given; empty if there are none."""

    @property
    def line(self) -> str:
        return f"{self.name}: {self.question} (about {self.minutes:g} min)"


def answer_all(parts: Sequence[Part], out: Path, environment: Mapping[str, str]) -> int:
    """Run the parts without a successful result; return the exit code, 1 if one failed."""
    failed = [part.name for part in parts if not is_answered(part, out, environment)]
    print(f"not answered: {', '.join(failed)}" if failed else "all answered", f"({out})")
    return 1 if failed else 0


def is_answered(part: Part, out: Path, environment: Mapping[str, str]) -> bool:
    """Run a part, unless it succeeded before; return whether it succeeded or is left out."""
    file = out / f"{part.name}.json"
    if part.needs:
        print(f"{part.name}: left out, it needs {part.needs}", flush=True)
        return True
    if file.is_file() and json.loads(file.read_text(encoding="utf-8"))["exit_code"] == 0:
        print(f"{part.name}: answered before ({file})", flush=True)
        return True
    print(part.line, flush=True)
    answer = ask(part, environment)
    with atomic_path(file) as temporary:
        temporary.write_text(json.dumps(answer, indent=1) + "\n", encoding="utf-8")
    print(f"  exit code {answer['exit_code']} after {answer['seconds']:.0f} s", flush=True)
    return bool(answer["exit_code"] == 0)


def ask(part: Part, environment: Mapping[str, str]) -> dict[str, Any]:
    """Run the part's command; return its output, exit code and duration."""
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", *part.command],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        result: object = json.loads(done.stdout)
    except ValueError:
        result = done.stdout.splitlines()
    return {
        "part": part.name,
        "question": part.question,
        "command": ["python", "-m", *part.command],
        "exit_code": done.returncode,
        "seconds": round(time.monotonic() - started, 1),
        "result": result,
        "errors": done.stderr.splitlines()[-40:],
        "machine": machine_facts(),
    }
