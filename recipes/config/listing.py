"""The list of available recipes, without importing a method: for `srkd recipes`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from compressor.base.errors import SrkdError, UsageError
from compressor.base.files import require_writable_folder, write_text
from compressor.base.yaml_errors import Problem, YamlError, file_error
from compressor.base.yaml_text import parse_yaml
from compressor.training.method import TEACHER_NEEDS, TeacherNeeds
from recipes.catalogue import METHODS, RECIPES, notes
from recipes.config.preset import Preset
from recipes.config.reading import absolute_recipe, is_recipe_file, load_preset, recipe_label, recipe_text
from recipes.config.schema import COMMENT, write_schema


@dataclass(frozen=True)
class RecipeRow:
    """A row of the table of recipes. `needs` is the largest teacher need of its methods."""

    name: str
    title: str
    methods: tuple[str, ...]
    needs: TeacherNeeds
    steps: int
    package: str


@dataclass(frozen=True)
class RecipeTable:
    """All recipes by name; `notes` are lines about unusable packages and recipes."""

    recipes: tuple[RecipeRow, ...]
    notes: tuple[str, ...]


def list_recipes() -> RecipeTable:
    """Return all readable recipes; an unreadable one gives a note."""
    rows, remarks = [], list(notes())
    for name, file in sorted(RECIPES.items()):
        try:
            preset = Preset.model_validate(parse_yaml(file.text(), f"recipe {name} of {file.package}").values)
            methods = tuple(rule.name for rule in preset.methods)
            needs = TEACHER_NEEDS[max(TEACHER_NEEDS.index(METHODS.find(method).needs) for method in methods)]
        except (SrkdError, ValueError) as error:
            reason = str(error) if isinstance(error, SrkdError) else f"srkd recipes validate {name} says what is wrong"
            remarks.append(f"recipe {name} of {file.package} cannot be used: {reason}")
            continue
        rows.append(RecipeRow(name, preset.title, methods, needs, preset.schedule.steps, file.package))
    return RecipeTable(tuple(rows), tuple(remarks))


def copy_recipe(name: str, target: Path) -> Path:
    """Copy a recipe to a file, or into a folder, for editing. An existing file is never overwritten."""
    text = recipe_text(name)
    path = target / f"{recipe_label(name)}.yaml" if target.is_dir() else target
    if path.suffix not in (".yaml", ".yml"):
        raise UsageError(f"{path}: a recipe's file must end in .yaml, because a word alone is a recipe's name")
    if path.exists():
        raise SrkdError(f"{path} exists and is left as it is: choose another name")
    require_writable_folder(path.parent, "the copy's folder")
    lines = [line for line in text.splitlines() if not line.startswith(COMMENT)]
    try:
        lines.insert(0, COMMENT + write_schema().as_uri())
    except SrkdError as error:  # a method of another package that cannot be imported, or no place to write
        lines.insert(0, f"# no schema for editors: {error}")
    write_text(path, "\n".join(lines) + "\n")
    return path


@dataclass(frozen=True)
class RecipeProblems:
    """A recipe file and all mistakes in it."""

    file: str
    valid: bool
    problems: tuple[Problem, ...]


def validate_recipe(recipe: str) -> RecipeProblems:
    """Return all mistakes in a recipe, given by file or name, including those in the options of its methods."""
    try:
        is_name = is_recipe_file(recipe) or not Path(recipe).is_file()
        load_preset(absolute_recipe(recipe) if is_name else str(Path(recipe).resolve()))
    except YamlError as error:
        return RecipeProblems(recipe, False, error.problems)
    except SrkdError as error:
        return RecipeProblems(recipe, False, file_error(recipe, str(error)).problems)
    return RecipeProblems(recipe, True, ())
