"""The live camera: it runs the chosen model, at the network's sizes, and leaves no stream running."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from compressor.models.networks.edsr import EDSRSpec
from export.formats.conversion import FileOptions
from tests.browser.app_models import TINY, Models, png, sample_rgb
from tests.browser.app_site import Model, Site, site_of
from tests.browser.visits import FLAGS, PHONE, Visit, visiting

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser

FAKE = (*FLAGS, "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream")
PAINTED = "canvas => new Set(canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data).size"
SIZES = (
    "['left', 'right'].map((s) => document.querySelector(`#sheet-${s} canvas`)).map((c) => c && [c.width, c.height])"
)
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
RESTED = "document.querySelector('#work').hidden"


@pytest.fixture(scope="module")
def filming(launch: Callable[[Sequence[str]], Browser]) -> Browser:
    return launch(FAKE)


@contextmanager
def with_models(
    filming: Browser, app_folder: Path, serve: Callable[[Site], Site], models: Sequence[Model]
) -> Iterator[Visit]:
    site = serve(site_of(app_folder, models, {"cat.png": png(sample_rgb("chelsea", 72))}))
    with visiting(filming, site, **PHONE) as visit:
        yield visit.ready()


def shot(visit: Visit) -> None:
    """Start the camera and wait for a frame on the page."""
    visit.page.click("#live")
    visit.page.wait_for_selector("#frames:has-text('pictures/s')")


def test_a_camera_runs_live(filming: Browser, app_folder: Path, models: Models, serve: Callable[[Site], Site]) -> None:
    with with_models(filming, app_folder, serve, [models.tiny]) as visit:
        shot(visit)
        width = visit.page.eval_on_selector("#sheet-right canvas", "canvas => canvas.width")
        assert width == 2 * 96
        assert visit.page.eval_on_selector("#sheet-right canvas", PAINTED) > 10
        assert visit.text("live") == "Stop"
        visit.page.click("#live")
        visit.page.wait_for_selector("body[data-mode=empty]")
        assert visit.text("live") == "Live"
        # A picture, the camera over it, and the picture again; then a photo chosen while the camera runs.
        visit.choose()
        visit.done()
        shot(visit)
        visit.page.click("#live")
        visit.page.wait_for_selector("body[data-mode=picture]")
        assert visit.page.evaluate(SIZES) == [[144, 144], [144, 144]]
        shot(visit)
        assert visit.page.is_disabled("#save")
        edge = "(name) => document.querySelector(name).getBoundingClientRect().right"
        assert visit.page.evaluate(edge, "#zoom-in") <= visit.page.evaluate(edge, "#stage")
        visit.page.click("#samples-again button >> nth=0")
        visit.page.wait_for_selector("body[data-mode=picture]")
        visit.done()
        assert visit.text("live") == "Live"


@pytest.mark.parametrize("button", ["live", "cancel"])
def test_a_camera_that_starts_too_late_is_stopped(
    filming: Browser, app_folder: Path, models: Models, serve: Callable[[Site], Site], button: str
) -> None:
    """A second tap before the camera has answered cancels it; so does Cancel. Afterwards it starts as usual, once."""
    with with_models(filming, app_folder, serve, [models.tiny]) as visit:
        visit.page.evaluate(WAITING, "")
        visit.page.click("#live")
        visit.page.wait_for_selector("#progress-words:has-text('Waiting for the camera')")
        assert visit.text("live") == "Stop"
        visit.page.click(f"#{button}")
        visit.page.evaluate(ANSWER)
        visit.until("window.streams.length === 1")
        visit.until(f"{LIVE} === 0 && {RESTED}")
        assert (visit.text("live"), visit.page.get_attribute("body", "data-mode")) == ("Live", "empty")
        shot(visit)
        assert visit.page.evaluate(LIVE) == 1
        visit.page.click("#live")
        visit.until(f"{LIVE} === 0")


def test_a_model_chosen_during_live_runs(
    filming: Browser, app_folder: Path, models: Models, serve: Callable[[Site], Site]
) -> None:
    teacher = replace(models.build(EDSRSpec(4, width=16, depth=1), "times-four"), role="teacher")
    with with_models(filming, app_folder, serve, [models.tiny, teacher]) as visit:
        visit.page.evaluate(WAITING, "")
        visit.page.evaluate(ANSWER)
        shot(visit)
        visit.page.select_option("#right", label="Large network")
        visit.until("document.querySelector('#sheet-right canvas').width === 4 * 96")
        assert visit.text("model-name") == "Large network"
        visit.page.select_option("#right", label="Ordinary")
        visit.until("document.querySelector('#sheet-right canvas').width !== 4 * 96 || window.streams.length === 1")
        visit.open_details().page.select_option("#live-width", "64")
        visit.until("document.querySelector('#sheet-left canvas').width === 64")
        visit.page.select_option("#right", label="Sharpened")
        visit.until("document.querySelector('#sheet-right canvas').width === 2 * 64")
        assert visit.page.evaluate("window.streams.length") == 1


def test_networks_with_fixed_sizes_get_them(
    filming: Browser, app_folder: Path, models: Models, serve: Callable[[Site], Site], tmp_path: Path
) -> None:
    import json

    fixed = models.build(TINY, "fixed-48x40", FileOptions(lr_size=(48, 40)))
    with with_models(filming, app_folder, serve, [fixed]) as visit:
        shot(visit)
        assert visit.page.evaluate(SIZES) == [[48, 40], [96, 80]]
        assert visit.text("shot") == "Camera 48 × 40"
        assert visit.page.eval_on_selector("#sheet-right canvas", PAINTED) > 10
        assert visit.page.is_hidden("#trouble")
        visit.page.click("#live")
    site = site_of(app_folder, [models.tiny], {})
    listed = json.loads(site.content("api/models.json") or b"")
    listed["models"][0]["size_multiple"] = 20
    site.files["api/models.json"] = json.dumps(listed).encode()
    with visiting(filming, serve(site), **PHONE) as visit:
        visit.ready()
        shot(visit)
        (width, height), _ = visit.page.evaluate(SIZES)
        assert (width, height % 20) == (100, 0)


@pytest.mark.parametrize(
    ("name", "words"),
    [("NotAllowedError", "was not allowed"), ("NotFoundError", "No camera"), ("NotReadableError", "something else")],
)
def test_a_camera_that_is_refused_is_reported(
    filming: Browser, app_folder: Path, models: Models, serve: Callable[[Site], Site], name: str, words: str
) -> None:
    with with_models(filming, app_folder, serve, [models.tiny]) as visit:
        visit.choose()
        visit.done()
        visit.page.evaluate(WAITING, name)
        visit.page.click("#live")
        visit.page.evaluate(ANSWER)
        visit.page.wait_for_selector(f"#trouble:has-text('{words}')")
        visit.until(RESTED)
        assert (visit.text("live"), visit.page.get_attribute("body", "data-mode")) == ("Live", "picture")
        assert visit.page.is_enabled("#save")


def test_a_network_that_fails_leaves_the_camera_off(
    filming: Browser, app_folder: Path, models: Models, serve: Callable[[Site], Site]
) -> None:
    site = site_of(app_folder, [models.tiny], {})
    site.files["models/tiny.onnx"] = b"not the file that was announced"
    with visiting(filming, serve(site), **PHONE) as visit:
        visit.ready().page.evaluate(WAITING, "")
        visit.page.evaluate(ANSWER)
        visit.page.click("#live")
        visit.page.wait_for_selector("#trouble:has-text('“Sharpened” could not be loaded')")
        visit.until(f"{LIVE} === 0 && {RESTED}")
        assert visit.text("live") == "Live"
        visit.complaints.clear()
