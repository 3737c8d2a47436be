"""`srkd demo` as a user starts it, and its page in a browser."""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import socket
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from tests.browser.app_models import Models
from tests.browser.app_site import Site
from tests.browser.visits import PHONE, ROOT, visiting

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser


@pytest.fixture
def self_signed_certificate(tmp_path: Path) -> tuple[Path, Path]:
    """Create a certificate with the command of docs/use/demo.md, which no authority has signed."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(key), "-out", str(certificate), "-days", "30", "-subj", "/CN=demo"]
    subprocess.run([*command, "-addext", "subjectAltName=DNS:localhost"], check=True, capture_output=True)
    return certificate, key


@contextmanager
def demo(folder: Path, *arguments: object) -> Iterator[int]:
    """Run `srkd demo` and yield its port."""
    with socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    command = [sys.executable, "-m", "srkd", "demo", *map(str, arguments), "--port", str(port), "--quiet"]
    place = {**os.environ, "PYTHONPATH": str(ROOT), "SRKD_CACHE": str(folder)}
    process = subprocess.Popen(command, cwd=folder, env=place, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        end = time.monotonic() + 120
        while not answers(port, "https" if "--tls-cert" in arguments else "http"):
            assert process.poll() is None, process.communicate()[0].decode()
            assert time.monotonic() < end
            time.sleep(0.3)
        yield port
    finally:
        process.kill()
        process.communicate()


def answers(port: int, scheme: str) -> bool:
    unchecked = ssl.create_default_context()
    unchecked.check_hostname, unchecked.verify_mode = False, ssl.CERT_NONE
    try:
        url = f"{scheme}://127.0.0.1:{port}/api/models.json"
        with urllib.request.urlopen(url, timeout=5, context=unchecked) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def test_a_fresh_page_from_srkd_demo(browser: Browser, app_folder: Path, models: Models, tmp_path: Path) -> None:
    """With a file and its teacher the page is isolated, has samples and both models, enlarges, works offline."""
    pytest.importorskip("h11")
    pytest.importorskip("segno")
    with demo(tmp_path, models.tiny.path, "--teacher", models.tiny.path) as port:
        site = Site({}, port=port)
        with visiting(browser, site, **PHONE) as visit:
            visit.ready()
            titles = visit.page.eval_on_selector_all("#right option", "all => all.map((each) => each.text)")
            assert titles[:3] == ["Ordinary", "Sharpened", "Large network"]
            assert visit.page.evaluate("crossOriginIsolated") is True
            visit.choose()
            with Image.open(visit.saved(tmp_path)) as saved:
                assert saved.width > 100
            visit.until("document.querySelector('#offline').textContent.startsWith('Works offline')")


def test_https_after_a_dismissed_warning(
    browser: Browser, app_folder: Path, models: Models, self_signed_certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    """It has threads and other secure features, but not offline use: browsers refuse the service worker."""
    pytest.importorskip("h11")
    pytest.importorskip("segno")
    certificate, key = self_signed_certificate
    with demo(tmp_path, models.tiny.path, "--tls-cert", certificate, "--tls-key", key) as port:
        address = f"https://localhost:{port}/"
        with visiting(browser, Site({}, port=port), address=address, ignore_https_errors=True, **PHONE) as visit:
            visit.ready()
            assert visit.page.evaluate("[isSecureContext, crossOriginIsolated]") == [True, True]
            assert visit.page.is_enabled("#live")
            visit.choose()
            visit.done()
            visit.until("document.querySelector('#offline').textContent.startsWith('Not kept for offline use:')")
            assert "certificate" in visit.text("offline")
            # The browser reports it itself, too.
            visit.complaints[:] = [complaint for complaint in visit.complaints if "certificate" not in complaint]
