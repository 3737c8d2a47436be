"""From a name or a file to a valid preset, or everything that is wrong with it at once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from compressor.base.errors import SrkdError, UsageError
from recipes.catalogue import catalogue
from recipes.composition import disagreements, refusals
from recipes.options import read_options
from recipes.preset import MethodRule, Preset, ScheduleRule, StudentRule
from recipes.problems import Origin, PresetError, Problem, closest, one_problem, told
from recipes.settings import apply_settings, options_in
from recipes.yaml_text import parse_yaml

if TYPE_CHECKING:
    from compressor.training.method import Method

PARTS: Mapping[tuple[str, ...], type[BaseModel]] = {
    (): Preset,
    ("student",): StudentRule,
    ("schedule",): ScheduleRule,
    ("methods",): MethodRule,
}
"""The models by the words of their paths; entries of a list share one."""


def load_preset(recipe: str, settings: Sequence[str] = ()) -> Preset:
    """The preset called `recipe`, or that of a file such as ./my.yaml, with `key=value` settings on top."""
    if is_file(recipe):
        return read_preset(read_file(recipe), recipe, settings)
    return read_preset(catalogue().preset(recipe).text(), f"recipe {recipe}", settings)


def is_file(recipe: str) -> bool:
    """Whether a recipe is given by its file: names have no dots and no slashes."""
    return recipe.endswith((".yaml", ".yml")) or "/" in recipe or "\\" in recipe


def label(recipe: str) -> str:
    """What a run's files call the recipe: the name, or that of the file without its folder."""
    return Path(recipe).stem if is_file(recipe) else recipe


def read_file(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise one_problem(str(path), f"{error.strerror}; a recipe is a name or a YAML file") from error
    except UnicodeDecodeError as error:
        raise one_problem(str(path), f"no text in UTF-8: {error.reason} at byte {error.start}") from error


def read_preset(text: str, where: str, settings: Sequence[str] = ()) -> Preset:
    document = parse_yaml(text, where)
    applied = apply_settings(document.values, settings)
    return check(document.values, Origin(where, document.lines, applied.places), applied.problems)


def check(values: Mapping[str, Any], origin: Origin, earlier: Sequence[Problem] = ()) -> Preset:
    """A valid preset, or a PresetError with every mistake, those of the methods' options among them."""
    problems = [*earlier, *_shape(values, origin), *_methods(values, origin)]
    if problems:
        raise PresetError(sorted(problems, key=lambda problem: (problem.setting is not None, problem.line or 0)))
    preset = Preset.model_validate_json(json.dumps(values, default=str), strict=True)
    try:
        methods = preset.build_methods()
    except PresetError:
        raise
    except SrkdError as error:
        raise type(error)(f"{origin.file}: {error}") from error
    _compose(preset, methods, origin)
    return preset


def _compose(preset: Preset, methods: Sequence[Method], origin: Origin) -> None:
    """Refuse methods that do not go together, and weights of terms that none of them has."""
    apart = [*refusals(methods), *disagreements(methods, preset.weights)]
    problems = [origin.problem(("methods",), None, line) for line in apart]
    for method in methods:
        if preset.schedule.batch < method.smallest_batch:
            expected = f"at least {method.smallest_batch}: {method.name} compares the patches of a batch"
            problems.append(origin.problem(("schedule", "batch"), str(preset.schedule.batch), f"expected {expected}"))
    if preset.schedule.hr_patch is not None and "lr_patch" in preset.schedule.model_fields_set:
        expected = f"give it or lr_patch={preset.schedule.lr_patch}, not both"
        problems.append(origin.problem(("schedule", "hr_patch"), str(preset.schedule.hr_patch), expected))
    terms = {term for method in methods for term in method.weights}
    for term in preset.weights.keys() - terms:
        expected = f"no term of these methods; {closest(term, sorted(terms))}"
        problems.append(origin.problem(("weights", term), None, expected))
    if problems:
        raise PresetError(problems)


def _shape(values: Mapping[str, Any], origin: Origin) -> list[Problem]:
    """Everything but the options of the methods."""
    try:
        Preset.model_validate_json(json.dumps(values, default=str), strict=True)
    except ValidationError as error:
        return [_told(detail, values, origin) for detail in error.errors()]
    return []


def _told(detail: Any, values: Mapping[str, Any], origin: Origin) -> Problem:
    words = tuple(piece for piece in detail["loc"][:-1] if isinstance(piece, str))
    siblings = PARTS[words].model_fields if words in PARTS else ()
    far = [".".join((*path, name)) for path, part in PARTS.items() for name in part.model_fields if path != words]
    if not words:
        rules = values.get("methods")
        named = [rule for rule in rules if isinstance(rule, dict)] if isinstance(rules, list) else []
        far = [*(f"{rule.get('name')}.{option}" for rule in named for option in options_in(rule)), *far]
    return told(detail, (), origin, siblings, far)


def _methods(values: Mapping[str, Any], origin: Origin) -> list[Problem]:
    """Names that no method has, and options that a method does not take."""
    rules = values.get("methods")
    problems: list[Problem] = []
    for index, rule in enumerate(rules if isinstance(rules, list) else ()):
        if not isinstance(rule, dict) or not isinstance(rule.get("name"), str):
            continue  # The shape of it is wrong, and told.
        name, options = rule["name"], rule.get("options", {})
        try:
            entry = catalogue().method(name)
        except UsageError as error:
            problems.append(origin.problem(("methods", index, "name"), None, str(error)))
            continue
        if isinstance(options, dict):
            problems += read_options(entry, options, ("methods", index, "options"), origin)[1]
    return problems
