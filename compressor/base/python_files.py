"""Python files that a user names, such as `./mine.py`: imported by path, anew when they have changed."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType

from compressor.base.files import file_sha256

OWN_MODULES = ("compressor", "recipes", "export", "demo", "srkd")
"""srkd's top-level packages; docs/design/house.md says why they are not inside one package."""

_IMPORTED: dict[str, Path] = {}
_SOURCES: dict[Path, dict[str, str]] = {}


def import_file(path: Path) -> ModuleType:
    """Return the module of a Python file, imported anew when the file, or what it imports from its folder, has changed.

    It may import what is installed and, after that, the files beside it: its folder is the last one of `sys.path`.
    """
    name, content = module_of_file(path), path.read_bytes()
    if name in _IMPORTED and all(_sha256(file) == sha256 for file, sha256 in _SOURCES[path].items()):
        return sys.modules[name]
    loaded_before = {file for sources in _SOURCES.values() for file in sources}
    for other, file in list(_modules_beside(path)):
        if file in loaded_before:
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
    files = [str(path), *(file for _, file in _modules_beside(path))]
    _SOURCES[path] = {file: file_sha256(Path(file)) for file in files}
    return module


def module_of_file(path: Path) -> str:
    """Return the name of the module that a file is imported as: another one after each change."""
    digest = hashlib.sha256(f"{path} {_sha256(str(path))}".encode()).hexdigest()
    return f"{re.sub(r'[^a-zA-Z0-9]', '_', path.stem)}_{digest[:12]}"


def imported_files() -> Mapping[str, Path]:
    """Return the files that `import_file` has imported, by the names of their modules."""
    return _IMPORTED


def sources_of(path: Path) -> Mapping[str, str]:
    """Return the SHA-256 of an imported file, and of the modules from its folder that were loaded by then, by path."""
    return _SOURCES[path]


def _sha256(file: str) -> str | None:
    return file_sha256(Path(file)) if Path(file).is_file() else None


def _modules_beside(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the loaded modules that `import` found in the folder of a file, with their files."""
    for name, module in list(sys.modules.items()):
        place, file = path.parent.joinpath(*name.split(".")), getattr(module, "__file__", None)
        if file in (f"{place}.py", str(place / "__init__.py")) and name.partition(".")[0] not in OWN_MODULES:
            yield name, file
