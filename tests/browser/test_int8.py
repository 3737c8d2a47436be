"""8-bit networks: the list shows them and their loss, and a phone compares their speed with float."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.browser.app_models import Models, png, sample_rgb
from tests.browser.app_site import Site, site_of
from tests.browser.visits import DESKTOP, PHONE, Visit, visiting

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser

QUANT = json.dumps({"flavour": "cpu", "calibration": "32 patches", "drop_db": 0.0322, "photos": 2})
MEASURED = "document.querySelector('#measured').textContent !== ''"
NUMBER = r"([\d.,]+)"


@pytest.fixture
def site(app_folder: Path, models: Models, serve: Callable[[Site], Site]) -> Site:
    int8 = models.described(models.int8, {"srkd.quant": QUANT})
    return serve(site_of(app_folder, [models.tiny, int8], {"cat.png": png(sample_rgb("chelsea", 48))}))


def measured(visit: Visit) -> str:
    visit.page.click("#measure")
    visit.until(MEASURED)
    return visit.text("measured")


@pytest.mark.parametrize("width", [320, 412])
def test_the_list_says_int8_and_what_was_lost(browser: Browser, site: Site, width: int) -> None:
    with visiting(browser, site, **{**PHONE, "viewport": {"width": width, "height": 800}}) as visit:
        titles = visit.ready().page.eval_on_selector_all("#right option", "all => all.map((each) => each.text)")
        assert titles == ["Ordinary", "Sharpened", "int8 −0.03 dB: Sharpened"]
        visit.choose()
        visit.done()
        visit.page.select_option("#right", label=titles[-1])
        visit.until("document.querySelector('#model-name').textContent === 'Sharpened, int8'")
        visit.until("document.querySelector('#card-figures').textContent.includes('in float')")
        assert "Quality−0.03 dBagainst the same in float" in visit.text("card-figures")
        assert visit.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_the_score_of_the_float_network_is_not_that_of_its_file_in_eight_bits(
    browser: Browser, app_folder: Path, models: Models, serve: Callable[[Site], Site]
) -> None:
    scores = {"srkd.scores": '{"validation_psnr_y": 31.5}'}
    files = [models.described(models.tiny, scores), models.described(models.int8, {"srkd.quant": QUANT, **scores})]
    with visiting(browser, serve(site_of(app_folder, files, {})), **DESKTOP) as visit:
        visit.ready()
        assert "31.5 dBon its validation images" in visit.text("card-figures")
        visit.page.select_option("#right", index=2, force=True)
        visit.until("document.querySelector('#card-figures').textContent.includes('in float')")
        assert "31.5 dBin float; int8 changes it by −0.03 dB" in visit.text("card-figures")


def test_the_speed_of_two_networks_stands_side_by_side_with_its_ratio(browser: Browser, site: Site) -> None:
    with visiting(browser, site, **PHONE) as visit:
        visit.ready().choose()
        visit.done()
        visit.open_details()
        assert visit.text("measure") == "Measure a 64 × 64 tile"
        assert re.fullmatch(f"Sharpened: {NUMBER} ms for 64 × 64", measured(visit))
        visit.page.select_option("#left", label="Sharpened")
        visit.page.select_option("#right", label="int8 −0.03 dB: Sharpened")
        visit.until("document.querySelector('#work').hidden")
        assert visit.text("measure") == "Compare the speed of both sides"
        visit.page.evaluate("document.querySelector('#measured').textContent = ''")
        words = measured(visit)
        match = re.fullmatch(f"Sharpened, int8 {NUMBER} ms, Sharpened {NUMBER} ms for 64 × 64: (.*)", words)
        assert match, words
        int8, plain = float(match[1]), float(match[2])
        ratio = max(int8, plain) / min(int8, plain)
        if match[3] == "equally fast":
            assert ratio < 1.1
        else:
            faster, times = re.fullmatch(f"(.*) is {NUMBER} times as fast", match[3]).groups()  # type: ignore[union-attr]
            assert faster == ("Sharpened, int8" if int8 < plain else "Sharpened")
            assert float(times) == pytest.approx(ratio, rel=0.05)
        # The picture and the figures of the right side are shown again.
        visit.done()
        assert visit.text("model-name") == "Sharpened, int8"
