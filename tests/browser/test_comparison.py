"""The two sides of one picture, saving and sharing; work is visible, can be cancelled, and the last request wins."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.browser.app_models import Models, png, sample_rgb, upscaled
from tests.browser.visits import DESKTOP, App, Visit, drop

pytestmark = pytest.mark.browser

FIGURES = ("figure-ms", "figure-window", "card-title", "card-figures", "model-name")
WATCHED = """() => {
    window.opened = [];
    const post = Worker.prototype.postMessage;
    Worker.prototype.postMessage = function (message, ...rest) {
        if (message.action === "open") window.opened.push(message.name);
        return post.call(this, message, ...rest);
    };
}"""
SAME = """(() => {
    const [left, right] = [...document.querySelectorAll(".sheet canvas")].map((canvas) => canvas.toDataURL());
    return left === right;
})()"""


def widths(visit: Visit) -> list[int]:
    return list(visit.page.eval_on_selector_all(".sheet canvas", "all => all.map((each) => each.width)"))


def test_figures_and_model_are_those_of_the_right_side(desktop: Visit, models: Models) -> None:
    """This holds for any model of the left side. No model is opened twice."""
    page = desktop.enlarge().page
    before = {name: desktop.text(name) for name in FIGURES}
    assert (before["model-name"], before["card-title"]) == ("Sharpened", "tiny")
    page.evaluate(WATCHED)
    page.select_option("#left", label="Large network")
    desktop.until("document.querySelector('#sheet-left canvas')?.width === 144")
    desktop.rest()
    assert {name: desktop.text(name) for name in FIGURES} == before
    assert page.evaluate("window.opened") == ["wide"]
    assert not page.evaluate(SAME)
    page.select_option("#right", label="Large network")
    desktop.until("document.querySelector('#model-name').textContent === 'Large network'")
    desktop.rest()
    assert desktop.text("card-title") == "wide"
    assert f"{models.wide.path.stat().st_size / 1e6:.2f} MB" in desktop.text("card-figures")
    assert desktop.text("figure-ms") != before["figure-ms"]
    desktop.until(SAME)
    assert widths(desktop) == [144, 144]
    page.select_option("#right", label="Ordinary")
    desktop.rest()
    desktop.until(f"!{SAME}")
    assert desktop.text("model-name") == "Large network"
    page.select_option("#left", label="Ordinary")
    desktop.rest()
    texts = [desktop.text(name) for name in ("model-name", "card-title", "figure-ms")]
    assert texts == ["", "No network", "–"]
    assert page.is_hidden("#card-figures")


def test_each_side_has_its_own_scale(desktop: Visit, models: Models, tmp_path: Path) -> None:
    """With a student ×2 on the left and a user's model ×4 on the right, each is shown and saved at its own scale."""
    desktop.page.set_input_files("#model-file", models.four.path)
    desktop.until("document.querySelector('#right').selectedOptions[0].text === 'four'")
    desktop.enlarge().page.select_option("#left", label="Sharpened")
    desktop.until("document.querySelector('#sheet-left canvas').width === 144")
    desktop.rest()
    assert widths(desktop) == [144, 288]
    for label, scale, model in (("Sharpened", 2, models.tiny), ("four", 4, models.four)):
        desktop.page.select_option("#right", label=label)
        desktop.until(f"document.querySelector('#model-name').textContent === '{label}'")
        desktop.rest()
        saved = desktop.saved(tmp_path)
        assert saved.name == f"chelsea-{label.lower()}-x{scale}.png"
        output = np.asarray(Image.open(saved).convert("RGB")).astype(int)
        assert np.abs(output - upscaled(model, sample_rgb("chelsea", 72))).max() <= 1


def test_a_drop_opens_all_its_models_and_one_photo(desktop: Visit, models: Models) -> None:
    """In one drop or in several; each model has its own entry in the list, and a failure beside them is reported."""
    content = models.tiny.path.read_bytes()
    drop(desktop, ("a.onnx", content), ("b.onnx", content))
    drop(desktop, ("c.onnx", content))
    desktop.until("document.querySelector('#right').selectedOptions[0].text === 'c'")
    assert desktop.titles() == ["Ordinary", "Sharpened", "Large network", "a", "b", "c"]
    keys = desktop.page.eval_on_selector_all("#right option", "all => all.map((each) => each.value)")
    assert len(set(keys)) == len(keys)
    photos = [(name, png(sample_rgb("coffee", side))) for name, side in (("first.png", 40), ("second.png", 56))]
    with desktop.finishing():
        drop(desktop, photos[0], ("bad.onnx", b"no model"), photos[1])
    desktop.rest()
    assert desktop.text("figure-from") == "80 × 80"
    drop(desktop, *photos)
    desktop.page.wait_for_selector("#trouble:has-text('One photo or film at a time: of these 2, first.png is opened.')")
    desktop.done()
    drop(desktop, ("bad.onnx", b"no model"), ("good.onnx", content))
    desktop.page.wait_for_selector("#trouble:has-text('bad.onnx')")
    desktop.until("document.querySelector('#right').selectedOptions[0].text === 'good'")


def test_a_photo_survives_a_change_of_engine_and_the_figures_are_the_new_ones(desktop: Visit) -> None:
    # At once: the photo is not decoded yet when the engine restarts.
    desktop.page.evaluate(
        """() => { document.querySelector("#samples button").click();
            const threads = document.querySelector("#threads-wanted");
            threads.value = "1";
            threads.dispatchEvent(new Event("change")); }"""
    )
    desktop.done()
    assert desktop.text("engine") == "WebAssembly · 1 thread"
    assert desktop.text("figure-from") == "144 × 144"
    desktop.open_details().page.click("#measure")
    desktop.until("document.querySelector('#measured').textContent.includes('ms for 64 × 64')")
    desktop.page.select_option("#threads-wanted", "2")
    assert desktop.page.is_disabled("#save")
    assert (desktop.text("figure-ms"), desktop.text("measured")) == ("–", "")
    desktop.done()
    desktop.until("document.querySelector('#engine').textContent === 'WebAssembly · 2 threads'")
    assert desktop.text("figure-ms") != "–"


def test_a_missing_network_is_reported_when_it_is_needed(app: App, models: Models) -> None:
    """Measuring without one explains why there is no figure."""
    site = app.site([models.tiny], {})
    del site.files["models/tiny.onnx"]
    with app.visit(site, expected=("404", "integrity", "ERR_FAILED"), **DESKTOP) as visit:
        visit.open_details().page.click("#measure")
        visit.page.wait_for_selector("#trouble:has-text('“Sharpened” could not be loaded')")
        assert visit.text("measured") == ""
