"""A wheel contains the built app, so that its users need no Node and the demo runs in a browser."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.browser.app_models import Models
from tests.browser.app_site import Site
from tests.browser.visits import OFFLINE, PHONE, ROOT, visiting

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def wheel(app_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a wheel of this checkout as for a release; npm does not run, because the app is built already."""
    pytest.importorskip("build")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("srkd-*.whl")
    return built


def test_a_wheel_contains_the_built_app(wheel: Path, app_folder: Path) -> None:
    """It has every file of the app's list with the listed hash, and the licences."""
    inside = "demo/app/dist/"
    with zipfile.ZipFile(wheel) as packed:
        names = {name.removeprefix(inside) for name in packed.namelist() if name.startswith(inside)}
        listed = packed.read(f"{inside}precache.js").decode()
        files = json.loads(listed.removeprefix("self.PRECACHE = ").rstrip().rstrip(";"))["files"]
        for file in files:
            content = packed.read(inside + file["path"])
            digest = base64.b64encode(hashlib.sha256(content).digest()).decode()
            assert f"sha256-{digest}" == file["integrity"], file["path"]
        assert not any("node_modules" in name for name in packed.namelist())
    assert {"index.html", "sw.js", "precache.js", "THIRD_PARTY.txt", "src/app.js"} <= names
    assert {"ort/ort-wasm-simd-threaded.wasm", "ort/ort-wasm-simd-threaded.asyncify.wasm"} <= names
    assert names == {path.relative_to(app_folder).as_posix() for path in app_folder.rglob("*") if path.is_file()}


def test_a_source_archive_makes_a_wheel_without_node(app_folder: Path, tmp_path: Path) -> None:
    """It contains the built app, too, so that building from it needs no Node and no registry."""
    pytest.importorskip("build")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tmp_path)]
    subprocess.run([*build, "--sdist", str(ROOT)], capture_output=True, text=True, check=True)
    (archive,) = tmp_path.glob("srkd-*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path, filter="data")
    checkout = archive.with_name(archive.name.removesuffix(".tar.gz"))
    place = {**os.environ, "PATH": ""}
    done = subprocess.run([*build, "--wheel", str(checkout)], env=place, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    with zipfile.ZipFile(next(tmp_path.glob("srkd-*.whl"))) as packed_wheel:
        assert packed_wheel.read("demo/app/dist/precache.js") == (app_folder / "precache.js").read_bytes()


def test_its_build_folder_runs_on_a_static_host(
    browser: Browser, wheel: Path, models: Models, serve: Callable[[Site], Site], tmp_path: Path
) -> None:
    """`srkd demo --build` from the wheel, without any program on the path, opened in a browser as plain files."""
    installed, site = tmp_path / "installed", tmp_path / "site"
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(installed)
    command = [sys.executable, "-m", "srkd", "demo", str(models.tiny.path), "--build", str(site), "--quiet"]
    place = {**os.environ, "PYTHONPATH": str(installed), "PATH": "", "SRKD_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(command, cwd=tmp_path, env=place, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    files: dict[str, bytes | Path] = {
        f"sr/{path.relative_to(site).as_posix()}": path for path in site.rglob("*") if path.is_file()
    }
    files["sr/"] = files["sr/index.html"]
    with visiting(browser, serve(Site(files, headers={})), address="sr/", **PHONE) as visit:
        # The host sends no headers: the service worker adds them, and the page reloads.
        visit.until("crossOriginIsolated")
        visit.ready().until(OFFLINE)
        assert visit.text("offline") == "Works offline from now on."
        visit.choose()
        visit.done()
        assert (visit.text("model-name"), visit.text("card-title")) == ("Sharpened", "tiny")
