"""python describe_module.py MODULE prints a module's classes and functions as JSON, also those of pybind11 and Cython,
whose docstrings hold the signatures."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import sys
from typing import Any


def signatures(function: Any) -> list[list[str]]:
    """Return the parameter names of each overload, without self; optional ones have a trailing `=`."""
    lines = (getattr(function, "__doc__", None) or "").splitlines()
    name = getattr(function, "__name__", "")
    headers = [line for line in lines if re.match(rf"(\d+\. )?{re.escape(name)}\(", line)]
    headers = [line for line in headers if "*args, **kwargs" not in line]
    if headers:
        return [_names(line[line.index("(") + 1 :].rpartition(")")[0]) for line in headers]
    try:
        parameters = inspect.signature(function).parameters.values()
    except (ValueError, TypeError):
        return []
    return [[p.name + ("" if p.default is p.empty else "=") for p in parameters if p.name != "self"]]


def _names(text: str) -> list[str]:
    """Return `count, kind, path=` for `self: T, size_t count, kind: U, path: str = None`, as a list."""
    parts = [part.strip() for part in re.split(r",(?![^\[<(]*[\]>)])", text) if part.strip()]
    names = []
    for part in parts:
        name = part.partition(":")[0].partition("=")[0].split()[-1]
        if name != "self":
            names.append(name + ("=" if "=" in part else ""))
    return names


def described(value: Any) -> dict[str, Any]:
    if not inspect.isclass(value):
        return {"kind": "function", "signatures": signatures(value)}
    attributes: dict[str, Any] = {}
    for name in dir(value):
        if name.startswith("_") and name != "__init__":
            continue
        attribute = inspect.getattr_static(value, name)
        if isinstance(attribute, (staticmethod, classmethod)):
            attribute = attribute.__func__
        is_data = isinstance(attribute, property) or not callable(attribute)
        attributes[name] = None if is_data else signatures(attribute)
    return {
        "kind": "class",
        "members": sorted(getattr(value, "__members__", {})),
        "attributes": attributes,
        "inner": {name: described(it) for name, it in vars(value).items() if inspect.isclass(it) and name[0] != "_"},
    }


def main() -> None:
    module = importlib.import_module(sys.argv[1])
    public = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    json.dump({name: described(value) for name, value in public.items() if callable(value)}, sys.stdout)


if __name__ == "__main__":
    main()
