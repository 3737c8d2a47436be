"""The size of the first visit and the speed of the embedded networks, stored with wide bounds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.browser.app_models import Models, png, sample_rgb
from tests.browser.app_site import Site, site_of
from tests.browser.visits import PHONE, note, visiting

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser

THROTTLE = 4
FIRST_LOAD_BYTES = 6_000_000
"""Upper bound of the first load: gzipped, with the embedded student and two samples."""


def test_the_first_visit_on_a_slow_phone(
    browser: Browser, app_folder: Path, models: Models, serve: Callable[[Site], Site]
) -> None:
    samples = {f"{name}.png": png(sample_rgb(name, 96, 3)) for name in ("chelsea", "astronaut")}
    site = serve(site_of(app_folder, [models.student], samples))
    with visiting(browser, site, address="about:blank", **PHONE) as visit:
        session = visit.page.context.new_cdp_session(visit.page)
        session.send("Emulation.setCPUThrottlingRate", {"rate": THROTTLE})
        site.sent.clear()
        visit.page.goto(site.origin)
        visit.ready().choose()
        visit.done()
        ready, done = visit.page.evaluate(
            "[performance.getEntriesByType('navigation')[0].domComplete, performance.now()]"
        )
        visit.until("document.querySelector('#offline').textContent.startsWith('Works offline')")
        kinds = {"wasm": 0, "model": 0, "samples": 0, "app": 0}
        for address, size in site.sent.items():
            kind = {"models": "model", "samples": "samples"}.get(address.split("/")[0], "app")
            kinds["wasm" if address.endswith(".wasm") else kind] += size
        total = sum(kinds.values())
        note("first_load_bytes_gzipped", {"total": total, **kinds})
        note(
            "throttled_phone", {"rate": THROTTLE, "dom_ms": round(ready), "first_result_ms": round(done), "lr": "96x96"}
        )
        assert total < FIRST_LOAD_BYTES


def test_a_tile_of_64(browser: Browser, app_folder: Path, models: Models, serve: Callable[[Site], Site]) -> None:
    site = serve(site_of(app_folder, [models.student, models.teacher], {}))
    with visiting(browser, site, **PHONE) as visit:
        visit.ready()
        figures = {}
        for model in (models.student, models.teacher):
            for threads in (1, 2):
                measured = visit.engine(
                    """
                    await engine.ask("setup", { options: { engine: "wasm", threads: args.threads } });
                    const bytes = await (await fetch(args.url)).arrayBuffer();
                    await engine.ask("open", { name: "model.onnx", bytes });
                    return await engine.ask("measure", { runs: 3 });
                    """,
                    {"threads": threads, "url": f"models/{model.path.name}"},
                )
                assert (measured["width"], measured["height"], measured["threads"]) == (64, 64, threads)
                figures[f"{model.name}, {threads} thread{'s' * (threads - 1)}"] = {
                    "median": round(measured["ms"]),
                    "least": round(measured["least"]),
                }
        note("ms_a_64x64_tile", figures)
        # The minimum is disturbed least by other work on the machine.
        assert figures["student, 1 thread"]["least"] < figures["teacher, 1 thread"]["least"]
