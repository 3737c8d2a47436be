"""Python files that a user names, such as `./mine.py`: imported by path, anew when they have changed; their source."""

from __future__ import annotations

import ast
import hashlib
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType

from compressor.base.files import file_sha256

_IMPORTED: dict[str, Path] = {}


def import_file(path: Path) -> ModuleType:
    """Return the module of a Python file, imported anew when the file, or what it imports from its folder, has changed.

    It may import what is installed and, after that, the files beside it: its folder is the last one of `sys.path`.
    """
    content, name = path.read_bytes(), module_of_file(path)
    if name in _IMPORTED:
        return sys.modules[name]
    beside = {str(path.parent / file) for file in file_sources(path) if file != path.name}
    for other in [key for key, value in sys.modules.items() if getattr(value, "__file__", None) in beside]:
        del sys.modules[other]  # it may have changed, too
    module = ModuleType(name)
    module.__file__ = str(path)
    _IMPORTED[name], sys.modules[name] = path, module
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    try:
        # Not through importlib, whose cache may hold the code of a file that was changed less than a second ago.
        exec(compile(content, str(path), "exec"), module.__dict__)  # noqa: S102 - the user names the file to be run
    except BaseException:
        del _IMPORTED[name], sys.modules[name]
        raise
    return module


def module_of_file(path: Path) -> str:
    """Return the name of the module that a file is imported as: another one after each change."""
    stem = re.sub(r"\W", "_", path.stem)
    digest = hashlib.sha256(repr((str(path), file_sources(path))).encode()).hexdigest()
    return f"{stem}_{digest[:12]}"


def imported_files() -> Mapping[str, Path]:
    """Return the files that `import_file` has imported, by the names of their modules."""
    return _IMPORTED


def file_sources(path: Path) -> dict[str, str]:
    """The SHA-256 of a Python file, and of what it imports from its folder, directly or through others, by file name.

    Nothing is imported.
    """
    folder, waiting, sources = path.parent, [path], dict[str, str]()
    while waiting:
        file = waiting.pop()
        place = file.relative_to(folder)
        if place.as_posix() in sources:
            continue
        sources[place.as_posix()] = file_sha256(file)
        module = ".".join(place.parent.parts if file.name == "__init__.py" else place.with_suffix("").parts)
        for name in imports_of(module, file):
            parts = [part for part in name.split(".") if part]
            places = [folder.joinpath(*parts[:length]) for length in range(1, len(parts) + 1)]
            files = [file for each in places for file in (each / "__init__.py", each.with_name(f"{each.name}.py"))]
            waiting += [file for file in files if file.is_file()]
    return sources


def imports_of(module: str, file: Path) -> Iterator[str]:
    """Yield the names in a file's imports: each may be a module, or something in one."""
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    try:
        waiting: list[ast.AST] = [ast.parse(file.read_bytes())]
    except (SyntaxError, ValueError):
        return  # a file that nothing has imported yet
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, package)
            yield base
            yield from (f"{base}.{name.name}" for name in node.names)
        elif isinstance(node, ast.If) and ast.unparse(node.test).rpartition(".")[2] == "TYPE_CHECKING":
            waiting += node.orelse
        else:
            waiting += ast.iter_child_nodes(node)


def _absolute(node: ast.ImportFrom, package: str) -> str:
    """The module of a `from` import by its full name; an import from above the top-level package gives that."""
    parents = package.split(".")[: max(1, package.count(".") + 2 - node.level)]
    return ".".join([*(parents if node.level else ()), *filter(None, [node.module])])
