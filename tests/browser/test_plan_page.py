"""The page that times a plan's files: what it shows, and the file that it saves for `srkd plan --measured`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

import srkd
from compressor.base.context import QUIET
from compressor.models.checkpoints.save import save_network
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build
from demo.catalogue import site_contents
from srkd.api.demonstration import plan_to_time
from srkd.options.verbs import DemoOptions
from srkd.runs import planning_elsewhere
from tests.browser.app_models import FOREIGN
from tests.browser.app_site import Site, app_files, served
from tests.browser.visits import PHONE, App, violations

pytestmark = pytest.mark.browser

SIZE = "24x16"
REFUSED = "unknown-operation"
LINES = """[...document.querySelectorAll("#plan-times tbody tr")]
    .map((row) => [row.className, ...[...row.cells].map((cell) => cell.textContent.replace("✓ ", ""))])"""
MEASURED = """() => {
    window.sizes = [];
    const post = Worker.prototype.postMessage;
    Worker.prototype.postMessage = function (message, ...rest) {
        if (message.action === "open") window.sizes.push(message.name);
        if (message.action === "measure") window.sizes.push(message.size.join("x"));
        return post.call(this, message, ...rest);
    };
}"""


@dataclass(frozen=True)
class PlanPage:
    """A plan's folder with its teacher, and the site that `srkd demo` serves for it, whose last file no engine runs."""

    folder: Path
    teacher: Path
    site: Site
    names: tuple[str, ...]


@pytest.fixture(scope="module")
def page(app_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlanPage]:
    folder = tmp_path_factory.mktemp("plan")
    teacher = folder / "teacher.safetensors"
    save_network(build(EDSRSpec(2, width=8, depth=2), seed=0), teacher)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning_elsewhere, "spread_out", lambda candidates, targets: candidates[:3])
        srkd.plan(teacher, target_ms=10_000, lr_size=SIZE, emit=folder / "phone")
    plan, models = plan_to_time(DemoOptions([folder / "phone"]), QUIET)
    broken = FOREIGN[REFUSED][0]().SerializeToString()
    models = (*models[:2], replace(models[2], content=broken, sha256=hashlib.sha256(broken).hexdigest()))
    files: dict[str, bytes | Path] = {**app_files(app_folder), **site_contents(models, (), plan)}
    with served(Site(files)) as site:
        yield PlanPage(folder / "phone", teacher, site, tuple(model.name for model in models))


def test_the_files_of_a_plan_are_timed_in_turns_and_the_plan_reads_their_times(
    app: App, page: PlanPage, tmp_path: Path
) -> None:
    """Nine rounds in alternating order at the plan's size. A file that the engine refuses leaves the others."""
    with app.visit(page.site, **PHONE) as visit:
        assert visit.page.is_visible("#plan") and visit.page.is_hidden("#stage") and visit.page.is_hidden("#card")
        words = visit.text("plan-words")
        assert words.startswith("3 networks of srkd plan") and "24\u00a0×\u00a016" in words and "10,000 ms" in words
        assert visit.page.inner_text("#time-plan") == "Time them on WebAssembly"
        assert violations(visit.page) == []
        visit.page.evaluate(MEASURED)
        visit.page.click("#time-plan")
        visit.until("!document.querySelector('#save-plan').hidden")
        visit.rest()
        sizes = visit.page.evaluate("window.sizes")
        one, two, broken = page.names
        first_two = [one, SIZE, two, SIZE, broken, two, SIZE, one, SIZE]
        # The last file of a round is open already when it is the first of the next one.
        assert sizes == [*first_two, *[SIZE, two, SIZE, SIZE, one, SIZE] * 3, SIZE, two, SIZE]
        lines = visit.page.evaluate(LINES)
        assert [line[1] for line in lines] == list(page.names)
        assert [line[0] for line in lines] == ["best", "best", ""]
        assert lines[2][2].startswith("does not run: ") and "cannot be opened by ONNX Runtime" in lines[2][2]
        assert "2 of 3 were timed on WebAssembly (" in visit.text("plan-result")
        file = visit.downloaded("#save-plan", tmp_path)
        threads = visit.page.evaluate("Math.min(4, navigator.hardwareConcurrency)")
    assert file.name == "measured.json"
    measured = json.loads(file.read_text())
    assert (measured["schema"], measured["provider"], measured["threads"]) == (
        "srkd.plan-measured/1",
        "WebAssembly",
        threads,
    )
    assert "cores" in measured["machine"] and measured["onnxruntime"].startswith("1.")
    for name in (one, two):
        row = measured["rows"][name]
        assert 0 < row["low"] <= row["ms"] <= row["high"]
    assert "cannot be opened" in measured["rows"][broken]["failed"]
    report = srkd.plan(page.teacher, measured=file, emit=page.folder, quality=False)
    assert {row.name: row.ms for row in report.rows if row.ms is not None} == {
        name: measured["rows"][name]["ms"] for name in (one, two)
    }
    assert report.measured_on == measured["machine"] and report.device == "WebAssembly" and report.threads == threads
    assert report.chosen.name in (one, two)
