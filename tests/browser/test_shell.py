"""The app loads, installs, works offline, updates, and reports the limits of an address."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.browser.app_models import Models, png, sample_rgb
from tests.browser.app_site import Site, rebuild, served, site_of
from tests.browser.visits import APP, DESKTOP, FLAGS, OFFLINE, PHONE, WEBGPU_FLAGS, Visit, listen, visiting

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Playwright

pytestmark = pytest.mark.browser


@pytest.fixture
def site(app_folder: Path, models: Models) -> Site:
    samples = {"cat.png": png(sample_rgb("chelsea", 72)), "cup.png": png(sample_rgb("coffee", 48))}
    return site_of(app_folder, [models.tiny], samples)


def isolated(page: Page) -> bool:
    return bool(page.evaluate("crossOriginIsolated"))


def test_it_loads_and_can_be_installed(browser: Browser, site: Site, serve: Callable[[Site], Site]) -> None:
    with visiting(browser, serve(site), **PHONE) as visit:
        visit.ready().until(OFFLINE)
        session = visit.page.context.new_cdp_session(visit.page)
        manifest = session.send("Page.getAppManifest")
        assert manifest["errors"] == []
        app = json.loads(manifest["data"])
        assert {icon["sizes"] for icon in app["icons"]} >= {"192x192", "512x512"}
        assert any(icon.get("purpose") == "maskable" for icon in app["icons"])
        active = "navigator.serviceWorker.ready.then(({ active, scope }) => [active.state, active.scriptURL, scope])"
        assert visit.page.evaluate(active) == ["activated", f"{visit.site.origin}/sw.js", f"{visit.site.origin}/"]
        assert "WebAssembly" in visit.text("engine")


def test_nothing_prevents_installing(
    playwright: Playwright, chromium: str, site: Site, serve: Callable[[Site], Site], tmp_path: Path
) -> None:
    """In a persistent profile: the other tests use private windows, which cannot install apps."""
    serve(site)
    context = playwright.chromium.launch_persistent_context(
        str(tmp_path / "profile"), executable_path=chromium, args=list(FLAGS), **PHONE
    )
    try:
        visit = Visit(context.new_page(), site)
        visit.page.goto(site.origin)
        visit.ready().until(OFFLINE)
        errors = context.new_cdp_session(visit.page).send("Page.getInstallabilityErrors")
        assert errors == {"installabilityErrors": []}
        # The test can fail: a page without a manifest gives a message.
        visit.page.goto(f"{site.origin}/icons/icon.svg")
        errors = context.new_cdp_session(visit.page).send("Page.getInstallabilityErrors")
        assert errors["installabilityErrors"] != []
    finally:
        context.close()


def test_the_apps_code_is_small(app_folder: Path) -> None:
    own = [path for path in APP.glob("*.*") if path.suffix in (".html", ".css", ".js", ".webmanifest")]
    own += list((APP / "src").glob("*.js"))
    assert sum(path.stat().st_size for path in own) <= 200_000


def test_it_works_offline_after_the_first_visit(browser: Browser, site: Site) -> None:
    """The server is stopped, so that everything must come from the browser."""
    context = browser.new_context(**PHONE)
    page = context.new_page()
    complaints: list[str] = []
    try:
        with served(site):
            page.goto(site.origin)
            page.wait_for_selector("body[data-ready=yes]")
            Visit(page, site).until(OFFLINE)
        listen(page, complaints)
        page.goto(site.origin)
        visit = Visit(page, site).ready()
        assert isolated(page)
        visit.choose(sample=1)
        visit.done()
        assert visit.text("figure-size") == "0.01 MP"
        # The browser itself reports that the list could not be fetched again.
        assert [complaint for complaint in complaints if "ERR_CONNECTION_REFUSED" not in complaint] == []
    finally:
        context.close()


def test_a_static_host_without_headers_gets_threads_from_the_service_worker(
    browser: Browser, site: Site, serve: Callable[[Site], Site]
) -> None:
    site.headers = {}
    with visiting(browser, serve(site), **DESKTOP) as visit:
        visit.until("crossOriginIsolated")
        visit.ready()
        assert "thread" in visit.text("engine")
        assert "isolated" not in visit.text("why")
        visit.choose()
        visit.done()


def test_it_works_under_a_sub_path(
    browser: Browser, app_folder: Path, models: Models, serve: Callable[[Site], Site]
) -> None:
    site = site_of(app_folder, [models.tiny], {"cat.png": png(sample_rgb("chelsea", 48))}, prefix="demos/sr/")
    with visiting(browser, serve(site), address="demos/sr/", **PHONE) as visit:
        visit.ready().until(OFFLINE)
        visit.choose()
        visit.done()


def build_of(page: Page) -> str:
    return str(page.evaluate("getComputedStyle(document.body).getPropertyValue('--build').trim()"))


def test_a_new_build_waits_until_it_is_accepted(browser: Browser, site: Site, serve: Callable[[Site], Site]) -> None:
    with visiting(browser, serve(site), **PHONE) as visit:
        visit.ready().until(OFFLINE)
        rebuild(site, whole=True)
        visit.page.reload()
        visit.ready().page.wait_for_selector("#update:not([hidden])")
        assert build_of(visit.page) == ""
        with visit.page.expect_navigation():
            visit.page.click("#update-now")
        assert build_of(visit.ready().page) == "2"
        names = visit.page.evaluate("caches.keys()")
        assert sorted(names) == ["srkd-app-another", "srkd-data"]


def test_a_half_uploaded_build_changes_nothing(browser: Browser, site: Site, serve: Callable[[Site], Site]) -> None:
    with visiting(browser, serve(site), **PHONE) as visit:
        visit.ready().until(OFFLINE)
        rebuild(site, whole=False)
        visit.page.reload()
        visit.ready()
        visit.until("navigator.serviceWorker.getRegistration().then((worker) => !worker.installing && !worker.waiting)")
        assert visit.page.is_hidden("#update")
        visit.choose()
        visit.done()
        # The browser itself reports that a file did not match its hash.
        assert all("integrity" in complaint or "hash" in complaint for complaint in visit.complaints)
        visit.complaints.clear()


def test_plain_http_says_what_is_missing_and_works(
    launch: Callable[[Sequence[str]], Browser], site: Site, serve: Callable[[Site], Site], tmp_path: Path
) -> None:
    """Like a phone that opens this machine's address in the local network."""
    serve(site)
    browser = launch((*FLAGS, "--host-resolver-rules=MAP phone.test 127.0.0.1"))
    with visiting(browser, site, address=f"http://phone.test:{site.port}/", **PHONE) as visit:
        assert visit.ready().page.evaluate("isSecureContext") is False
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
        # Chromium remarks that the isolation headers mean nothing on such an address.
        visit.complaints[:] = [each for each in visit.complaints if "Cross-Origin-Opener-Policy" not in each]


def test_webgpu_runs_when_it_is_selected(
    launch: Callable[[Sequence[str]], Browser],
    app_folder: Path,
    models: Models,
    serve: Callable[[Site], Site],
) -> None:
    """SwiftShader is an adapter in software: not chosen by default, and correct when it is selected."""
    small = png(sample_rgb("chelsea", 16))
    site = serve(site_of(app_folder, [models.tiny], {"cat.png": small}))
    with visiting(launch(WEBGPU_FLAGS), site, **DESKTOP) as visit:
        visit.ready()
        assert "WebAssembly" in visit.text("engine")
        assert "computed by the processor" in visit.text("why")
        both = visit.engine(
            """
            const results = {};
            for (const name of ["wasm", "webgpu"]) {
                const choice = await engine.ask("setup", { options: { engine: name, threads: 1 } });
                const bytes = await (await fetch(args)).arrayBuffer();
                const model = { name: "tiny.onnx", bytes, options: { engine: name } };
                const { choice: used } = await engine.ask("open", model);
                await engine.ask("picture", { blob: await (await fetch("samples/cat.png")).blob() });
                const tiles = [];
                await engine.ask("run", { with: "network" }, { onTile: (tile) => tiles.push(...tile.rgba) });
                results[name] = { engine: used.engine, why: used.why, pixels: tiles };
            }
            return results;
            """,
            f"models/{models.tiny.path.name}",
        )
        assert both["webgpu"]["engine"] == "webgpu", both["webgpu"]["why"]
        assert both["wasm"]["engine"] == "wasm"
        assert len(both["wasm"]["pixels"]) == 32 * 32 * 4
        far = max(abs(a - b) for a, b in zip(both["wasm"]["pixels"], both["webgpu"]["pixels"], strict=True))
        assert far <= 1
        visit.complaints[:] = [
            each for each in visit.complaints if "WebGPU" not in each and "powerPreference" not in each
        ]
