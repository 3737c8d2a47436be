"""What the page computes is what onnxruntime computes in Python, whatever the picture, the tiles and the model."""

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
from export.conversion import FileOptions
from export.exporting import Source, export_model
from tests.browser.app_models import FOREIGN, TINY, Models, png, sample_rgb, upscaled
from tests.browser.app_site import Model, Site, site_of
from tests.browser.visits import DESKTOP, PHONE, Visit, visiting

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser

OPEN_AND_RUN = """
    const bytes = await (await fetch(given.url)).arrayBuffer();
    await engine.ask("setup", { options: { engine: "wasm", threads: given.threads ?? 1 } });
    const { facts } = await engine.ask("open", { name: "model.onnx", bytes, entry: given.entry ?? {} });
    const picture = await (await fetch(given.picture)).blob();
    await engine.ask("picture", { blob: picture });
    const tiles = [];
    const options = { onTile: ({ rgba, ...tile }) => tiles.push(tile) };
    const result = await engine.ask("run", { with: "network", png: true, tile: given.tile }, options);
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


def pixels(found: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(BytesIO(found)).convert("RGB"))


def computed(visit: Visit, model: Model, **given: object) -> tuple[NDArray[np.uint8], dict[str, object]]:
    """The pixels that the worker makes of the sample with `model`, and what it says about the run."""
    import base64

    visit.site.files[f"models/{model.path.name}"] = model.path
    url = f"models/{model.path.name}"
    found = visit.engine(OPEN_AND_RUN, {"url": url, "picture": "samples/cat.png", "tile": 0, **given})
    return pixels(base64.b64decode(found.pop("png"))), found


INT8_MOST, INT8_MEAN = 12, 0.1
"""Of 255. On most processors the two agree in every pixel. onnxruntime's 8-bit kernels are not the same everywhere,
though: on x86 without VNNI pairs of products are added in 16 bits and saturate, in Python and not in the browser. That
is rare and not small, hence a wide maximum and a narrow mean: quantisation itself costs 0.25 in the mean here."""


def mean_error(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    return float(np.abs(one.astype(int) - other.astype(int)).mean())


def farthest(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> int:
    assert one.shape == other.shape
    return int(np.abs(one.astype(int) - other.astype(int)).max())


def test_the_embedded_student_gives_pythons_pixels(
    browser: Browser, app_folder: Path, models: Models, serve: Callable[[Site], Site], tmp_path: Path
) -> None:
    """By the buttons, on a phone: a sample, the student, Save."""
    sample = sample_rgb("astronaut", 96)
    site = serve(site_of(app_folder, [models.student], {"astronaut.png": png(sample)}))
    with visiting(browser, site, **PHONE) as visit:
        visit.ready().choose()
        saved = visit.saved(tmp_path)
        assert saved.name == "astronaut-student-x4.png"
        assert farthest(pixels(saved.read_bytes()), upscaled(models.student, sample)) <= 1
        assert visit.text("figure-size") == "0.15 MP"
        assert visit.text("figure-model") == "0.88 MB"
        assert float(visit.text("figure-ms").replace(",", "")) > 0


def test_the_exported_fp16_file_gives_the_pixels_of_fp32(
    browser: Browser, app_folder: Path, models: Models, serve: Callable[[Site], Site], tmp_path: Path
) -> None:
    """What `srkd export --fp16` leaves behind, proof and all: 32-bit pictures in and out, 16 bits inside."""
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
        assert visit.text("figure-model-kind") == "Student fp16, ×4"
    assert path.stat().st_size < 0.6 * models.student.path.stat().st_size
    assert farthest(pixels(saved.read_bytes()), upscaled(models.student, sample)) <= 1


@pytest.mark.parametrize("tile", [17, 24, 40])
def test_tiled_equals_untiled(visit: Visit, models: Models, tile: int) -> None:
    whole, alone = computed(visit, models.tiny)
    tiled, told = computed(visit, models.tiny, tile=tile)
    assert len(alone["tiles"]) == 1  # type: ignore[arg-type]
    assert len(told["tiles"]) == (-(-72 // tile)) ** 2  # type: ignore[arg-type]
    assert told["exact"] is True
    assert farthest(tiled, whole) <= 1
    assert farthest(whole, upscaled(models.tiny, sample_rgb("chelsea", 72))) <= 1


def test_a_radius_too_small_would_be_seen(visit: Visit, models: Models) -> None:
    """The test above can fail: with half the margin the tiles do not fit one another."""
    whole, _ = computed(visit, models.tiny)
    tiled, _ = computed(visit, models.tiny, tile=17, entry={"receptive_radius": 2})
    assert farthest(tiled, whole) > 1


def test_other_kinds_of_models_give_pythons_pixels(visit: Visit, models: Models) -> None:
    sample = sample_rgb("chelsea", 72)
    kinds = [
        models.int8,
        models.half,
        models.made(CompactSpec(2, width=4, depth=2, channels=1), "luminance"),
        models.made(RCANSpec(2, width=4, groups=1, depth=1, hidden=1), "pooling"),
        models.made(TINY, "static", FileOptions(lr_size=(80, 80))),
    ]
    for model in kinds:
        found, told = computed(visit, model)
        if model.name == "static":
            assert told["window"] == [80, 80]
            assert found.shape == (144, 144, 3)
            continue
        expected = upscaled(model if model is not models.half else models.tiny, sample)
        # 16-bit weights are rounded again where the engine computes in 32 bits.
        assert farthest(found, expected) <= {"int8": INT8_MOST, "half": 2}.get(model.name, 1), model.name
        if model.name == "int8":
            assert mean_error(found, expected) < INT8_MEAN


def test_a_model_of_one_size_is_tiled_exactly(visit: Visit, models: Models) -> None:
    static = models.made(TINY, "fixed-40", FileOptions(lr_size=(40, 40)))
    found, told = computed(visit, static)
    assert told["window"] == [40, 40]
    assert told["exact"] is True
    assert farthest(found, upscaled(models.tiny, sample_rgb("chelsea", 72))) <= 1


def test_the_reach_read_off_a_graph_is_the_networks_own(visit: Visit, models: Models) -> None:
    """The page knows no network by name: too small a margin would be seen, too large a one would cost time."""
    from tests.support.networks import tiny

    for name in ("carn", "rcan", "compact"):
        model = models.made(tiny(name, 2), f"reach-{name}")
        visit.site.files[f"models/{model.path.name}"] = model.path
        found = visit.page.evaluate(
            """async (url) => {
                const { describeOnnx } = await import(new URL("src/onnx_file.js", document.baseURI).href);
                return describeOnnx(new Uint8Array(await (await fetch(url)).arrayBuffer()), "it").radius;
            }""",
            f"models/{model.path.name}",
        )
        assert found == model.receptive_radius, name
        assert (found is None) == (name == "rcan")


def test_the_cut_is_that_of_python(visit: Visit) -> None:
    cases = [(size, tile, margin) for size in (1, 40, 72, 500) for tile in (16, 33, 64) for margin in (0, 7, 36)]
    found = visit.page.evaluate(
        """async (cases) => {
            const { spans } = await import(new URL("src/tiling.js", document.baseURI).href);
            return cases.map((given) => spans(...given).map((s) => [s.start, s.stop, s.begin, s.length]));
        }""",
        cases,
    )
    expected = [[[s.start, s.stop, s.begin, s.length] for s in spans(*case)] for case in cases]
    assert found == expected


def test_bicubic_is_matlabs(visit: Visit) -> None:
    lr = torch.rand(1, 1, 9, 13, generator=torch.Generator().manual_seed(0))
    for scale in (2, 3, 4):
        found = visit.page.evaluate(
            """async ([plane, scale]) => {
                const { bicubic } = await import(new URL("src/bicubic.js", document.baseURI).href);
                return [...bicubic(Float32Array.from(plane), 1, 13, 9, scale)];
            }""",
            [lr.flatten().tolist(), scale],
        )
        assert torch.allclose(torch.tensor(found), upscale_bicubic(lr, scale).flatten(), atol=1e-5)


def test_half_precision_numbers_are_numpys(visit: Visit) -> None:
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
def test_a_foreign_model_is_refused_in_words(visit: Visit, models: Models, name: str) -> None:
    make, words = FOREIGN[name]
    model = models.written(name, make(), models.tiny)
    visit.page.set_input_files("#model-file", model.path)
    visit.page.wait_for_selector("#trouble:not([hidden])")
    assert words in visit.text("trouble")
    assert model.path.name in visit.text("trouble")


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "changed"])
def test_a_corrupt_model_is_refused_and_the_page_lives_on(
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


def test_ones_own_model_is_shown_with_its_metadata_and_runs(visit: Visit, models: Models, tmp_path: Path) -> None:
    visit.choose()
    visit.done()
    visit.page.set_input_files("#model-file", models.int8.path)
    visit.until("document.querySelector('#figure-model-kind').textContent.includes('int8')")
    assert visit.page.eval_on_selector("#right", "select => select.selectedOptions[0].text") == "int8"
    visit.until("document.querySelector('#said').textContent.includes('int8 made')")
    visit.page.click("summary:has-text('Model file')")
    facts = visit.text("model-facts")
    assert '"arch": "edsr"' in facts
    assert "×2" in facts
    found = pixels(visit.saved(tmp_path).read_bytes())
    expected = upscaled(models.int8, sample_rgb("chelsea", 72))
    assert farthest(found, expected) <= INT8_MOST
    assert mean_error(found, expected) < INT8_MEAN


def test_int8_joins_the_list_by_itself(
    browser: Browser, app_folder: Path, models: Models, serve: Callable[[Site], Site]
) -> None:
    student = replace(models.tiny, name="student")
    files = [student, replace(models.half, name="student"), models.int8, replace(models.teacher, path=models.tiny.path)]
    site = serve(site_of(app_folder, files, {}))
    with visiting(browser, site, **PHONE) as visit:
        titles = visit.ready().page.eval_on_selector_all("#right option", "all => all.map((each) => each.text)")
        assert titles == ["Bicubic", "Student fp32", "Student fp16", "Student int8", "Teacher"]


def test_a_turned_photo_is_upright(visit: Visit, models: Models, tmp_path: Path) -> None:
    """EXIF orientation 6: stored lying, shown standing."""
    upright = np.ascontiguousarray(sample_rgb("astronaut", 64)[:, :40])
    lying = Image.fromarray(np.ascontiguousarray(np.rot90(upright)))
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "turned.jpg"
    lying.save(path, quality=100, subsampling=0, exif=exif)
    visit.page.set_input_files("#library", path)
    found = pixels(visit.saved(tmp_path).read_bytes())
    assert found.shape == (128, 80, 3)
    decoded = np.rot90(np.asarray(Image.open(path)), -1)
    assert farthest(found, upscaled(models.tiny, np.ascontiguousarray(decoded))) <= 4
    assert visit.page.eval_on_selector("#sheet-right canvas", "canvas => canvas.height > canvas.width")


def test_what_is_no_picture_is_said(visit: Visit, tmp_path: Path) -> None:
    path = tmp_path / "notes.png"
    path.write_bytes(b"not a picture")
    visit.page.set_input_files("#library", path)
    visit.page.wait_for_selector("#trouble:not([hidden])")
    assert visit.text("trouble") == "This file is not a picture that the browser can read."
