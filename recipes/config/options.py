"""The options of a method: the fields of its dataclass, validated by type like the keys of a recipe."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from functools import cache
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, PydanticUserError, ValidationError, create_model

from compressor.base.errors import SrkdError, UsageError
from compressor.base.yaml_errors import KeyPath, Problem, YamlError, YamlSource
from compressor.training.method import TEACHER_NEEDS, Method
from recipes.catalogue import MethodEntry
from recipes.config.by_class import FIXED, find_method


@cache
def options_model(entry: MethodEntry) -> type[BaseModel]:
    """Return a model of the method's options; `Annotated[float, Field(ge=0, description=...)]` adds bounds and help."""
    method = entry.load()
    if not dataclasses.is_dataclass(method):
        raise SrkdError(f"the method {entry.where} of {entry.package} is not a dataclass: its fields are its options")
    fields: dict[str, Any] = {}
    try:
        hints = get_type_hints(method, include_extras=True)
        for field in dataclasses.fields(method):
            if field.init and field.name not in FIXED:
                default: Any = ... if field.default is dataclasses.MISSING else field.default
                if field.default_factory is not dataclasses.MISSING:
                    default = Field(default_factory=field.default_factory)
                fields[field.name] = (hints[field.name], default)
        config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())
        return create_model(f"{method.__name__}Options", __config__=config, **fields)
    except (NameError, TypeError, PydanticUserError) as error:
        what = f"the options of the method {entry.where} of {entry.package} have types that a file cannot hold"
        raise SrkdError(f"{what}: {error}") from error


def read_options(
    entry: MethodEntry, options: Any, path: KeyPath, origin: YamlSource
) -> tuple[dict[str, Any], list[Problem]]:
    """Return the options with their types, and the mistakes in them."""
    model = options_model(entry)
    try:
        values = model.model_validate_json(json.dumps(options, default=str), strict=True)
    except ValidationError as error:
        return {}, [origin.pydantic_problem(detail, model.model_fields, prefix=path) for detail in error.errors()]
    return {name: getattr(values, name) for name in values.model_fields_set}, []


def make_method(name: str, options: Mapping[str, Any]) -> Method:
    """Return a method, given by its name or class, with its options, or raise one line with all mistakes."""
    entry = find_method(name)
    values, problems = read_options(entry, dict(options), (), YamlSource(f"method {entry.name}", {}, {}))
    if problems:
        raise YamlError(problems)
    try:
        method = entry.load()(**values)
    except (ValueError, TypeError) as error:
        raise UsageError(f"method {entry.name}: {error}") from error
    if not isinstance(method, Method) or not hasattr(method, "weights"):
        what = "has no `weights`" if isinstance(method, Method) else "is no method"
        raise SrkdError(
            f"the method {entry.where} of {entry.package} {what}: derive it from srkd.PlainMethod and give `weights`, "
            "a number for each of its terms"
        )
    needs = method.teacher_needs or entry.needs
    if TEACHER_NEEDS.index(needs) > TEACHER_NEEDS.index(entry.needs) or method.name != entry.name:
        raise SrkdError(
            f"the method {entry.name} of {entry.package} is called {method.name!r} and needs {needs!r}, "
            f"its entry says {entry.name!r} and {entry.needs!r}: correct one of them"
        )
    return method
