"""Running of srkd in a separate process, as a user does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """Return the JSON object on stdout; fail if there is anything else."""
        value = json.loads(self.out)
        assert isinstance(value, dict)
        return value


def srkd(*arguments: object, cwd: Path | None = None, timeout: float = 240.0, **environment: str) -> Outcome:
    return python("-m", "srkd", *arguments, cwd=cwd, timeout=timeout, **environment)


def python(*arguments: object, cwd: Path | None = None, timeout: float = 240.0, **environment: str) -> Outcome:
    """Run this Python with the repository on its path and return the outcome."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    command, environment = [sys.executable, *map(str, arguments)], {**os.environ, "PYTHONPATH": path, **environment}
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def is_gone(process: int, seconds: float) -> bool:
    """Return whether a process ends within `seconds`; a zombie counts as ended."""
    for _ in range(round(seconds * 20)):
        try:
            if psutil.Process(process).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.05)
    return False
