"""Touch, keyboard and accessibility: the divider, pinch and pan, paste and drop, axe, and a screenshot."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import pytest
from PIL import Image

from demo.catalogue import load_samples
from tests.browser.app_models import Models, png, sample_rgb
from tests.browser.app_site import Site, site_of
from tests.browser.visits import APP, DESKTOP, PHONE, ROOT, Visit, visiting
from tests.support.onnx_files import enlarger

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser

TOUCH_PIXELS = 44
DENSITY = PHONE["device_scale_factor"]
PICTURE_BYTES = 350_000
DIVIDE = "document.querySelector('#divider').getAttribute('aria-valuenow')"


@pytest.fixture
def site(app_folder: Path, models: Models, serve: Callable[[Site], Site]) -> Site:
    samples = {
        f"{name}.png": png(sample_rgb(name, side))
        for name, side in (("chelsea", 72), ("astronaut", 96), ("coffee", 96))
    }
    return serve(site_of(app_folder, [models.tiny], samples))


def put(visit: Visit, kind: str, content: bytes) -> None:
    """Paste or drop a file, with a browser's events."""
    visit.page.evaluate(
        """([kind, text]) => {
            const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
            const data = new DataTransfer();
            data.items.add(new File([bytes], "pasted.png", { type: "image/png" }));
            const args = { bubbles: true, cancelable: true };
            document.body.dispatchEvent(kind === "paste"
                ? new ClipboardEvent("paste", { ...args, clipboardData: data })
                : new DragEvent("drop", { ...args, dataTransfer: data }));
        }""",
        [kind, base64.b64encode(content).decode()],
    )


@pytest.mark.parametrize("kind", ["paste", "drop"])
def test_a_picture_is_pasted_or_dropped(browser: Browser, site: Site, kind: str) -> None:
    with visiting(browser, site, **DESKTOP) as visit:
        visit.ready()
        put(visit, kind, png(sample_rgb("coffee", 40)))
        visit.done()
        assert visit.text("figure-from") == "80 × 80"


def test_the_divider_is_a_slider_for_keys_and_fingers(browser: Browser, site: Site) -> None:
    with visiting(browser, site, **DESKTOP) as visit:
        visit.ready().choose()
        visit.done()
        page = visit.page
        page.focus("#divider")
        for key, expected in (
            ("ArrowRight", "52"),
            ("ArrowLeft", "50"),
            ("PageUp", "60"),
            ("Home", "0"),
            ("End", "100"),
        ):
            page.keyboard.press(key)
            assert page.evaluate(DIVIDE) == expected
        page.keyboard.press("Home")
        for _ in range(5):
            page.keyboard.press("PageUp")
        box = page.locator("#stage").bounding_box()
        assert box is not None
        middle = box["y"] + box["height"] / 2
        page.mouse.move(box["x"] + box["width"] / 2, middle)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] / 4, middle, steps=4)
        page.mouse.up()
        assert page.evaluate(DIVIDE) == "25"
        assert page.get_attribute("#divider", "role") == "slider"


def test_zoom_pan_and_pinch(browser: Browser, site: Site) -> None:
    width = "document.querySelector('#sheet-right').getBoundingClientRect().width"
    left = "document.querySelector('#sheet-right').getBoundingClientRect().left"
    with visiting(browser, site, **PHONE) as visit:
        visit.ready().choose()
        visit.done()
        page = visit.page
        whole = page.evaluate(width)
        page.focus("#stage")
        page.keyboard.press("+")
        assert page.evaluate(width) == pytest.approx(whole * 1.5, rel=0.01)
        before = page.evaluate(left)
        page.keyboard.press("ArrowRight")
        assert page.evaluate(left) < before
        page.keyboard.press("0")
        assert page.evaluate(width) == pytest.approx(whole, rel=0.01)
        touch = page.context.new_cdp_session(page)
        box = page.locator("#stage").bounding_box()
        assert box is not None
        x, y = box["x"] + box["width"] / 4, box["y"] + box["height"] / 3

        def fingers(kind: str, *spread: int) -> None:
            points = [{"x": x + each, "y": y, "id": i} for i, each in enumerate(spread)]
            touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

        fingers("touchStart", -20, 20)
        for spread in (30, 40, 50, 60):
            fingers("touchMove", -spread, spread)
        fingers("touchEnd")
        assert page.evaluate(width) == pytest.approx(whole * 3, rel=0.05)
        assert page.is_visible("#crop")
        page.click("#zoom-fit")
        assert page.evaluate(width) == pytest.approx(whole, rel=0.01)


def test_bicubic_student_and_teacher_are_views(
    browser: Browser, app_folder: Path, models: Models, serve: Callable[[Site], Site]
) -> None:
    teacher = replace(models.tiny, role="teacher")
    site = serve(site_of(app_folder, [models.tiny, teacher], {"cat.png": png(sample_rgb("chelsea", 48))}))
    with visiting(browser, site, **DESKTOP) as visit:
        visit.ready().choose()
        visit.done()
        visit.page.select_option("#left", label="Large network")
        visit.page.wait_for_selector("#work", state="hidden")
        same = """(() => {
            const canvases = [...document.querySelectorAll(".sheet canvas")];
            const [a, b] = canvases.map((c) => c.toDataURL());
            return a === b;
        })()"""
        visit.until(same)
        visit.page.select_option("#left", label="Ordinary")
        visit.until(f"!{same}")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("profile", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_axe_finds_nothing(browser: Browser, site: Site, scheme: str, profile: dict[str, object]) -> None:
    axe = APP / "node_modules" / "axe-core" / "axe.min.js"
    if not axe.is_file():
        pytest.skip("axe-core is not installed: python scripts/build_demo.py --dev")
    with visiting(browser, site, color_scheme=scheme, **profile) as visit:
        visit.ready()
        visit.page.evaluate(axe.read_text(encoding="utf-8"))
        look = (
            "axe.run().then(({ violations }) => violations.map(({ id, nodes }) => [id, ...nodes.map((n) => n.html)]))"
        )
        assert visit.page.evaluate(look) == []
        visit.choose()
        visit.done()
        visit.open_details().page.click("#card-all > summary")
        assert visit.page.evaluate(look) == []


def test_touch_targets_are_large_enough(browser: Browser, site: Site) -> None:
    small = """[...document.querySelectorAll("button, select, summary, label.button, [role=slider] .grip")]
        .filter((each) => each.checkVisibility())
        .map((each) => [each.id || each.textContent.trim(), each.getBoundingClientRect()])
        .filter(([, box]) => box.width < args || box.height < args)
        .map(([name, box]) => `${name} ${box.width}x${box.height}`)"""
    with visiting(browser, site, **PHONE) as visit:
        visit.ready()
        assert visit.page.evaluate(f"(args) => {small}", TOUCH_PIXELS) == []
        visit.choose()
        visit.done()
        visit.open_details()
        assert visit.page.evaluate(f"(args) => {small}", TOUCH_PIXELS) == []
        assert visit.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_it_works_by_keyboard_alone_and_is_announced(browser: Browser, site: Site) -> None:
    with visiting(browser, site, **DESKTOP) as visit:
        visit.ready()
        page = visit.page
        for _ in range(12):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.getAttribute('aria-label')") == "Sample: astronaut":
                break
        page.keyboard.press("Enter")
        visit.done()
        assert page.get_attribute("#announcement", "aria-live") == "polite"
        assert visit.page.text_content("#announcement") == (
            "Done. Twice as wide and as high. 192\u00a0×\u00a0192 pixels instead of 96\u00a0×\u00a096."
        )


def test_reduced_motion_moves_nothing(browser: Browser, site: Site) -> None:
    with visiting(browser, site, reduced_motion="reduce", **PHONE) as visit:
        moving = """[...document.querySelectorAll("*")].filter((each) =>
            [getComputedStyle(each), getComputedStyle(each, "::before")]
                .some((style) => style.transitionDuration !== "0s" || style.animationDuration !== "0s")).length"""
        assert visit.ready().page.evaluate(moving) == 0


ARROW_PIXELS = 16


def cut_choices(visit: Visit) -> list[str]:
    """Return the choices above the picture whose text is too wide and shown with an ellipsis."""
    script = """(all, arrow) => all.filter((select) => {
        const style = getComputedStyle(select);
        const measured = Object.assign(document.createElement("canvas").getContext("2d"), { font: style.font });
        const text = measured.measureText(select.selectedOptions[0].text).width;
        const room = select.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight) - arrow;
        return text > room;
    }).map((select) => select.selectedOptions[0].text)"""
    return list(visit.page.eval_on_selector_all("#left, #right", script, ARROW_PIXELS))


IN_VIEW = """(selector) => [...document.querySelectorAll(selector)].map((each) => {
    const { left, top, right, bottom } = each.getBoundingClientRect();
    return left >= 0 && top >= 0 && right <= innerWidth && bottom <= innerHeight;
})"""


@pytest.mark.parametrize("size", [(844, 390), (932, 430), (667, 375), (568, 320)])
def test_a_phone_on_its_side_keeps_the_buttons_in_view(browser: Browser, site: Site, size: tuple[int, int]) -> None:
    """The buttons are beside the picture, with and without a result, at any scroll position of the area below."""
    profile = {**PHONE, "viewport": {"width": size[0], "height": size[1]}}
    with visiting(browser, site, **profile) as visit:
        visit.ready()
        assert visit.page.evaluate(IN_VIEW, ".actions > *") == [True] * 5
        visit.choose()
        visit.done()
        visit.open_details()
        for scrolled in (0, 10_000):
            visit.page.evaluate("(top) => document.querySelector('aside').scrollTo(0, top)", scrolled)
            assert visit.page.evaluate(IN_VIEW, ".actions > *") == [True] * 5
            assert visit.page.evaluate(IN_VIEW, "#stage, #left, #right, .zoom button, #result-short") == [True] * 7
        assert visit.page.evaluate("document.documentElement.scrollHeight <= innerHeight")
        assert cut_choices(visit) == []
        stage = visit.page.locator("#stage").bounding_box()
        assert stage is not None and stage["height"] > 0.6 * size[1]


@pytest.mark.parametrize("width", [320, 412, 1440])
def test_a_result_is_told_in_plain_words_and_its_figures_wait_behind_details(
    browser: Browser, app_folder: Path, models: Models, serve: Callable[[Site], Site], width: int
) -> None:
    """Nothing is cut off or wider than the screen, and no word is jargon of training networks."""
    teacher = replace(models.tiny, role="teacher")
    site = serve(site_of(app_folder, [models.tiny, teacher], {"cat.png": png(sample_rgb("chelsea", 48))}))
    with visiting(browser, site, viewport={"width": width, "height": 700}) as visit:
        visit.ready().choose()
        visit.done()
        page = visit.page
        assert page.inner_text("#result") == (
            "Twice as wide and as high. 96\u00a0×\u00a096 pixels instead of 48\u00a0×\u00a048."
        )
        labels = page.eval_on_selector_all("#left, #right", "all => all.map((each) => each.selectedOptions[0].text)")
        assert labels == ["Ordinary", "Sharpened"]
        assert [page.is_visible(each) for each in ("#figure-ms", "#engine", "#measure")] == [False] * 3
        text = page.inner_text("body").lower()
        assert not [word for word in ("bicubic", "student", "teacher", "tile", "wasm", "thread") if word in text]
        assert cut_choices(visit) == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        visit.open_details()
        assert [page.is_visible(each) for each in ("#figure-ms", "#engine", "#measure")] == [True] * 3


def test_a_samples_licence_is_stated_beside_it(browser: Browser, site: Site, models: Models, tmp_path: Path) -> None:
    listed = json.loads(site.content("api/models.json") or b"")
    listed["samples"][0] |= {"title": "Fur", "credit": "A photographer, CC0"}
    site.files["api/models.json"] = json.dumps(listed).encode()
    photo = tmp_path / "mine.png"
    photo.write_bytes(png(sample_rgb("coffee", 40)))
    with visiting(browser, site, **PHONE) as visit:
        visit.ready()
        assert visit.page.inner_text("#samples button >> nth=0") == "Fur"
        visit.choose()
        visit.done()
        assert visit.page.inner_text("#credit") == "Fur: A photographer, CC0"
        visit.page.set_input_files("#library", photo)
        visit.until("document.querySelector('#credit').textContent === ''")


def test_a_sample_is_shown_large_enough_to_see_the_difference(browser: Browser, site: Site) -> None:
    """On a small screen the view starts at the place in the list, and Fit shows the whole picture."""
    listed = json.loads(site.content("api/models.json") or b"")
    listed["samples"][0]["focus"] = [0.55, 0.25]
    site.files["api/models.json"] = json.dumps(listed).encode()
    place = """(() => {
        const box = (id) => document.getElementById(id).getBoundingClientRect();
        const [sheet, stage] = [box("sheet-right"), box("stage")];
        return [sheet.width / 72, (stage.left + stage.width / 2 - sheet.left) / sheet.width];
    })()"""
    with visiting(browser, site, viewport={"width": 200, "height": 700}) as visit:
        visit.ready().choose()
        visit.done()
        pixels, across = visit.page.evaluate(place)
        assert pixels == pytest.approx(3, abs=0.01)
        assert across == pytest.approx(0.55, abs=0.005)
        visit.page.click("#zoom-fit")
        assert visit.page.evaluate(place)[0] < 3


def test_another_tools_model_is_described_in_its_own_terms(browser: Browser, site: Site, tmp_path: Path) -> None:
    """It is described by its producer, graph, ports and keys; missing facts are not replaced by srkd's terms."""
    path = enlarger(tmp_path / "their-net.onnx", scale=3)
    model = onnx.load(path)
    model.producer_name, model.producer_version = "their exporter", "4.2"
    model.doc_string = "Enlarges <b>line art</b>."
    model.metadata_props.add(key="author", value="somebody")
    path.write_bytes(model.SerializeToString())
    listed = json.loads(site.content("api/models.json") or b"")
    listed["models"].append({**listed["models"][0], "name": "listed-net", "architecture": None})
    site.files["api/models.json"] = json.dumps(listed).encode()
    with visiting(browser, site, **DESKTOP) as visit:
        titles = visit.ready().page.eval_on_selector_all("#right option", "all => all.map((each) => each.text)")
        assert titles == ["Ordinary", "Sharpened", "listed-net"]
        visit.page.set_input_files("#model-file", path)
        visit.until("document.querySelector('#card-title').textContent === 'their-net.onnx'")
        assert visit.text("model-name") == "their-net"
        assert visit.text("card-words") == "Not from srkd: written by their exporter 4.2. Enlarges <b>line art</b>."
        rows = dict(
            zip(
                visit.page.eval_on_selector_all("#model-facts dt", "all => all.map((each) => each.textContent)"),
                visit.page.eval_on_selector_all("#model-facts dd", "all => all.map((each) => each.textContent)"),
                strict=True,
            )
        )
        assert rows["input"] == "image, float32, ? × 3 × ? × ?" and rows["output"] == "out, float32, ? × 3 × ? × ?"
        assert (rows["author"], rows["graph"], rows["opset"], rows["enlarges"]) == ("somebody", "enlarger", "18", "×3")
        assert "Quality" not in visit.text("card-figures") and "recipe" not in rows
        visit.choose()
        visit.done()
        assert visit.text("result-short") == "Three times as wide and as high."


def test_the_card_describes_the_embedded_pair(
    browser: Browser, app_folder: Path, models: Models, serve: Callable[[Site], Site]
) -> None:
    site = serve(site_of(app_folder, [models.student, models.teacher], {}))
    with visiting(browser, site, **DESKTOP) as visit:
        visit.ready().until("document.querySelector('#card-words').textContent.includes('EDSR')")
        assert visit.page.inner_text("#card-words") == "A network of the kind EDSR (16 blocks, 24 channels)."
        figures = visit.text("card-figures")
        share = models.student.path.stat().st_size / models.teacher.path.stat().st_size
        assert f"{share:.0%} of the large network’s" in figures
        assert "0.21 million" in figures and "32-bit numbers" in figures and "×4" in figures
        assert visit.page.is_hidden("#model-facts")


def test_how_it_looks(
    browser: Browser, app_folder: Path, models: Models, serve: Callable[[Site], Site], tmp_path: Path
) -> None:
    """Take the picture of docs/use/demo.md: a phone, light and dark, side by side, with the embedded student's results.

    DEMO_PICTURE=1 writes it to docs/images; otherwise it goes to a temporary folder.
    """
    requested = bool(os.environ.get("DEMO_PICTURE"))
    samples = {f"{sample.name}.png": sample.content for sample in load_samples()[:4]}
    site = serve(site_of(app_folder, [models.student], samples))
    shots = []
    for scheme in ("light", "dark"):
        with visiting(browser, site, color_scheme=scheme, **PHONE) as visit:
            visit.ready().choose(sample=len(shots))
            visit.done()
            visit.page.wait_for_timeout(300)
            path = tmp_path / f"{scheme}.png"
            visit.page.screenshot(path=path)
            end = visit.page.evaluate("document.querySelector('.again').getBoundingClientRect().bottom")
            shot = Image.open(path).convert("RGB")
            shots.append(shot.crop((0, 0, shot.width, round((end + 12) * DENSITY))))
    width, height = shots[0].size
    sheet = Image.new("RGB", (2 * width + 60, height), "#808a88")
    for i, each in enumerate(shots):
        assert len(each.getcolors(1 << 24) or []) > 1000
        sheet.paste(each, (i * (width + 60), 0))
    sheet = sheet.resize((960, round(960 * sheet.height / sheet.width)), Image.Resampling.LANCZOS)
    target = (ROOT / "docs" / "images" if requested else tmp_path) / "demo.webp"
    sheet.save(target, quality=92, method=6)
    assert target.stat().st_size < PICTURE_BYTES
