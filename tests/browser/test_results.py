"""The page's results equal onnxruntime's in Python, for any picture, tiles and model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from compressor.assets import embedded_student
from compressor.images.resize import upscale_bicubic
from compressor.inference.tiling import spans
from compressor.models.checkpoints.load import load_checkpoint
from compressor.models.networks.compact import CompactSpec
from compressor.models.networks.rcan import RCANSpec
from export.formats.conversion import FileOptions
from export.writing.exporting import Source, export_model
from tests.browser.app_models import FOREIGN, TINY, Models, png, sample_rgb, upscaled
from tests.browser.app_site import Model, Site, site_of
from tests.browser.visits import DESKTOP, PHONE, Visit, visiting

if TYPE_CHECKING:
    from playwright.sync_api import Browser

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


@pytest.fixture
def site(app_folder: Path, models: Models, serve: Callable[[Site], Site]) -> Site:
    samples = {"cat.png": png(sample_rgb("chelsea", 72))}
    return serve(site_of(app_folder, [models.tiny], samples))


@pytest.fixture
def visit(browser: Browser, site: Site) -> Visit:  # type: ignore[misc]
    with visiting(browser, site, **DESKTOP) as opened:
        yield opened.ready()  # type: ignore[misc]


def pixels(png: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(BytesIO(png)).convert("RGB"))


def computed(visit: Visit, model: Model, **args: object) -> tuple[NDArray[np.uint8], dict[str, object]]:
    """Return the worker's output for the sample with `model`, and its statistics."""
    import base64

    visit.site.files[f"models/{model.path.name}"] = model.path
    url = f"models/{model.path.name}"
    stats = visit.engine(OPEN_AND_RUN, {"url": url, "picture": "samples/cat.png", "tile": 0, **args})
    return pixels(base64.b64decode(stats.pop("png"))), stats


INT8_MOST, INT8_MEAN = 4, 0.1
"""Tolerances of 8-bit results, in levels of 255. On most processors the two agree in every pixel; quantisation itself
costs 0.25 in the mean here."""


def mean_error(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    return float(np.abs(one.astype(int) - other.astype(int)).mean())


def farthest(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> int:
    assert one.shape == other.shape
    return int(np.abs(one.astype(int) - other.astype(int)).max())


def test_the_embedded_student_equals_python(
    browser: Browser, app_folder: Path, models: Models, serve: Callable[[Site], Site], tmp_path: Path
) -> None:
    """Using the buttons, on a phone: a sample, the student, Save."""
    sample = sample_rgb("astronaut", 96)
    site = serve(site_of(app_folder, [models.student], {"astronaut.png": png(sample)}))
    with visiting(browser, site, **PHONE) as visit:
        visit.ready().choose()
        saved = visit.saved(tmp_path)
        assert saved.name == "astronaut-sharpened-x4.png"
        assert farthest(pixels(saved.read_bytes()), upscaled(models.student, sample)) <= 1
        assert visit.text("figure-size") == "0.15 MP"
        assert "0.88 MB" in visit.text("card-figures")
        assert float(visit.text("figure-ms").replace(",", "")) > 0


def test_the_exported_fp16_file_equals_fp32(
    browser: Browser, app_folder: Path, models: Models, serve: Callable[[Site], Site], tmp_path: Path
) -> None:
    """A file of `srkd export --fp16`: 32-bit pictures in and out, 16 bits inside."""
    network = load_checkpoint(embedded_student()).network
    report = export_model(network, Source("student"), ["fp16"], tmp_path / "exported")
    (path,) = (file.path for file in report.files)
    assert path is not None
    sample = sample_rgb("astronaut", 64)
    student = replace(models.student, path=path, precision="fp16")
    site = serve(site_of(app_folder, [student], {"astronaut.png": png(sample)}))
    with visiting(browser, site, **PHONE) as visit:
        visit.ready().choose()
        saved = visit.saved(tmp_path)
        assert "16-bit numbers" in visit.text("card-figures")
    assert path.stat().st_size < 0.6 * models.student.path.stat().st_size
    assert farthest(pixels(saved.read_bytes()), upscaled(models.student, sample)) <= 1


@pytest.mark.parametrize("tile", [17, 24, 40])
def test_tiled_equals_untiled(visit: Visit, models: Models, tile: int) -> None:
    whole, alone = computed(visit, models.tiny)
    tiled, stats = computed(visit, models.tiny, tile=tile)
    assert len(alone["tiles"]) == 1  # type: ignore[arg-type]
    assert len(stats["tiles"]) == (-(-72 // tile)) ** 2  # type: ignore[arg-type]
    assert stats["exact"] is True
    assert farthest(tiled, whole) <= 1
    assert farthest(whole, upscaled(models.tiny, sample_rgb("chelsea", 72))) <= 1


def test_too_small_a_radius_is_visible(visit: Visit, models: Models) -> None:
    """The test above can fail: with half the margin the tiles differ."""
    whole, _ = computed(visit, models.tiny)
    tiled, _ = computed(visit, models.tiny, tile=17, entry={"receptive_radius": 2})
    assert farthest(tiled, whole) > 1


def test_other_kinds_of_models_equal_python(visit: Visit, models: Models) -> None:
    sample = sample_rgb("chelsea", 72)
    kinds = [
        models.int8,
        models.half,
        models.build(CompactSpec(2, width=4, depth=2, channels=1), "luminance"),
        models.build(RCANSpec(2, width=4, groups=1, depth=1, hidden=1), "pooling"),
        models.build(TINY, "static", FileOptions(lr_size=(80, 80))),
    ]
    for model in kinds:
        output, stats = computed(visit, model)
        if model.name == "static":
            assert stats["window"] == [80, 80]
            assert output.shape == (144, 144, 3)
            continue
        expected = upscaled(model if model is not models.half else models.tiny, sample)
        # 16-bit weights are rounded again if the engine computes in 32 bits.
        assert farthest(output, expected) <= {"int8": INT8_MOST, "half": 2}.get(model.name, 1), model.name
        if model.name == "int8":
            assert mean_error(output, expected) < INT8_MEAN


def test_a_model_of_one_size_is_tiled_exactly(visit: Visit, models: Models) -> None:
    static = models.build(TINY, "fixed-40", FileOptions(lr_size=(40, 40)))
    output, stats = computed(visit, static)
    assert stats["window"] == [40, 40]
    assert stats["exact"] is True
    assert farthest(output, upscaled(models.tiny, sample_rgb("chelsea", 72))) <= 1


def test_the_radius_read_from_a_graph_is_the_networks(visit: Visit, models: Models) -> None:
    """The page does not depend on a network's name: too small a margin is visible, too large a one costs time."""
    from tests.support.networks import tiny

    for name in ("carn", "rcan", "compact"):
        model = models.build(tiny(name, 2), f"reach-{name}")
        visit.site.files[f"models/{model.path.name}"] = model.path
        result = visit.page.evaluate(
            """async (url) => {
                const { describeOnnx } = await import(new URL("src/onnx_file.js", document.baseURI).href);
                return describeOnnx(new Uint8Array(await (await fetch(url)).arrayBuffer()), "it").radius;
            }""",
            f"models/{model.path.name}",
        )
        assert result == model.receptive_radius, name
        assert (result is None) == (name == "rcan")


def test_the_tiling_equals_python(visit: Visit) -> None:
    cases = [(size, tile, margin) for size in (1, 40, 72, 500) for tile in (16, 33, 64) for margin in (0, 7, 36)]
    result = visit.page.evaluate(
        """async (cases) => {
            const { spans } = await import(new URL("src/tiling.js", document.baseURI).href);
            return cases.map((args) => spans(...args).map((s) => [s.start, s.stop, s.begin, s.length]));
        }""",
        cases,
    )
    expected = [[[s.start, s.stop, s.begin, s.length] for s in spans(*case)] for case in cases]
    assert result == expected


def test_bicubic_equals_matlab(visit: Visit) -> None:
    lr = torch.rand(1, 1, 9, 13, generator=torch.Generator().manual_seed(0))
    for scale in (2, 3, 4):
        result = visit.page.evaluate(
            """async ([plane, scale]) => {
                const { bicubic } = await import(new URL("src/bicubic.js", document.baseURI).href);
                return [...bicubic(Float32Array.from(plane), 1, 13, 9, scale)];
            }""",
            [lr.flatten().tolist(), scale],
        )
        assert torch.allclose(torch.tensor(result), upscale_bicubic(lr, scale).flatten(), atol=1e-5)


def test_half_precision_numbers_equal_numpy(visit: Visit) -> None:
    values = np.concatenate([np.linspace(-2, 2, 401), 10.0 ** np.arange(-9, 6), [65504, 65519, 1e6]]).astype(np.float32)
    bits, back = visit.page.evaluate(
        """async (values) => {
            const half = await import(new URL("src/pixels.js", document.baseURI).href);
            const bits = half.halvesFromFloats(Float32Array.from(values));
            return [[...bits], [...half.floatsFromHalves(bits)].map(String)];
        }""",
        values.tolist(),
    )
    with np.errstate(over="ignore"):
        expected = values.astype(np.float16)
    assert bits == expected.view(np.uint16).tolist()
    assert [float(each.replace("Infinity", "inf")) for each in back] == expected.astype(np.float64).tolist()


@pytest.mark.parametrize("name", FOREIGN)
def test_an_unusable_model_is_refused_with_a_reason(visit: Visit, models: Models, name: str) -> None:
    make, words = FOREIGN[name]
    model = models.written(name, make(), models.tiny)
    visit.page.set_input_files("#model-file", model.path)
    visit.page.wait_for_selector("#trouble:not([hidden])")
    assert words in visit.text("trouble")
    assert model.path.name in visit.text("trouble")


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "changed"])
def test_a_corrupt_model_is_refused_and_the_page_still_works(
    visit: Visit, models: Models, damage: str, tmp_path: Path
) -> None:
    whole = models.tiny.path.read_bytes()
    content = {
        "empty": b"",
        "text": b"<html>not found</html>",
        "cut": whole[: len(whole) // 2],
        "changed": whole[:200] + bytes(b ^ 0xA5 for b in whole[200:400]) + whole[400:],
    }[damage]
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    visit.page.set_input_files("#model-file", path)
    visit.page.wait_for_selector("#trouble:not([hidden])")
    assert "broken.onnx" in visit.text("trouble")
    visit.choose()
    visit.done()
    assert not visit.page.is_visible("#trouble")


def test_a_users_model_is_shown_with_its_metadata_and_runs(visit: Visit, models: Models, tmp_path: Path) -> None:
    visit.choose()
    visit.done()
    visit.page.set_input_files("#model-file", models.int8.path)
    visit.until("document.querySelector('#card-title').textContent === 'int8.onnx'")
    assert visit.page.eval_on_selector("#right", "select => select.selectedOptions[0].text") == "int8"
    visit.until("document.querySelector('#announcement').textContent.startsWith('Done')")
    facts = visit.text("model-facts")
    assert '"arch": "edsr"' in facts
    assert "×2" in facts
    output = pixels(visit.saved(tmp_path).read_bytes())
    expected = upscaled(models.int8, sample_rgb("chelsea", 72))
    assert farthest(output, expected) <= INT8_MOST
    assert mean_error(output, expected) < INT8_MEAN


def test_int8_joins_the_list_by_itself(
    browser: Browser, app_folder: Path, models: Models, serve: Callable[[Site], Site]
) -> None:
    student = replace(models.tiny, name="student")
    files = [student, replace(models.half, name="student"), models.int8, replace(models.teacher, path=models.tiny.path)]
    site = serve(site_of(app_folder, files, {}))
    with visiting(browser, site, **PHONE) as visit:
        titles = visit.ready().page.eval_on_selector_all("#right option", "all => all.map((each) => each.text)")
        assert titles == ["Ordinary", "Sharpened", "Sharpened, 16-bit", "int8: Sharpened", "Large network"]


def test_a_turned_photo_is_upright(visit: Visit, models: Models, tmp_path: Path) -> None:
    """EXIF orientation 6: stored in landscape, shown in portrait."""
    upright = np.ascontiguousarray(sample_rgb("astronaut", 64)[:, :40])
    lying = Image.fromarray(np.ascontiguousarray(np.rot90(upright)))
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "turned.jpg"
    lying.save(path, quality=100, subsampling=0, exif=exif)
    visit.page.set_input_files("#library", path)
    output = pixels(visit.saved(tmp_path).read_bytes())
    assert output.shape == (128, 80, 3)
    decoded = np.rot90(np.asarray(Image.open(path)), -1)
    assert farthest(output, upscaled(models.tiny, np.ascontiguousarray(decoded))) <= 4
    assert visit.page.eval_on_selector("#sheet-right canvas", "canvas => canvas.height > canvas.width")


def test_a_file_that_is_not_a_picture_is_reported(visit: Visit, tmp_path: Path) -> None:
    path = tmp_path / "notes.png"
    path.write_bytes(b"not a picture")
    visit.page.set_input_files("#library", path)
    visit.page.wait_for_selector("#trouble:not([hidden])")
    assert visit.text("trouble") == "This file is not a picture that the browser can read."
