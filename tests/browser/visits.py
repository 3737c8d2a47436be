"""A page of the app in a browser, with a user's actions."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.app_models import png, sample_rgb
from tests.browser.app_site import Model, Site, served, site_of
from tests.support.commands import ROOT

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page

APP = ROOT / "demo" / "app"
PHONE_HOST = "phone.test"
"""A host name that only the browser resolves: plain http from another machine."""
FLAGS = (
    "--headless",
    f"--host-resolver-rules=MAP {PHONE_HOST} 127.0.0.1",
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
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
SIZES = (
    "['left', 'right'].map((s) => document.querySelector(`#sheet-${s} canvas`)).map((c) => c && [c.width, c.height])"
)
"""Widths and heights of the pictures of both sides."""
NO_WIDER_THAN_THE_SCREEN = "document.documentElement.scrollWidth <= innerWidth"


@dataclass
class Visit:
    """A page of the app. `complaints` are the errors and warnings in its console."""

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

    def until(self, condition: str | Callable[[], bool], *, seconds: float = PATIENCE_MS / 1000) -> None:
        """Wait until an expression is true; it is evaluated from outside, as the page's policy forbids eval."""
        end = time.monotonic() + seconds
        while not (self._holds(condition) if isinstance(condition, str) else condition()):
            assert time.monotonic() < end, f"not within {seconds:g} s: {condition}"
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

    def rest(self) -> None:
        """Wait until nothing is computed or loaded."""
        self.until("document.querySelector('#work').hidden")

    def text(self, element: str) -> str:
        """Return an element's text, also if it is inside the closed details."""
        return (self.page.text_content(f"#{element}") or "").strip()

    def titles(self) -> list[str]:
        """Return the choices of the right side."""
        return self.page.eval_on_selector_all("#right option", "all => all.map((each) => each.text)")

    def stored(self) -> list[str]:
        """Return the addresses that are kept for offline use."""
        keys = "caches.keys().then((all) => Promise.all(all.map((name) => caches.open(name).then((c) => c.keys()))))"
        return list(self.page.evaluate(f"{keys}.then((all) => all.flat().map((request) => request.url))"))

    def open_details(self) -> Visit:
        """Show the figures and the engine, which are behind 'Details'."""
        self.page.click("#details:not([open]) > summary")
        return self

    def choose(self, *, sample: int = 0) -> None:
        self.page.click(f":is(#samples, #samples-again) button:visible >> nth={sample}")

    def enlarge(self, *, sample: int = 0) -> Visit:
        """Choose a sample and wait for its result."""
        with self.finishing():
            self.choose(sample=sample)
        return self

    @contextmanager
    def finishing(self) -> Iterator[None]:
        """Wait until the result of what is begun in the block is announced."""
        self.page.evaluate("document.querySelector('#announcement').textContent = ''")
        yield
        self.until("document.querySelector('#announcement').textContent.startsWith('Done')")
        self.done()

    def done(self) -> None:
        self.page.wait_for_selector("#save:not([disabled])", timeout=PATIENCE_MS)

    def saved(self, folder: Path) -> Path:
        """Save the result and return the file."""
        self.done()
        return self.downloaded("#save", folder)

    def downloaded(self, button: str, folder: Path) -> Path:
        with self.page.expect_download(timeout=PATIENCE_MS) as waiting:
            self.page.click(button)
        path = folder / waiting.value.suggested_filename
        waiting.value.save_as(path)
        return path


@contextmanager
def visiting(
    browser: Browser,
    site: Site,
    *,
    address: str = "",
    ready: bool = True,
    expected: Sequence[str] = (),
    **profile: object,
) -> Iterator[Visit]:
    """Open a new context at `address` of the site, which is served meanwhile unless it has a port already."""
    with ExitStack() as stack:
        if not site.port:
            stack.enter_context(served(site))
        context: BrowserContext = browser.new_context(accept_downloads=True, bypass_csp=False, **profile)  # type: ignore[arg-type]
        stack.callback(context.close)
        yield stack.enter_context(new_page(context, site, address, ready=ready, expected=expected))


@contextmanager
def new_page(
    context: BrowserContext, site: Site, address: str = "", *, ready: bool = True, expected: Sequence[str] = ()
) -> Iterator[Visit]:
    """Open a page of a context and wait until it is `ready`.

    An error in the console fails the test at the end, unless it holds one of the `expected` words.
    """
    context.set_default_timeout(PATIENCE_MS)
    visit = Visit(context.new_page(), site)
    listen(visit.page, visit.complaints)
    visit.page.goto(address if ":" in address else f"{site.origin}/{address}")
    yield visit.ready() if ready else visit
    unexpected = [each for each in visit.complaints if not any(word in each for word in expected)]
    assert not unexpected, unexpected
    visit.page.close()


@dataclass(frozen=True)
class App:
    """The built app, and the browser that opens it."""

    folder: Path
    browser: Browser

    def site(self, models: Sequence[Model], samples: Mapping[str, bytes] | None = None) -> Site:
        """Return a site with models; without `samples` it has one photo, of 72 x 72 pixels."""
        default = {"cat.png": png(sample_rgb("chelsea", 72))}
        return site_of(self.folder, models, default if samples is None else samples)

    def visit(self, site: Site | Sequence[Model], **options: Any) -> AbstractContextManager[Visit]:
        """Open a site, or one with these models, in a new context (see `visiting`)."""
        return visiting(self.browser, site if isinstance(site, Site) else self.site(site), **options)


def drop(visit: Visit, *files: tuple[str, bytes]) -> None:
    """Drop all files at once, with a browser's events."""
    visit.page.evaluate(
        """(files) => {
            const data = new DataTransfer();
            for (const [name, text] of files) {
                const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
                data.items.add(new File([bytes], name, { type: name.endsWith("png") ? "image/png" : "" }));
            }
            const args = { bubbles: true, cancelable: true, dataTransfer: data };
            document.body.dispatchEvent(new DragEvent("drop", args));
        }""",
        [[name, base64.b64encode(content).decode()] for name, content in files],
    )


def violations(page: Page) -> object:
    """Return what axe finds wrong with a page's accessibility."""
    axe = APP / "node_modules" / "axe-core" / "axe.min.js"
    if not axe.is_file():
        pytest.skip("axe-core is not installed: python scripts/build_demo.py --dev")
    page.evaluate(axe.read_text(encoding="utf-8"))
    return page.evaluate(
        "axe.run().then(({ violations }) => violations.map(({ id, nodes }) => [id, ...nodes.map((n) => n.html)]))"
    )


def listen(page: Page, complaints: list[str]) -> None:
    def on_console(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            complaints.append(message.text)

    page.on("console", on_console)
    page.on("pageerror", lambda error: complaints.append(str(error)))
