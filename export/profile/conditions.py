"""The conditions of a measurement: the machine's settings, library versions and the load of other programs."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
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


class Observation:
    """A measurement of other programs' CPU time, from its creation on. The measured processes are children of this one
    and count as its own."""

    def __init__(self) -> None:
        self._date = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self._load: float | None = None
        with suppress(OSError):
            self._load = os.getloadavg()[0]
        self._start = _read_clocks()

    def conditions(self, distributions: Iterable[str]) -> Conditions:
        """The conditions since then, with the versions of those distributions that are installed."""
        wall, machine, own = (now - start for now, start in zip(_read_clocks(), self._start, strict=True))
        versions = {name: installed_version(name) for name in distributions}
        return Conditions(
            date=self._date,
            cpu=cpu_model(),
            usable_cores=usable_cores(),
            governor=_read_governor(),
            load_before=self._load,
            busy_cores=max(0.0, machine - own) / max(wall, 1e-9),
            versions={name: version for name, version in versions.items() if version is not None},
        )


def _read_governor() -> str | None:
    try:
        return GOVERNOR.read_text(encoding="utf-8").strip()
    except OSError:
        return None


def _read_clocks() -> tuple[float, float, float]:
    """Return, in seconds, the wall clock, the CPU time of the whole machine, and that of this process with children."""
    machine = psutil.cpu_times()
    idle = machine.idle + getattr(machine, "iowait", 0.0)
    # User time already contains the time of guests.
    guests = getattr(machine, "guest", 0.0) + getattr(machine, "guest_nice", 0.0)
    own = os.times()
    seconds = own.user + own.system + own.children_user + own.children_system
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it has ended meanwhile
            times = child.cpu_times()
            seconds += times.user + times.system
    return time.perf_counter(), sum(machine) - idle - guests, seconds
