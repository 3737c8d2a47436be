"""Pictures and tables of the design notes, made from the code for the site: imports, what methods ask for, and which of
them go together."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

from compressor.training.method import Method, declares
from recipes.catalogue import BUILTIN
from recipes.composition import REFUSED
from scripts.markdown import table

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
CELL, TOP, LEFT = 30, 150, 110
INK, MUTED, PAPER, LINE, DOT, STRIPE = "#17292b", "#56696b", "#ffffff", "#d5dfdd", "#1c8d7a", "#eef3f2"
SANS = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"


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


def optional_members() -> dict[str, object]:
    """Return the members that a method need not have, by name."""
    return {name: member for name, member in vars(Method).items() if not name.startswith("_") and name != "terms"}


def members_table() -> str:
    """Return a table of the optional members: how each is called, and what it is."""
    rows = [
        (f"`{_call(name, member)}`", " ".join((member.__doc__ or "").split()))
        for name, member in optional_members().items()
    ]
    return table(("member", "is"), rows)


def _call(name: str, member: object) -> str:
    if isinstance(member, property):
        return name
    _, *parameters = inspect.signature(member).parameters  # type: ignore[arg-type]
    return f"{name}({', '.join(parameters)})"


def methods() -> Matrix:
    """Return the matrix of each method's teacher needs and optional members."""
    needs = {"outputs": "the teacher's images", "network": "the teacher's network"}
    asked = optional_members()
    dots = set()
    for name, entry in BUILTIN.items():
        dots |= {(name, needs[entry.needs])} if entry.needs in needs else set()
        dots |= {(name, member) for member in asked if declares(entry.load(), member)}
    columns = [*needs.values(), *asked]
    return Matrix("What each method asks of the loop.", list(BUILTIN), columns, frozenset(dots))


def combinations() -> str:
    """Return a table of the kinds of methods: which methods are of a kind, and which kinds do not go with it."""
    of_kind: dict[str, list[str]] = {}
    for name, entry in BUILTIN.items():
        of_kind.setdefault(kind_of(entry.load()), []).append(f"`{name}`")
    rows = []
    for kind, names in of_kind.items():
        refused = {" ".join(pair - {kind}) or kind: reason for pair, reason in REFUSED.items() if kind in pair}
        reasons: dict[str, list[str]] = {}
        for other, reason in refused.items():
            reasons.setdefault(reason, []).append(other)
        lines = [f"*{', '.join(others)}*: {reason}" for reason, others in reasons.items()]
        rows.append((f"`{kind}`", ", ".join(names), "; ".join(lines) or "goes with all"))
    return table(("kind", "methods", "does not go with"), rows)


def kind_of(cls: type[Method]) -> str:
    return str(cls.kind) if declares(cls, "kind") else "pixel"
