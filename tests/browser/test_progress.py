"""Work in progress is visible and can be cancelled, and the last request wins."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from compressor.models.networks.edsr import EDSRSpec
from tests.browser.app_models import Models, png, sample_rgb
from tests.browser.app_site import Model, Site, site_of
from tests.browser.visits import DESKTOP, PHONE, Visit, visiting

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser

RESTED = "document.querySelector('#work').hidden"
WORDS = "document.querySelector('#progress-words').textContent"
TITLES = "all => all.map((each) => each.text)"


@pytest.fixture(scope="module")
def wide(models: Models) -> Model:
    """Return a teacher that takes seconds per tile."""
    return replace(models.build(EDSRSpec(2, width=48, depth=8), "wide-48"), role="teacher")


@pytest.fixture
def site(app_folder: Path, models: Models, wide: Model, serve: Callable[[Site], Site]) -> Site:
    samples = {"cat.png": png(sample_rgb("chelsea", 48)), "cup.png": png(sample_rgb("coffee", 64))}
    return serve(site_of(app_folder, [models.tiny, wide], samples))


def drop(visit: Visit, *files: tuple[str, bytes]) -> None:
    """Drop all files at once."""
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


def test_work_is_visible_from_the_start_and_cancelled_at_once(
    browser: Browser, app_folder: Path, models: Models, wide: Model, serve: Callable[[Site], Site]
) -> None:
    """A slow first tile is announced before it is finished, and Cancel does not wait for it."""
    cats = png(np.tile(sample_rgb("chelsea", 72), (6, 6, 1)))
    with visiting(browser, serve(site_of(app_folder, [models.tiny, wide], {"cats.png": cats})), **DESKTOP) as visit:
        visit.ready().choose()
        visit.done()
        visit.page.evaluate(
            """() => {
                const work = document.querySelector("#work");
                window.log = [];
                const look = () => window.log.push([work.hidden, work.innerText, performance.now() - window.began]);
                const all = { attributes: true, childList: true, subtree: true, characterData: true };
                new MutationObserver(look).observe(work, all);
                const right = document.querySelector("#right");
                right.value = [...right.options].find(({ text }) => text === "Large network").value;
                window.began = performance.now();
                right.dispatchEvent(new Event("change"));
            }"""
        )
        visit.until("window.log.some(([, words]) => words.includes('parts'))")
        hidden, words, after = visit.page.evaluate("window.log[0]")
        assert (hidden, after < 500) == (False, True)
        assert "Large network" in words
        all_words = [words for _, words, _ in visit.page.evaluate("window.log")]
        assert any("Loading “Large network”" in words for words in all_words)
        assert not any("part 1 of" in words for words in all_words)
        visit.page.click("#cancel")
        visit.until(RESTED, seconds=1)
        assert visit.text("ask-words").startswith("Cancelled after 0 of ")
        visit.page.select_option("#right", label="Sharpened")
        visit.done()


def test_loading_a_model_is_visible_and_can_be_cancelled(browser: Browser, site: Site) -> None:
    with visiting(browser, site, **PHONE) as visit:
        visit.ready().choose()
        visit.done()
        # The page's own request: its service worker already has the file.
        visit.page.evaluate(
            """() => { const ask = window.fetch;
                const never = ({ signal }) => new Promise((_, reject) =>
                    signal.addEventListener("abort", () => reject(signal.reason)));
                window.fetch = (url, args) => String(url).includes("wide-48") ? never(args) : ask(url, args); }"""
        )
        visit.page.select_option("#right", label="Large network")
        visit.until(f"{WORDS} === 'Loading “Large network”…'")
        assert visit.page.is_disabled("#save")
        visit.page.click("#cancel")
        visit.until(RESTED, seconds=2)
        assert visit.text("ask-words") == "Cancelled before the first part."
        # Loading one model does not block another.
        visit.page.select_option("#right", label="Sharpened")
        visit.done()
        visit.page.select_option("#right", label="Large network")
        visit.until(f"{WORDS} === 'Loading “Large network”…'")
        visit.page.select_option("#right", label="Sharpened")
        visit.done()


def test_a_sample_that_comes_late_does_not_replace_a_later_one(browser: Browser, site: Site) -> None:
    with visiting(browser, site, **DESKTOP) as visit:
        visit.ready()
        visit.page.evaluate(
            """() => { const ask = window.fetch; window.late = new Promise((go) => (window.go = go));
                window.fetch = async (url, args) => {
                    if (String(url).includes("cat.png")) await window.late;
                    return ask(url, args);
                }; }"""
        )
        visit.choose(sample=0)
        visit.choose(sample=1)
        visit.done()
        assert visit.text("figure-from") == "128 × 128"
        visit.page.evaluate("window.go()")
        visit.page.wait_for_timeout(500)
        visit.until(RESTED)
        assert visit.text("figure-from") == "128 × 128"


def test_a_drop_opens_all_its_models_and_one_photo(browser: Browser, site: Site, models: Models) -> None:
    """In one drop or in several; each model has its own entry in the list."""
    content = models.tiny.path.read_bytes()
    with visiting(browser, site, **DESKTOP) as visit:
        visit.ready()
        drop(visit, ("a.onnx", content), ("b.onnx", content))
        drop(visit, ("c.onnx", content))
        visit.until("document.querySelector('#right').selectedOptions[0].text === 'c'")
        assert visit.page.eval_on_selector_all("#right option", TITLES) == [
            *("Ordinary", "Sharpened", "Large network"),
            *("a", "b", "c"),
        ]
        keys = visit.page.eval_on_selector_all("#right option", "all => all.map((each) => each.value)")
        assert len(set(keys)) == len(keys)
        photos = [(name, png(sample_rgb("coffee", side))) for name, side in (("one.png", 40), ("two.png", 56))]
        drop(visit, photos[0], ("bad.onnx", b"no model"), photos[1])
        visit.done()
        visit.until(RESTED)
        assert visit.text("figure-from") == "80 × 80"
        drop(visit, *photos)
        visit.page.wait_for_selector("#trouble:has-text('One photo at a time: of these 2, one.png is opened.')")
        visit.done()


def test_a_failure_beside_a_good_model_is_reported(browser: Browser, site: Site, models: Models) -> None:
    with visiting(browser, site, **DESKTOP) as visit:
        visit.ready()
        drop(visit, ("bad.onnx", b"no model"), ("good.onnx", models.tiny.path.read_bytes()))
        visit.page.wait_for_selector("#trouble:has-text('bad.onnx')")
        assert visit.page.eval_on_selector("#right", "select => select.selectedOptions[0].text") == "good"


def test_a_photo_survives_a_change_of_engine_and_the_figures_are_the_new_ones(browser: Browser, site: Site) -> None:
    with visiting(browser, site, **DESKTOP) as visit:
        visit.ready()
        # At once: the photo is not decoded yet when the engine restarts.
        visit.page.evaluate(
            """() => { document.querySelector("#samples button").click();
                const threads = document.querySelector("#threads-wanted");
                threads.value = "1";
                threads.dispatchEvent(new Event("change")); }"""
        )
        visit.done()
        assert visit.text("engine") == "WebAssembly · 1 thread"
        assert visit.text("figure-from") == "96 × 96"
        visit.open_details().page.click("#measure")
        visit.until("document.querySelector('#measured').textContent.includes('ms for 64 × 64')")
        visit.page.select_option("#threads-wanted", "2")
        assert visit.page.is_disabled("#save")
        assert visit.text("figure-ms") == "–"
        assert visit.text("measured") == ""
        visit.done()
        visit.until("document.querySelector('#engine').textContent === 'WebAssembly · 2 threads'")
        assert visit.text("figure-ms") != "–"


def test_measuring_without_a_network_explains_why(
    browser: Browser, app_folder: Path, models: Models, serve: Callable[[Site], Site]
) -> None:
    site = site_of(app_folder, [replace(models.tiny, name="gone")], {})
    del site.files["models/tiny.onnx"]
    with visiting(browser, serve(site), **DESKTOP) as visit:
        visit.ready().open_details().page.click("#measure")
        visit.page.wait_for_selector("#trouble:has-text('“Sharpened” could not be loaded')")
        assert visit.text("measured") == ""
        visit.complaints.clear()


def test_a_stopped_worker_is_reported_at_once(browser: Browser, site: Site) -> None:
    with visiting(browser, site, **DESKTOP) as visit:
        words = visit.ready().engine(
            """
            const words = [];
            const options = { engine: "wasm", threads: 1 };
            const waiting = engine.ask("setup", { options }).catch((error) => words.push(error.message));
            engine.worker.dispatchEvent(new ErrorEvent("error", { message: "it is gone" }));
            await waiting;
            await engine.ask("shut").catch((error) => words.push(error.message));
            engine.restart();
            words.push((await engine.ask("setup", { options })).engine);
            return words;
            """
        )
        assert words[0] == words[1] == "The worker that computes has stopped (it is gone). Load the page once more."
        assert words[2] == "wasm"


def test_a_missing_list_of_models_is_reported(browser: Browser, site: Site) -> None:
    del site.files["api/models.json"]
    with visiting(browser, site, **DESKTOP) as visit:
        visit.ready()
        assert visit.text("trouble") == "The list of models could not be loaded (404)."
        visit.complaints.clear()
