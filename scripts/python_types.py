"""The types of the Python functions as text: annotations, fields, properties, methods, and their docstrings.

For write_reference.py. Names that modules import for type checkers alone count, too.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import re
import sys
import textwrap
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

OURS = ("srkd", "recipes", "export", "demo", "compressor")
SHORT = (*OURS, "builtins", "pathlib", "collections", "typing")
"""Packages whose classes are shown by their names alone."""
WIDTH = 110


@dataclass(frozen=True)
class Member:
    """One row of a class: an attribute or property, or a method with its parameters."""

    name: str
    type: str
    text: str


@dataclass(frozen=True)
class Names:
    """The names of types in the page."""

    shared: frozenset[str]
    """Names of several of our classes, which are shown with their modules."""
    callbacks: Mapping[Any, str]
    """Names of types of functions, by type."""

    @classmethod
    def of(cls, documented: Iterable[type], callbacks: Mapping[Any, str]) -> Names:
        names = [kind.__name__ for kind in documented]
        return cls(frozenset(name for name in names if names.count(name) > 1), callbacks)

    def of_class(self, kind: type) -> str:
        """Return the name of a class."""
        is_short = kind.__module__.partition(".")[0] in SHORT and kind.__name__ not in self.shared
        module = re.sub(r"^torch\.nn\.modules\.\w+", "torch.nn", kind.__module__)
        return kind.__name__ if is_short else f"{module}.{kind.__name__}"

    def of_type(self, kind: Any) -> str:
        """Return an annotation as Python writes it, with every alias resolved."""
        origin, parts = get_origin(kind), get_args(kind)
        if kind in (None, type(None), ...):
            return "..." if kind is ... else "None"
        if origin is Annotated:  # of Any, it says more than a type checker can use
            return self.of_type(parts[1] if parts[0] is Any else parts[0])
        if origin in (Union, types.UnionType):
            return " | ".join(self.of_type(part) for part in parts)
        if origin is Literal:
            return f"Literal[{', '.join(map(repr, parts))}]"
        if isinstance(kind, TypeVar) and kind.__bound__ is not None:  # as what it is at least
            return str(getattr(kind.__bound__, "__forward_arg__", self.of_type(kind.__bound__)))
        if parts and isinstance(parts[0], list):  # Callable
            return (
                self.callbacks.get(kind)
                or f"Callable[[{', '.join(map(self.of_type, parts[0]))}], {self.of_type(parts[1])}]"
            )
        if origin is not None and origin.__module__ != "numpy":
            return f"{self.of_class(origin)}[{', '.join(map(self.of_type, parts))}]"
        kind = origin or kind
        return self.of_class(kind) if isinstance(kind, type) else str(getattr(kind, "__name__", kind))


def classes_in(kind: Any) -> Iterator[type]:
    """Yield our classes in an annotation."""
    parts = [part for part in get_args(kind) if not (get_origin(kind) is Annotated and part is Any)]
    for part in parts if get_origin(kind) is not Literal else ():
        for one in part if isinstance(part, list) else [part]:
            yield from classes_in(one)
    if isinstance(kind, type) and get_origin(kind) is None and kind.__module__.partition(".")[0] in OURS:
        yield kind


def results(roots: Iterable[type]) -> list[type]:
    """Return dataclasses, and those that are types of their fields, fields of fields, and so on."""
    seen: dict[type, None] = {}
    pending = list(roots)
    while pending:
        kind = pending.pop(0)
        if kind in seen or not dataclasses.is_dataclass(kind):
            continue
        seen[kind] = None
        hints = hints_of(kind)
        pending += [one for field in dataclasses.fields(kind) for one in classes_in(hints[field.name])]
    return list(seen)


def hints_of(thing: Any, *others: str) -> dict[str, Any]:
    """Return the types of a class's fields or of a function's parameters; `return` is its result.

    `others` are further modules whose names for type checkers count.
    """
    modules = [base.__module__ for base in thing.__mro__] if isinstance(thing, type) else [thing.__module__]
    names: dict[str, Any] = {"KW_ONLY": object}  # which is not a type in Python 3.10
    for module in (*modules, *others):
        if module.partition(".")[0] in OURS:
            names = {**checking_names(module), **names}
    return get_type_hints(thing, localns=names, include_extras=True)


@functools.cache
def checking_names(module: str) -> dict[str, Any]:
    """Return the names that a module has for type checkers alone, in its `if TYPE_CHECKING`."""
    source = ast.parse(inspect.getsource(import_module(module)))
    blocks = [node for node in source.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    names: dict[str, Any] = {}
    for node in (node for block in blocks for node in block.body):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            origin = import_module(node.module)
            names |= {alias.asname or alias.name: getattr(origin, alias.name) for alias in node.names}
        if isinstance(node, ast.AnnAssign) and node.value is not None:
            known = {**vars(sys.modules[module]), **names}
            names[ast.unparse(node.target)] = eval(ast.unparse(node.value), known)  # noqa: S307 - our own sources
    return names


def signature(name: str, function: Callable[..., Any], hints: dict[str, Any], names: Names) -> str:
    """Return a function's signature with types and defaults, in lines of at most `WIDTH` characters where possible."""
    parameters: list[str] = []
    is_keyword = False
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not is_keyword:
            parameters.append("*")
            is_keyword = True
        star = "**" if parameter.kind is parameter.VAR_KEYWORD else ""
        default = "" if parameter.default is parameter.empty else f" = {_default(parameter.default)}"
        parameters.append(f"{star}{parameter.name}: {names.of_type(hints[parameter.name])}{default}")
    end = f") -> {names.of_type(hints['return'])}"
    line = f"{name}({', '.join(parameters)}{end}"
    if len(line) <= WIDTH:
        return line
    lines = [""]
    for text in parameters:
        if lines[-1] and len(lines[-1]) + len(text) + 6 > WIDTH:
            lines.append("")
        lines[-1] += f"{' ' if lines[-1] else ''}{text},"
    return "\n".join([f"{name}(", *(f"    {line}" for line in lines), end])


def _default(value: Any) -> str:
    if inspect.isfunction(value):
        return value.__name__
    return "{}" if repr(value) == "<factory>" else repr(value)


def members(kind: type, names: Names) -> list[Member]:
    """Return the fields of a dataclass or the annotated attributes of a class, and what has a docstring of its own."""
    texts: dict[str, str] = {}
    for base in reversed([base for base in kind.__mro__ if base.__module__.partition(".")[0] in OURS]):
        texts |= attribute_texts(base)
    hints = hints_of(kind)
    is_data = dataclasses.is_dataclass(kind)
    fields = [field.name for field in dataclasses.fields(kind)] if is_data else list(attribute_texts(kind))
    rows = [Member(name, names.of_type(hints[name]), texts[name]) for name in fields if name in hints]
    for name, value in vars(kind).items():
        text = value.__doc__ if isinstance(value, property) or inspect.isfunction(value) else None
        if text is None or name.startswith("_"):
            continue
        function = value.fget if isinstance(value, property) else value
        assert function is not None
        arguments = "" if isinstance(value, property) else f"({', '.join([*inspect.signature(value).parameters][1:])})"
        rows.append(Member(name + arguments, names.of_type(hints_of(function)["return"]), summary(text)))
    return rows


def attribute_texts(kind: type) -> dict[str, str]:
    """Return the annotated attributes of a class's own body, each with the docstring below it or an empty text."""
    try:
        body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    except (OSError, TypeError):
        return {}
    assert isinstance(body, ast.ClassDef)
    texts: dict[str, str] = {}
    for node, after in zip(body.body, [*body.body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            text = after.value if isinstance(after, ast.Expr) else None
            texts[node.target.id] = " ".join(str(text.value).split()) if isinstance(text, ast.Constant) else ""
    return {name: text for name, text in texts.items() if not name.startswith("_")}


def summary(docstring: str) -> str:
    """Return the first paragraph of a docstring in one line."""
    return " ".join(inspect.cleandoc(docstring).split("\n\n")[0].split())


def own_docstring(kind: type) -> str:
    """Return the docstring that a class's source has; empty for one that dataclasses wrote."""
    text = kind.__dict__.get("__doc__") or ""
    return "" if text.startswith(f"{kind.__name__}(") else inspect.cleandoc(text)
