"""The live camera: it runs the chosen model, at the network's sizes, and leaves no stream running."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from tests.browser.app_models import Models
from tests.browser.visits import PHONE, SIZES, App, Visit

pytestmark = pytest.mark.browser

PAINTED = "canvas => new Set(canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data).size"
# A camera that answers when the test calls `answer`: a delay in milliseconds would race with a slow machine.
WAITING = """(trouble) => {
    window.streams = [];
    const answered = new Promise((answer) => { window.answer = answer; });
    const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
    navigator.mediaDevices.getUserMedia = async (what) => {
        await answered;
        if (trouble) throw new DOMException("Permission denied", trouble);
        window.streams.push(await ask(what));
        return window.streams.at(-1);
    };
}"""
ANSWER = "window.answer()"
LIVE = "window.streams.flatMap((stream) => stream.getTracks()).filter((track) => track.readyState === 'live').length"


def shot(visit: Visit) -> None:
    """Start the camera and wait for a frame on the page."""
    visit.page.click("#live")
    visit.page.wait_for_selector("#frames:has-text('pictures/s')")


def state(visit: Visit) -> tuple[str, str | None]:
    return visit.text("live"), visit.page.get_attribute("body", "data-mode")


def test_a_camera_runs_live(phone: Visit) -> None:
    page = phone.page
    shot(phone)
    assert page.eval_on_selector("#sheet-right canvas", "canvas => canvas.width") == 2 * 96
    assert page.eval_on_selector("#sheet-right canvas", PAINTED) > 10
    assert phone.text("live") == "Stop"
    page.click("#live")
    page.wait_for_selector("body[data-mode=empty]")
    assert phone.text("live") == "Live"
    # A picture, the camera over it, and the picture again; then a photo chosen while the camera runs.
    phone.enlarge()
    shot(phone)
    page.click("#live")
    page.wait_for_selector("body[data-mode=picture]")
    assert page.evaluate(SIZES) == [[144, 144], [144, 144]]
    shot(phone)
    assert page.is_disabled("#save")
    edge = "(name) => document.querySelector(name).getBoundingClientRect().right"
    assert page.evaluate(edge, "#zoom-in") <= page.evaluate(edge, "#stage")
    phone.enlarge()
    assert state(phone) == ("Live", "picture")


def test_a_camera_that_starts_too_late_is_stopped(phone: Visit) -> None:
    """A second tap before the camera has answered cancels it. Afterwards it starts as usual, once."""
    phone.page.evaluate(WAITING, "")
    phone.page.click("#live")
    phone.page.wait_for_selector("#progress-words:has-text('Waiting for the camera')")
    assert phone.text("live") == "Stop"
    phone.page.click("#live")
    phone.page.evaluate(ANSWER)
    phone.until(f"window.streams.length === 1 && {LIVE} === 0")
    phone.rest()
    assert state(phone) == ("Live", "empty")
    shot(phone)
    assert phone.page.evaluate(LIVE) == 1
    phone.page.click("#live")
    phone.until(f"{LIVE} === 0")


def test_a_model_chosen_during_live_runs(app: App, models: Models) -> None:
    with app.visit([models.tiny, replace(models.four, role="teacher")], **PHONE) as visit:
        page = visit.page
        page.evaluate(WAITING, "")
        page.evaluate(ANSWER)
        shot(visit)
        page.select_option("#right", label="Large network")
        visit.until("document.querySelector('#sheet-right canvas').width === 4 * 96")
        assert visit.text("model-name") == "Large network"
        page.select_option("#right", label="Ordinary")
        visit.open_details().page.select_option("#live-width", "64")
        visit.until("document.querySelector('#sheet-left canvas').width === 64")
        page.select_option("#right", label="Sharpened")
        visit.until("document.querySelector('#sheet-right canvas').width === 2 * 64")
        assert page.evaluate("window.streams.length") == 1


def test_networks_with_fixed_sizes_get_them(app: App, models: Models) -> None:
    site = app.site([models.fixed(48, 40), replace(models.tiny, role="teacher")])
    listed = json.loads(site.content("api/models.json") or b"")
    listed["models"][1]["size_multiple"] = 20
    site.files["api/models.json"] = json.dumps(listed).encode()
    with app.visit(site, **PHONE) as visit:
        shot(visit)
        assert visit.page.evaluate(SIZES) == [[48, 40], [96, 80]]
        assert visit.text("shot") == "Camera 48 × 40"
        assert visit.page.eval_on_selector("#sheet-right canvas", PAINTED) > 10
        assert visit.page.is_hidden("#trouble")
        visit.page.select_option("#right", label="Large network")
        visit.until("document.querySelector('#sheet-left canvas').width === 100")
        (_, height), _ = visit.page.evaluate(SIZES)
        assert height % 20 == 0


def test_a_camera_that_is_refused_is_reported(phone: Visit) -> None:
    phone.enlarge()
    for name, words in {
        "NotAllowedError": "was not allowed",
        "NotFoundError": "No camera",
        "NotReadableError": "something else",
    }.items():
        phone.page.evaluate(WAITING, name)
        phone.page.click("#live")
        phone.page.evaluate(ANSWER)
        phone.page.wait_for_selector(f"#trouble:has-text('{words}')")
        phone.rest()
        assert state(phone) == ("Live", "picture")
        assert phone.page.is_enabled("#save")
