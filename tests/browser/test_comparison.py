"""The two sides of one picture: the figures, the scale of each side, saving and sharing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from compressor.images.metrics import to_u8
from compressor.images.resize import upscale_bicubic
from compressor.models.networks.edsr import EDSRSpec
from tests.browser.app_models import Models, png, sample_rgb, upscaled
from tests.browser.app_site import Model, Site, site_of
from tests.browser.visits import DESKTOP, PHONE, Visit, visiting

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser

FIGURES = ("figure-ms", "figure-window", "card-title", "card-figures", "model-name")
RESTED = "document.querySelector('#work').hidden"
WATCHED = """() => {
    window.opened = [];
    const post = Worker.prototype.postMessage;
    Worker.prototype.postMessage = function (message, ...rest) {
        if (message.action === "open") window.opened.push(message.name);
        return post.call(this, message, ...rest);
    };
}"""
SHARING = """() => {
    window.shared = [];
    navigator.canShare = ({ files }) => files.length === 1 && files[0].type === "image/png";
    navigator.share = async ({ files, title }) => { window.shared.push([title, files[0].size]); };
}"""


@pytest.fixture(scope="module")
def wide(models: Models) -> Model:
    """Return a teacher that takes seconds where the student takes almost no time."""
    return replace(models.build(EDSRSpec(2, width=32, depth=4), "wide"), role="teacher")


@pytest.fixture
def pair(app_folder: Path, models: Models, wide: Model, serve: Callable[[Site], Site]) -> Site:
    return serve(site_of(app_folder, [models.tiny, wide], {"cat.png": png(sample_rgb("chelsea", 48))}))


def tiled(times: int) -> NDArray[np.uint8]:
    return np.tile(sample_rgb("chelsea", 72), (times, times, 1))


def canvases(visit: Visit) -> dict[str, list[int]]:
    script = "[...document.querySelectorAll('.sheet canvas')].map((each) => [each.width, each.height])"
    return dict(zip(("left", "right"), visit.page.evaluate(script), strict=True))


def test_figures_and_model_are_those_of_the_right_side(browser: Browser, pair: Site, wide: Model) -> None:
    """This holds for any model of the left side. No model is opened twice."""
    with visiting(browser, pair, **DESKTOP) as visit:
        visit.ready().choose()
        visit.done()
        before = {name: visit.text(name) for name in FIGURES}
        assert (before["model-name"], before["card-title"]) == ("Sharpened", "tiny")
        visit.page.evaluate(WATCHED)
        visit.page.select_option("#left", label="Large network")
        visit.until("document.querySelector('#sheet-left canvas')?.width === 96 && " + RESTED)
        assert {name: visit.text(name) for name in FIGURES} == before
        assert visit.page.evaluate("window.opened") == ["wide"]
        visit.page.select_option("#right", label="Large network")
        visit.until(f"document.querySelector('#model-name').textContent === 'Large network' && {RESTED}")
        assert visit.text("card-title") == "wide"
        assert f"{wide.path.stat().st_size / 1e6:.2f} MB" in visit.text("card-figures")
        assert visit.text("figure-ms") != before["figure-ms"]
        # Both sides show the same result.
        assert canvases(visit) == {"left": [96, 96], "right": [96, 96]}
        visit.page.select_option("#right", label="Ordinary")
        visit.until(RESTED)
        assert visit.text("model-name") == "Large network"
        visit.page.select_option("#left", label="Ordinary")
        visit.until(RESTED)
        texts = [visit.text(name) for name in ("model-name", "card-title", "figure-ms")]
        assert texts == ["", "No network", "–"]
        assert visit.page.is_hidden("#card-figures")


def test_each_side_has_its_own_scale(
    browser: Browser, app_folder: Path, models: Models, serve: Callable[[Site], Site], tmp_path: Path
) -> None:
    """With a student ×2 on the left and a user's model ×4 on the right, each is shown and saved at its own scale."""
    four = models.build(EDSRSpec(4, width=8, depth=1), "four")
    sample = sample_rgb("chelsea", 48)
    site = serve(site_of(app_folder, [models.tiny], {"cat.png": png(sample)}))
    with visiting(browser, site, **DESKTOP) as visit:
        visit.ready()
        visit.page.set_input_files("#model-file", four.path)
        visit.until("document.querySelector('#right').selectedOptions[0].text === 'four'")
        visit.choose()
        visit.done()
        visit.page.select_option("#left", label="Sharpened")
        visit.until("document.querySelector('#sheet-left canvas').width === 96 && " + RESTED)
        assert canvases(visit) == {"left": [96, 96], "right": [192, 192]}
        for label, scale, model in (("Sharpened", 2, models.tiny), ("four", 4, four)):
            visit.page.select_option("#right", label=label)
            visit.until(f"document.querySelector('#model-name').textContent === '{label}' && {RESTED}")
            saved = visit.saved(tmp_path)
            assert saved.name == f"cat-{label.lower()}-x{scale}.png"
            output = np.asarray(Image.open(saved).convert("RGB")).astype(int)
            assert np.abs(output - upscaled(model, sample)).max() <= 1


def test_save_and_share_wait_for_a_result(
    browser: Browser, app_folder: Path, models: Models, wide: Model, serve: Callable[[Site], Site]
) -> None:
    site = serve(site_of(app_folder, [models.tiny, wide], {"cats.png": png(tiled(6))}))
    with visiting(browser, site, **DESKTOP) as visit:
        visit.ready().page.evaluate(SHARING)
        visit.choose()
        visit.done()
        visit.page.click("#share")
        visit.until("window.shared.length === 1")
        title, size = visit.page.evaluate("window.shared[0]")
        assert title == "cats-sharpened-x2.png"
        assert size > 1000
        # While the teacher runs, and after it was cancelled, it has nothing to save or share.
        visit.page.select_option("#right", label="Large network")
        assert visit.page.is_disabled("#save") and visit.page.is_disabled("#share")
        visit.page.click("#cancel")
        visit.until(RESTED)
        assert visit.page.is_disabled("#save") and visit.page.is_disabled("#share")
        assert visit.text("figure-ms") == "–"
        visit.page.select_option("#right", label="Sharpened")
        visit.done()
        assert visit.page.is_enabled("#share")
        visit.page.evaluate("() => { navigator.share = async () => { throw new Error('no app takes it') } }")
        visit.page.click("#share")
        visit.page.wait_for_selector("#trouble:has-text('no app takes it')")
        visit.page.evaluate("() => { navigator.share = async () => { throw new DOMException('', 'AbortError') } }")
        visit.page.click("#share")
        visit.until("document.querySelector('#trouble').hidden")


def test_large_bicubic_is_saved_whole_and_equals_matlab(
    browser: Browser, app_folder: Path, models: Models, serve: Callable[[Site], Site], tmp_path: Path
) -> None:
    picture = tiled(20)
    site = serve(site_of(app_folder, [models.tiny], {"cats.png": png(picture)}))
    with visiting(browser, site, **DESKTOP) as visit:
        visit.ready().page.select_option("#right", "bicubic", force=True)
        visit.choose()
        visit.page.wait_for_selector("#ask:not([hidden])")
        assert visit.page.is_disabled("#save")
        visit.page.click("#ask-whole")
        saved = visit.saved(tmp_path)
        assert saved.name == "cats-ordinary-x2.png"
    output = np.asarray(Image.open(saved).convert("RGB"))
    assert output.shape == (2880, 2880, 3)
    crop = torch.from_numpy(picture[:80, :80].copy()).permute(2, 0, 1)[None].float() / 255
    expected = np.asarray(to_u8(upscale_bicubic(crop, 2))[0].permute(1, 2, 0))
    assert np.abs(output[:140, :140].astype(int) - expected[:140, :140]).max() <= 1


def without_streams(site: Site) -> Site:
    """Change the site to simulate an older browser: a test cannot inject a script into a worker."""
    asks = b'typeof CompressionStream === "function"'
    module = site.content("src/png.js") or b""
    assert asks in module
    site.files["src/png.js"] = module.replace(asks, b"false")
    site.files.pop("src/png.js.gz", None)
    return site


@pytest.mark.parametrize("times", [2, 20])
def test_without_a_streaming_compressor_the_file_has_the_size_in_its_name(
    browser: Browser, app_folder: Path, models: Models, serve: Callable[[Site], Site], tmp_path: Path, times: int
) -> None:
    site = without_streams(site_of(app_folder, [models.tiny], {"cats.png": png(tiled(times))}))
    with visiting(browser, serve(site), **PHONE) as visit:
        visit.ready().choose()
        if times > 2:
            visit.page.click("#ask-whole")
        saved = visit.saved(tmp_path)
        with Image.open(saved) as output:
            size = output.size
        side = times * 72 * 2
        if times == 2:
            assert (saved.name, size) == ("cats-sharpened-x2.png", (side, side))
            assert visit.page.is_hidden("#trouble")
        else:
            assert saved.name == f"cats-sharpened-{size[0]}x{size[1]}.png"
            assert size[0] < side
            assert "in the size that is shown" in visit.text("trouble")
        # The service worker refuses a file that is not from the build.
        assert all("integrity" in complaint or "hash" in complaint for complaint in visit.complaints)
        visit.complaints.clear()


def test_a_canvas_that_gives_no_file_is_reported(
    browser: Browser, app_folder: Path, models: Models, serve: Callable[[Site], Site]
) -> None:
    """This happens on phones with little memory."""
    site = without_streams(site_of(app_folder, [models.tiny], {"cats.png": png(tiled(1))}))
    with visiting(browser, serve(site), **PHONE) as visit:
        visit.ready().page.evaluate("() => { HTMLCanvasElement.prototype.toBlob = (done) => done(null) }")
        visit.choose()
        visit.done()
        visit.page.click("#save")
        visit.page.wait_for_selector("#trouble:has-text('could not write this picture')")
        visit.complaints.clear()
