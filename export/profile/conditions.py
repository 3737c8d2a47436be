"""The conditions of a measurement: the machine's settings, library versions and the load of other programs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import psutil

from compressor.base.machine import cpu_model, installed_version, usable_cores

GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
"""File with the clock policy of the first core on Linux: "performance", "powersave", "schedutil"."""

NOTABLE_BUSY_CORES = 0.25


@dataclass(frozen=True)
class Conditions:
    """The conditions of a measurement. `load_before` is the load average of the minute before; `busy_cores` is the mean
    number of cores that other programs used during it. None: the system does not say."""

    date: str
    cpu: str
    usable_cores: int | None
    governor: str | None
    load_before: float | None
    busy_cores: float
    versions: Mapping[str, str]
    """Versions of torch and of every runtime that was timed."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """A line about other programs if they kept the machine busy."""
        if self.busy_cores < NOTABLE_BUSY_CORES:
            return ()
        return (
            f"other programs kept {self.busy_cores:.1f} cores busy meanwhile: times are longer than on a quiet "
            "machine, ratios of models that took turns change less",
        )


def observe() -> Callable[[Iterable[str]], Conditions]:
    """A function that returns the conditions from now until its call, with the versions of those of the named
    distributions that are installed."""
    date, load = datetime.now(timezone.utc).isoformat(timespec="seconds"), None
    with suppress(OSError):
        load = os.getloadavg()[0]
    started, others = time.perf_counter(), _seconds_of_others()

    def conditions(distributions: Iterable[str]) -> Conditions:
        busy = (_seconds_of_others() - others) / max(time.perf_counter() - started, 1e-9)
        governor = None
        with suppress(OSError):
            governor = GOVERNOR.read_text(encoding="utf-8").strip()
        versions = {name: version for name in distributions if (version := installed_version(name)) is not None}
        return Conditions(date, cpu_model(), usable_cores(), governor, load, max(0.0, busy), versions)

    return conditions


def _seconds_of_others() -> float:
    """The CPU time of the whole machine without that of this process and its children, which are measured."""
    machine = psutil.cpu_times()
    # User time already contains the time of guests.
    not_busy = ("idle", "iowait", "guest", "guest_nice")
    own = sum(os.times()[:4])
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it has ended meanwhile
            times = child.cpu_times()
            own += times.user + times.system
    return sum(machine) - sum(getattr(machine, name, 0.0) for name in not_busy) - own
