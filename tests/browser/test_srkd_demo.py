"""`srkd demo` itself, as its user starts it, and the page that it gives to a browser."""

from __future__ import annotations

import os
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


@contextmanager
def demo(folder: Path, *arguments: object) -> Iterator[int]:
    """The port that `srkd demo` answers on, until the end."""
    with socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    command = [sys.executable, "-m", "srkd", "demo", *map(str, arguments), "--port", str(port), "--quiet"]
    place = {**os.environ, "PYTHONPATH": str(ROOT), "SRKD_CACHE": str(folder)}
    process = subprocess.Popen(command, cwd=folder, env=place, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        end = time.monotonic() + 120
        while not answers(port):
            assert process.poll() is None, process.communicate()[0].decode()
            assert time.monotonic() < end
            time.sleep(0.3)
        yield port
    finally:
        process.kill()
        process.communicate()


def answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/models.json", timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def test_a_fresh_page_from_srkd_demo(browser: Browser, app_folder: Path, models: Models, tmp_path: Path) -> None:
    """An exported file beside its teacher: loads isolated, has samples and both models, enlarges, is kept offline."""
    pytest.importorskip("uvicorn")
    pytest.importorskip("segno")
    with demo(tmp_path, models.tiny.path, "--teacher", models.tiny.path) as port:
        site = Site({}, port=port)
        with visiting(browser, site, **PHONE) as visit:
            visit.ready()
            titles = visit.page.eval_on_selector_all("#right option", "all => all.map((each) => each.text)")
            assert titles[:3] == ["Bicubic", "Student", "Teacher"]
            assert visit.page.evaluate("crossOriginIsolated") is True
            visit.choose()
            with Image.open(visit.saved(tmp_path)) as found:
                assert found.width > 100
            visit.until("document.querySelector('#offline').textContent.startsWith('Works offline')")
