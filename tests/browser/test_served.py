"""The page from `srkd demo` as a user starts it, and from the folder that a wheel writes for a static host."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from PIL import Image

from tests.browser.app_models import Models, png, sample_rgb
from tests.browser.app_site import Site, app_files
from tests.browser.visits import OFFLINE, PHONE, PHONE_HOST, App
from tests.support.commands import ROOT, srkd
from tests.support.demo_server import create_certificate, lines_until, running

pytestmark = pytest.mark.browser


@contextmanager
def demo(*arguments: object) -> Iterator[Site]:
    """Run `srkd demo` like a user, and yield its site once it answers."""
    for module in ("starlette", "uvicorn", "segno"):
        pytest.importorskip(module)
    process = subprocess.Popen(
        [sys.executable, "-m", "srkd", "demo", *map(str, arguments), "--port", "0", "--json"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        url = json.loads(lines_until(process, "}"))["addresses"][0]["url"]
        yield Site({}, port=urlsplit(url).port or 0)
    finally:
        process.terminate()  # a program in the background ignores Ctrl-C
        process.communicate(timeout=120)


def test_a_fresh_page_from_srkd_demo(app: App, models: Models, tmp_path: Path) -> None:
    """The page is isolated, has samples and both models, enlarges, works offline; its policy allows no other host."""
    with (
        demo(models.tiny.path, "--teacher", models.tiny.path) as site,
        # The browser itself reports what it refuses.
        app.visit(site, expected=("Content Security Policy", "127.0.0.1:1"), **PHONE) as visit,
    ):
        assert visit.titles() == ["Ordinary", "Sharpened", "Large network"]
        assert visit.page.evaluate("crossOriginIsolated") is True
        with Image.open(visit.enlarge().saved(tmp_path)) as saved:
            assert saved.width > 100
        visit.until(OFFLINE)
        visit.page.evaluate(
            """() => {
                window.refused = [];
                document.addEventListener("securitypolicyviolation", (event) => refused.push(event.effectiveDirective));
                fetch("http://127.0.0.1:1/").catch(() => {});
                const image = new Image();
                image.src = "http://127.0.0.1:1/x.png";
                const script = document.createElement("script");
                script.textContent = "document.title = 'written inline'";
                document.body.append(image, script);
            }"""
        )
        for directive in ("connect-src", "img-src", "script-src-elem"):
            visit.until(f"window.refused.includes('{directive}')")
        assert visit.page.title() != "written inline"


def test_plain_http_from_another_machine_says_what_is_missing_and_works(
    app: App, models: Models, tmp_path: Path
) -> None:
    """Like a phone that opens this machine's address, which the server printed, in the local network."""
    built = srkd("demo", models.tiny.path, "--build", tmp_path / "site", "--quiet")
    assert built.code == 0, built.err
    expected = ("Cross-Origin-Opener-Policy",)  # The browser says that it ignores the header here.
    with (
        running(tmp_path / "site", {PHONE_HOST}) as port,
        app.visit(Site({}, port=port), address=f"http://{PHONE_HOST}:{port}/", expected=expected, **PHONE) as visit,
    ):
        secure = "[isSecureContext, crossOriginIsolated, 'serviceWorker' in navigator]"
        assert visit.page.evaluate(secure) == [False] * 3
        assert visit.text("engine") == "WebAssembly · 1 thread"
        assert "plain http" in visit.text("why")
        assert "One thread: browsers share memory between threads on https and localhost only." in visit.text("why")
        assert visit.text("offline") == "Not kept for offline use: that needs https or localhost."
        assert visit.page.is_disabled("#live")
        assert "https" in (visit.page.get_attribute("#live", "title") or "")
        assert visit.page.get_attribute("#shoot", "capture") == "environment"
        photo = tmp_path / "photo.png"
        photo.write_bytes(png(sample_rgb("coffee", 48)))
        visit.page.set_input_files("#shoot", photo)
        assert visit.saved(tmp_path).read_bytes().startswith(b"\x89PNG")


def test_https_after_a_dismissed_warning(app: App, models: Models, tmp_path: Path) -> None:
    """It has threads and other secure features, but not offline use: browsers refuse the service worker.

    The certificate is made with the command of docs/use/demo.md; no authority has signed it.
    """
    certificate, key = create_certificate(tmp_path, "demo", "DNS:localhost")
    with demo(models.tiny.path, "--tls-cert", certificate, "--tls-key", key) as site:
        options = {"address": f"https://localhost:{site.port}/", "ignore_https_errors": True}
        # The browser reports it itself, too.
        with app.visit(site, expected=("certificate",), **options, **PHONE) as visit:
            assert visit.page.evaluate("[isSecureContext, crossOriginIsolated]") == [True, True]
            assert visit.page.is_enabled("#live")
            visit.enlarge()
            visit.until("document.querySelector('#offline').textContent.startsWith('Not kept for offline use:')")
            assert "certificate" in visit.text("offline")


@pytest.fixture(scope="module")
def wheel(app_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a source archive and from it a wheel, as for a release; without Node, as the app is built already."""
    pytest.importorskip("build")
    folder = tmp_path_factory.mktemp("wheel")

    def build(kind: str, source: Path, **variables: str) -> None:
        command = [sys.executable, "-m", "build", kind, "--no-isolation", "--outdir", str(folder), str(source)]
        environment = {**os.environ, **variables}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    build("--sdist", ROOT)
    (archive,) = folder.glob("srkd-*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    build("--wheel", archive.with_name(archive.name.removesuffix(".tar.gz")), PATH="")
    (built,) = folder.glob("srkd-*.whl")
    return built


def test_a_wheel_contains_the_built_app(wheel: Path, app_folder: Path, tmp_path: Path) -> None:
    """It has every file of the app's list with the listed hash, and the licences, packed."""
    assert wheel.stat().st_size <= 12_000_000
    with zipfile.ZipFile(wheel) as packed:
        assert not any("node_modules" in name or "app/dist/" in name for name in packed.namelist())
        packed.extract("demo/app/dist.tar.xz", tmp_path)
    with tarfile.open(tmp_path / "demo" / "app" / "dist.tar.xz") as packed:
        packed.extractall(tmp_path, filter="data")
    inside = tmp_path / "dist"
    listed = (inside / "precache.js").read_text()
    files = json.loads(listed.removeprefix("self.PRECACHE = ").rstrip().rstrip(";"))["files"]
    for file in files:
        digest = base64.b64encode(hashlib.sha256((inside / file["path"]).read_bytes()).digest()).decode()
        assert f"sha256-{digest}" == file["integrity"], file["path"]
    names = {path.relative_to(inside).as_posix() for path in inside.rglob("*") if path.is_file()}
    assert {"index.html", "sw.js", "precache.js", "THIRD_PARTY.txt", "src/app.js"} <= names
    assert {"ort/ort-wasm-simd-threaded.wasm", "ort/ort-wasm-simd-threaded.asyncify.wasm"} <= names
    assert names == {path.relative_to(app_folder).as_posix() for path in app_folder.rglob("*") if path.is_file()}


def test_its_build_folder_runs_on_a_static_host(app: App, wheel: Path, models: Models, tmp_path: Path) -> None:
    """`srkd demo --build` from the wheel, without any program on the path, as plain files under a sub-path."""
    installed, folder = tmp_path / "installed", tmp_path / "site"
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(installed)
    place = {"PYTHONPATH": str(installed), "PATH": "", "SRKD_CACHE": str(tmp_path / "cache")}
    done = srkd("demo", models.tiny.path, "--build", folder, "--quiet", cwd=tmp_path, **place)
    assert done.code == 0, done.err
    files = app_files(folder, "sr/")
    files["sr/"] = files["sr/index.html"]
    with app.visit(Site(files, headers={}), address="sr/", ready=False, **PHONE) as visit:
        # The host sends no headers: the service worker adds them, and the page reloads.
        visit.until("crossOriginIsolated")
        visit.ready().until(OFFLINE)
        assert visit.text("offline") == "Works offline from now on."
        assert "thread" in visit.text("engine") and "isolated" not in visit.text("why")
        visit.enlarge()
        assert (visit.text("model-name"), visit.text("card-title")) == ("Sharpened", "tiny")
