"""What a user sees and does: touch, keyboard and accessibility, words and sizes, and the networks' descriptions."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from demo.catalogue import load_samples
from tests.browser.app_models import Models
from tests.browser.visits import DESKTOP, NO_WIDER_THAN_THE_SCREEN, PHONE, SIZES, App, Visit, violations
from tests.support.commands import ROOT

pytestmark = pytest.mark.browser

TOUCH_PIXELS = 44
ARROW_PIXELS = 16
PICTURE_BYTES = 350_000
DIVIDE = "document.querySelector('#divider').getAttribute('aria-valuenow')"
IN_VIEW = """(selector) => [...document.querySelectorAll(selector)].map((each) => {
    const { left, top, right, bottom } = each.getBoundingClientRect();
    return left >= 0 && top >= 0 && right <= innerWidth && bottom <= innerHeight;
})"""
SMALL_TARGETS = """(least) =>
    [...document.querySelectorAll("button, select, summary, label.button, [role=slider] .grip")]
    .filter((each) => each.checkVisibility())
    .map((each) => [each.id || each.textContent.trim(), each.getBoundingClientRect()])
    .filter(([, box]) => box.width < least || box.height < least)
    .map(([name, box]) => `${name} ${box.width}x${box.height}`)"""
MOVING = """[...document.querySelectorAll("*")].filter((each) =>
    [getComputedStyle(each), getComputedStyle(each, "::before")]
        .some((style) => style.transitionDuration !== "0s" || style.animationDuration !== "0s")).length"""


def resize(visit: Visit, width: int, height: int) -> None:
    visit.page.set_viewport_size({"width": width, "height": height})


def test_the_divider_is_a_slider_for_keys_and_fingers(desktop: Visit) -> None:
    page = desktop.enlarge().page
    page.focus("#divider")
    for key, expected in (("ArrowRight", "52"), ("ArrowLeft", "50"), ("PageUp", "60"), ("Home", "0"), ("End", "100")):
        page.keyboard.press(key)
        assert page.evaluate(DIVIDE) == expected
    page.keyboard.press("Home")
    for _ in range(5):
        page.keyboard.press("PageUp")
    box = page.locator("#stage").bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] / 2, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 4, middle, steps=4)
    page.mouse.up()
    assert page.evaluate(DIVIDE) == "25"
    assert page.get_attribute("#divider", "role") == "slider"


def test_zoom_pan_and_pinch(phone: Visit) -> None:
    width = "document.querySelector('#sheet-right').getBoundingClientRect().width"
    left = "document.querySelector('#sheet-right').getBoundingClientRect().left"
    page = phone.enlarge().page
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


@pytest.mark.parametrize("device", ["phone", "desktop"])
def test_axe_finds_nothing(request: pytest.FixtureRequest, device: str) -> None:
    """Before and after the first result, in both colour schemes."""
    visit: Visit = request.getfixturevalue(device)

    def look() -> None:
        for scheme in ("light", "dark"):
            visit.page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            assert violations(visit.page) == [], scheme

    look()
    visit.enlarge().open_details().page.click("#card-all > summary")
    look()


def test_touch_targets_are_large_and_nothing_moves_for_who_wants_no_motion(phone: Visit) -> None:
    assert phone.page.evaluate(SMALL_TARGETS, TOUCH_PIXELS) == []
    assert phone.page.evaluate(IN_VIEW, ".actions > *") == [True] * 5
    phone.enlarge().open_details()
    assert phone.page.evaluate(SMALL_TARGETS, TOUCH_PIXELS) == []
    assert phone.page.evaluate(NO_WIDER_THAN_THE_SCREEN)
    phone.page.emulate_media(reduced_motion="reduce")
    assert phone.page.evaluate(MOVING) == 0


def test_it_works_by_keyboard_alone_and_is_announced(desktop: Visit) -> None:
    page = desktop.page
    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.getAttribute('aria-label')") == "Sample: astronaut":
            break
    page.keyboard.press("Enter")
    desktop.done()
    assert page.get_attribute("#announcement", "aria-live") == "polite"
    assert page.text_content("#announcement") == (
        "Done. Twice as wide and as high. 192\u00a0×\u00a0192 pixels instead of 96\u00a0×\u00a096."
    )


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


def test_a_phone_on_its_side_keeps_the_buttons_in_view(phone: Visit) -> None:
    """The buttons are beside the picture, at any scroll position of the area below."""
    phone.enlarge().open_details()
    for width, height in ((932, 430), (568, 320)):
        resize(phone, width, height)
        for scrolled in (0, 10_000):
            phone.page.evaluate("(top) => document.querySelector('aside').scrollTo(0, top)", scrolled)
            assert phone.page.evaluate(IN_VIEW, ".actions > *") == [True] * 5
            assert phone.page.evaluate(IN_VIEW, "#stage, #left, #right, .zoom button, #result-short") == [True] * 7
        assert phone.page.evaluate("document.documentElement.scrollHeight <= innerHeight")
        assert cut_choices(phone) == []
        stage = phone.page.locator("#stage").bounding_box()
        assert stage is not None and stage["height"] > 0.6 * height


def test_the_card_describes_the_embedded_pair(app: App, models: Models) -> None:
    with app.visit(app.site([models.student, models.teacher], {}), **DESKTOP) as visit:
        visit.until("document.querySelector('#card-words').textContent.includes('EDSR')")
        assert visit.page.inner_text("#card-words") == "A network of the kind EDSR (16 blocks, 24 channels)."
        figures = visit.text("card-figures")
        share = models.student.path.stat().st_size / models.teacher.path.stat().st_size
        assert f"{share:.0%} of the large network’s" in figures
        assert "0.21 million" in figures and "32-bit numbers" in figures and "×4" in figures
        assert visit.page.is_hidden("#model-facts")


QUANT = {"srkd.quant": json.dumps({"flavour": "cpu", "calibration": "32 patches", "drop_db": 0.0322, "photos": 2})}
NUMBER = r"([\d.,]+)"


def measured(visit: Visit) -> str:
    visit.page.evaluate("document.querySelector('#measured').textContent = ''")
    visit.page.click("#measure")
    visit.until("document.querySelector('#measured').textContent !== ''")
    return visit.text("measured")


def test_int8_states_its_loss_and_its_speed_beside_the_float_network(app: App, models: Models) -> None:
    with app.visit([models.tiny, models.described(models.int8, QUANT)], **PHONE) as visit:
        assert visit.titles() == ["Ordinary", "Sharpened", "int8 −0.03 dB: Sharpened"]
        visit.enlarge().open_details()
        assert visit.text("measure") == "Measure a 64 × 64 tile"
        assert re.fullmatch(f"Sharpened: {NUMBER} ms for 64 × 64", measured(visit))
        visit.page.select_option("#left", label="Sharpened")
        visit.page.select_option("#right", label="int8 −0.03 dB: Sharpened")
        visit.until("document.querySelector('#model-name').textContent === 'Sharpened, int8'")
        visit.until("document.querySelector('#card-figures').textContent.includes('in float')")
        visit.rest()
        assert "Quality−0.03 dBagainst the same in float" in visit.text("card-figures")
        for width in (320, 412):
            resize(visit, width, 800)
            assert visit.page.evaluate(NO_WIDER_THAN_THE_SCREEN)
        assert visit.text("measure") == "Compare the speed of both sides"
        words = measured(visit)
        match = re.fullmatch(f"Sharpened, int8 {NUMBER} ms, Sharpened {NUMBER} ms for 64 × 64: (.*)", words)
        assert match, words
        faster = "Sharpened, int8" if float(match[1]) < float(match[2]) else "Sharpened"
        assert match[3] == "equally fast" or re.fullmatch(f"{faster} is {NUMBER} times as fast", match[3])
        # The picture and the figures of the right side are shown again.
        visit.done()
        assert visit.text("model-name") == "Sharpened, int8"


def test_the_list_names_every_kind_and_an_int8_file_has_no_score_of_the_float_network(app: App, models: Models) -> None:
    """Two of a kind are told apart by their names."""
    scores = {"srkd.scores": '{"validation_psnr_y": 31.5}'}
    files = [
        models.described(models.tiny, scores),
        replace(models.half, name="tiny"),
        models.int8,
        models.described(models.int8, {**QUANT, **scores}),
        replace(models.tiny, role="teacher"),
    ]
    with app.visit(app.site(files, {}), **DESKTOP) as visit:
        names = ["Sharpened", "Sharpened, 16-bit", "int8: Sharpened", "int8 −0.03 dB: Sharpened: int8"]
        assert visit.titles() == ["Ordinary", *names, "Large network"]
        assert "31.5 dBto the originals, on its validation images" in visit.text("card-figures")
        visit.page.select_option("#right", index=4, force=True)
        visit.until("document.querySelector('#card-figures').textContent.includes('in float')")
        assert "31.5 dBto the originals, in float; int8 changes it by −0.03 dB" in visit.text("card-figures")


@pytest.mark.slow
def test_how_it_looks(app: App, models: Models, tmp_path: Path) -> None:
    """Take the picture of docs/use/demo.md: a phone, light and dark, side by side, with the embedded student's results.

    DEMO_PICTURE=1 writes it to docs/images; otherwise it goes to a temporary folder.
    """
    requested = bool(os.environ.get("DEMO_PICTURE"))
    samples = {f"{sample.name}.png": sample.content for sample in load_samples()[:4]}
    shots = []
    for scheme in ("light", "dark"):
        site = app.site([models.student], samples)
        with app.visit(site, color_scheme=scheme, reduced_motion="reduce", **PHONE) as visit:
            visit.enlarge(sample=len(shots))
            path = tmp_path / f"{scheme}.png"
            visit.page.screenshot(path=path)
            end = visit.page.evaluate("document.querySelector('.again').getBoundingClientRect().bottom")
            shot = Image.open(path).convert("RGB")
            shots.append(shot.crop((0, 0, shot.width, round((end + 12) * PHONE["device_scale_factor"]))))
    width, height = shots[0].size
    sheet = Image.new("RGB", (2 * width + 60, height), "#808a88")
    for i, each in enumerate(shots):
        assert len(each.getcolors(1 << 24) or []) > 1000
        sheet.paste(each, (i * (width + 60), 0))
    sheet = sheet.resize((960, round(960 * sheet.height / sheet.width)), Image.Resampling.LANCZOS)
    target = (ROOT / "docs" / "images" if requested else tmp_path) / "demo.webp"
    sheet.save(target, quality=92, method=6)
    assert target.stat().st_size < PICTURE_BYTES


def test_a_network_that_keeps_the_size_shows_before_and_after(app: App, models: Models) -> None:
    """Its picture is as large as before; nothing speaks of enlarging."""
    with app.visit([models.restoring], **DESKTOP) as visit:
        assert visit.titles() == ["Before", "After"]
        visit.enlarge()
        left, right = visit.page.evaluate(SIZES)
        assert left == right
        assert "pixels instead of" not in visit.text("result")
        assert not re.search("enlarg|sharpen|bicubic", visit.page.inner_text("main").lower())
        visit.page.select_option("#right", label="Before")
        assert visit.text("card-words") == "The picture as it is, without a network."
