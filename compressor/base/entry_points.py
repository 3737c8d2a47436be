"""Tables of rows by name: srkd's own rows, and those that installed packages add by an entry point.

An error raised by such a package is reported with its name, file and line: `describe_failure`, `package_at_fault`.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from importlib import metadata
from typing import Protocol, TypeVar

from compressor.base.errors import UsageError, nearest, shorten
from compressor.base.python_files import OWN_MODULES, imported_files

NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")


class Named(Protocol):
    @property
    def name(self) -> str: ...


Row = TypeVar("Row", bound=Named)


class EntryPointTable(Mapping[str, Row]):
    """Rows by name. Installed packages are read at the first look-up, not when the table is created.

    `read` returns the rows of a package's entry point in `group`; it may load the entry point. A package that cannot be
    used adds a line to `notes` and is otherwise ignored; a name that two packages define is refused for both.
    """

    def __init__(
        self, kind: str, rows: Iterable[Row], group: str, read: Callable[[metadata.EntryPoint], Iterable[Row]]
    ) -> None:
        self.kind, self.group, self.read = kind, group, read
        self._builtin = {row.name: row for row in rows}
        self._all: dict[str, Row] | None = None
        self._notes: list[str] = []

    @property
    def rows(self) -> dict[str, Row]:
        """The table's own dict of rows by name."""
        if self._all is None:
            self._all = dict(self._builtin)  # set first: a package may look into the table while it is imported
            self._add(metadata.entry_points(group=self.group))
        return self._all

    @property
    def notes(self) -> tuple[str, ...]:
        """One line for each refused package, and for each refused row name."""
        return tuple(self._notes) if self.rows else ()

    def find(self, name: str) -> Row:
        """Return the row called `name`; if there is none, raise UsageError with the nearest names and the notes."""
        if name not in self.rows:
            unknown = f"no {self.kind} is called {shorten(name)!r}; {nearest(name, self.rows)}"
            raise UsageError("; ".join([unknown, *self.notes]))
        return self.rows[name]

    def _add(self, points: Iterable[metadata.EntryPoint]) -> None:
        offers: dict[str, list[tuple[str, Row]]] = {}
        for point in sorted(points, key=lambda point: (package_of(point), point.name)):
            package = package_of(point)
            try:
                for row in self.read(point):
                    offers.setdefault(row.name, []).append((package, row))
            except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever another package raises must not stop srkd
                reason = describe_failure(error, top_module(point.value))
                self._notes.append(f"the package {package} cannot be used: its entry point {point.value} gave {reason}")
        for name, candidates in offers.items():
            packages = " and ".join(package for package, _ in candidates)
            if not NAME.fullmatch(name):
                self._notes.append(f"{self.kind} {name!r} of {packages} is refused: use small letters, digits, - and _")
            elif name in self._builtin:
                self._notes.append(f"{self.kind} {name} of {packages} is refused: srkd has a {self.kind} of that name")
            elif len(candidates) > 1:
                self._notes.append(f"{self.kind} {name} is in {packages}: neither is used, remove all but one")
            else:
                self.rows[name] = candidates[0][1]

    def __getitem__(self, name: str) -> Row:
        return self.rows[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)


def package_of(point: metadata.EntryPoint) -> str:
    return point.name if point.dist is None else str(point.dist.name)


def top_module(where: str) -> str:
    """Return the top-level module of "package.module:object"."""
    return re.split(r"[.:]", where, maxsplit=1)[0]


def describe_failure(error: BaseException, module: str) -> str:
    """Return one line with the error, and the file and line of its innermost frame in `module`."""
    if isinstance(error, SyntaxError) and error.filename is not None:
        place: str | None = f"{error.filename}:{error.lineno}"
    else:
        _, place = _last_line([module], error)
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return reason if place is None else f"{reason}, at {place}"


def package_at_fault(error: BaseException) -> str | None:
    """Return one line that names the package, or the user's own file, that raised an error; None if srkd's code did.

    An error raised in a library is attributed to the library's caller.
    """
    # The distributions that add to srkd by an entry point, by their top-level modules.
    groups = [group for group in metadata.entry_points().groups if group.startswith("srkd.")]
    points = [point for group in groups for point in metadata.entry_points(group=group)]
    packages, files = {top_module(point.value): package_of(point) for point in points}, imported_files()
    module, _ = _last_line([*packages, *files, *OWN_MODULES], error)
    if module not in packages and module not in files:
        return None
    owner = f"{files[module]}" if module in files else f"the package {packages[module]}"
    return f"{owner} failed: {describe_failure(error, module)}"


def _last_line(modules: Collection[str], error: BaseException) -> tuple[str, str | None]:
    """Return the module of the innermost frame that belongs to one of `modules`, and its file and line."""
    module, place = "", None
    for frame, line in traceback.walk_tb(error.__traceback__):
        name = top_module(str(frame.f_globals.get("__name__", "")))
        if name in modules:
            module, place = name, f"{frame.f_code.co_filename}:{line}"
    return module, place
