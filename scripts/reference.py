"""docs/reference.md on the site: what mkdocs-click and mkdocstrings show there, in which order.

The functions of the verbs get their signatures from their options when srkd is imported. griffe, which reads sources
for mkdocstrings, therefore looks at the imported modules for these.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib import import_module
from inspect import isfunction
from pathlib import Path
from typing import Any

import griffe

import srkd

OURS = ("srkd", "recipes", "export", "compressor")
COMMANDS = """\
::: mkdocs-click
    :module: srkd.cli.main
    :command: cli
    :prog_name: srkd
    :depth: 1
    :style: plain
    :show_hidden: true
"""


class PublicFunctions(griffe.Extension):  # type: ignore[misc]
    """Puts functions in place of the assignments that make them, as in `compress = public(...)`."""

    def on_package(self, *, pkg: griffe.Module, **others: Any) -> None:
        for module in pkg["api"].modules.values() if pkg.path == "srkd" else ():
            values = vars(import_module(module.path))
            names = [name for name in srkd.__all__ if name in module.attributes and isfunction(values.get(name))]
            for name in names:
                values[name].__module__ = module.path  # else griffe takes it for an import
            if names:
                imported = griffe.inspect(module.name, filepath=module.filepath, parent=pkg["api"])
                for name in names:
                    module.set_member(name, imported[name])


def reference() -> str:
    """Return the sections of the page."""
    loader = griffe.GriffeLoader(extensions=griffe.load_extensions(PublicFunctions), search_paths=[Path.cwd()])
    for package in OURS:
        loader.load(package)
    public = {name: loader.modules_collection["srkd"][name] for name in srkd.__all__ if name != "__version__"}
    functions = [value.final_target for value in public.values() if value.is_function]
    returned = classes_of((function.returns for function in functions), loader)
    parts = [one for one in all_parts(returned, loader) if one not in returned]
    shown = {value.canonical_path for value in public.values()}
    return "\n".join(
        [
            COMMANDS,
            "## Python functions\n",
            *(_entry(f"srkd.{name}") for name, value in public.items() if value.is_function),
            "## Python types\n",
            *(_entry(f"srkd.{name}") for name, value in public.items() if value.is_class),
            "## Results\n\nThe dataclasses that functions return.\n",
            *(_entry(path) for path in returned if path not in shown),
            "## Parts of results\n\nThe dataclasses inside those results.\n",
            *(_entry(path) for path in sorted(parts, key=lambda path: path.rpartition(".")[2])),
        ]
    )


def _entry(path: str) -> str:
    return f"::: {path}\n"


def classes_of(annotations: Iterable[Any], loader: griffe.GriffeLoader) -> list[str]:
    """Return the paths of our dataclasses in annotations."""
    names = (
        part.canonical_path
        for annotation in annotations
        if isinstance(annotation, griffe.Expr)
        for part in annotation.iterate(flat=True)
        if isinstance(part, griffe.ExprName)
    )
    ours = (name for name in names if name.partition(".")[0] in OURS)
    return [path for path in dict.fromkeys(ours) if "dataclass" in loader.modules_collection[path].labels]


def all_parts(paths: Iterable[str], loader: griffe.GriffeLoader) -> Iterator[str]:
    """Yield dataclasses, and those that are types of their fields, fields of fields, and so on."""
    pending, seen = list(paths), set[str]()
    while pending:
        path = pending.pop(0)
        if path not in seen:
            seen.add(path)
            yield path
            fields = loader.modules_collection[path].attributes.values()
            pending += classes_of((field.annotation for field in fields), loader)
