"""A page of the app in a browser, and what is asked of it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.browser.app_site import Site

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

ROOT = Path(__file__).resolve().parent.parent.parent
APP = ROOT / "demo" / "app"
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
WEBGPU_FLAGS = (
    *(flag for flag in FLAGS if flag != "--disable-gpu"),
    "--enable-unsafe-webgpu",
    "--use-webgpu-adapter=swiftshader",
)
PHONE: dict[str, Any] = {
    "viewport": {"width": 412, "height": 915},
    "device_scale_factor": 2.625,
    "is_mobile": True,
    "has_touch": True,
}
DESKTOP: dict[str, Any] = {"viewport": {"width": 1440, "height": 900}}
PATIENCE_MS = 60_000


@dataclass
class Visit:
    """A page of the app, and what its console said. `silent` is asked at the end of every test."""

    page: Page
    site: Site
    complaints: list[str] = field(default_factory=list)

    def ready(self) -> Visit:
        self.page.wait_for_selector("body[data-ready=yes]", timeout=PATIENCE_MS)
        return self

    def engine(self, script: str, given: object = None) -> Any:
        """Run `script` (the body of a function of `engine` and `given`) with a worker of its own."""
        return self.page.evaluate(
            f"""async (given) => {{
                const {{ Engine }} = await import(new URL("src/engine.js", document.baseURI).href);
                const engine = new Engine();
                try {{ {script} }} finally {{ engine.worker.terminate(); }}
            }}""",
            given,
        )

    def until(self, expression: str, *, seconds: float = PATIENCE_MS / 1000) -> None:
        """Wait until `expression` is true: asked from outside, because the page's own policy evaluates no text."""
        end = time.monotonic() + seconds
        while not self._holds(expression):
            assert time.monotonic() < end, f"not within {seconds:g} s: {expression}"
            self.page.wait_for_timeout(100)

    def _holds(self, expression: str) -> bool:
        from playwright.sync_api import Error

        try:
            return bool(self.page.evaluate(expression))
        except Error as error:
            # A page that is loading anew answers nothing; any other mistake is one.
            if "context was destroyed" not in str(error):
                raise
            return False

    def text(self, element: str) -> str:
        return self.page.inner_text(f"#{element}")

    def choose(self, *, sample: int = 0) -> None:
        self.page.click(f"#samples button >> nth={sample}")

    def done(self) -> None:
        self.page.wait_for_selector("#save:not([disabled])", timeout=PATIENCE_MS)

    def saved(self, folder: Path) -> Path:
        """The file that Save gives."""
        self.done()
        with self.page.expect_download(timeout=PATIENCE_MS) as waiting:
            self.page.click("#save")
        path = folder / waiting.value.suggested_filename
        waiting.value.save_as(path)
        return path


@contextmanager
def visiting(browser: Browser, site: Site, *, address: str = "", **profile: object) -> Iterator[Visit]:
    """A fresh context at `address` of the site; whatever the console complains of fails the test at the end."""
    context: BrowserContext = browser.new_context(accept_downloads=True, bypass_csp=False, **profile)  # type: ignore[arg-type]
    context.set_default_timeout(PATIENCE_MS)
    visit = Visit(context.new_page(), site)
    listen(visit.page, visit.complaints)
    try:
        visit.page.goto(address if ":" in address else f"{site.origin}/{address}")
        yield visit
        assert visit.complaints == []
    finally:
        context.close()


def listen(page: Page, complaints: list[str]) -> None:
    page.on("console", lambda told: complaints.append(told.text) if told.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))


def note(name: str, value: object) -> None:
    """Keep a measured figure in build/demo-figures.json, for whoever wants to quote it."""
    path = ROOT / "build" / "demo-figures.json"
    path.parent.mkdir(exist_ok=True)
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**known, name: value}, indent=1) + "\n")
