"""Engines and precisions: the page says what computes and why nothing better, and measures which is fastest."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from export.formats.table import MIN_PSNR_TO_SOURCE
from tests.browser.app_models import Models, png, sample_rgb, upscaled
from tests.browser.visits import DESKTOP, PHONE, App, Visit, visiting

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser

SIDE = 64
SOURCE = {"srkd.source_sha256": "0" * 64}
TABLE = """[...document.querySelectorAll("#compared tbody tr")]
    .map((row) => [row.className, ...[...row.cells].map((cell) => cell.textContent.replace("✓ ", ""))])"""
BITS = {"32-bit": "Sharpened", "16-bit": "Sharpened, 16-bit", "8-bit": "Sharpened, int8"}


def compare(visit: Visit) -> list[list[str]]:
    visit.page.click("#compare")
    visit.until("document.querySelector('#compared-words').textContent !== ''")
    visit.done()
    visit.rest()
    return list(visit.page.evaluate(TABLE))


def test_the_fastest_precision_that_is_exact_enough_is_used(app: App, models: Models) -> None:
    """The nearness in the table is the PSNR between the images of onnxruntime in Python."""
    sample = sample_rgb("chelsea", SIDE)
    family = ((models.tiny, "net"), (models.half, "net-fp16"), (models.int8, "net-int8"))
    files = [models.described(replace(each, name=name), SOURCE) for each, name in family]
    with app.visit(app.site(files, {"cat.png": png(sample)}), **PHONE) as visit:
        assert visit.page.is_hidden("#precisions")
        visit.enlarge()
        assert "numbers of 32-bit, 16-bit and 8-bit" in visit.page.inner_text("#precisions-words")
        rows = compare(visit)
        assert [(bits, engine) for _, bits, engine, *_ in rows] == [(bits, "WebAssembly") for bits in BITS]
        assert rows[0][4] == "the measure"
        match = re.fullmatch(r"([\d.]+) dB(: too far)?", rows[2][4])
        assert match is not None, rows
        difference = upscaled(models.tiny, sample).astype(float) - upscaled(models.int8, sample)
        assert float(match[1]) == pytest.approx(10 * np.log10(255**2 / np.mean(difference**2)), abs=1)
        assert bool(match[2]) == (float(match[1]) < MIN_PSNR_TO_SOURCE)
        near = [row for row in rows if "too far" not in row[4]]
        best = min(near, key=lambda row: float(row[3].replace(",", "")))
        (marked,) = (row for row in rows if row[0] == "best")
        assert float(marked[3].replace(",", "")) == float(best[3].replace(",", ""))
        assert visit.text("model-name") == BITS[marked[1]]
        assert f"{marked[1]} on WebAssembly" in visit.text("compared-words")
        assert visit.page.eval_on_selector("#engine-wanted", "select => select.value") == "wasm"
        # It is forgotten with the choice that it was made for.
        visit.open_details().page.select_option("#threads-wanted", "1")
        visit.done()
        assert visit.page.is_hidden("#compared") and visit.text("compared-words") == ""


def test_a_picture_that_is_too_far_is_never_chosen(desktop: Visit) -> None:
    """However fast it is. Equal pixels are infinitely near, a failure is no candidate."""
    bound, chosen, equal, alone = desktop.page.evaluate(
        """async () => {
            const { EXACT_ENOUGH_DB, fastest, psnr } = await import(new URL("src/compare.js", document.baseURI).href);
            const rows = [
                { id: "measure", ms: 9, db: null, failed: null },
                { id: "far", ms: 1, db: EXACT_ENOUGH_DB - 0.1, failed: null },
                { id: "near", ms: 3, db: EXACT_ENOUGH_DB, failed: null },
                { id: "equal", ms: 4, db: Infinity, failed: null },
                { id: "failed", ms: 0, db: null, failed: "it does not run" },
            ];
            const grey = { width: 2, height: 1, rgba: [9, 9, 9, 255, 9, 9, 9, 255] };
            const none = fastest(rows.slice(4)) === undefined;
            return [EXACT_ENOUGH_DB, fastest(rows).id, psnr(grey, grey) === Infinity, none];
        }"""
    )
    assert (bound, chosen, equal, alone) == (MIN_PSNR_TO_SOURCE, "near", True, True)
    assert f"{bound:g} dB" in desktop.text("compared")


def test_each_engine_is_compared_and_software_is_called_so(webgpu_browser: Browser, app: App, models: Models) -> None:
    """One precision on two engines: WebGPU in software is a candidate once it is selected, and loses."""
    site = app.site([models.tiny], {"cat.png": png(sample_rgb("chelsea", 16))})
    expected = ("WebGPU", "powerPreference", "webgpu")
    with visiting(webgpu_browser, site, address="?engine=webgpu", expected=expected, **DESKTOP) as visit:
        assert visit.text("engine").startswith("WebGPU · ")
        assert visit.text("chip") == "on the processor"
        visit.enlarge()
        assert "on WebGPU and WebAssembly" in visit.text("precisions-words")
        rows = compare(visit)
        assert [row[2] for row in rows] == ["WebAssembly", "WebGPU"]
        assert rows[1][4] == "equal pixels" or float(rows[1][4].split()[0]) > 60
        assert rows[0][0] == "best"
        assert visit.text("engine").startswith("WebAssembly")


def test_what_computes_is_said_in_plain_words(desktop: Visit) -> None:
    assert desktop.page.inner_text("#chip") == "on the processor"
    words = desktop.text("engine-words")
    assert re.fullmatch(r"The processor of this device computes, in Chromium \d+ on Linux\.", words), words
    assert "No WebGPU: " in desktop.text("why")


CHOOSE = """async ([gpu, options]) => {
    const { choose } = await import(new URL("src/runtime.js", document.baseURI).href);
    const adapter = { info: { vendor: "acme", architecture: "rocket" } };
    const requestAdapter = async () => gpu && adapter;
    Object.defineProperty(navigator, "gpu", { value: { requestAdapter }, configurable: true });
    return choose(options);
}"""


def test_webgpu_is_chosen_where_the_browser_has_it(desktop: Visit) -> None:
    """A stub stands for the browser's."""
    for gpu, wanted, engine, why in (
        (False, "auto", "wasm", "No WebGPU: the browser has it"),
        (False, "webgpu", "wasm", "No WebGPU: the browser has it"),
        (True, "auto", "webgpu", ""),
        (True, "wasm", "wasm", "WebGPU is not used because WebAssembly is selected."),
    ):
        choice = desktop.page.evaluate(CHOOSE, [gpu, {"engine": wanted}])
        assert choice["engine"] == engine, choice
        assert why in " ".join(choice["why"]) and bool(choice["why"]) == bool(why)
        assert choice["available"] == [*["webgpu"] * gpu, "wasm"]


def test_a_webgpu_that_fails_is_replaced_by_the_processor(app: App, models: Models) -> None:
    """It was chosen by itself, and the network could not be opened in it."""
    site = app.site([models.tiny])
    broken = "{ info: { vendor: 'acme' }, async requestDevice() { throw new Error('it is broken'); } }"
    stub = f'Object.defineProperty(navigator, "gpu", {{ value: {{ requestAdapter: async () => ({broken}) }} }});\n'
    site.files["src/worker.js"] = (site.content("src/worker.js") or b"") + stub.encode()
    # The service worker refuses a file that is not from the build.
    with app.visit(site, expected=("integrity", "hash", "could not"), **DESKTOP) as visit:
        visit.enlarge()
        assert visit.text("engine").startswith("WebAssembly")
        assert "WebGPU is available but failed: " in visit.text("why")
        assert "WebGPU is not used" not in visit.text("why")
