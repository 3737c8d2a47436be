"""`srkd recipes`: what can be trained by, read, copied and checked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from srkd.console import Console
from srkd.verb import verb

if TYPE_CHECKING:
    from recipes.config.listing import RecipeRow

EPILOG = """Examples:

\b
  srkd recipes ls
  srkd recipes show logits
  srkd recipes cp logits my.yaml
  srkd recipes validate my.yaml
  srkd compress --recipe ./my.yaml --out runs/mine
"""

TEACHERS = {"nothing": "no teacher", "outputs": "outputs", "network": "weights or features"}


@click.group("recipes", epilog=EPILOG)
def command() -> None:
    """List, show, copy and check recipes; those of installed packages are among them."""


@verb("ls")
def ls(console: Console) -> None:
    """List every recipe: its methods, what it wants of a teacher, its length."""
    from recipes.config.listing import list_recipes

    found = list_recipes()
    if console.wants_json:
        console.emit("recipes", found)
        return
    strangers = any(recipe.package != "srkd" for recipe in found.recipes)
    headings = ["recipe", "title", "methods", "of the teacher", "steps", *(["package"] if strangers else [])]
    console.table(headings, [_row(recipe)[: len(headings)] for recipe in found.recipes])
    for note in found.notes:
        console.warn(note)


def _row(recipe: RecipeRow) -> tuple[str, ...]:
    methods = ", ".join(recipe.methods)
    return (recipe.name, recipe.title, methods, TEACHERS[recipe.needs], f"{recipe.steps:,}", recipe.package)


@verb("show")
@click.argument("name", required=False)
@click.option("--schema", is_flag=True, help="The JSON schema of recipes instead, installed packages included.")
def show(console: Console, *, name: str | None, schema: bool) -> None:
    """Print the YAML of a recipe, where its method and numbers come from included."""
    if schema == (name is not None):
        raise click.UsageError("give the name of a recipe, or --schema")
    if name is None:
        _show_schema(console)
        return
    from recipes.config.listing import show_recipe

    found = show_recipe(name)
    if console.wants_json:
        console.emit("recipes", found)
    else:
        console.result(found.text.rstrip("\n"))


def _show_schema(console: Console) -> None:
    from recipes.catalogue import catalogue
    from recipes.config.schema import preset_schema, schema_text

    methods = catalogue().methods
    if console.wants_json:
        console.emit("recipes", {"json_schema": preset_schema(methods)})
    else:
        console.result(schema_text(methods).rstrip("\n"))


@verb("cp")
@click.argument("name")
@click.argument("file", type=click.Path(path_type=Path))
def cp(console: Console, *, name: str, file: Path) -> None:
    """Copy the recipe NAME to FILE, a .yaml file to change; an existing file is left as it is."""
    from recipes.config.listing import copy_recipe

    copied = copy_recipe(name, file)
    if console.wants_json:
        console.emit("recipes", copied)
        return
    path = copied.path if copied.path.is_absolute() or copied.path.parent.parts else f"./{copied.path}"
    console.say(f"wrote {copied.path}; next: srkd compress --recipe {path} --out RUN")


@verb("validate")
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
def validate(console: Console, *, files: tuple[str, ...]) -> None:
    """Check recipes, a line a mistake: file, line, key, value, what was expected. Exit 1 if there is one."""
    from recipes.config.listing import validate_recipe

    found = [validate_recipe(file) for file in files]
    if console.wants_json:
        console.emit("recipes", {"files": found})
    for one in () if console.wants_json else found:
        if one.valid:
            console.say(f"{one.file}: valid")
        for problem in one.problems:
            console.result(str(problem))
    if not all(one.valid for one in found):
        raise click.exceptions.Exit(1)


for _action in (ls, show, cp, validate):
    command.add_command(_action)
