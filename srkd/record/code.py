"""The entry `code` of run.json: the versions with which a run trains, and the hashes of the user's own files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from pathlib import Path

from srkd.record.reading import Entry

DIGITS = 12
"""The digits of a SHA-256 that a person is shown."""
MOST_SHOWN = 4
"""The most differences that one line names."""


class Difference(Entry):
    """A file or version that is not what it was; None: it was or is not there."""

    what: str
    before: str | None
    now: str | None

    def __str__(self) -> str:
        return f"{self.what} ({short(self.before)} -> {short(self.now)})"


class Continuation(Entry):
    """A continuation of the run with other code than before, from `step` on."""

    time: str
    step: int
    changes: tuple[Difference, ...]
    """Changed files of the user."""
    versions: tuple[Difference, ...]

    def __str__(self) -> str:
        return f"from step {self.step}: {listed([*self.changes, *self.versions])}"


class CodeFacts(Entry):
    packages: dict[str, str]
    """Versions of srkd, torch and the packages whose methods and networks take part; with the commit of a checkout."""
    files: dict[str, str]
    """SHA-256 of the user's own files, by path."""
    continued: tuple[Continuation, ...] = ()

    def continuing(self, before: CodeFacts | None, step: int) -> CodeFacts:
        """This code, with what has changed since `before` if the run continues with it at `step`."""
        if before is None:
            return self
        changes, versions = file_changes(before.files, self.files), differences(before.versions, self.versions)
        # The state that is loaded may be from before an earlier continuation, if a newer one is damaged.
        entries = [entry.model_copy(update={"step": min(entry.step, step)}) for entry in before.continued]
        if changes or versions:
            time = datetime.now(timezone.utc).isoformat(timespec="seconds")
            entries.append(Continuation(time=time, step=step, changes=changes, versions=versions))
        return self.model_copy(update={"continued": tuple(entries)})

    @property
    def versions(self) -> dict[str, str]:
        return {f"version of {name}": version for name, version in self.packages.items()}

    def lines(self) -> list[tuple[str, str]]:
        return [
            ("trained with", ", ".join(f"{name} {version}" for name, version in self.packages.items())),
            *((Path(path).name, f"sha256 {short(sha256)}") for path, sha256 in self.files.items()),
            *(("changed code", str(entry)) for entry in self.continued),
        ]


def file_changes(before: Mapping[str, str], now: Mapping[str, str]) -> tuple[Difference, ...]:
    return differences(
        {f"file {path}": sha256 for path, sha256 in before.items()},
        {f"file {path}": sha256 for path, sha256 in now.items()},
    )


def differences(before: Mapping[str, str], now: Mapping[str, str]) -> tuple[Difference, ...]:
    """The entries that differ, in the order of `before`, then those that are new."""
    return tuple(
        Difference(what=what, before=before.get(what), now=now.get(what))
        for what in dict.fromkeys([*before, *now])
        if before.get(what) != now.get(what)
    )


def listed(items: Iterable[object], most: int = MOST_SHOWN, mark: str = ";") -> str:
    """The first items in one line, and the number of the others."""
    texts = [str(item) for item in items]
    more = [f"and {len(texts) - most} more"] if len(texts) > most else []
    return f"{mark} ".join([*texts[:most], *more])


def short(value: str | None) -> str:
    """A value for a person: a hash by its first digits."""
    if value is None:
        return "none"
    return value[:DIGITS] if re.fullmatch("[0-9a-f]{64}", value) else value
