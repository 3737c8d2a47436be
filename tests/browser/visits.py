"""A page of the app in a browser, with a user's actions."""

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
    from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page

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
OFFLINE = "document.querySelector('#offline').textContent.startsWith('Works offline')"


@dataclass
class Visit:
    """A page of the app. `complaints` are the errors and warnings in its console; a test requires none at the end."""

    page: Page
    site: Site
    complaints: list[str] = field(default_factory=list)

    def ready(self) -> Visit:
        self.page.wait_for_selector("body[data-ready=yes]", timeout=PATIENCE_MS)
        return self

    def engine(self, script: str, args: object = None) -> Any:
        """Run `script` (the body of a function of `engine` and `args`) with a separate worker."""
        return self.page.evaluate(
            f"""async (args) => {{
                const {{ Engine }} = await import(new URL("src/engine.js", document.baseURI).href);
                const engine = new Engine();
                try {{ {script} }} finally {{ engine.worker.terminate(); }}
            }}""",
            args,
        )

    def until(self, expression: str, *, seconds: float = PATIENCE_MS / 1000) -> None:
        """Wait until `expression` is true; it is evaluated from outside, as the page's policy forbids eval."""
        end = time.monotonic() + seconds
        while not self._holds(expression):
            assert time.monotonic() < end, f"not within {seconds:g} s: {expression}"
            self.page.wait_for_timeout(100)

    def _holds(self, expression: str) -> bool:
        from playwright.sync_api import Error

        try:
            return bool(self.page.evaluate(expression))
        except Error as error:
            # A reloading page does not answer; any other error is real.
            if "context was destroyed" not in str(error):
                raise
            return False

    def text(self, element: str) -> str:
        """Return an element's text, also if it is inside the closed details."""
        return (self.page.text_content(f"#{element}") or "").strip()

    def open_details(self) -> Visit:
        """Show the figures and the engine, which are behind 'Details'."""
        self.page.click("#details:not([open]) > summary")
        return self

    def choose(self, *, sample: int = 0) -> None:
        self.page.click(f"#samples button >> nth={sample}")

    def done(self) -> None:
        self.page.wait_for_selector("#save:not([disabled])", timeout=PATIENCE_MS)

    def saved(self, folder: Path) -> Path:
        """Save the result and return the file."""
        self.done()
        with self.page.expect_download(timeout=PATIENCE_MS) as waiting:
            self.page.click("#save")
        path = folder / waiting.value.suggested_filename
        waiting.value.save_as(path)
        return path


@contextmanager
def visiting(browser: Browser, site: Site, *, address: str = "", **profile: object) -> Iterator[Visit]:
    """Open a new context at `address` of the site; an error in the console fails the test at the end."""
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
    def on_console(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            complaints.append(message.text)

    page.on("console", on_console)
    page.on("pageerror", lambda error: complaints.append(str(error)))


def note(name: str, value: object) -> None:
    """Write a measured figure to build/demo-figures.json, to quote it."""
    path = ROOT / "build" / "demo-figures.json"
    path.parent.mkdir(exist_ok=True)
    figures = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**figures, name: value}, indent=1) + "\n")
