"""docs/recipe-reference.md is the output of scripts/write_recipe_reference.py, and has every key of the schema."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from recipes.catalogue import BUILTIN
from recipes.config.schema import schema_path
from scripts import write_recipe_reference as script

SCHEMA: dict[str, Any] = json.loads(schema_path().read_text(encoding="utf-8"))


def rows(heading: str) -> dict[str, list[str]]:
    """Return the cells of a section's table by key."""
    page = script.PAGE.read_text(encoding="utf-8")
    section = re.split(r"^#+ ", page.partition(f"\n{heading}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    lines = [re.split(r"(?<!\\)\|", line)[1:-1] for line in section.splitlines() if line.startswith("| `")]
    return {cells[0].strip(" `"): [cell.strip() for cell in cells[1:]] for cells in lines}


def test_the_committed_page_is_what_the_script_writes() -> None:
    assert script.PAGE.read_text(encoding="utf-8") == script.write(), "run: python scripts/write_recipe_reference.py"


def test_the_page_has_every_key_of_the_schema_with_its_meaning() -> None:
    sections = {"## The file": ("", SCHEMA)}
    for key, part in SCHEMA["properties"].items():
        if "$ref" in part:
            sections[f"## `{key}`"] = (f"{key}.", SCHEMA["definitions"][part["$ref"].rpartition("/")[2]])
    sections |= {f"### `{name}`": ("", SCHEMA["definitions"][f"options-{name}"]) for name in BUILTIN}
    assert len(sections) == 3 + len(BUILTIN)
    for heading, (prefix, part) in sections.items():
        table = rows(heading)
        assert list(table) == [prefix + key for key in part["properties"]], heading
        for key, one in part["properties"].items():
            value, default, meaning = table[prefix + key]
            assert value and default and meaning == one["description"], (heading, key)
    methods = {f"methods.0.{key}" for name in BUILTIN for key in SCHEMA["definitions"][f"method-{name}"]["properties"]}
    assert set(rows("## `methods`")) == methods and all(cells[-1] for cells in rows("## `methods`").values())


@pytest.mark.parametrize(
    ("part", "text"),
    [
        ({"type": "integer", "minimum": 1}, "whole number ≥ 1"),
        ({"type": "number", "exclusiveMinimum": 0, "maximum": 1}, "number, 0 < x ≤ 1"),
        ({"type": "number", "exclusiveMaximum": 0.5}, "number < 0.5"),
        ({"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"type": "null"}]}, "number > 0, or `null`"),
        ({"enum": ["", "csd"], "type": "string"}, '`""`, `csd`'),
        ({"type": "array", "items": {"type": "string"}, "minItems": 1}, "list of at least 1; each entry: text"),
        ({"type": "array", "items": [{"type": "boolean"}] * 2}, "list of 2; each entry: `true`, `false`"),
        ({"type": "object", "additionalProperties": {"type": "number"}}, "keys; each value: number"),
    ],
)
def test_values_are_in_words(part: dict[str, Any], text: str) -> None:
    assert script.values(part) == text
