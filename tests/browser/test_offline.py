"""Files stored for offline use and the page's report; the number of threads and its reason; new versions and tabs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.browser.app_models import Models, png, sample_rgb
from tests.browser.app_site import Site, rebuild, served, site_of
from tests.browser.visits import DESKTOP, OFFLINE, PHONE, WEBGPU_FLAGS, Visit, listen, visiting

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser

KEPT = "caches.keys().then((names) => Promise.all(names.map((name) => caches.open(name).then((c) => c.keys()))))"
REFUSED = """navigator.serviceWorker.register = async () => {
    throw new DOMException("An SSL certificate error occurred when fetching the script.", "SecurityError");
};"""


@pytest.fixture
def site(app_folder: Path, models: Models) -> Site:
    return site_of(app_folder, [models.tiny], {"cat.png": png(sample_rgb("chelsea", 72))})


def addresses(visit: Visit) -> list[str]:
    result = visit.page.evaluate(f"{KEPT}.then((all) => all.flat().map((request) => request.url))")
    return [str(url) for url in result]


def test_a_file_that_cannot_be_stored_is_named(
    browser: Browser, app_folder: Path, models: Models, serve: Callable[[Site], Site]
) -> None:
    """The host lacks a listed model at first, and has it later."""
    teacher = replace(models.half, role="teacher", precision="fp32")
    site = site_of(app_folder, [models.tiny, teacher], {"cat.png": png(sample_rgb("chelsea", 48))})
    there = site.files.pop("models/half.onnx")
    with visiting(browser, serve(site), **PHONE) as visit:
        visit.ready().until(OFFLINE)
        expected = "Works offline from now on, without what could not be loaded: Large network."
        assert visit.text("offline") == expected
        site.files["models/half.onnx"] = there
        visit.page.reload()
        visit.ready().until("document.querySelector('#offline').textContent === 'Works offline from now on.'")
        assert any("models/half.onnx" in url for url in addresses(visit))
        visit.complaints.clear()


def test_a_file_with_another_hash_is_not_stored(browser: Browser, site: Site, serve: Callable[[Site], Site]) -> None:
    """Otherwise it would stay in the cache and be refused forever."""
    good = site.files["models/tiny.onnx"]
    site.files["models/tiny.onnx"] = b"half uploaded"
    with visiting(browser, serve(site), **PHONE) as visit:
        visit.ready().until(OFFLINE)
        assert "without what could not be loaded: Sharpened" in visit.text("offline")
        site.files["models/tiny.onnx"] = good
        visit.page.reload()
        visit.ready().choose()
        visit.done()
        visit.complaints.clear()


def test_webgpus_files_are_stored_on_a_device_that_uses_it(
    launch: Callable[[Sequence[str]], Browser], site: Site
) -> None:
    """This includes the files of the first visit, which no service worker handles: the server is stopped after it."""
    browser = launch(WEBGPU_FLAGS)
    context = browser.new_context(**DESKTOP)
    page = context.new_page()
    visit = Visit(page, site)
    try:
        with served(site):
            page.goto(f"{site.origin}/?engine=webgpu")
            visit.ready()
            assert "WebGPU" in visit.text("engine")
            visit.until(OFFLINE)
            assert any(url.endswith("asyncify.wasm") for url in addresses(visit))
        page.goto(f"{site.origin}/?engine=webgpu")
        visit.ready()
        assert "WebGPU" in visit.text("engine")
        assert page.is_hidden("#trouble")
    finally:
        context.close()


def test_an_engine_chosen_later_is_stored_too(
    launch: Callable[[Sequence[str]], Browser], site: Site, serve: Callable[[Site], Site]
) -> None:
    with visiting(launch(WEBGPU_FLAGS), serve(site), **DESKTOP) as visit:
        visit.ready().until(OFFLINE)
        assert not any("asyncify" in url for url in addresses(visit))
        visit.open_details().page.select_option("#engine-wanted", "webgpu")
        end = f"{KEPT}.then((all) => all.flat().filter((request) => request.url.includes('webgpu')).length > 0)"
        visit.until(end)
        visit.complaints.clear()


def test_a_tab_with_an_old_version_says_so(browser: Browser, site: Site, serve: Callable[[Site], Site]) -> None:
    serve(site)
    context = browser.new_context(**PHONE)
    complaints: list[str] = []
    try:
        one, two = (Visit(context.new_page(), site) for _ in range(2))
        for visit in (one, two):
            listen(visit.page, complaints)
            visit.page.goto(site.origin)
            visit.ready().until(OFFLINE)
        rebuild(site, whole=True)
        one.page.reload()
        one.ready().page.wait_for_selector("#update:not([hidden])")
        two.choose()
        two.done()
        with one.page.expect_navigation():
            one.page.click("#update-now")
        two.until("document.querySelector('#update').textContent.includes('Another tab uses a new version')")
        assert two.page.is_enabled("#save")
        with two.page.expect_navigation():
            two.page.click("#update-now")
        two.ready()
        assert two.page.is_hidden("#update")
        assert complaints == []
    finally:
        context.close()


def test_an_app_that_cannot_be_stored_says_so(browser: Browser, site: Site, serve: Callable[[Site], Site]) -> None:
    del site.files["icons/icon-512.png"]
    with visiting(browser, serve(site), **PHONE) as visit:
        visit.ready().until("document.querySelector('#offline').textContent.startsWith('Not kept for offline use:')")
        assert "a file of the app could not be loaded" in visit.text("offline")
        visit.complaints.clear()


def test_one_thread_is_explained(browser: Browser, site: Site, serve: Callable[[Site], Site]) -> None:
    """The host sends no headers, and the service worker that would add them is blocked."""
    site.headers = {}
    serve(site)
    context = browser.new_context(**PHONE)
    context.add_init_script(REFUSED)
    try:
        visit = Visit(context.new_page(), site)
        visit.page.goto(site.origin)
        visit.ready().until("document.querySelector('#offline').textContent.startsWith('Not kept')")
        assert "SSL certificate error" in visit.text("offline")
        assert visit.text("engine") == "WebAssembly · 1 thread"
        why = visit.text("why")
        assert "the host does not send the headers that isolate a page. Here no service worker can add them." in why
        assert "once more" not in why
    finally:
        context.close()


@pytest.mark.parametrize(
    ("cores", "threads", "engine", "reason"),
    [
        (8, "0", "4 threads", "4 threads of 8 cores: "),
        (8, "1", "1 thread", "One thread of 8 cores, as selected."),
        (2, "4", "2 threads", "2 threads, not 4: this device has 2 cores."),
        (2, "0", "2 threads", ""),
        (1, "0", "1 thread", "One thread: this device has one processor core."),
    ],
)
def test_the_number_of_threads_has_its_reason(
    browser: Browser, site: Site, serve: Callable[[Site], Site], cores: int, threads: str, engine: str, reason: str
) -> None:
    """`choose` runs in the page here, because a test cannot set a worker's core count."""
    with visiting(browser, serve(site), **DESKTOP) as visit:
        result = visit.ready().page.evaluate(
            """async ([cores, threads]) => {
                Object.defineProperty(navigator, "hardwareConcurrency", { value: cores, configurable: true });
                const { choose } = await import(new URL("src/runtime.js", document.baseURI).href);
                const { threads: used, why } = await choose({ engine: "wasm", threads: Number(threads) });
                return [`${used} thread${used === 1 ? "" : "s"}`, why.slice(1).join(" ")];
            }""",
            [cores, threads],
        )
        assert result[0] == engine
        assert result[1].startswith(reason) and bool(result[1]) == bool(reason)
