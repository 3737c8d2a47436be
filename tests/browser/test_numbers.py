"""The page's results equal onnxruntime's in Python, for any picture, tiles and model, in bounded memory."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.embedded_student import embedded_student
from compressor.images.resize import upscale_bicubic
from compressor.models.checkpoints.load import load_checkpoint
from export.writing.exporting import Source, export_model
from tests.browser.app_models import FOREIGN, Models, png, sample_rgb, upscaled
from tests.browser.app_site import Model, Site
from tests.browser.visits import DESKTOP, OFFLINE, PHONE, App, Visit

pytestmark = pytest.mark.browser

OPEN_AND_RUN = """
    const bytes = await (await fetch(args.url)).arrayBuffer();
    await engine.ask("setup", { options: { engine: "wasm", threads: args.threads ?? 1 } });
    const { facts } = await engine.ask("open", { name: "model.onnx", bytes, entry: args.entry ?? {} });
    const picture = await (await fetch(args.picture)).blob();
    await engine.ask("picture", { blob: picture });
    const tiles = [];
    const options = { onTile: ({ rgba, ...tile }) => tiles.push(tile) };
    const result = await engine.ask("run", { with: "network", png: true, tile: args.tile }, options);
    const file = new Uint8Array(await result.blob.arrayBuffer());
    let text = "";
    for (const byte of file) text += String.fromCharCode(byte);
    return { png: btoa(text), tiles, facts, exact: result.exact, window: result.window };
"""
INT8_MOST, INT8_MEAN = 4, 0.1
"""Tolerances of 8-bit results, in levels of 255. On most processors the two agree in every pixel; quantisation itself
costs 0.25 in the mean here."""


@pytest.fixture(scope="module")
def page(app: App, models: Models) -> Iterator[Visit]:
    """One page for the tests that compute in workers of their own, or call a module's function."""
    with app.visit([models.tiny], **DESKTOP) as visit:
        yield visit


def pixels(content: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(BytesIO(content)).convert("RGB"))


def computed(visit: Visit, model: Model, **args: object) -> tuple[NDArray[np.uint8], dict[str, Any]]:
    """Return a worker's output for the sample with `model`, and its statistics."""
    url = f"models/{model.path.name}"
    visit.site.files[url] = model.path
    stats = visit.engine(OPEN_AND_RUN, {"url": url, "picture": "samples/cat.png", "tile": 0, **args})
    return pixels(base64.b64decode(stats.pop("png"))), stats


@pytest.fixture(scope="module")
def whole(page: Visit, models: Models) -> NDArray[np.uint8]:
    """The sample by the tiny network in one tile."""
    output, stats = computed(page, models.tiny)
    assert len(stats["tiles"]) == 1
    assert farthest(output, upscaled(models.tiny, sample_rgb("chelsea", 72))) <= 1
    return output


def mean_error(output: NDArray[np.uint8], expected: NDArray[np.uint8]) -> float:
    return float(np.abs(output.astype(int) - expected.astype(int)).mean())


def farthest(output: NDArray[np.uint8], expected: NDArray[np.uint8]) -> int:
    assert output.shape == expected.shape
    return int(np.abs(output.astype(int) - expected.astype(int)).max())


def test_the_embedded_student_equals_python_in_both_precisions(app: App, models: Models, tmp_path: Path) -> None:
    """Using the buttons, on a phone; the second file is one of `srkd export --fp16`, with 16 bits inside."""
    report = export_model(
        load_checkpoint(embedded_student()).network, Source("student"), ["fp16"], tmp_path / "exported"
    )
    (path,) = (file.path for file in report.files)
    assert path is not None and path.stat().st_size < 0.6 * models.student.path.stat().st_size
    sample = sample_rgb("astronaut", 64)
    half = replace(models.student, path=path, precision="fp16")
    with app.visit(app.site([models.student, half], {"astronaut.png": png(sample)}), **PHONE) as visit:
        saved = visit.enlarge().saved(tmp_path)
        assert saved.name == "astronaut-sharpened-x4.png"
        assert farthest(pixels(saved.read_bytes()), upscaled(models.student, sample)) <= 1
        assert visit.text("figure-size") == "0.07 MP"
        assert "0.88 MB" in visit.text("card-figures")
        assert float(visit.text("figure-ms").replace(",", "")) > 0
        with visit.finishing():
            visit.page.select_option("#right", label="Sharpened, 16-bit")
        assert "16-bit numbers" in visit.text("card-figures")
        assert farthest(pixels(visit.saved(tmp_path).read_bytes()), upscaled(models.student, sample)) <= 1


def test_a_page_blends_the_two_files_of_a_student_by_its_slider(app: App, models: Models, tmp_path: Path) -> None:
    faithful, half, most, textured = models.strengths(0, 0.5, 0.875, 1)
    shown = replace(faithful, textured=textured.name, strength=0.5)
    sample = sample_rgb("astronaut", 64)
    with app.visit(app.site([shown, textured], {"astronaut.png": png(sample)}), **DESKTOP) as visit:
        assert visit.enlarge().titles() == ["Ordinary", "Sharpened"]
        for strength, model in ((50, half), (100, textured), (88, most), (0, faithful)):
            if strength != 50:
                with visit.finishing():
                    visit.page.fill("#strength-wanted", f"{round(strength / 12.5) / 8}")
            assert visit.text("strength-is") == f"{strength} %"
            assert farthest(pixels(visit.saved(tmp_path).read_bytes()), upscaled(model, sample)) <= 1
        assert farthest(upscaled(faithful, sample), upscaled(half, sample)) > 2


def test_tiled_equals_untiled_unless_the_radius_is_too_small(
    page: Visit, models: Models, whole: NDArray[np.uint8]
) -> None:
    for tile in (17, 40):
        tiled, stats = computed(page, models.tiny, tile=tile)
        assert len(stats["tiles"]) == (-(-72 // tile)) ** 2
        assert stats["exact"] is True
        assert farthest(tiled, whole) <= 1
    tiled, _ = computed(page, models.tiny, tile=17, entry={"receptive_radius": 2})
    assert farthest(tiled, whole) > 1


def test_other_kinds_of_models_equal_python(page: Visit, models: Models) -> None:
    sample = sample_rgb("chelsea", 72)
    # 16-bit weights are rounded again if the engine computes in 32 bits.
    for model, like, most in (
        (models.int8, models.int8, INT8_MOST),
        (models.half, models.tiny, 2),
        (models.luminance, models.luminance, 1),
        (models.pooling, models.pooling, 1),
    ):
        output, _ = computed(page, model)
        assert farthest(output, upscaled(like, sample)) <= most, model.name
        if model is models.int8:
            assert mean_error(output, upscaled(like, sample)) < INT8_MEAN


def test_a_model_of_one_size_fills_it_or_is_tiled_exactly(
    page: Visit, models: Models, whole: NDArray[np.uint8]
) -> None:
    output, stats = computed(page, models.fixed(80, 80))
    assert (stats["window"], output.shape) == ([80, 80], (144, 144, 3))
    output, stats = computed(page, models.fixed(40, 40))
    assert (stats["window"], stats["exact"]) == ([40, 40], True)
    assert farthest(output, whole) <= 1


def test_the_radius_read_from_a_graph_is_the_networks(page: Visit, models: Models) -> None:
    """The page does not depend on a network's name: too small a margin is visible, too large a one costs time."""
    for model in (models.carn, models.pooling, models.luminance, models.int8):
        page.site.files[f"models/{model.path.name}"] = model.path
        result = page.page.evaluate(
            """async (url) => {
                const { describeOnnx } = await import(new URL("src/onnx_file.js", document.baseURI).href);
                return describeOnnx(new Uint8Array(await (await fetch(url)).arrayBuffer()), "it").radius;
            }""",
            f"models/{model.path.name}",
        )
        assert result == model.receptive_radius, model.name
        assert (result is None) == (model is models.pooling)


def test_bicubic_equals_matlab(page: Visit) -> None:
    lr = torch.rand(1, 1, 9, 13, generator=torch.Generator().manual_seed(0))
    for scale in (2, 3, 4):
        result = page.page.evaluate(
            """async ([plane, scale]) => {
                const { bicubic } = await import(new URL("src/bicubic.js", document.baseURI).href);
                return [...bicubic(Float32Array.from(plane), 1, 13, 9, scale)];
            }""",
            [lr.flatten().tolist(), scale],
        )
        assert torch.allclose(torch.tensor(result), upscale_bicubic(lr, scale).flatten(), atol=1e-5)


def test_unusable_models_are_refused_with_a_reason_and_the_page_still_works(
    page: Visit, models: Models, tmp_path: Path
) -> None:
    good = models.tiny.path.read_bytes()
    refused = {name: (make().SerializeToString(), words) for name, (make, words) in FOREIGN.items()}
    refused |= {
        "empty": (b"", ""),
        "text": (b"<html>not found</html>", ""),
        "cut": (good[: len(good) // 2], ""),
        "changed": (good[:200] + bytes(b ^ 0xA5 for b in good[200:400]) + good[400:], ""),
    }
    for name, (content, words) in refused.items():
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(content)
        page.page.set_input_files("#model-file", path)
        page.page.wait_for_selector(f"#trouble:has-text('{path.name}'):has-text('{words}')")
    assert page.enlarge().page.is_hidden("#trouble")


def test_a_users_model_is_shown_with_its_metadata_and_runs(page: Visit, models: Models, tmp_path: Path) -> None:
    page.enlarge()
    with page.finishing():
        page.page.set_input_files("#model-file", models.int8.path)
    assert page.text("card-title") == "int8.onnx"
    assert page.page.eval_on_selector("#right", "select => select.selectedOptions[0].text") == "int8"
    facts = page.text("model-facts")
    assert '"arch": "edsr"' in facts and "×2" in facts
    output = pixels(page.saved(tmp_path).read_bytes())
    expected = upscaled(models.int8, sample_rgb("chelsea", 72))
    assert farthest(output, expected) <= INT8_MOST
    assert mean_error(output, expected) < INT8_MEAN


def test_a_photo_is_upright_and_another_file_is_reported(desktop: Visit, models: Models, tmp_path: Path) -> None:
    """EXIF orientation 6: stored in landscape, shown in portrait."""
    upright = np.ascontiguousarray(sample_rgb("astronaut", 64)[:, :40])
    lying = Image.fromarray(np.ascontiguousarray(np.rot90(upright)))
    exif = Image.Exif()
    exif[0x0112] = 6
    path, notes = tmp_path / "turned.jpg", tmp_path / "notes.png"
    lying.save(path, quality=100, subsampling=0, exif=exif)
    desktop.page.set_input_files("#library", path)
    output = pixels(desktop.saved(tmp_path).read_bytes())
    assert output.shape == (128, 80, 3)
    decoded = np.rot90(np.asarray(Image.open(path)), -1)
    assert farthest(output, upscaled(models.tiny, np.ascontiguousarray(decoded))) <= 4
    assert desktop.page.eval_on_selector("#sheet-right canvas", "canvas => canvas.height > canvas.width")
    notes.write_bytes(b"not a picture")
    desktop.page.set_input_files("#library", notes)
    desktop.page.wait_for_selector("#trouble:has-text('This file is not a picture that the browser can read.')")


PHOTO = (4000, 3000)
BOUND_MB = 600
"""Memory bound in MB for all processes of the browser together, above an idle page, with shared memory counted once
(PSS): 48 MB for the decoded photo (twice during decoding), at most 192 MB of feature maps by our count plus the arena's
overhead, a strip of output, two canvases of at most 4 megapixels (a browser without a graphics processor keeps each up
to six times while it changes), and the finished file, here 97 MB, which a private window keeps in memory."""

OWN_TILES = 2
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
def photo_site(app: App, models: Models, photo: bytes) -> Site:
    """Return a site without the photo: as a sample its thumbnail would be decoded and enlarge the idle page."""
    site = app.site([models.tiny], {})
    site.files["models/student.onnx"] = models.student.path
    site.files["photo.jpg"] = photo
    return site


@pytest.fixture
def photo_file(photo: bytes, tmp_path: Path) -> Path:
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
def watched(visit: Visit) -> Iterator[Peak]:
    """Watch the memory from an idle page on."""
    visit.until(OFFLINE)
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


def decoded_part(visit: Visit, left: int, top: int, width: int, height: int) -> NDArray[np.uint8]:
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
    app: App, photo_site: Site, models: Models, photo_file: Path, tmp_path: Path
) -> None:
    """With the buttons: the page asks first, then writes a PNG larger than the canvas, right at every checked place."""
    radius = models.tiny.receptive_radius
    boxes = ((0, 0), (PHOTO[0] - 300, PHOTO[1] - 60), (1830, 1470), (40, 2300))
    with app.visit(photo_site, **DESKTOP) as visit:
        with watched(visit) as peak:
            visit.page.set_input_files("#library", photo_file)
            visit.page.wait_for_selector("#ask:not([hidden])")
            assert "48 megapixels" in visit.text("ask-words")
            visit.page.click("#ask-whole")
            visit.until("document.querySelector('#announcement').textContent.startsWith('Done')", seconds=300)
        assert "8000 × 6000, shown as" in visit.text("figure-from")
        assert visit.page.eval_on_selector("#sheet-right canvas", "c => c.width * c.height") <= 4e6
        saved = visit.saved(tmp_path)
        crops = {box: decoded_part(visit, *box, 300, 60) for box in boxes}
        assert peak.above < BOUND_MB
    Image.MAX_IMAGE_PIXELS = 50_000_000
    with Image.open(saved) as opened:
        assert opened.size == (8000, 6000)
        result = np.asarray(opened.convert("RGB"))
    for (left, top), crop in crops.items():
        expected = upscaled(models.tiny, crop).astype(int)
        # A separate crop lacks the network's surroundings, except at the photo's own edges.
        inner = [
            slice(0 if at == 0 else 2 * radius, 2 * size - (0 if at + size == full else 2 * radius))
            for at, size, full in ((top, 60, PHOTO[1]), (left, 300, PHOTO[0]))
        ]
        patch = result[2 * top : 2 * top + 120, 2 * left : 2 * left + 600]
        assert np.abs(patch[tuple(inner)] - expected[tuple(inner)]).max() <= 1, (left, top)


RUN_AND_CANCEL = """
    await engine.ask("setup", { options: { engine: "wasm", threads: 0 } });
    const bytes = await (await fetch("models/student.onnx")).arrayBuffer();
    await engine.ask("open", { name: "student.onnx", bytes, entry: { receptive_radius: 36 } });
    await engine.ask("picture", { blob: await (await fetch("photo.jpg")).blob() });
    const abort = new AbortController();
    let tiles = 0, total = 0, error = null;
    const onTile = () => { if (++tiles === args) abort.abort(); };
    const onBegun = (begun) => (total = begun.total);
    await engine.ask("run", { with: "network", png: true, tile: 0 }, { onTile, onBegun, signal: abort.signal })
        .catch((thrown) => (error = thrown.constructor.name));
    // The page goes on at once; the worker when the tile in hand is done.
    const { width } = await engine.ask("picture", { blob: await (await fetch("photo.jpg")).blob() });
    return { tiles, total, error, width };
"""


def test_the_embedded_student_starts_on_a_large_photo_and_is_cancelled(app: App, photo_site: Site) -> None:
    """Its first tiles of twelve megapixels stay within the memory bound, and the worker takes the next picture."""
    with app.visit(photo_site, **PHONE) as visit:
        with watched(visit) as peak:
            result = visit.engine(RUN_AND_CANCEL, OWN_TILES)
        assert (result["error"], result["tiles"], result["width"]) == ("Cancelled", OWN_TILES, PHOTO[0])
        assert result["total"] > 200
        assert peak.above < BOUND_MB


def test_a_large_photo_is_cancelled_by_the_button_and_goes_on_with_a_part(phone: Visit, photo_file: Path) -> None:
    phone.page.set_input_files("#library", photo_file)
    phone.page.click("#ask-whole")
    phone.page.wait_for_selector("#work:not([hidden])")
    phone.until("document.querySelector('#progress').value >= 1")
    phone.page.click("#cancel")
    phone.rest()
    assert phone.text("ask-words").startswith("Cancelled after ")
    for _ in range(6):
        phone.page.click("#zoom-in")
    phone.page.click("#ask-part")
    phone.done()
    width, height = (int(side) for side in phone.text("figure-from").split(",")[0].split(" × "))
    assert width * height < 8e6
    assert phone.page.is_hidden("#work")
