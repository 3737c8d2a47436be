"""Full disk, missing permission, foreign and broken files: a one-line error each, and no partial files."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import onnx
import pytest

from compressor.base.errors import SrkdError
from compressor.inference.open import open_model
from compressor.models.checkpoints.save import save_network
from compressor.models.networks.base import Network
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build
from export.convert import to_onnx
from export.formats.conversion import DEFAULTS, FileOptions
from export.graph.onnx_graph import build_graph
from export.writing.exporting import FileReport, Source, export_model
from export.writing.record import read_record
from tests.support.commands import ROOT, python
from tests.support.deaths import file_size_limit

SPEC = EDSRSpec(width=8, depth=1, scale=2)
NOBODY = 65534
PRELOADED = (
    "srkd.api.export, srkd.api.upscale, srkd.cli.main, srkd.cli.verbs.export, srkd.cli.verbs.upscale, "
    "compressor.teachers.teacher, rich.progress"
)
"""Modules to import before the user changes: the other user may not read this Python's files."""


@pytest.fixture(scope="module")
def graph() -> onnx.ModelProto:
    return build_graph(build(SPEC, seed=0), None, 18)


@pytest.fixture
def network(graph: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch) -> Network:
    """A network whose graph is traced once for all tests, as these concern later steps."""
    monkeypatch.setattr(to_onnx, "shared_graph", lambda *_: _copied(graph))
    return build(SPEC, seed=0)


def _copied(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def refused(network: Network, folder: Path, options: FileOptions = DEFAULTS) -> FileReport:
    (file,) = export_model(network, Source("small"), ["onnx"], folder, options=options).files
    assert file.verdict == "failed" and file.path is None and "\n" not in str(file.reason)
    return file


@pytest.mark.skipif(sys.platform == "win32", reason="limits of a process")
def test_no_room(network: Network, tmp_path: Path) -> None:
    (tmp_path / "small.onnx").write_bytes(b"older")
    with file_size_limit(3000):
        file = refused(network, tmp_path)
    assert "cannot write" in str(file.reason) and "small.onnx" in str(file.reason)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"small.onnx": b"older"}


@pytest.mark.ci
@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() != 0, reason="only root can become somebody else")
def test_a_folder_that_may_not_be_read(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    save_network(build(SPEC, seed=0), closed / "small.safetensors")
    (closed / "small.onnx").write_bytes(b"")
    tmp_path.chmod(0o755)
    for arguments in (
        ["export", f"{closed}/small.safetensors", "--onnx"],
        ["upscale", f"{closed}/small.onnx", f"{closed}/photo.png"],
    ):
        program = f"import os, {PRELOADED}; os.seteuid({NOBODY}); raise SystemExit(srkd.cli.main.run({arguments!r}))"
        message = python("-c", program)
        assert message.code == 1 and len(message.err.strip().splitlines()) == 1 and "Traceback" not in message.err
        assert "ermission denied" in message.err
    assert {path.name for path in closed.iterdir()} == {"small.safetensors", "small.onnx"}


def test_a_file_of_another_kind_is_one_line(tmp_path: Path, graph: onnx.ModelProto) -> None:
    """Complete ONNX files with sequences, with text, and with a graph without outputs."""
    head, image = '<ir_version: 8, opset_import: ["" : 18]> g', "[n, 3, h, w]"
    text = onnx.parser.parse_model(f"{head} (string{image} x) => (string{image} y) {{ y = Identity(x) }}")
    two = onnx.parser.parse_model(
        f"{head} (float{image} x) => (float{image} y, float{image} z) {{ y = Relu(x) z = Neg(x) }}"
    )
    loose = _copied(graph)
    del loose.graph.node[5]
    newer = _copied(graph)
    newer.opset_import[0].version = 999
    foreign = _copied(graph)
    foreign.graph.node[2].domain = "com.example"
    cases = {"text": text, "two": two, "loose": loose, "newer": newer, "foreign": foreign}
    for name, model in cases.items():
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(model.SerializeToString())
        with pytest.raises(SrkdError) as caught:
            open_model(path)
        assert name in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 700


@pytest.mark.ci
def test_an_export_that_is_ended_leaves_nothing_behind(tmp_path: Path) -> None:
    save_network(build(SPEC, seed=0), tmp_path / "small.safetensors")
    for attempt in range(5):
        out = tmp_path / f"out{attempt}"
        code, err = _export_until_something_is_written(tmp_path / "small.safetensors", out)
        names = {path.name for path in out.glob("*")}
        assert "Traceback" not in err
        if code and not names:
            assert code == 143
            return
        # On a busy machine the signal may come after the file is written; then whole files are there.
        assert (code or 143) == 143 and names <= {"small.fp16.onnx", "small.md", "exports.json"}
    raise AssertionError("no attempt was ended in time")


def _export_until_something_is_written(model: Path, out: Path) -> tuple[int, str]:
    """Send SIGTERM to an export as soon as its folder is not empty; return its exit code and stderr."""
    process = subprocess.Popen(
        [sys.executable, "-m", "srkd", "export", str(model), "-o", str(out), "--fp16"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 120
        while not (out.is_dir() and any(out.iterdir())):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        process.terminate()
        _, err = process.communicate(timeout=120)
    finally:
        process.kill()
    return process.returncode, err


SLOW_RECORD = """
import sys, time
from export.writing import record
read = record.read_record
def slowly(folder):
    entries = read(folder)
    time.sleep(3)
    return entries
record.read_record = slowly
from srkd.cli.main import main
main(sys.argv[1:])
"""


@pytest.mark.ci
def test_two_exports_into_one_folder_at_once_are_both_in_its_record(tmp_path: Path) -> None:
    model, out = tmp_path / "small.safetensors", tmp_path / "out"
    save_network(build(SPEC, seed=0), model)
    with ThreadPoolExecutor(2) as pool:
        formats = ("--onnx", "--fp16")
        ended = list(pool.map(lambda name: python("-c", SLOW_RECORD, "export", model, "-o", out, name), formats))
    assert [outcome.code for outcome in ended] == [0, 0], ended
    names = {"small.onnx", "small.fp16.onnx"}
    assert {path.name for path in out.iterdir()} == {*names, "small.md", "exports.json"}
    assert read_record(out).keys() == names
    assert all(name in (out / "small.md").read_text() for name in names)
