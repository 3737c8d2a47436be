"""`srkd report` in Chromium: the comparator by mouse, touch and keyboard, a phone, paper, axe."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import srkd
from tests.browser.visits import DESKTOP, NO_WIDER_THAN_THE_SCREEN, PHONE, listen, violations
from tests.support.small_runs import SMALL, save_photos, save_teacher

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

SLIDER = ".stage input[type=range]"
AT = "document.querySelector('.stage').style.getPropertyValue('--at')"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a small run, with a profile like that of srkd profile."""
    folder = tmp_path_factory.mktemp("report")
    photos, teacher = save_photos(folder / "photos"), save_teacher(folder / "teacher.safetensors")
    run = folder / "small"
    options = {"goal": "original", "width": 0.5, "steps": 4, "settings": SMALL, "with_baseline": True, "threads": 1}
    srkd.compress(teacher, recipe="logits", data=photos, out=run, **options)
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


def divider(page: Page) -> float:
    return float(page.evaluate(AT).rstrip("%"))


def test_the_slider_by_mouse_and_keyboard(browser: Browser, report: Path) -> None:
    with opened(browser, report, **DESKTOP) as page:
        page.locator(".stage").scroll_into_view_if_needed()
        box = page.locator(".stage").bounding_box()
        middle = box["y"] + box["height"] / 2
        page.mouse.move(box["x"] + box["width"] * 0.5, middle)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * 0.25, middle, steps=5)
        page.mouse.up()
        assert 20 <= divider(page) <= 30
        # The left layer is clipped at the divider.
        clip = page.evaluate("getComputedStyle(document.querySelector('.stage .over')).clipPath")
        assert f"{100 - divider(page):g}%" in clip, clip
        page.focus("[data-side=right]")
        page.keyboard.press("Tab")
        assert page.evaluate(f"document.activeElement === document.querySelector('{SLIDER}')")
        outline = page.evaluate("getComputedStyle(document.querySelector('.stage')).outlineStyle")
        assert outline == "solid"
        page.keyboard.press("Home")
        assert divider(page) == 0
        assert page.get_attribute(SLIDER, "aria-valuetext") == "0 % teacher, the rest student"
        page.keyboard.press("ArrowRight")
        assert divider(page) == 1
        page.keyboard.press("End")
        assert divider(page) == 100


def test_the_lists_choose_layers_and_crops(browser: Browser, report: Path) -> None:
    with opened(browser, report, **DESKTOP) as page:
        source = "document.querySelector('.stage .over').src"
        before = page.evaluate(source)
        page.select_option("[data-side=left]", "bicubic")
        bicubic = page.evaluate(source)
        assert bicubic != before
        assert page.text_content(".stage .name.left") == "bicubic"
        crops = page.locator("[data-crop] option").count()
        assert crops >= 2
        page.select_option("[data-crop]", str(crops - 1))
        assert page.evaluate(source) != bicubic
        assert "dB" in (page.text_content(".scores") or "")


def test_a_phone_has_a_slider_by_touch_and_sharp_charts(browser: Browser, report: Path) -> None:
    with opened(browser, report, **PHONE) as page:
        page.locator(".stage").scroll_into_view_if_needed()
        box = page.locator(".stage").bounding_box()
        page.touchscreen.tap(box["x"] + box["width"] * 0.8, box["y"] + box["height"] / 2)
        assert 75 <= divider(page) <= 85
        widths = page.eval_on_selector_all(".chart img", "(images) => images.map((image) => image.clientWidth)")
        # Of 760: the numbers of the axes are at least 10 pixels high, and the chart scrolls.
        assert min(widths) >= 540
        assert page.evaluate(NO_WIDER_THAN_THE_SCREEN)


def test_paper_has_every_crop_without_the_slider(browser: Browser, report: Path) -> None:
    with opened(browser, report, **DESKTOP) as page:
        assert page.locator(".chart").count() >= 4
        page.emulate_media(media="print")
        assert page.is_hidden(".comparator") and page.is_visible(".crop .row img")
        assert page.evaluate("document.querySelector('.crop .row').getBoundingClientRect().height") < 400


@pytest.mark.parametrize("profile", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_axe_finds_nothing(browser: Browser, report: Path, profile: dict[str, object]) -> None:
    with opened(browser, report, **profile) as page:
        assert violations(page) == []


def test_without_scripts_the_pictures_stand_there(browser: Browser, report: Path) -> None:
    context = browser.new_context(java_script_enabled=False, **DESKTOP)
    page = context.new_page()
    page.goto(report.as_uri())
    assert page.is_hidden(".comparator") and page.is_visible(".crop .row img")
    context.close()
