"""`srkd report` in Chromium: the comparator by mouse, touch and keyboard, both colour schemes, a phone, paper, axe."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import srkd
from tests.browser.visits import APP, DESKTOP, PHONE, listen
from tests.support.small_runs import SMALL, save_photos, save_teacher

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

AXE = APP / "node_modules" / "axe-core" / "axe.min.js"
SLIDER = ".stage input[type=range]"
AT = "document.querySelector('.stage').style.getPropertyValue('--at')"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a small run, with a profile like that of srkd profile."""
    folder = tmp_path_factory.mktemp("report")
    photos, teacher = save_photos(folder / "photos"), save_teacher(folder / "teacher.safetensors")
    run = folder / "small"
    srkd.compress(
        teacher,
        recipe="logits",
        data=photos,
        width=0.5,
        steps=4,
        settings=SMALL,
        with_baseline=True,
        threads=1,
        out=run,
    )
    srkd.profile(run, runtime="torch", lr_size="16x12", seconds=0.1, memory=False, quality=False, threads=1)
    return srkd.report(run).path


@contextmanager
def opened(browser: Browser, report: Path, **profile: object) -> Iterator[Page]:
    """Open the file itself; any console message, and any request, fails the test at the end."""
    context = browser.new_context(**profile)  # type: ignore[arg-type]
    page, complaints = context.new_page(), []
    listen(page, complaints)
    page.on("request", lambda request: complaints.append(request.url) if "://" in request.url[:8] else None)
    try:
        page.goto(report.as_uri())
        page.wait_for_selector(".comparator:not([hidden])")
        complaints[:] = [line for line in complaints if line != report.as_uri()]
        yield page
        assert complaints == []
    finally:
        context.close()


def test_the_slider_by_mouse(browser: Browser, report: Path) -> None:
    with opened(browser, report, **DESKTOP) as page:
        page.locator(".stage").scroll_into_view_if_needed()
        box = page.locator(".stage").bounding_box()
        assert box is not None
        middle = box["y"] + box["height"] / 2
        page.mouse.move(box["x"] + box["width"] * 0.5, middle)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * 0.25, middle, steps=5)
        page.mouse.up()
        assert 20 <= float(page.evaluate(AT).rstrip("%")) <= 30
        # The left layer is clipped at the divider.
        at = float(page.evaluate(AT).rstrip("%"))
        clip = page.evaluate("getComputedStyle(document.querySelector('.stage .over')).clipPath")
        assert f"{100 - at:g}%" in clip, clip


def test_the_slider_by_keyboard_with_visible_focus(browser: Browser, report: Path) -> None:
    with opened(browser, report, **DESKTOP) as page:
        page.focus("[data-side=right]")
        page.keyboard.press("Tab")
        assert page.evaluate(f"document.activeElement === document.querySelector('{SLIDER}')")
        page.keyboard.press("ArrowRight")
        assert page.evaluate(AT) == "51%"
        page.keyboard.press("Home")
        assert page.evaluate(AT) == "0%"
        assert page.get_attribute(SLIDER, "aria-valuetext") == "0 % teacher, the rest student"
        page.keyboard.press("End")
        assert page.evaluate(AT) == "100%"
        outline = page.evaluate("getComputedStyle(document.querySelector('.stage')).outlineStyle")
        assert outline == "solid"


def test_the_slider_by_touch(browser: Browser, report: Path) -> None:
    with opened(browser, report, **PHONE) as page:
        page.locator(".stage").scroll_into_view_if_needed()
        box = page.locator(".stage").bounding_box()
        assert box is not None
        page.touchscreen.tap(box["x"] + box["width"] * 0.8, box["y"] + box["height"] / 2)
        assert 75 <= float(page.evaluate(AT).rstrip("%")) <= 85
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_the_lists_choose_layers_and_crops(browser: Browser, report: Path) -> None:
    with opened(browser, report, **DESKTOP) as page:
        source = "document.querySelector('.stage .over').src"
        before = page.evaluate(source)
        page.select_option("[data-side=left]", "bicubic")
        assert page.evaluate(source) != before
        assert page.text_content(".stage .name.left") == "bicubic"
        bicubic = page.evaluate(source)
        crops = page.locator("[data-crop] option").count()
        assert crops >= 2
        page.select_option("[data-crop]", str(crops - 1))
        assert page.evaluate(source) != bicubic
        assert "dB" in (page.text_content(".scores") or "")


SHOWN = "(images) => images.filter((image) => image.checkVisibility() && image.naturalWidth > 1000).length"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_charts_are_shown_in_the_colours_of_the_page(browser: Browser, report: Path, scheme: str) -> None:
    other = "dark" if scheme == "light" else "light"
    with opened(browser, report, color_scheme=scheme, **DESKTOP) as page:
        count = page.locator(".chart").count()
        assert count >= 4
        assert page.eval_on_selector_all(f".chart .{scheme}", SHOWN) == count
        assert page.eval_on_selector_all(f".chart .{other}", SHOWN) == 0
        # Paper is light.
        page.emulate_media(media="print")
        assert page.eval_on_selector_all(".chart .light", SHOWN) == count


def test_charts_are_sharp_and_readable_on_a_phone(browser: Browser, report: Path) -> None:
    with opened(browser, report, **PHONE) as page:
        widths = page.eval_on_selector_all(".chart .light", "(images) => images.map((image) => image.clientWidth)")
        # Of 760: the numbers of the axes are at least 10 pixels high, and the chart scrolls.
        assert min(widths) >= 540
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("profile", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_axe_finds_nothing(browser: Browser, report: Path, scheme: str, profile: dict[str, object]) -> None:
    if not AXE.is_file():
        pytest.skip("axe-core is not installed: python scripts/build_demo.py --dev")
    with opened(browser, report, color_scheme=scheme, **profile) as page:
        page.click("details > summary >> nth=0")
        page.evaluate(AXE.read_text(encoding="utf-8"))
        look = (
            "axe.run().then(({ violations }) => violations.map(({ id, nodes }) => [id, ...nodes.map((n) => n.html)]))"
        )
        assert page.evaluate(look) == []


def test_dark_and_paper(browser: Browser, report: Path) -> None:
    """The page is dark if the reader's scheme is; paper is white, with every crop side by side without the slider."""
    ground = "getComputedStyle(document.body).backgroundColor"
    with opened(browser, report, color_scheme="dark", **DESKTOP) as page:
        assert page.evaluate(ground) == "rgb(21, 23, 26)"
        page.emulate_media(media="print")
        assert page.evaluate(ground) == "rgb(255, 255, 255)"
        assert page.is_hidden(".comparator") and page.is_visible(".crop .row img")
        assert page.evaluate("document.querySelector('.crop .row').getBoundingClientRect().height") < 400


def test_how_it_looks(browser: Browser, report: Path, tmp_path: Path) -> None:
    """Take pictures for manual inspection: REPORT_PICTURES names their folder."""
    folder = Path(os.environ.get("REPORT_PICTURES", tmp_path))
    for name, profile in (("desktop", DESKTOP), ("phone", PHONE)):
        with opened(browser, report, **profile) as page:
            path = folder / f"report-{name}.png"
            page.screenshot(path=path, full_page=True)
            assert path.stat().st_size > 10_000


def test_without_scripts_the_pictures_stand_there(browser: Browser, report: Path) -> None:
    context = browser.new_context(java_script_enabled=False, **DESKTOP)
    try:
        page = context.new_page()
        page.goto(report.as_uri())
        assert page.is_hidden(".comparator") and page.is_visible(".crop .row img")
    finally:
        context.close()
