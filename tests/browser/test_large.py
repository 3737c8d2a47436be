"""Twelve megapixels in a browser: bounded memory, strips where no canvas holds the result, cancel."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil
import pytest
from PIL import Image

from tests.browser.app_models import Models, sample_rgb
from tests.browser.app_site import Site, site_of
from tests.browser.visits import DESKTOP, PHONE, note, visiting

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser

PHOTO = (4000, 3000)
BOUND_MB = 600
"""Of everything that the page's processes hold beyond an idle page: 48 MB for the decoded photo (twice while it is
decoded), at most 192 MB of feature maps by our count and what the arena makes of it, a strip of output, three previews
of at most 32 MB, and the compressed result on its way to the browser."""


@pytest.fixture(scope="module")
def photo() -> bytes:
    """4000x3000 of an embedded photo, repeated with a slow change of brightness."""
    tile = sample_rgb("coffee", 96)
    width, height = PHOTO
    wide = np.tile(tile, (-(-height // 96), -(-width // 96), 1))[:height, :width].astype(np.float32)
    wide *= np.linspace(0.4, 1, width, dtype=np.float32)[None, :, None]
    written = BytesIO()
    Image.fromarray(wide.astype(np.uint8)).save(written, "JPEG", quality=85)
    return written.getvalue()


@pytest.fixture
def site(app_folder: Path, models: Models, serve: Callable[[Site], Site], photo: bytes) -> Site:
    site = serve(site_of(app_folder, [models.tiny], {"photo.jpg": photo}))
    site.files["models/student.onnx"] = models.student.path
    return site


class Peak:
    """Megabytes of this process's Chromium children, the most at once; `start` is what they had at first."""

    def __init__(self) -> None:
        self.start = self.most = 0.0

    def look(self) -> float:
        held = 0
        for child in psutil.Process().children(recursive=True):
            try:
                if "--type=renderer" in child.cmdline():
                    held += child.memory_info().rss - child.memory_info().shared
            except psutil.Error:
                continue
        return held / 1e6


@contextmanager
def watched() -> Iterator[Peak]:
    peak = Peak()
    peak.start = peak.most = peak.look()
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.25):
            peak.most = max(peak.most, peak.look())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()


def test_twelve_megapixels_become_forty_eight_in_strips(browser: Browser, site: Site, tmp_path: Path) -> None:
    """By the buttons: it asks first, then writes a PNG larger than it ever shows."""
    with visiting(browser, site, **DESKTOP) as visit:
        visit.ready()
        with watched() as peak:
            visit.choose()
            visit.page.wait_for_selector("#ask:not([hidden])")
            assert "48 megapixels" in visit.text("ask-words")
            visit.page.click("#ask-whole")
            visit.until("document.querySelector('#said').textContent.startsWith('Done')", seconds=300)
        assert "8000 × 6000, shown as" in visit.text("figure-from")
        assert visit.page.eval_on_selector("#sheet-right canvas", "c => c.width * c.height") <= 8e6
        saved = visit.saved(tmp_path)
        note("48_mp_in_strips", {"mb_above_idle": round(peak.most - peak.start), "time": visit.text("figure-time")})
        assert peak.most - peak.start < BOUND_MB
    Image.MAX_IMAGE_PIXELS = 50_000_000
    with Image.open(saved) as found:
        assert found.size == (8000, 6000)
        corner = np.asarray(found.crop((7000, 5000, 7400, 5400)))
        assert corner.std() > 5


def test_the_embedded_student_begins_and_is_cancelled(browser: Browser, site: Site) -> None:
    """Its first tiles of twelve megapixels, within the memory bound, then cancel: soon, and the page lives on."""
    with visiting(browser, site, **PHONE) as visit:
        visit.ready()
        with watched() as peak:
            found = visit.engine(
                """
                await engine.ask("setup", { wanted: { engine: "wasm", threads: 0 } });
                const bytes = await (await fetch("models/student.onnx")).arrayBuffer();
                await engine.ask("open", { name: "student.onnx", bytes, known: { receptive_radius: 36 } });
                await engine.ask("picture", { blob: await (await fetch("samples/photo.jpg")).blob() });
                const abort = new AbortController();
                let tiles = 0, total = 0, cancelledAt = 0, error = null;
                const onTile = (tile) => {
                    tiles = tile.done;
                    total = tile.total;
                    if (tiles === given && !cancelledAt) { cancelledAt = performance.now(); abort.abort(); }
                };
                await engine.ask("run", { with: "network", png: true, tile: 24 }, { onTile, signal: abort.signal })
                    .catch((thrown) => (error = thrown.constructor.name));
                const ms = performance.now() - cancelledAt;
                const again = await (await fetch("samples/photo.jpg")).blob();
                const { width } = await engine.ask("picture", { blob: again });
                return { tiles, total, error, ms, width };
                """,
                50,
            )
        assert found["error"] == "Cancelled"
        assert 50 <= found["tiles"] <= 52
        assert found["total"] > 1000
        assert found["width"] == PHOTO[0]
        note("student_50_tiles", {"mb_above_idle": round(peak.most - peak.start), "ms_to_cancel": round(found["ms"])})
        assert peak.most - peak.start < BOUND_MB


def test_cancel_by_the_button_and_go_on_with_a_part(browser: Browser, site: Site) -> None:
    with visiting(browser, site, **PHONE) as visit:
        visit.ready().choose()
        visit.page.click("#ask-whole")
        visit.page.wait_for_selector("#work:not([hidden])")
        visit.until("document.querySelector('#progress').value >= 1")
        began = time.monotonic()
        visit.page.click("#cancel")
        visit.page.wait_for_selector("#work", state="hidden")
        assert time.monotonic() - began < 20
        assert visit.text("ask-words").startswith("Cancelled after ")
        for _ in range(6):
            visit.page.click("#zoom-in")
        visit.page.click("#ask-part")
        visit.done()
        width, height = (int(side) for side in visit.text("figure-from").split(",")[0].split(" × "))
        assert width * height < 8e6
        assert visit.page.is_hidden("#work")
