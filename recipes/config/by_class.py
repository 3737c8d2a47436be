"""Methods that no package provides, as recipes: `PLACE:CLASS`, such as `./mine.py:SobelKD`, with options as in Python.

`./mine.py:SobelKD(lam=0.1)` trains by this method alone, on the schedule of `BASE`. The place is a Python file or, for
a class of a notebook or of another program that runs srkd, its module; such a class is known in that program only.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressor.base.entry_points import describe_failure
from compressor.base.errors import SrkdError, UsageError, nearest
from compressor.base.python_files import import_file, imported_files, module_of_file
from compressor.training.method import Method, declares
from recipes.catalogue import METHODS, MethodEntry, needs_of_class

BASE = "logits"
"""The recipe whose student and schedule a method without a recipe of its own has."""
FIXED = {"name", "weights", "phi_source", *vars(Method)} - {"gate"}
"""Fields of a method that are facts about it and not options: all members of `Method` but the gate."""

TEXT = re.compile(r"(?P<place>.+?):(?P<name>[\w.<>]+)(?P<call>\(.*\))?", re.DOTALL)
NAME = re.compile(r"[A-Za-z0-9][\w-]*")

_OPEN: dict[str, type[Any]] = {}
"""Classes of this program by `module:Class`."""


@dataclass(frozen=True)
class ByClass:
    """A recipe that is a method's class, with options."""

    place: str
    name: str
    options: Mapping[str, Any]

    @property
    def method(self) -> str:
        """The class, as a recipe file names it."""
        return f"{self.place}:{self.name}"

    @property
    def label(self) -> str:
        return self.name.rpartition(".")[2]

    @property
    def is_file(self) -> bool:
        return self.place.endswith(".py")

    def inside(self, folder: Path) -> ByClass:
        """Return it with the absolute path of its file; a relative one begins in `folder`."""
        return dataclasses.replace(self, place=str((folder / self.place).resolve())) if self.is_file else self

    @property
    def call(self) -> str:
        """The options as Python writes them; empty without any."""
        return f"({', '.join(f'{name}={value!r}' for name, value in self.options.items())})" if self.options else ""

    def __str__(self) -> str:
        return self.method + self.call


def is_class(recipe: str) -> bool:
    """Return True for the text of a class, or of a Python file without one."""
    return not recipe.endswith((".yaml", ".yml")) and (":" in recipe or recipe.endswith(".py"))


def is_open_class(recipe: str) -> bool:
    """Return True for a class that only this program knows."""
    return is_class(recipe) and not read_class(recipe).is_file


def read_class(recipe: str) -> ByClass:
    """Return the parts of `PLACE:CLASS` or `PLACE:CLASS(key=value, ...)`."""
    found = TEXT.fullmatch(recipe)
    if found is None and recipe.endswith(".py"):
        path = Path(recipe)
        raise UsageError(f"{recipe}: name a method of this file, {recipe}:CLASS; {nearest('', _methods_in(path))}")
    try:
        if found is None:
            raise ValueError
        tree = ast.parse(f"f{found['call'] or '()'}", mode="eval").body
        if not isinstance(tree, ast.Call) or tree.args or any(keyword.arg is None for keyword in tree.keywords):
            raise ValueError
        options = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in tree.keywords}
    except (ValueError, SyntaxError) as error:
        raise UsageError(f"{recipe}: a method is written as FILE.py:CLASS or FILE.py:CLASS(option=0.5)") from error
    return ByClass(found["place"], found["name"], options)


def find_method(name: str) -> MethodEntry:
    """Return the entry of a method by its name, or by its class: `/folder/mine.py:SobelKD`."""
    if not is_class(name):
        return METHODS.find(name)
    given = read_class(name)
    method = _class_in(Path(given.place), given.name) if given.is_file else _open_class(given)
    label = getattr(method, "name", None)
    label = label if isinstance(label, str) else method.__name__
    package = Path(given.place).name if given.is_file else given.place
    if not NAME.fullmatch(label) or label in METHODS:
        reason = (
            "a method of srkd or of a package has this name" if label in METHODS else "use letters, digits, - and _"
        )
        raise UsageError(f"{given.method} is called {label!r}: {reason}; give its `name` another value")
    return MethodEntry(given.method, needs_of_class(method), package, label, loaded=method)


def _class_in(path: Path, name: str) -> type[Any]:
    """Return a method of a Python file."""
    methods = _methods_in(path)
    if name not in methods:
        is_there = hasattr(import_file(path), name)
        what = f"{name} is no PlainMethod with terms(step)" if is_there else f"there is no {name}"
        raise UsageError(f"{path}: {what}; {nearest(name, methods)}")
    return methods[name]


def _methods_in(path: Path) -> dict[str, type[Any]]:
    """Return the classes of a Python file that are methods, by name."""
    if not path.is_file():
        raise UsageError(f"{path} is no file: a method of one's own is given as FILE.py:CLASS")
    try:
        module = import_file(path)
    except SrkdError:
        raise
    except (Exception, SystemExit) as error:
        reason = describe_failure(error, module_of_file(path))
        raise SrkdError(f"{path} cannot be imported ({reason})") from error
    classes = {name: value for name, value in vars(module).items() if isinstance(value, type)}
    return {name: value for name, value in classes.items() if value.__module__ == module.__name__ and _is_method(value)}


def _is_method(cls: type[Any]) -> bool:
    return issubclass(cls, Method) and declares(cls, "terms")


def _open_class(given: ByClass) -> type[Any]:
    if given.method not in _OPEN:
        if Path(f"{given.place}.py").is_file():
            raise UsageError(f"recipe {given.method}: write ./{given.place}.py:{given.label} for the method of a file")
        raise UsageError(
            f"the method {given.label} is in no file but in a program ({given.place}): train there with "
            f"srkd.compress(recipe={given.label}(...)), or continue with srkd.resume(RUN, recipe={given.label}"
            f"{given.call or '()'})"
        )
    return _OPEN[given.method]


# From a method or its class to the text of a recipe.


def recipe_of(method: object) -> str:
    """Return a recipe, a text, for a method or its class; a class that is in no file is known from now on."""
    cls = method if isinstance(method, type) else type(method)
    where = f"{cls.__module__}:{cls.__qualname__}"
    for entry in METHODS.values():
        if entry.where == where:
            raise UsageError(
                f"{cls.__name__} is the method {entry.name} of {entry.package}: give recipe={entry.name!r}"
            )
    if not _is_method(cls) or not dataclasses.is_dataclass(cls):
        raise UsageError(
            f"{cls.__name__} is no method: recipe takes a name, a file, or a dataclass that derives from "
            "srkd.PlainMethod and has terms(step) (docs/extend/write-a-method.md)"
        )
    file = _file_of(cls)
    if file is None:
        _OPEN[where] = cls
    options = {} if isinstance(method, type) else _changed_options(method)
    return str(ByClass(cls.__module__ if file is None else str(file), cls.__qualname__, options))


def _file_of(cls: type[Any]) -> Path | None:
    """Return the file from which a class can be imported anew, by its path; None for one in a program or package."""
    named = imported_files().get(cls.__module__)
    module = sys.modules.get(cls.__module__)
    if (
        named is not None
        or cls.__module__ == "__main__"
        or getattr(module, "__package__", None)
        or "." in cls.__qualname__
    ):
        return named
    try:
        file = Path(inspect.getfile(cls))
    except (OSError, TypeError):
        return None
    return file.resolve() if file.suffix == ".py" and file.is_file() else None


def _changed_options(method: Any) -> dict[str, Any]:
    """Return the options of a method, and weights of its terms, that are not the defaults of its class."""
    changed: dict[str, Any] = {}
    for field in dataclasses.fields(method):
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        value = getattr(method, field.name)
        if not field.init or value is default or value == default:
            continue
        if field.name in FIXED - {"weights"}:
            raise UsageError(
                f"{type(method).__name__}({field.name}={value!r}): that is a fact about the method, no option: change "
                "its class"
            )
        try:
            changed[field.name] = json.loads(json.dumps(value, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise UsageError(
                f"{type(method).__name__}({field.name}={value!r:.80}): an option is a number, a text, True, False, "
                "None, or a list or mapping of such"
            ) from error
    return changed
