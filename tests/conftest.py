"""Fixtures for every test, with few threads, so that two workers do not compete for two cores."""

from __future__ import annotations

import gc
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import settings

from compressor.base.child import Child, StartChild, children_started_by
from compressor.base.memory import collect_less_often
from tests.support.children import quick_start
from tests.support.small_runs import save_photos, save_teacher

if TYPE_CHECKING:
    from tests.support.nvidia import Nvidia

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)
collect_less_often()
settings.register_profile("any load", deadline=None)
settings.load_profile("any load")


FROZEN_AT = [0]
"""Number of imported modules when the collector last set its objects aside."""


@pytest.fixture(autouse=True)
def _modules_are_not_garbage() -> None:
    """Spare the collector what has been imported: each timing collects first, which takes 0.3 s otherwise."""
    if len(sys.modules) > FROZEN_AT[0] + 100:
        gc.collect()
        gc.freeze()
        FROZEN_AT[0] = len(sys.modules)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Numbers drawn without a generator of their own are the same in every run."""
    torch.manual_seed(0)


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


@pytest.fixture(scope="session", autouse=True)
def _session_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give the tests a cache instead of the user's; fixtures of a module or of the session use it as it is."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("srkd-cache")
        patch.setenv("SRKD_CACHE", str(folder))
        yield folder


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory, _session_cache: Path) -> None:
    """Give each test its own cache; a file that one test has tried is not tried again for the next."""
    own, tried = tmp_path_factory.mktemp("srkd-cache"), _session_cache / "tried"
    tried.mkdir(exist_ok=True)
    (own / "tried").symlink_to(tried)
    monkeypatch.setenv("SRKD_CACHE", str(own))


@pytest.fixture(scope="session", autouse=True)
def quick_children() -> Iterator[StartChild]:
    """Start children quickly, in forks or in this process, and return the way in which they start."""
    with quick_start() as start, children_started_by(start):
        yield start


@pytest.fixture
def real_children() -> Iterator[None]:
    """Start each child in a new interpreter, as for a user."""
    with children_started_by(Child):
        yield


WHOLE_FILE = re.compile(r"^pytestmark = \[?pytest\.mark\.(ci|extras|browser)\b", re.MULTILINE)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out files of another tier than the chosen one without importing them: their libraries take seconds."""
    if collection_path.suffix != ".py":
        return None
    tier = WHOLE_FILE.search(collection_path.read_text(encoding="utf-8"))
    return True if tier and f"not {tier[1]}" in config.option.markexpr else None


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--share", default="0/1", help="K/N: run share K of N, from 0, of the tests, by their names")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the tests of one share, and give those of the slow tier an hour each."""
    number, count = map(int, config.option.share.split("/"))
    # By their places, not by hashes of their names, which leave shares of few tests empty.
    own = set(sorted(item.nodeid for item in items)[number % count :: count])
    if others := [item for item in items if item.nodeid not in own]:
        items[:] = [item for item in items if item.nodeid in own]
        config.hook.pytest_deselected(items=others)
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


@pytest.fixture(scope="session")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with teacher.safetensors and photos/, which no test changes."""
    folder = tmp_path_factory.mktemp("ground")
    save_teacher(folder / "teacher.safetensors")
    save_photos(folder / "photos")
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Return a folder of three small photos to train on."""
    return save_photos(tmp_path / "photos")


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    """Return the file of a small EDSR x2 with random weights."""
    return save_teacher(tmp_path / "teacher.safetensors")


@pytest.fixture
def gpu(tmp_path: Path) -> Iterator[Nvidia]:
    from tests.support.nvidia import nvidia

    with nvidia(tmp_path) as machine:
        yield machine
