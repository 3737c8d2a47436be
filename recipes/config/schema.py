"""The JSON schema of a recipe, for editors, made from the models, with one branch per method and its options."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, create_model
from pydantic.json_schema import GenerateJsonSchema

from compressor.base.cache_folder import default_folder
from compressor.base.files import write_text
from recipes.catalogue import METHODS, MethodEntry
from recipes.config.options import options_model
from recipes.config.preset import MethodRule, Preset, PresetPart

COMMENT = "# yaml-language-server: $schema="
"""Beginning of a recipe's first line, read by the YAML language server in VS Code, Vim, Emacs, JetBrains and others."""


class _Untitled(GenerateJsonSchema):
    """A schema generator without titles that repeat each key: editors show the descriptions."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def preset_schema(methods: Mapping[str, MethodEntry]) -> dict[str, Any]:
    """Return the schema in draft 7, for every editor; closed, so that unknown keys and options are marked."""
    whole = _schema_of(Preset)
    definitions: dict[str, Any] = whole.pop("definitions")
    definitions.pop(MethodRule.__name__)
    branches: list[dict[str, Any]] = []
    for name, entry in methods.items():
        branch = _schema_of(_method_rule(name, entry))
        definitions.update(branch.pop("definitions", {}))
        definitions[f"method-{name}"] = branch
        branches.append({"$ref": f"#/definitions/method-{name}"})
    by_class = {"name": {"type": "string", "pattern": ":"}, "options": {"type": "object"}}
    branches.append({"type": "object", "properties": by_class, "required": ["name"], "additionalProperties": False})
    whole["properties"]["methods"]["items"] = {"oneOf": branches}
    draft = {"$schema": "http://json-schema.org/draft-07/schema#"}
    return {**draft, **whole, "title": "A recipe of srkd", "definitions": definitions}


def _schema_of(model: type[BaseModel]) -> dict[str, Any]:
    schema = model.model_json_schema(schema_generator=_Untitled, ref_template="#/definitions/{model}")
    # Draft 7 uses other names than pydantic for the definitions and the entries of a tuple.
    names = {"$defs": "definitions", "prefixItems": "items"}
    renamed: dict[str, Any] = json.loads(
        json.dumps(schema), object_hook=lambda entries: {names.get(key, key): value for key, value in entries.items()}
    )
    return renamed


def _method_rule(name: str, entry: MethodEntry) -> type[PresetPart]:
    """Return a model of a method's `name` and `options`, named after it so that definitions never collide."""
    options = create_model(f"options-{name}", __base__=options_model(entry))
    required = any(field.is_required() for field in options.model_fields.values())
    default: dict[str, Any] = {} if required else {"default_factory": options}
    options_field = Field(description="options of the method", **default)
    name_field: Any = (Literal[name], Field(description="name of the method"))
    return create_model(f"method-{name}", __base__=PresetPart, name=name_field, options=(options, options_field))


def schema_text(methods: Mapping[str, MethodEntry]) -> str:
    return json.dumps(preset_schema(methods), indent=2, ensure_ascii=False) + "\n"


def write_schema() -> Path:
    """Write the schema of all installed methods to the cache folder, where the first line of a copy leads editors."""
    path = default_folder() / "recipe-schema.json"
    write_text(path, schema_text(METHODS))
    return path
