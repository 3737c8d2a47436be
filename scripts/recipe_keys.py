"""The keys of a recipe and the options of each method as Markdown, from the schema, for the site."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from benchmarks.evidence import ROOT
from compressor.training.calibration import Calibrated
from recipes.catalogue import BUILTIN
from recipes.config.options import make_method
from recipes.config.preset import MethodRule
from recipes.config.schema import preset_schema
from scripts.markdown import table

ABOUT_METHODS = """\
`methods.0` is the first method. Each method has a section below: the most that it can need of a teacher, its options,
and its terms with their weights at these defaults, which `weights` changes. An empty text (`""`) as `compat` stands for
srkd's own decisions. Where a weight is calibrated, a run computes it in its first steps.
"""

NEEDS = {
    "nothing": "It needs no teacher.",
    "outputs": "It needs the outputs of a teacher of any kind.",
    "network": "It can need the features or weights of a teacher that is one of srkd's networks.",
}


SIGNS = {"minimum": "≤", "exclusiveMinimum": "<", "maximum": "≤", "exclusiveMaximum": "<"}
"""The sign between a bound and the value."""


def keys_of_recipes(folder: PurePosixPath) -> str:
    """Return a section for the file, for each of its parts and for each method; `folder` is that of the page."""
    schema = preset_schema(BUILTIN)
    definitions: Mapping[str, Any] = schema["definitions"]
    parts = ["## The file\n", keys_table(schema)]
    for key, part in schema["properties"].items():
        if "$ref" in part:
            section = definitions[part["$ref"].rpartition("/")[2]]
            parts += [f"## `{key}`\n", section["description"] + "\n", keys_table(section, f"{key}.")]
    parts += ["## `methods`\n", keys_table(MethodRule.model_json_schema(), "methods.0."), ABOUT_METHODS]
    for name in BUILTIN:
        page = posixpath.relpath(f"docs/methods/{name}.md", folder)
        parts += [f"### `{name}`\n", *_method(name, page, definitions[f"options-{name}"])]
    return "\n".join(parts)


def _method(name: str, page: str, options: Mapping[str, Any]) -> Iterator[str]:
    heading = (ROOT / "docs" / "methods" / f"{name}.md").read_text(encoding="utf-8").partition("\n")[0]
    yield f"[{heading.removeprefix('# ')}]({page}). {NEEDS[BUILTIN[name].needs]}\n"
    yield keys_table(options) if options["properties"] else "It has no options.\n"
    weights = make_method(name, {}).weights
    yield f"Terms: {', '.join(f'`{term}` {_weight(weight)}' for term, weight in weights.items())}.\n"


def _weight(weight: float | Calibrated) -> str:
    if isinstance(weight, Calibrated):
        return f"(calibrated to {weight.share:g} of `{weight.against}`)"
    return f"{weight:.6g}"


def keys_table(section: Mapping[str, Any], prefix: str = "") -> str:
    """Return the table of a section's keys: key, values, default and meaning."""
    rows = []
    for key, part in section["properties"].items():
        has_section = "$ref" in part
        value = f"[its keys](#{key})" if has_section or key == "methods" else values(part)
        if key in section.get("required", ()):
            default = "required"
        else:
            default = "each key's own" if has_section else f"`{_text(part.get('default', {}))}`"
        rows.append((f"`{prefix}{key}`", value, default, part["description"]))
    return table(("key", "value", "default", "meaning"), rows)


def values(part: Mapping[str, Any]) -> str:
    """Return in words which values a part of the schema allows."""
    if "anyOf" in part:
        return ", or ".join(values(one) for one in part["anyOf"])
    if "$ref" in part:
        return "keys and values"
    if "enum" in part:
        return ", ".join(f"`{_text(value)}`" for value in part["enum"])
    kind = part.get("type")
    if kind == "array":
        return _list(part)
    if kind == "object":
        inner = part.get("additionalProperties")
        return f"keys; each value: {values(inner)}" if isinstance(inner, Mapping) else "keys and values"
    words = {
        "integer": "whole number",
        "number": "number",
        "boolean": "`true`, `false`",
        "string": "text",
        "null": "`null`",
    }
    return words[str(kind)] + _range(part)


def _list(part: Mapping[str, Any]) -> str:
    items, least = part["items"], part.get("minItems", 0)
    if isinstance(items, list):
        texts = list(dict.fromkeys(map(values, items)))  # one for each entry; ours are all alike
        return f"list of {len(items)}; each entry: {' / '.join(texts)}"
    return f"list{f' of at least {least}' if least else ''}; each entry: {values(items)}"


def _range(part: Mapping[str, Any]) -> str:
    """Return the bounds of a number: " ≥ 1", or ", 0 < x ≤ 1"."""
    bounds = {key: f"{part[key]:.6g}" for key in SIGNS if key in part}
    low = next(((text, SIGNS[key]) for key, text in bounds.items() if key.endswith("inimum")), None)
    high = next(((text, SIGNS[key]) for key, text in bounds.items() if key.endswith("aximum")), None)
    if low is not None and high is not None:
        return f", {low[0]} {low[1]} x {high[1]} {high[0]}"
    if low is not None:
        return f" {'≥' if low[1] == '≤' else '>'} {low[0]}"
    return "" if high is None else f" {high[1]} {high[0]}"


def _text(value: Any) -> str:
    """Return a value as YAML has it, on one line."""
    if isinstance(value, str):
        return value or '""'
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, list):
        return f"[{', '.join(map(_text, value))}]"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
