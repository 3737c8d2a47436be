"""The app installs, works offline, updates, and says what an address or a device does not allow."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.browser.app_models import Models
from tests.browser.app_site import Site, rebuild, served
from tests.browser.visits import OFFLINE, PHONE, App, new_page

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

HASH_WORDS = ("integrity", "hash")
"""What the browser itself says of a file that does not match its hash."""


@pytest.fixture
def site(app: App, models: Models) -> Site:
    return app.site([models.tiny])


def test_it_can_be_installed_and_works_offline_after_the_first_visit(app: App, site: Site) -> None:
    """The server is stopped, so that everything must come from the browser."""
    context = app.browser.new_context(**PHONE)
    with served(site), new_page(context, site) as visit:
        visit.until(OFFLINE)
        manifest = context.new_cdp_session(visit.page).send("Page.getAppManifest")
        assert manifest["errors"] == []
        icons = json.loads(manifest["data"])["icons"]
        assert {icon["sizes"] for icon in icons} >= {"192x192", "512x512"}
        assert any(icon.get("purpose") == "maskable" for icon in icons)
        active = "navigator.serviceWorker.ready.then(({ active, scope }) => [active.state, active.scriptURL, scope])"
        assert visit.page.evaluate(active) == ["activated", f"{site.origin}/sw.js", f"{site.origin}/"]
        assert "WebAssembly" in visit.text("engine")
    # The browser itself reports that the list could not be fetched again.
    with new_page(context, site, expected=["ERR_CONNECTION_REFUSED"]) as visit:
        assert visit.page.evaluate("crossOriginIsolated") is True
        assert visit.enlarge().text("figure-size") == "0.02 MP"
    context.close()


def test_files_that_cannot_be_stored_are_named_and_stored_later(app: App, models: Models) -> None:
    """One is missing; one has another hash, and would otherwise stay in the cache and be refused forever."""
    site = app.site([models.tiny, replace(models.half, role="teacher", precision="fp32")])
    later = {address: site.files.pop(address) for address in ("models/half.onnx", "models/tiny.onnx")}
    site.files["models/tiny.onnx"] = b"half uploaded"
    with app.visit(site, expected=(*HASH_WORDS, "404"), **PHONE) as visit:
        visit.until(OFFLINE)
        words = "Works offline from now on, without what could not be loaded: Sharpened, Large network."
        assert visit.text("offline") == words
        site.files |= later
        visit.page.reload()
        visit.ready().until("document.querySelector('#offline').textContent === 'Works offline from now on.'")
        assert any("models/half.onnx" in url for url in visit.stored())
        visit.enlarge()


def build_of(page: Page) -> str:
    return str(page.evaluate("getComputedStyle(document.body).getPropertyValue('--build').trim()"))


def test_a_new_build_waits_until_it_is_accepted_and_other_tabs_say_so(app: App, site: Site) -> None:
    context = app.browser.new_context(**PHONE)
    with served(site), new_page(context, site) as accepting, new_page(context, site) as other:
        for visit in (accepting, other):
            visit.until(OFFLINE)
        rebuild(site, whole=True)
        accepting.page.reload()
        accepting.ready().page.wait_for_selector("#update:not([hidden])")
        assert build_of(accepting.page) == ""
        other.enlarge()
        with accepting.page.expect_navigation():
            accepting.page.click("#update-now")
        assert build_of(accepting.ready().page) == "2"
        assert sorted(accepting.page.evaluate("caches.keys()")) == ["srkd-app-another", "srkd-data"]
        other.until("document.querySelector('#update').textContent.includes('Another tab uses a new version')")
        assert other.page.is_enabled("#save")
        with other.page.expect_navigation():
            other.page.click("#update-now")
        assert other.ready().page.is_hidden("#update")
    context.close()


def test_a_half_uploaded_build_changes_nothing(app: App, site: Site) -> None:
    with app.visit(site, expected=HASH_WORDS, **PHONE) as visit:
        visit.until(OFFLINE)
        rebuild(site, whole=False)
        visit.page.reload()
        visit.ready()
        visit.until("navigator.serviceWorker.getRegistration().then((worker) => !worker.installing && !worker.waiting)")
        assert visit.page.is_hidden("#update")
        visit.enlarge()
