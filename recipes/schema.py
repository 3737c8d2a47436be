"""The JSON schema of a preset, for editors: made from the models, one branch a method with its own options.

    python -m recipes.schema

writes recipes/presets/schema.json anew after a method or a key has changed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import BaseModel, Field, create_model
from pydantic.json_schema import GenerateJsonSchema

from compressor.base.files import atomic_path
from recipes.catalogue import METHODS
from recipes.entry import MethodEntry
from recipes.options import options_of
from recipes.preset import MethodRule, Part, Preset

FILE = "schema.json"
COMMENT = "# yaml-language-server: $schema="
"""The first line of a preset: the language server of YAML in VS Code, Vim, Emacs, JetBrains and others reads it."""


class _Untitled(GenerateJsonSchema):
    """Without the titles that repeat each key: editors show the descriptions."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def preset_schema(methods: Mapping[str, MethodEntry]) -> dict[str, Any]:
    """Draft 7, which every editor reads, and closed: an unknown key, method or option is marked."""
    whole = _schema_of(Preset)
    definitions: dict[str, Any] = whole.pop("definitions")
    definitions.pop(MethodRule.__name__)
    branches = []
    for name, entry in methods.items():
        branch = _schema_of(_method_rule(name, entry))
        definitions.update(branch.pop("definitions", {}))
        definitions[f"method-{name}"] = branch
        branches.append({"$ref": f"#/definitions/method-{name}"})
    whole["properties"]["methods"]["items"] = {"oneOf": branches}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        **whole,
        "title": "A recipe of srkd",
        "definitions": definitions,
    }


def _schema_of(model: type[BaseModel]) -> dict[str, Any]:
    schema = model.model_json_schema(schema_generator=_Untitled, ref_template="#/definitions/{model}")
    if "$defs" in schema:
        schema["definitions"] = schema.pop("$defs")
    return cast("dict[str, Any]", _draft_7(schema))


def _draft_7(schema: Any) -> Any:
    """What pydantic writes in the words of a later draft: a tuple's entries."""
    if isinstance(schema, list):
        return [_draft_7(item) for item in schema]
    if isinstance(schema, dict):
        return {("items" if key == "prefixItems" else key): _draft_7(value) for key, value in schema.items()}
    return schema


def _method_rule(name: str, entry: MethodEntry) -> type[Part]:
    """`name` and `options` of one method; the options' model has the method's name, so that two never share one."""
    options = create_model(f"options-{name}", __base__=options_of(entry))
    asked: Any = ... if any(field.is_required() for field in options.model_fields.values()) else None
    given = Field(description="what the method can be told") if asked is ... else Field(default_factory=options)
    fields = {"name": (Literal[name], Field(description="of the method")), "options": (options, given)}
    return create_model(f"method-{name}", __base__=Part, **cast("dict[str, Any]", fields))


def schema_text(methods: Mapping[str, MethodEntry]) -> str:
    return json.dumps(preset_schema(methods), indent=2, ensure_ascii=False) + "\n"


def our_schema_file() -> Path:
    """Beside our presets."""
    return Path(str(resources.files("recipes"))) / "presets" / FILE


if __name__ == "__main__":
    with atomic_path(our_schema_file()) as temporary:
        temporary.write_text(schema_text(METHODS), encoding="utf-8")
