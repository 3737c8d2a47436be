"""Opens damaged TorchScript, torch.export and ONNX files: `python -m tests.support.hostile_programs COUNT SEED FOLDER`.

In a process of its own, because these formats are read by native code: a crash must fail a test and not end it. What
srkd runs in a new process, restricted, runs here in a fork of this one under the same limits: that takes milliseconds.
"""

from __future__ import annotations

import json
import os
import random
import sys
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from compressor.base.child import ChildFailed
from compressor.base.context import Progress, no_progress
from compressor.base.errors import SrkdError
from compressor.base.isolation import Limits, restrict_process
from compressor.runtimes import onnx_runtime, probing
from compressor.teachers import programs
from compressor.teachers.teacher import load_teacher
from tests.support.foreign_models import save_export, save_onnx, save_torchscript, twin
from tests.support.hostile_checkpoints import damaged
from tests.support.hostile_files import zipped


def attacks(folder: Path, rng: random.Random) -> Iterator[tuple[str, bytes]]:
    """(suffix, content) without end: bytes of the file, or of one record with its checksum right."""
    files = [
        save_torchscript(twin(), folder / "good.pt"),
        save_export(twin(), folder / "good.pt2"),
        save_onnx(twin(), folder / "good.onnx"),
    ]
    for path in files:
        yield path.suffix, path.read_bytes()
    while True:
        path = rng.choice(files)
        if path.suffix == ".onnx" or rng.random() < 0.4:
            yield path.suffix, damaged(path.read_bytes(), rng)
            continue
        with zipfile.ZipFile(path) as archive:
            records = {name: archive.read(name) for name in archive.namelist()}
        name = rng.choice(list(records))
        if rng.random() < 0.2:
            del records[name]
        else:
            records[name] = damaged(records[name], rng)
        yield path.suffix, zipped(records)


def run_in_fork(
    function: str, job: dict[str, Any], *, what: str, limits: Limits, progress: Progress, **_: object
) -> Any:
    """`run_in_child` without the time that a new interpreter takes."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(reader)
            restrict_process(limits)
            try:
                examine = onnx_runtime.try_in_child if "onnx" in function else programs.examine_in_child
                event: dict[str, Any] = {"result": examine(no_progress, **job)}
            except SrkdError as error:
                event = {"error": str(error)}
            os.write(writer, json.dumps(event).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        answer = stream.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if not answer:
        raise ChildFailed(what, f"exit code {code}", crashed=False)
    event = json.loads(answer)
    if "error" in event:
        raise SrkdError(event["error"])
    return event["result"]


def verdict(path: Path) -> str:
    """`loaded`, `refused`, or what went wrong."""
    try:
        sr = load_teacher(path)(torch.zeros(1, 3, 5, 4))
        return "loaded" if sr.dim() == 4 else f"an output of shape {tuple(sr.shape)}"
    except SrkdError as error:
        said = str(error)
        return "refused" if said.isprintable() and len(said) < 1200 else f"not one line: {said[:300]!r}"
    except Exception as error:
        return repr(error)


def main() -> int:
    count, seed, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)  # a fork has no other threads
    os.environ["SRKD_CACHE"] = str(folder / "cache")
    probing.run_in_child = run_in_fork  # type: ignore[assignment]
    tally, wrong = {"loaded": 0, "refused": 0}, []
    source = attacks(folder, random.Random(seed))
    for number in range(count):
        suffix, content = next(source)
        path = folder / f"hostile{suffix}"
        path.write_bytes(content)
        (folder / "last").write_text(f"attack {number}{suffix}")
        said = verdict(path)
        if said in tally:
            tally[said] += 1
        else:
            wrong.append(f"attack {number}{suffix}: {said}")
    sys.stdout.write(json.dumps({**tally, "wrong": wrong}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
