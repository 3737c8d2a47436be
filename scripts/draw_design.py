"""Drawing of the design notes' pictures from the code; run it after changing a package's imports or a method's members.

`docs/images/house.svg` shows the imports between packages, `docs/images/methods.svg` the capabilities of each method.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

from recipes.catalogue import BUILTIN

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "docs" / "images"
CELL, TOP, LEFT = 30, 150, 110
INK, MUTED, PAPER, LINE, DOT, STRIPE = "#17292b", "#56696b", "#ffffff", "#d5dfdd", "#1c8d7a", "#eef3f2"
SANS = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"
ASKS: Mapping[str, str] = {
    "modules": "modules of its own",
    "feature_pairs": "compares features",
    "helpers": "looks through φ",
    "branches": "trains inside the teacher",
    "earlier_stages": "has stages before",
    "updates": "several updates a step",
    "quantisation": "quantises the student",
    "own_rates": "rates of its own",
    "teacher_views": "a teacher cache may answer",
    "smallest_batch": "needs a batch",
}
"""Descriptions of the optional members of a method (docs/design/methods.md)."""


@dataclass(frozen=True)
class Matrix:
    """A matrix: the names of rows and columns, and the positions of dots."""

    label: str
    rows: Sequence[str]
    columns: Sequence[str]
    dots: frozenset[tuple[str, str]]

    def draw(self) -> str:
        width = LEFT + CELL * len(self.columns) + 110
        height = TOP + CELL * len(self.rows) + 14
        parts = [f'<rect width="{width}" height="{height}" rx="10" fill="{PAPER}"/>']
        for index, row in enumerate(self.rows):
            y = TOP + CELL * index
            if index % 2 == 0:
                parts.append(f'<rect x="12" y="{y}" width="{width - 24}" height="{CELL}" fill="{STRIPE}"/>')
            parts.append(_text(LEFT - 10, y + 20, row, "end"))
        for index, column in enumerate(self.columns):
            x = LEFT + CELL * index + CELL // 2
            turn = f' transform="rotate(-45 {x} {TOP - 8})"'
            parts.append(_text(x, TOP - 8, column, "start", turn))
            parts.append(f'<line x1="{x}" y1="{TOP}" x2="{x}" y2="{height - 14}" stroke="{LINE}"/>')
        for row, column in sorted(self.dots):
            x = LEFT + CELL * self.columns.index(column) + CELL // 2
            y = TOP + CELL * self.rows.index(row) + CELL // 2
            parts.append(f'<circle cx="{x}" cy="{y}" r="7" fill="{DOT}"/>')
        size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="{SANS}" font-size="13" role="img" '
        return "\n".join([f'{head}aria-label="{escape(self.label)}">', *parts, "</svg>\n"])


def _text(x: float, y: float, content: str, anchor: str, more: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" fill="{INK}"{more}>{escape(content)}</text>'


def floors() -> list[str]:
    """Return the packages from the top layer down, by the rules of import-linter."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    layers: dict[str, list[str]] = {}
    for contract in settings["tool"]["importlinter"]["contracts"]:
        (container,) = contract.get("containers", ("",))
        names = [name.strip() for layer in contract["layers"] for name in layer.split("|")]
        layers[container] = [f"{container}.{name}" if container else name for name in names]

    def inside(name: str) -> list[str]:
        return [floor for part in layers[name] for floor in inside(part)] if name in layers else [name]

    return inside("")


def imports() -> Matrix:
    """Return the matrix of imports between packages, including lazy and type-only ones."""
    names = floors()
    dots = set()
    for name in names:
        for path in (ROOT / name.replace(".", "/")).rglob("*.py"):
            modules = set(_imported(path))
            dots |= {(name, other) for other in names if other != name and _is_among(other, modules)}
    label = "A dot where the package on the left imports the one above; all lie on one side of the diagonal."
    short = {name: name.removeprefix("compressor.") for name in names}
    return Matrix(label, list(short.values()), list(short.values()), frozenset((short[a], short[b]) for a, b in dots))


def _is_among(package: str, modules: Iterable[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for name in modules)


def _imported(path: Path) -> Iterable[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def methods() -> Matrix:
    """Return the matrix of each method's optional members and teacher needs."""
    needs = {"outputs": "the teacher's images", "network": "the teacher's network"}
    columns = [*needs.values(), *ASKS.values()]
    dots = set()
    for name, entry in BUILTIN.items():
        dots |= {(name, needs[entry.needs])} if entry.needs in needs else set()
        dots |= {(name, words) for member, words in ASKS.items() if _has(entry.load(), member)}
    return Matrix("What each method asks of the loop.", list(BUILTIN), columns, frozenset(dots))


def _has(method: type[object], member: str) -> bool:
    """Return True if a method's class defines a member itself; every method inherits `modules`, mostly empty."""
    if member != "modules":
        return hasattr(method, member)
    return any(member in vars(base) for base in method.__mro__ if base.__name__ != "PlainMethod")


PICTURES = {"house.svg": imports, "methods.svg": methods}

if __name__ == "__main__":
    for file, matrix in PICTURES.items():
        (IMAGES / file).write_text(matrix().draw(), encoding="utf-8")
