"""A film of the user: enlarged while it plays, its newest frame, paused and stopped; the camera's code runs it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.browser.app_models import Models
from tests.browser.visits import DESKTOP, SIZES, App, Visit, drop

pytestmark = pytest.mark.browser

PAUSED = "document.querySelector('#pause').textContent === 'Play'"
PIXELS = """(name) => {
    const shown = document.querySelector(`#sheet-${name} canvas`);
    const copy = new OffscreenCanvas(shown.width, 40).getContext("2d", { willReadFrequently: true });
    copy.drawImage(shown, 0, 0);
    return [...copy.getImageData(0, 0, shown.width, 40).data];
}"""
SHOWN = """() => {
    window.shown = 0;
    const put = CanvasRenderingContext2D.prototype.putImageData;
    CanvasRenderingContext2D.prototype.putImageData = function (...args) {
        if (this.canvas.parentNode?.id === "sheet-right") window.shown++;
        return put.apply(this, args);
    };
}"""
FPS = 25


def film(path: Path, seconds: float) -> Path:
    """Write a clip of moving colours, 320 × 180, in VP8."""
    ffmpeg = shutil.which("ffmpeg")
    if ffmpeg is None:
        pytest.skip("ffmpeg is not installed")
    source = f"testsrc=size=320x180:rate={FPS}:duration={seconds}"
    command = [ffmpeg, "-v", "error", "-f", "lavfi", "-i", source, "-c:v", "libvpx", "-b:v", "1M", str(path)]
    subprocess.run(command, check=True)
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return film(tmp_path_factory.mktemp("films") / "clip.webm", 60)


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return film(tmp_path_factory.mktemp("films") / "short.webm", 0.6)


def started(visit: Visit, path: Path) -> None:
    visit.page.set_input_files("#library", path)
    visit.page.wait_for_selector("body[data-mode=live]")
    visit.page.wait_for_selector("#frames:has-text('pictures/s')")


def test_a_film_is_enlarged_while_it_plays(phone: Visit, clip: Path) -> None:
    """Frames a second and milliseconds are shown; a pause holds the frame, which another network enlarges again."""
    page = phone.page
    page.evaluate(SHOWN)
    started(phone, clip)
    phone.until("window.shown > 5")
    assert re.fullmatch(r"[\d.,]+ pictures/s · [\d.,]+ ms", phone.text("frames"))
    (left, _), (right, _) = page.evaluate(SIZES)
    assert right == 2 * left and left <= 320
    assert re.fullmatch(r"clip\.webm \d+ × \d+", phone.text("shot"))
    assert phone.text("live") == "Stop" and page.is_disabled("#save")
    page.click("#pause")
    phone.until(PAUSED)
    # A frame that was begun before is still shown.
    still, before_that = page.evaluate("window.shown"), -1
    while still != before_that:
        page.wait_for_timeout(500)
        still, before_that = page.evaluate("window.shown"), still
    page.wait_for_timeout(500)
    assert page.evaluate("window.shown") == still
    before = page.evaluate(PIXELS, "left")
    page.select_option("#right", label="Ordinary")
    phone.until(f"window.shown > {still}")
    assert page.evaluate(PIXELS, "left") == before
    page.click("#pause")
    phone.until(f"window.shown > {still} + 3 && !({PAUSED})")
    phone.until(f"({PIXELS})('left').some((each, i) => Math.abs(each - ({before})[i]) > 8)")
    page.click("#live")
    page.wait_for_selector("body[data-mode=empty]")
    assert page.is_hidden("#pause") and page.is_hidden("#frames") and phone.text("live") == "Live"


def test_frames_are_dropped_rather_than_queued(app: App, models: Models, clip: Path) -> None:
    """A network that is slower than the film shows fewer frames of it, and does not fall behind."""
    with app.visit([models.wide], **DESKTOP) as visit:
        visit.page.select_option("#right", index=1, force=True)
        visit.page.evaluate(SHOWN)
        visit.page.evaluate(
            """() => { const make = document.createElement.bind(document);
                document.createElement = (kind, ...rest) => {
                    const made = make(kind, ...rest);
                    if (kind === "video") window.film = made;
                    return made;
                }; }"""
        )
        started(visit, clip)
        visit.until("window.shown >= 4")
        played, shown = visit.page.evaluate("[window.film.currentTime, window.shown]")
        assert shown < played * FPS
        visit.page.click("#live")
        visit.page.wait_for_selector("body[data-mode=empty]")
        visit.until("window.film.src === ''")


def test_a_film_ends_plays_again_and_gives_way_to_a_photo(phone: Visit, short: Path) -> None:
    phone.enlarge()
    phone.page.evaluate(SHOWN)
    started(phone, short)
    phone.until(PAUSED)
    shown = phone.page.evaluate("window.shown")
    phone.page.click("#pause")
    phone.until(f"window.shown > {shown}")
    phone.until(PAUSED)
    phone.enlarge(sample=1)
    assert phone.page.get_attribute("body", "data-mode") == "picture" and phone.page.is_hidden("#pause")
    assert phone.page.is_enabled("#save")


def test_a_film_is_dropped_and_one_that_cannot_be_played_is_reported(phone: Visit, short: Path) -> None:
    drop(phone, ("dropped.webm", short.read_bytes()))
    phone.page.wait_for_selector("#shot:has-text('dropped.webm')")
    drop(phone, ("broken.mp4", b"not a film"))
    phone.page.wait_for_selector("#trouble:has-text('This browser cannot play broken.mp4.')")
    phone.rest()
    assert phone.text("live") == "Live"
