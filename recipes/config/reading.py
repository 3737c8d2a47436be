"""Reading of presets: from a recipe's name or file, and `--set key=value` settings, to a preset or all mistakes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from compressor.base.errors import SrkdError, UsageError, nearest
from compressor.base.files import read_text
from compressor.base.yaml_errors import KeyPath, Problem, YamlError, YamlSource, file_error
from compressor.base.yaml_text import Document, parse_value, parse_yaml
from compressor.training.method import Method
from recipes.catalogue import METHODS, RECIPES
from recipes.composition import disagreements, refusals
from recipes.config.by_class import BASE, ByClass, find_method, is_class, read_class
from recipes.config.options import options_model, read_options
from recipes.config.preset import MethodRule, Preset, PublishedStudent, ScheduleRule, StudentRule

MODELS: Mapping[tuple[str, ...], type[BaseModel]] = {
    (): Preset,
    ("student",): StudentRule,
    ("student", "published"): PublishedStudent,
    ("schedule",): ScheduleRule,
    ("methods",): MethodRule,
}
"""The models by the keys that lead to them; all entries of a list have the same model."""


MOST_BYTES = 10**6
"""The most bytes of a recipe, which is about a page of text."""


def load_preset(
    recipe: str, settings: Sequence[str] = (), more: Mapping[str, Mapping[str, Any]] = MappingProxyType({})
) -> Preset:
    """Return the preset of a name, of a file such as ./my.yaml, or of a method's class, with `key=value` settings.

    `more` are methods beside its own, with their options; those of a method that it has replace its own.
    """
    if is_class(recipe):
        given = read_class(recipe)
        find_method(recipe)  # an unknown one is not a mistake in a file
        return _read_document(Document(_values_of(given), {}), str(given), settings, more)
    if not is_recipe_file(recipe):
        file = f"recipe {recipe}"
        return _read_document(parse_yaml(RECIPES.find(recipe).text(), file), file, settings, more)
    document = parse_yaml(_read_file(recipe), recipe)
    for rule in _method_rules(document.values):
        if is_class(name := str(rule.get("name", ""))):
            rule["name"] = read_class(name).inside(Path(recipe).parent).method
    return _read_document(document, recipe, settings, more)


def recipe_text(recipe: str) -> str:
    """Return the YAML of a recipe, given by name, file or class."""
    if is_class(recipe):
        given = read_class(recipe).inside(Path())
        load_preset(str(given))  # refuses mistakes
        text: str = yaml.safe_dump(_values_of(given), sort_keys=False, allow_unicode=True)
        return text
    return _read_file(recipe) if is_recipe_file(recipe) else RECIPES.find(recipe).text()


def _read_file(recipe: str) -> str:
    try:
        return read_text(Path(recipe), MOST_BYTES)
    except OSError as error:
        raise file_error(recipe, f"{error.strerror}; a recipe is a name or a YAML file") from error
    except UnicodeDecodeError as error:
        raise file_error(recipe, f"not UTF-8 text: {error.reason} at byte {error.start}") from error


def _values_of(given: ByClass) -> dict[str, Any]:
    """Return the values of a recipe with one method, and the student and schedule of `BASE`."""
    base = parse_yaml(RECIPES.find(BASE).text(), BASE).values
    options = dict(given.options)
    weights = {"weights": weights} if (weights := options.pop("weights", None)) is not None else {}
    return {
        "title": f"{given.label} of {Path(given.place).name}",
        "source": f"{given.method}; student and schedule of {BASE}",
        "methods": [{"name": given.method, "options": options}],
        **weights,
        "student": base["student"],
        "schedule": base["schedule"],
    }


def is_recipe_file(recipe: str) -> bool:
    """Return True if a recipe is given as a YAML file: names have neither dots nor slashes."""
    return not is_class(recipe) and (recipe.endswith((".yaml", ".yml")) or "/" in recipe or "\\" in recipe)


def absolute_recipe(recipe: str) -> str:
    """Return a recipe with the absolute path of its file, so that it means the same in any folder."""
    if is_class(recipe):
        return str(read_class(recipe).inside(Path()))
    return str(Path(recipe).resolve()) if is_recipe_file(recipe) else recipe


def recipe_label(recipe: str) -> str:
    """Return the recipe's label in a run's files: its name, its class, or its file without folder and suffix."""
    if is_class(recipe):
        return read_class(recipe).label
    return Path(recipe).stem if is_recipe_file(recipe) else recipe


def read_preset(text: str, file: str, settings: Sequence[str] = ()) -> Preset:
    """Return the preset in a file's text, or raise a YamlError with its mistakes."""
    return _read_document(parse_yaml(text, file), file, settings)


def _read_document(
    document: Document, file: str, settings: Sequence[str], more: Mapping[str, Mapping[str, Any]] = MappingProxyType({})
) -> Preset:
    values = document.values
    _add_methods(values, more)
    origin, problems = _apply(settings, values, YamlSource(file, document.lines, {}))
    preset = None
    try:
        preset = Preset.model_validate_json(json.dumps(values, default=str), strict=True)
    except ValidationError as error:
        problems += [_shape_problem(detail, values, origin) for detail in error.errors()]
    problems += _option_problems(values, origin)
    if preset is None or problems:
        raise YamlError(sorted(problems, key=lambda problem: (problem.setting is not None, problem.line or 0)))
    try:
        methods = preset.build_methods()
    except YamlError:
        raise
    except SrkdError as error:
        raise type(error)(f"{file}: {error}") from error
    if problems := _composition_problems(preset, methods, origin):
        raise YamlError(problems)
    return preset


def _shape_problem(detail: Any, values: Mapping[str, Any], origin: YamlSource) -> Problem:
    """Return a mistake outside the options of methods."""
    keys = tuple(piece for piece in detail["loc"][:-1] if isinstance(piece, str))
    siblings = MODELS[keys].model_fields if keys in MODELS else ()
    elsewhere = [
        ".".join((*path, name)) for path, model in MODELS.items() for name in model.model_fields if path != keys
    ]
    if not keys:
        options = [f"{_name_of(rule)}.{option}" for rule in _method_rules(values) for option in _options_of(rule)]
        elsewhere = [*options, *elsewhere]
    return origin.pydantic_problem(detail, siblings, other_paths=elsewhere)


def _option_problems(values: Mapping[str, Any], origin: YamlSource) -> list[Problem]:
    """Return mistakes in methods: unknown names, and invalid options."""
    problems: list[Problem] = []
    for index, rule in enumerate(_method_rules(values)):
        name, options = rule.get("name"), rule.get("options", {})
        if not isinstance(name, str):
            continue  # a mistake in the shape, reported as such
        try:
            entry = find_method(name)
        except SrkdError as error:
            problems.append(origin.problem(("methods", index, "name"), None, str(error)))
            continue
        if isinstance(options, dict):
            problems += read_options(entry, options, ("methods", index, "options"), origin)[1]
    return problems


def _composition_problems(preset: Preset, methods: Sequence[Method], origin: YamlSource) -> list[Problem]:
    """Return mistakes in the combination: incompatible methods, unsuitable sizes, weights of unknown terms."""
    schedule = preset.schedule
    lines = dict.fromkeys([*refusals(methods), *disagreements(methods, preset.weights, preset.blend)])
    problems = [origin.problem(("methods",), None, line) for line in lines]
    for method in methods:
        if schedule.batch < method.smallest_batch:
            expected = f"expected at least {method.smallest_batch}: {method.name} compares the patches of a batch"
            problems.append(origin.problem(("schedule", "batch"), str(schedule.batch), expected))
    if schedule.hr_patch is not None and "lr_patch" in schedule.model_fields_set:
        expected = f"give it or lr_patch={schedule.lr_patch}, not both"
        problems.append(origin.problem(("schedule", "hr_patch"), str(schedule.hr_patch), expected))
    terms = {term for method in methods for term in method.weights}
    for term in preset.weights.keys() - terms:
        expected = f"none of these methods has this term; {nearest(term, sorted(terms))}"
        problems.append(origin.problem(("weights", term), None, expected))
    names = [method.name for method in methods]
    for name in preset.blend.keys() - set(names) if isinstance(preset.blend, Mapping) else ():
        expected = f"the recipe has no such method; {nearest(name, names)}"
        problems.append(origin.problem(("blend", name), None, expected))
    return problems


def _method_rules(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the entries of `methods`; {} for an entry that is not a mapping."""
    rules = values.get("methods")
    return [rule if isinstance(rule, dict) else {} for rule in rules] if isinstance(rules, list) else []


def _add_methods(values: dict[str, Any], more: Mapping[str, Mapping[str, Any]]) -> None:
    """Add methods to those of a preset's values; a list that is a mistake stays as it is."""
    methods = values.get("methods")
    if not isinstance(methods, list):
        return
    for name, options in more.items():
        own = next((rule for rule in _method_rules(values) if _name_of(rule) == name), None)
        if own is None:
            methods.append({"name": name, "options": dict(options)})
        else:
            own["options"] = {**(own.get("options") or {}), **options}


def _name_of(rule: Mapping[str, Any]) -> str:
    """Return the name of a rule's method; what it says for an unknown one."""
    try:
        return find_method(str(rule.get("name"))).name
    except SrkdError:
        return str(rule.get("name"))


def _options_of(rule: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the option names of a rule's method; none for an unknown method."""
    try:
        return tuple(options_model(find_method(str(rule.get("name")))).model_fields)
    except SrkdError:
        return ()


# --set key=value: a key by its path, or a method's option by its bare name.


def _apply(settings: Sequence[str], values: dict[str, Any], origin: YamlSource) -> tuple[YamlSource, list[Problem]]:
    """Apply the settings to `values` in place, the last one wins; the new origin names each path's setting."""
    settings_by_path: dict[KeyPath, str] = {}
    problems = []
    schedule = values.get("schedule", {})
    if settings and isinstance(schedule, dict):
        # Insert the default lists that the file omits, so that a setting can change one entry of a list.
        lists = {name: value for name, value in ScheduleRule().model_dump(mode="json").items() if type(value) is list}
        values["schedule"] = {**lists, **schedule}
    for setting in settings:
        key, equals, text = setting.partition("=")
        try:
            if not equals or not all(key.split(".")):
                raise UsageError("not of the form key=value")
            for path in _target_paths(values, key):
                value = parse_value(text)
                _put(values, path, value)
                if path in (("schedule", "lr_patch"), ("schedule", "hr_patch")) and value is not None:
                    # The patch size is given in LR or in HR pixels: a setting of one replaces the other in the file.
                    values["schedule"].pop("hr_patch" if path[1] == "lr_patch" else "lr_patch", None)
                settings_by_path[path] = setting
        except UsageError as error:
            problems.append(Problem("", None, key, None, str(error), setting))
    return YamlSource(origin.file, origin.lines, settings_by_path), problems


def _target_paths(values: dict[str, Any], key: str) -> list[KeyPath]:
    """Return the paths of a key: `schedule.rate`, `methods.0.options.kappa`, `logits.kappa`, or `kappa` of all."""
    first, *rest = key.split(".")
    if first in Preset.model_fields:
        return [(first, *(int(piece) if piece.isdecimal() else piece for piece in rest))]
    rules = _method_rules(values)
    if indices := [index for index, rule in enumerate(rules) if rest and _name_of(rule) == first]:
        return [("methods", index, "options", *rest) for index in indices]
    if holders := [index for index, rule in enumerate(rules) if first in _options_of(rule)]:
        return [("methods", index, "options", first, *rest) for index in holders]
    elsewhere = [name for name in sorted(METHODS) if first in _options_of({"name": name})]
    if elsewhere and rules:
        names = " nor ".join(map(_name_of, rules))
        raise UsageError(f"{first} is an option of {', '.join(elsewhere)}, not of {names}")
    # An unknown key: validation of the whole preset suggests the nearest one.
    return [(first, *rest)]


def _put(values: Any, path: KeyPath, value: Any) -> None:
    """Set the value at `path`. Missing keys on the path are added; list entries must exist."""
    *parents, last = path
    for depth, piece in enumerate(parents):
        key = _key_in(values, piece, path[:depth])
        if isinstance(values, dict) and values.get(key) is None:
            values[key] = {}
        values = values[key]
    values[_key_in(values, last, parents)] = value


def _key_in(values: Any, key: int | str, path: Sequence[int | str]) -> int | str:
    """Return the key in the type used by the list or mapping at `path`."""
    where = ".".join(map(str, path))
    if isinstance(values, list):
        if not str(key).isdecimal() or int(str(key)) >= len(values):
            raise UsageError(f"{where} has entries 0 to {len(values) - 1}, not {key}")
        return int(key)
    if isinstance(values, dict):
        return str(key)
    raise UsageError(f"{where} is a plain value and has no key {key}")
