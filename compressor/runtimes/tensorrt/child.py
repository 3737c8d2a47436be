"""The child process that `apart.py` starts: build or try an engine; the job on stdin, events on stdout."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any, TextIO

import numpy as np

from compressor.base.errors import SrkdError


def _build(job: dict[str, Any], tell: Callable[[object], None]) -> dict[str, object]:
    from compressor.runtimes.tensorrt.build import BuildJob, build
    from compressor.runtimes.tensorrt.cuda import open_cuda
    from compressor.runtimes.tensorrt.library import tensorrt

    open_cuda(job.pop("device"))  # the builder measures on the device that is current

    def progress(title: str, done: int, total: int) -> None:
        tell({"progress": [title, done, total]})

    return build(tensorrt(), BuildJob(**job), progress)


def _try(job: dict[str, Any], tell: Callable[[object], None]) -> dict[str, object]:
    """Open an engine and run it once on its smallest image."""
    from pathlib import Path

    from compressor.runtimes.tensorrt.cuda import open_cuda
    from compressor.runtimes.tensorrt.engine_file import read_engine
    from compressor.runtimes.tensorrt.library import tensorrt
    from compressor.runtimes.tensorrt.session import Session

    cuda = open_cuda(job["device"])
    session = Session(tensorrt(), cuda, read_engine(Path(job["path"])).plan, job["label"])
    result = session.run(np.zeros(session.shapes.smallest, np.float32))
    return {"shape": list(result.shape)}


TASKS: dict[str, Callable[[dict[str, Any], Callable[[object], None]], dict[str, object]]] = {
    "build": _build,
    "try": _try,
}


def main() -> int:
    # What native code prints must not get between the events.
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    job = json.load(sys.stdin)
    try:
        _tell(events, {"done": TASKS[sys.argv[1]](job, lambda event: _tell(events, event))})
    except SrkdError as error:
        _tell(events, {"error": str(error)})
    return 0


def _tell(events: TextIO, event: object) -> None:
    events.write(json.dumps(event) + "\n")
    events.flush()


if __name__ == "__main__":
    # Tearing down CUDA and TensorRT in Python's own order can crash after all was well.
    CODE = main()
    sys.stderr.flush()
    os._exit(CODE)
