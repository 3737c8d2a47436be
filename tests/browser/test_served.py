"""The app from the server of `srkd demo` at an address that allows less, and its content security policy."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make test-browser installs it")

from app_models import Models
from playwright.sync_api import Browser, Page
from visits import FLAGS, PATIENCE_MS, PHONE, ROOT, listen

pytestmark = pytest.mark.browser

ELSEWHERE = "demo.example"
"""A host name that only the browser resolves: plain http from another machine."""


@pytest.fixture(scope="module")
def address(app_folder: Path, models: Models) -> Iterator[str]:
    """Start the demo of a small model like a user, and return its address."""
    model = str(models.tiny.path)
    process = subprocess.Popen(
        [sys.executable, "-m", "srkd", "demo", model, "--teacher", model, "--port", "0", "--json"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line == "}\n":
                break
        yield str(json.loads("".join(lines))["addresses"][0]["url"])
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=120)


@contextmanager
def opened(browser: Browser, url: str, *expected: str) -> Iterator[Page]:
    """Yield the page when it is ready; an error in the console without one of the `expected` words fails the test."""
    context = browser.new_context(**PHONE)
    context.set_default_timeout(PATIENCE_MS)
    complaints: list[str] = []
    page = context.new_page()
    listen(page, complaints)
    try:
        page.goto(url)
        page.wait_for_selector("body[data-ready=yes]")
        yield page
        assert [complaint for complaint in complaints if not any(word in complaint for word in expected)] == []
    finally:
        context.close()


def enlarged(page: Page) -> None:
    page.click("#samples button >> nth=0")
    page.wait_for_selector("#save:not([disabled])")


def test_it_works_from_another_machine_without_secure_features(
    launch: Callable[[Sequence[str]], Browser], address: str
) -> None:
    browser = launch((*FLAGS, f"--host-resolver-rules=MAP {ELSEWHERE} 127.0.0.1"))
    with opened(browser, address.replace("localhost", ELSEWHERE)) as page:
        assert page.evaluate("[isSecureContext, crossOriginIsolated, 'serviceWorker' in navigator]") == [False] * 3
        enlarged(page)


def test_nothing_is_sent_to_another_host(browser: Browser, address: str) -> None:
    with opened(browser, address, "Content Security Policy", "127.0.0.1:1") as page:
        violations = page.evaluate(
            """async () => {
                const refused = [];
                document.addEventListener("securitypolicyviolation", (event) => refused.push(event.effectiveDirective));
                await fetch("http://127.0.0.1:1/").catch(() => {});
                const image = new Image();
                image.src = "http://127.0.0.1:1/x.png";
                const script = document.createElement("script");
                script.textContent = "document.title = 'written inline'";
                document.body.append(image, script);
                await new Promise((done) => setTimeout(done, 500));
                return [...refused, document.title];
            }"""
        )
        assert {"connect-src", "img-src", "script-src-elem"} <= set(violations) and "written inline" not in violations
