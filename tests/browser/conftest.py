"""Fixtures: a real browser (Debian's Chromium, driven by Playwright), the built app, small and embedded models."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.browser.app_models import Models, png, sample_rgb
from tests.browser.app_site import Site, served
from tests.browser.visits import APP, DESKTOP, FLAGS, PHONE, WEBGPU_FLAGS, App, Visit, new_page

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Playwright


@pytest.fixture(scope="session")
def app_folder() -> Path:
    if not (APP / "dist" / "index.html").is_file():
        pytest.skip("the app is not built: make app")
    return APP / "dist"


@pytest.fixture(scope="session")
def chromium() -> str:
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if not path:
        pytest.skip("no Chromium: apt-get install --no-install-recommends chromium, or CHROMIUM=path")
    return path


@pytest.fixture(scope="session")
def playwright() -> Iterator[Playwright]:
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as started:
        yield started


@pytest.fixture(scope="session")
def launch(playwright: Playwright, chromium: str) -> Iterator[Callable[[Sequence[str]], Browser]]:
    """Return a function that starts a browser with flags; all are closed at the end."""
    with ExitStack() as stack:

        def start(flags: Sequence[str]) -> Browser:
            browser = playwright.chromium.launch(executable_path=chromium, args=list(flags))
            stack.callback(browser.close)
            return browser

        yield start


@pytest.fixture(scope="session")
def browser(launch: Callable[[Sequence[str]], Browser]) -> Browser:
    return launch(FLAGS)


@pytest.fixture(scope="session")
def webgpu_browser(launch: Callable[[Sequence[str]], Browser]) -> Browser:
    return launch(WEBGPU_FLAGS)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def app(app_folder: Path, browser: Browser) -> App:
    return App(app_folder, browser)


@pytest.fixture(scope="session")
def common_site(app: App, models: Models) -> Iterator[Site]:
    """Serve the small network, a slow large one and three photos."""
    sides = {"chelsea": 72, "astronaut": 96, "coffee": 64}
    samples = {f"{name}.png": png(sample_rgb(name, side)) for name, side in sides.items()}
    with served(app.site([models.tiny, models.wide], samples)) as site:
        yield site


@pytest.fixture(scope="session")
def desktop_context(browser: Browser) -> BrowserContext:
    return browser.new_context(**DESKTOP)


@pytest.fixture(scope="session")
def phone_context(browser: Browser) -> BrowserContext:
    return browser.new_context(**PHONE)


@pytest.fixture
def desktop(desktop_context: BrowserContext, common_site: Site) -> Iterator[Visit]:
    """A fresh page, in a context that has its files already: a third of the work of a page in a new context."""
    with new_page(desktop_context, common_site) as visit:
        yield visit


@pytest.fixture
def phone(phone_context: BrowserContext, common_site: Site) -> Iterator[Visit]:
    with new_page(phone_context, common_site) as visit:
        yield visit
