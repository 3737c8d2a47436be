"""Twelve megapixels in a browser: bounded memory, strips if no canvas can hold the result, cancellation."""

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
from numpy.typing import NDArray
from PIL import Image

from tests.browser.app_models import Models, sample_rgb, upscaled
from tests.browser.app_site import Site, site_of
from tests.browser.visits import DESKTOP, PHONE, Visit, note, visiting

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser

PHOTO = (4000, 3000)
BOUND_MB = 600
"""Memory bound in MB for all processes of the browser together, above an idle page, with shared memory counted once
(PSS): 48 MB for the decoded photo (twice during decoding), at most 192 MB of feature maps by our count plus the arena's
overhead, a strip of output, two canvases of at most 4 megapixels (a browser without a graphics processor keeps each up
to six times while it changes), and the finished file, here 97 MB, which a private window keeps in memory."""

OWN_TILES = 4
"""Tiles of the app's own plan for the embedded student that are run: 227 pixels and 36 on each side, 414 tiles of a
second or more. Memory is constant from the first tile on; as fifty would take one to several minutes, the test with
fifty uses small ones, on the same path through strips and canvas."""


@pytest.fixture(scope="module")
def photo() -> bytes:
    """Return an embedded photo, tiled to 4000x3000 with a slow change of brightness."""
    tile = sample_rgb("coffee", 96)
    width, height = PHOTO
    wide = np.tile(tile, (-(-height // 96), -(-width // 96), 1))[:height, :width].astype(np.float32)
    wide *= np.linspace(0.4, 1, width, dtype=np.float32)[None, :, None]
    written = BytesIO()
    Image.fromarray(wide.astype(np.uint8)).save(written, "JPEG", quality=85)
    return written.getvalue()


@pytest.fixture
def site(app_folder: Path, models: Models, serve: Callable[[Site], Site], photo: bytes) -> Site:
    """Return a site without the photo: as a sample its thumbnail would be decoded and enlarge the idle page."""
    site = serve(site_of(app_folder, [models.tiny], {}))
    site.files["models/student.onnx"] = models.student.path
    site.files["photo.jpg"] = photo
    return site


@pytest.fixture
def file(photo: bytes, tmp_path: Path) -> Path:
    path = tmp_path / "photo.jpg"
    path.write_bytes(photo)
    return path


class Peak:
    """The peak memory in MB of this process's Chromium children; `start` is the value at the start."""

    def __init__(self) -> None:
        self.start = self.most = self.look()

    def look(self) -> float:
        total = 0
        for child in psutil.Process().children(recursive=True):
            try:
                if "chrom" in Path(child.cmdline()[0]).name:
                    total += child.memory_full_info().pss
            except (psutil.Error, IndexError):
                continue
        return total / 1e6

    @property
    def above(self) -> int:
        return round(self.most - self.start)


@contextmanager
def watched() -> Iterator[Peak]:
    peak = Peak()
    assert peak.start > 50, "the browser's processes were not found"
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


def decoded(visit: Visit, left: int, top: int, width: int, height: int) -> NDArray[np.uint8]:
    """Return a part of the photo as decoded by this browser: another decoder may differ by one level."""
    script = """async (part) => {
        const bitmap = await createImageBitmap(await (await fetch("photo.jpg")).blob(), ...part);
        const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
        const context = canvas.getContext("2d");
        context.drawImage(bitmap, 0, 0);
        return [...context.getImageData(0, 0, bitmap.width, bitmap.height).data];
    }"""
    result = np.array(visit.page.evaluate(script, [left, top, width, height]), dtype=np.uint8)
    return result.reshape(height, width, 4)[..., :3]


@pytest.mark.slow
def test_twelve_megapixels_become_forty_eight_in_strips(
    browser: Browser, site: Site, models: Models, file: Path, tmp_path: Path
) -> None:
    """With the buttons: the page asks first, then writes a PNG larger than the canvas, right at every checked place."""
    radius = models.tiny.receptive_radius
    assert radius is not None
    boxes = ((0, 0), (PHOTO[0] - 300, PHOTO[1] - 60), (1830, 1470), (40, 2300))
    with visiting(browser, site, **DESKTOP) as visit:
        visit.ready().page.wait_for_timeout(1000)
        with watched() as peak:
            visit.page.set_input_files("#library", file)
            visit.page.wait_for_selector("#ask:not([hidden])")
            assert "48 megapixels" in visit.text("ask-words")
            visit.page.click("#ask-whole")
            visit.until("document.querySelector('#announcement').textContent.startsWith('Done')", seconds=300)
        assert "8000 × 6000, shown as" in visit.text("figure-from")
        assert visit.page.eval_on_selector("#sheet-right canvas", "c => c.width * c.height") <= 4e6
        saved = visit.saved(tmp_path)
        parts = {box: decoded(visit, *box, 300, 60) for box in boxes}
        facts = {"mb_above_idle": peak.above, "file_mb": round(saved.stat().st_size / 1e6)}
        note("48_mp_in_strips", {**facts, "time": visit.text("figure-time")})
        assert peak.above < BOUND_MB
    Image.MAX_IMAGE_PIXELS = 50_000_000
    with Image.open(saved) as opened:
        assert opened.size == (8000, 6000)
        result = np.asarray(opened.convert("RGB"))
    for (left, top), part in parts.items():
        expected = upscaled(models.tiny, part).astype(int)
        # A separate part lacks the network's surroundings, except at the photo's own edges.
        inner = [
            slice(0 if at == 0 else 2 * radius, 2 * size - (0 if at + size == whole else 2 * radius))
            for at, size, whole in ((top, 60, PHOTO[1]), (left, 300, PHOTO[0]))
        ]
        patch = result[2 * top : 2 * top + 120, 2 * left : 2 * left + 600]
        assert np.abs(patch[tuple(inner)] - expected[tuple(inner)]).max() <= 1, (left, top)


RUN_AND_CANCEL = """
    await engine.ask("setup", { options: { engine: "wasm", threads: 0 } });
    const bytes = await (await fetch("models/student.onnx")).arrayBuffer();
    await engine.ask("open", { name: "student.onnx", bytes, entry: { receptive_radius: 36 } });
    await engine.ask("picture", { blob: await (await fetch("photo.jpg")).blob() });
    const abort = new AbortController();
    const tiles = [];
    let total = 0, cancelledAt = 0, error = null;
    const onTile = (tile) => {
        tiles.push(tile.ms);
        if (tiles.length === args.tiles) { cancelledAt = performance.now(); abort.abort(); }
    };
    const onBegun = (begun) => (total = begun.total);
    await engine.ask("run", { with: "network", png: true, tile: args.side }, { onTile, onBegun, signal: abort.signal })
        .catch((thrown) => (error = thrown.constructor.name));
    // The page goes on at once; the worker when the tile in hand is done.
    const page = performance.now() - cancelledAt;
    const { width } = await engine.ask("picture", { blob: await (await fetch("photo.jpg")).blob() });
    return { tiles: tiles.length, ms: tiles, total, error, page, worker: performance.now() - cancelledAt, width };
"""


@pytest.mark.parametrize(
    ("tiles", "side"),
    [pytest.param(50, 24, id="small-tiles", marks=pytest.mark.slow), pytest.param(OWN_TILES, 0, id="own-plan")],
)
def test_the_embedded_student_starts_and_is_cancelled(browser: Browser, site: Site, tiles: int, side: int) -> None:
    """Its first tiles of twelve megapixels stay within the memory bound; cancel is quick, and the page still works."""
    with visiting(browser, site, **PHONE) as visit:
        visit.ready().page.wait_for_timeout(1000)
        with watched() as peak:
            result = visit.engine(RUN_AND_CANCEL, {"tiles": tiles, "side": side})
        assert result["error"] == "Cancelled"
        assert result["tiles"] == tiles
        assert result["total"] > (1000 if side else 200)
        assert result["page"] < 500
        assert result["width"] == PHOTO[0]
        facts = {"mb_above_idle": peak.above, "ms_to_next_picture": round(result["worker"])}
        facts |= {"ms_a_tile": round(min(result["ms"])), "tiles_in_all": result["total"]}
        note(f"student_{tiles}_tiles", facts)
        assert peak.above < BOUND_MB


def test_cancel_by_the_button_and_go_on_with_a_part(browser: Browser, site: Site, file: Path) -> None:
    with visiting(browser, site, **PHONE) as visit:
        visit.ready().page.set_input_files("#library", file)
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
