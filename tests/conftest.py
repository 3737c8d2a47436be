"""Fixtures for every test, with few threads, so that two workers do not compete for two cores."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from types import FunctionType

import pytest
import torch

from compressor.base.child import Child, run_in_child
from compressor.base.memory import collect_less_often
from compressor.data.calibration import draw_calibration_patches
from tests.support.forks import WarmProcess
from tests.support.here import ChildHere
from tests.support.small_runs import save_photos, save_teacher

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)
collect_less_often()


@pytest.fixture(autouse=True)
def _no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make output independent of the terminal and environment of the tests."""
    for name in ("FORCE_COLOR", "COLUMNS", "_SRKD_COMPLETE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_COLOR", "1")


@pytest.fixture(autouse=True)
def _signals_are_as_before() -> Iterator[None]:
    """Restore the handlers after each test: programs that later tests start would inherit an ignored SIGTERM."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Give each test its own cache instead of the user's."""
    monkeypatch.setenv("SRKD_CACHE", str(tmp_path / "srkd-cache"))


@pytest.fixture(scope="session")
def tried_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tried")


@pytest.fixture(autouse=True)
def _files_are_tried_once(monkeypatch: pytest.MonkeyPatch, tried_folder: Path) -> None:
    """Share results of trials between tests: a file that one test has opened is not tried again for the next."""
    monkeypatch.setattr("compressor.runtimes.probing.tried_folder", lambda: tried_folder)


@pytest.fixture(scope="session")
def warm_process() -> Iterator[WarmProcess]:
    process = WarmProcess()
    yield process
    process.close()


@pytest.fixture(autouse=True)
def _files_are_tried_in_forks(monkeypatch: pytest.MonkeyPatch, warm_process: WarmProcess) -> None:
    """Try untrusted files in forks with the same limits, as a new interpreter for each takes seconds."""
    monkeypatch.setattr("compressor.runtimes.probing.run_in_child", warm_process.run)


@pytest.fixture(autouse=True)
def _profiled_models_stay_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Profile models in this process, as a new interpreter for each row takes seconds."""
    monkeypatch.setattr("export.profile.process.Child", ChildHere)


@pytest.fixture
def real_children(
    monkeypatch: pytest.MonkeyPatch, _files_are_tried_in_forks: None, _profiled_models_stay_here: None
) -> None:
    """Try untrusted files and profile models each in a new interpreter, as for a user."""
    monkeypatch.setattr("compressor.runtimes.probing.run_in_child", run_in_child)
    monkeypatch.setattr("export.profile.process.Child", Child)


@pytest.fixture(autouse=True)
def _few_calibration_patches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fit on 8 patches, which saves half a second in hundreds of tests that are not about fits."""
    monkeypatch.setattr("srkd.runs.run.draw_calibration_patches", partial(draw_calibration_patches, count=8))


@pytest.fixture(autouse=True)
def _operators_are_read_once() -> None:
    """Keep the exporter's table of operators: it parses all of them again for each graph, which takes half a second."""
    apis = sys.modules.get("onnxscript._framework_apis")
    for module in () if apis is None else vars(apis).values():
        if isinstance(read := getattr(module, "get_torchlib_ops", None), FunctionType):
            module.get_torchlib_ops = cache(read)


@pytest.fixture
def usual_calibration_patches(monkeypatch: pytest.MonkeyPatch, _few_calibration_patches: None) -> None:
    """Fit on the usual number of patches."""
    monkeypatch.setattr("srkd.runs.run.draw_calibration_patches", draw_calibration_patches)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give tests of the slow tier an hour each."""
    for item in items:
        if any(item.get_closest_marker(name) for name in ("slow", "matrix")):
            item.add_marker(pytest.mark.timeout(3600))


class FailuresAtOnce:
    """Prints each failure when it happens: a run that is ended from outside has no summary."""

    def __init__(self, reporter: pytest.TerminalReporter) -> None:
        self._reporter = reporter

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            reason = report.longreprtext if crash is None else crash.message
            self._reporter.write_line(f"\n{report.nodeid} ({report.when}): {' '.join(reason.split())[:300]}")


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and not hasattr(config, "workerinput"):  # a worker's reports are printed by its parent
        config.pluginmanager.register(FailuresAtOnce(reporter))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the notes that tests recorded, such as the number of tried files."""
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            if name == "note":
                terminalreporter.write_line(str(value))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Return a folder of three small photos to train on."""
    return save_photos(tmp_path / "photos")


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    """Return the file of a small EDSR x2 with random weights."""
    return save_teacher(tmp_path / "teacher.safetensors")
