"""The source of a class that a run depends on, as hashes, so that changed code can be seen.

The source of a class is the file that holds it and the files of its base classes, without those of Python and torch;
and the files of its own top-level package that its file imports, directly or through others; for a class of a file that
a user names, those in the file's folder. Not followed are imports of other packages, compiled files, and imports under
`if TYPE_CHECKING:`.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import linecache
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path

from compressor.base.entry_points import top_module
from compressor.base.files import file_sha256
from compressor.base.python_files import file_sources, imported_files, imports_of

NOT_FOLLOWED = frozenset({*sys.stdlib_module_names, "torch"})
"""Top-level packages whose version says what their code is."""


@cache
def class_sources(cls: type) -> Mapping[str, str | None]:
    """The SHA-256 of each file of a class's source, by module; None for one that cannot be read.

    A class of a notebook or of the started program has the hash of its own text under `__main__`. The hashes are those
    of the first call in a process: a file that is changed later is not what this process has imported.
    """
    modules = [base.__module__ for base in cls.__mro__ if top_module(base.__module__) not in NOT_FOLLOWED]
    sources: dict[str, str | None] = {}
    for base in cls.__mro__:
        if base.__module__ == "__main__":
            sources[f"__main__.{base.__qualname__}"] = _text_sha256(base)
    for module in dict.fromkeys([*modules, *_imported(cls.__module__)]):
        named = imported_files().get(module)
        if named is not None:
            sources |= file_sources(named)
        elif module != "__main__":
            file = _file_of(module)
            sources[module] = None if file is None else file_sha256(file)
    return dict(sorted(sources.items()))


def _text_sha256(cls: type) -> str | None:
    text = _class_text(cls)
    return None if text is None else hashlib.sha256(text.encode()).hexdigest()


def _class_text(cls: type) -> str | None:
    """The text of a class; of one in a notebook by the cell of its first function, as it has no file."""
    try:
        return inspect.getsource(cls)
    except (OSError, TypeError):
        functions = [value for value in vars(cls).values() if inspect.isfunction(value)]
    for code in (function.__code__ for function in functions):
        lines = linecache.getlines(code.co_filename)
        with suppress(SyntaxError):
            nodes = [node for node in ast.walk(ast.parse("".join(lines))) if isinstance(node, ast.ClassDef)]
            for node in nodes:
                is_around = node.lineno <= code.co_firstlineno <= (node.end_lineno or 0)
                if is_around and node.name == cls.__name__:
                    return "".join(lines[node.lineno - 1 : node.end_lineno])
    return None


def _imported(module: str) -> Iterator[str]:
    """Yield the modules of the same top-level package that a module imports, directly or through others."""
    top, waiting, seen = top_module(module), [module], {module}
    while waiting:
        current = waiting.pop()
        file = _file_of(current)
        if file is None:
            continue
        for name in imports_of(current, file):
            if top_module(name) == top and name not in seen and _file_of(name) is not None:
                seen.add(name)
                waiting.append(name)
                yield name


def _file_of(module: str) -> Path | None:
    """The Python file of a module, which need not be imported; None if there is none."""
    loaded = sys.modules.get(module)
    place = getattr(loaded, "__file__", None)
    if place is None and loaded is None:
        parent, _, name = module.rpartition(".")
        folders = getattr(sys.modules.get(parent), "__path__", None) or _folder_of(parent)
        candidates = [Path(folder) / name for folder in folders]
        files = [path for each in candidates for path in (each / "__init__.py", each.with_name(f"{name}.py"))]
        return next((path for path in files if path.is_file()), None)
    file = None if place is None else Path(place)
    return file if file is not None and file.suffix == ".py" and file.is_file() else None


def _folder_of(package: str) -> list[Path]:
    """The folder of a package that is not imported."""
    file = _file_of(package) if package else None
    return [file.parent] if file is not None and file.name == "__init__.py" else []
