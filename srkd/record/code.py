"""The entry `code` of run.json: the methods and networks that take part in a run, and the hashes of their source.

A method is recorded with every option and weight as it takes part, also those whose values are in its code alone.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Container, Iterable, Iterator, Mapping
from datetime import datetime, timezone
from typing import Any

from srkd.record.reading import Entry

DIGITS = 12
"""The digits of a SHA-256 that a person is shown."""
MOST_SHOWN = 4
"""The most differences that one line names."""
UNKNOWN = "unknown"
"""Stands for the hash of a source that cannot be read."""


class CalibratedWeight(Entry):
    """A weight that is calibrated in the first steps (`compressor.training.calibration.Calibrated`)."""

    share: float
    against: str
    by: str | None = None

    def __str__(self) -> str:
        return f"calibrated to {self.share!r} of {self.against}" + ("" if self.by is None else f" by {self.by}")


class UsedCode(Entry):
    """A method or network of a run; the SHA-256 of each file of its source by module, null if it cannot be read."""

    name: str
    package: str
    sources: dict[str, str | None]

    @property
    def sha256(self) -> str:
        """One hash of all files; 'unknown' if one cannot be read."""
        if None in self.sources.values():
            return UNKNOWN
        return hashlib.sha256(json.dumps(self.sources, sort_keys=True).encode()).hexdigest()


class UsedMethod(UsedCode):
    """A method in a stage of the run, with its options and the weights of its terms."""

    stage: str
    options: dict[str, Any]
    weights: dict[str, float | CalibratedWeight]


class Difference(Entry):
    """A file, weight, option or version that is not what it was; None: it was or is not there."""

    what: str
    before: str | None
    now: str | None

    def __str__(self) -> str:
        return f"{self.what} ({short(self.before)} -> {short(self.now)})"


class Continuation(Entry):
    """A continuation of the run with other code, or other versions of its packages, than before: from `step` on."""

    time: str
    step: int
    changes: tuple[Difference, ...]
    versions: tuple[Difference, ...]

    def __str__(self) -> str:
        return f"from step {self.step}: {listed([*self.changes, *self.versions])}"


class CodeFacts(Entry):
    """The code of a run. `packages` has the versions of srkd, torch and every other distribution that takes part."""

    packages: dict[str, str | None]
    methods: tuple[UsedMethod, ...]
    student: UsedCode
    teacher: UsedCode | None
    """None without a teacher, and for one whose file holds its program: `teacher.sha256` is that of the file."""
    continued: tuple[Continuation, ...] = ()

    def named(self) -> Iterator[tuple[str, UsedCode]]:
        """Yield methods and networks, each with its name for a person."""
        for method in self.methods:
            is_earlier = method.stage != self.methods[-1].stage
            yield f"method {method.name}" + (f" (stage {method.stage})" if is_earlier else ""), method
        networks = {"student": self.student, "teacher": self.teacher}
        yield from ((f"{role} {code.name}", code) for role, code in networks.items() if code is not None)

    def sources(self, names: Container[str] | None = None) -> dict[str, tuple[str, str]]:
        """What each file is the source of, and its hash, by module; `names` are the methods and networks to look at."""
        files: dict[str, tuple[str, str]] = {}
        for name, code in self.named():
            for module, sha256 in code.sources.items() if names is None or name in names else ():
                files.setdefault(module, (f"source of {name} of {code.package}: {module}", sha256 or UNKNOWN))
        return files

    @property
    def settings(self) -> dict[str, str]:
        """The options and weights of the methods, by what they are."""
        values: dict[str, str] = {}
        for name, code in self.named():
            if isinstance(code, UsedMethod):
                options = {key: json.dumps(value, sort_keys=True) for key, value in code.options.items()}
                values |= {f"option {key} of {name}": value for key, value in options.items()}
                values |= {f"weight {key} of {name}": _weight(value) for key, value in code.weights.items()}
        return values

    @property
    def versions(self) -> dict[str, str]:
        return {f"version of {name}": version or UNKNOWN for name, version in self.packages.items()}

    def changes_from(self, before: CodeFacts) -> tuple[Difference, ...]:
        """What has changed in source, options and weights since `before`."""
        return (*_source_changes(before.sources(), self.sources()), *differences(before.settings, self.settings))

    def shared_changes_from(self, before: CodeFacts) -> tuple[Difference, ...]:
        """Changes in the source of the methods and networks that both runs have."""
        names = {name for name, _ in self.named()} & {name for name, _ in before.named()}
        return _source_changes(before.sources(names), self.sources(names))

    def continuing(self, before: CodeFacts | None, step: int) -> CodeFacts:
        """This code, with what has changed since `before` if the run continues with it at `step`."""
        changes: tuple[Difference, ...] = (Difference(what="code", before="not recorded", now="recorded"),)
        versions: tuple[Difference, ...] = ()
        if before is not None:
            changes, versions = self.changes_from(before), differences(before.versions, self.versions)
        # The state that is loaded may be from before an earlier continuation, if a newer one is damaged.
        earlier = () if before is None else before.continued
        entries = [entry.model_copy(update={"step": min(entry.step, step)}) for entry in earlier]
        if changes or versions:
            time = datetime.now(timezone.utc).isoformat(timespec="seconds")
            entries.append(Continuation(time=time, step=step, changes=changes, versions=versions))
        return self.model_copy(update={"continued": tuple(entries)})

    def unreadable(self) -> tuple[str, ...]:
        """The methods and networks whose source cannot be read, so that a change of it cannot be seen."""
        return tuple(name for name, code in self.named() if code.sha256 == UNKNOWN)

    @property
    def packages_line(self) -> str:
        return ", ".join(f"{name} {version or UNKNOWN}" for name, version in self.packages.items())

    def lines(self) -> list[tuple[str, str]]:
        """Each method and network with its version, hash and weights, and each continuation with other code."""
        rows = []
        for name, code in self.named():
            version = self.packages.get(code.package, "")
            facts = [f"{code.package} {UNKNOWN if version is None else version}".rstrip()]
            facts.append(f"source sha256 {short(code.sha256)}")
            if isinstance(code, UsedMethod) and code.weights:
                facts.append("weights " + ", ".join(f"{term} {_weight(value)}" for term, value in code.weights.items()))
            rows.append((name, "; ".join(facts)))
        return [*rows, *(("changed code", str(entry)) for entry in self.continued)]


def differences(before: Mapping[str, str], now: Mapping[str, str]) -> tuple[Difference, ...]:
    """The entries that differ, in the order of `before`, then those that are new."""
    return tuple(
        Difference(what=what, before=before.get(what), now=now.get(what))
        for what in dict.fromkeys([*before, *now])
        if before.get(what) != now.get(what)
    )


def _source_changes(
    before: Mapping[str, tuple[str, str]], now: Mapping[str, tuple[str, str]]
) -> tuple[Difference, ...]:
    hashes = ({module: sha256 for module, (_, sha256) in files.items()} for files in (before, now))
    labels = {module: label for module, (label, _) in {**before, **now}.items()}
    return tuple(entry.model_copy(update={"what": labels[entry.what]}) for entry in differences(*hashes))


def listed(items: Iterable[object]) -> str:
    """The first items in one line, and the number of the others."""
    texts = [str(item) for item in items]
    more = f"; and {len(texts) - MOST_SHOWN} more" if len(texts) > MOST_SHOWN else ""
    return "; ".join(texts[:MOST_SHOWN]) + more


def short(value: str | None) -> str:
    """A value for a person: a hash by its first digits."""
    if value is None:
        return "none"
    return value[:DIGITS] if re.fullmatch("[0-9a-f]{64}", value) else value


def _weight(weight: float | CalibratedWeight) -> str:
    return str(weight) if isinstance(weight, CalibratedWeight) else f"{weight!r}"
