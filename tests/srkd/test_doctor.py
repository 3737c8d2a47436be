"""`srkd doctor` reads the tables of formats, runtimes and devices, and the notes about installed packages."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import demo.files
from compressor.base.errors import MissingExtra
from compressor.models.networks.registry import NETWORKS
from compressor.runtimes.table import RUNTIMES
from export.formats.table import FORMATS
from srkd.api.doctor import CORE, OF_FORMATS, OF_RUNTIMES, OTHERS, REQUIRED, Diagnosis, Piece, diagnose
from srkd.cli.main import run
from tests.support.commands import ROOT


def named(diagnosis: Diagnosis, group: str) -> dict[str, Piece]:
    return {piece.name: piece for piece in diagnosis.group(group)}


def test_every_row_of_the_tables_is_a_piece() -> None:
    diagnosis = diagnose()
    required = re.findall(
        r'^  "([\w-]+)>=', (ROOT / "pyproject.toml").read_text().partition("[project.optional")[0], re.M
    )
    assert list(named(diagnosis, REQUIRED)) == list(CORE) == required
    assert {"heif", "hub", "ray", "spandrel", "video"} <= named(diagnosis, OTHERS).keys()
    assert list(named(diagnosis, OF_FORMATS)) == list(FORMATS)
    assert list(named(diagnosis, OF_RUNTIMES)) == list(RUNTIMES)
    assert all(piece.ready or piece.command or piece.remark for piece in diagnosis.pieces)


def test_an_obstacle_and_missing_modules_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """An obstacle stands in place of a command, as no package removes it."""
    row = dataclasses.replace(RUNTIMES["ncnn"], obstacle=lambda: "no such device here")
    monkeypatch.setitem(RUNTIMES.rows, "ncnn", row)
    new = dataclasses.replace(FORMATS["onnx"], name="new", needs=("no_such_module",), extra="ncnn")
    monkeypatch.setitem(FORMATS.rows, "new", new)
    diagnosis = diagnose()
    ncnn, lacking = named(diagnosis, OF_RUNTIMES)["ncnn"], named(diagnosis, OF_FORMATS)["new"]
    assert (ncnn.ready, ncnn.command, ncnn.remark) == (False, None, "no such device here")
    assert (lacking.ready, lacking.missing) == (False, ("no_such_module",))
    assert lacking.command == MissingExtra.command("ncnn")


@pytest.mark.ci
def test_the_demo_is_ready_only_with_its_built_app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's packages alone are not enough: the page must be built, too."""

    def demo_app() -> Piece:
        return named(diagnose(), OTHERS)["demo app"]

    app = tmp_path / "dist"
    monkeypatch.setattr(demo.files, "APP", app)
    missing = demo_app()
    assert (missing.ready, missing.missing, missing.remark) == (False, ("built app",), None)
    assert str(missing.command).startswith("pip install ")
    app.mkdir()
    (app / "index.html").write_text("page")
    assert (demo_app().ready, demo_app().command, demo_app().remark) == (True, None, None)


def test_another_distribution_with_a_name_of_ours_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "export_tools-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: export-tools\nVersion: 1.0\n")
    (folder / "top_level.txt").write_text("export\nexport_tools\n")
    assert not [note for note in diagnose().notes if "export-tools" in note]
    monkeypatch.syspath_prepend(str(tmp_path))
    (note,) = (note for note in diagnose().notes if "export-tools" in note)
    assert note.startswith("export-tools installs a package 'export' too")
    assert note.endswith("pip uninstall export-tools && pip install --force-reinstall --no-deps srkd")


@pytest.mark.ci
@pytest.mark.parametrize("name", ["export.py", "demo/__init__.py"])
def test_a_file_that_hides_a_package_is_one_line(tmp_path: Path, name: str) -> None:
    """This happens in a user's project, whose folder `python -m` puts first on Python's path."""
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.touch()
    command = [sys.executable, "-m", "srkd", "doctor"]
    place = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=place, capture_output=True, text=True, check=False)
    package = Path(name).parts[0].removesuffix(".py")
    line = f"srkd: {file} hides srkd's package {package!r}: rename it, or run `srkd` in another folder\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", line)


def test_packages_that_cannot_be_used_are_warned_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    note = "network edsr of another-package is refused"
    monkeypatch.setattr(NETWORKS, "_notes", [note])
    assert run(["doctor"]) == 0
    output = capsys.readouterr()
    assert output.err == f"srkd: warning: {note}\n"
    assert all(title in output.out for title in (OF_FORMATS, OF_RUNTIMES, OTHERS))
