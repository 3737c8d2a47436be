"""How long the demo's page takes for a picture, in a real browser: Chromium without its window, as in the tests."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run")
"""Without a GPU the page computes on the processor, with as many threads as it takes by itself."""
PATIENCE_MS = 600_000


def page_seconds(model: Path | str, picture: Path) -> float | None:
    """Return the seconds that the page of `srkd demo MODEL` says it took for a picture, the better of two runs.

    None without Playwright or Chromium (pip install playwright; Debian's chromium).
    """
    try:
        api: Any = import_module("playwright.sync_api")
    except ImportError:
        return None
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        return None
    words = [sys.executable, "-u", "-m", "srkd", "demo", str(model), "--port", "0"]
    server = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert server.stdout is not None
        address = next(found[0] for line in server.stdout if (found := re.search(r"http://[\w.:]+", line)))
        with api.sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
            page = browser.new_page()
            page.goto(address)
            page.wait_for_selector("body[data-ready=yes]", timeout=PATIENCE_MS)
            return min(_enlarged(page, picture) for _ in range(2))
    finally:
        server.terminate()
        server.wait()


def _enlarged(page: Any, picture: Path) -> float:
    """Open a picture on the page, and return what it says that it took, once it is done."""
    page.evaluate("document.querySelector('#announcement').textContent = ''")
    page.set_input_files("#library", picture)
    while not (page.text_content("#announcement") or "").startswith("Done"):
        page.wait_for_timeout(200)
    said = page.text_content("#figure-time") or ""
    found = re.search(r"([\d.,]+) s in all", said)
    assert found is not None, said
    return float(found[1].replace(",", ""))
