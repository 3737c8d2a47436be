"""What recipes there are, without importing a method: for `srkd recipes`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from compressor.base.errors import SrkdError, UsageError
from compressor.base.files import atomic_path
from recipes.catalogue import METHODS, catalogue
from recipes.entry import Needs
from recipes.loading import is_file, load_preset
from recipes.preset import Preset
from recipes.problems import PresetError, Problem, one_problem
from recipes.yaml_text import parse_yaml


@dataclass(frozen=True)
class Listed:
    """A recipe as a line of a table. `needs` is the most that its methods want of a teacher."""

    name: str
    title: str
    methods: tuple[str, ...]
    needs: Needs
    steps: int
    package: str


@dataclass(frozen=True)
class Listing:
    """Recipes by name, each method's one beside its paper's; `notes` say what is wrong with an installed package."""

    recipes: tuple[Listed, ...]
    notes: tuple[str, ...]


def list_recipes() -> Listing:
    """Every recipe that can be read; one that cannot is a note."""
    known, rows, notes = catalogue(), [], list(catalogue().notes)
    for name, found in sorted(known.presets.items()):
        try:
            preset = Preset.model_validate(parse_yaml(found.text(), f"recipe {name} of {found.package}").values)
            names = tuple(rule.name for rule in preset.methods)
            ranked = [get_args(Needs).index(known.method(method).needs) for method in names]
            needs: Needs = get_args(Needs)[max(ranked)]
        except (SrkdError, ValueError) as error:
            told = str(error) if isinstance(error, SrkdError) else f"srkd recipes validate {name} says what is wrong"
            notes.append(f"recipe {name} of {found.package} cannot be used: {told}")
            continue
        rows.append(Listed(name, preset.title, names, needs, preset.schedule.steps, found.package))
    return Listing(tuple(rows), tuple(notes))


@dataclass(frozen=True)
class Shown:
    """A recipe's file as it is."""

    name: str
    package: str
    text: str


def show_recipe(name: str) -> Shown:
    found = catalogue().preset(name)
    return Shown(name, found.package, found.text())


@dataclass(frozen=True)
class Copied:
    name: str
    path: Path


def copy_recipe(name: str, target: Path) -> Copied:
    """The recipe as a file of one's own; nothing is ever written over."""
    text = show_recipe(name).text
    path = target / f"{name}.yaml" if target.is_dir() else target
    if path.suffix not in (".yaml", ".yml"):
        raise UsageError(f"{path}: a recipe's file ends in .yaml, because a word alone is a recipe's name")
    if path.exists():
        raise SrkdError(f"{path} exists and is left as it is: choose another name")
    with atomic_path(path) as temporary:
        temporary.write_text(_for_another_folder(text), encoding="utf-8")
    return Copied(name, path)


def _for_another_folder(text: str) -> str:
    """The schema's address as a whole; without one where it does not know the methods."""
    from recipes.schema import COMMENT, our_schema_file

    lines = [line for line in text.splitlines() if not line.startswith(COMMENT)]
    rules = parse_yaml(text, "recipe").values.get("methods", [])
    if all(rule.get("name") in METHODS for rule in rules):
        lines.insert(0, COMMENT + our_schema_file().as_uri())
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Validated:
    """One file and everything that is wrong with it."""

    file: str
    valid: bool
    problems: tuple[Problem, ...]


def validate_recipe(recipe: str) -> Validated:
    """A file or a name, methods and their options included."""
    try:
        load_preset(recipe if is_file(recipe) or not Path(recipe).exists() else str(Path(recipe).resolve()))
    except PresetError as error:
        return Validated(recipe, False, error.problems)
    except SrkdError as error:
        return Validated(recipe, False, one_problem(recipe, str(error)).problems)
    return Validated(recipe, True, ())
