"""`srkd recipes`: list, show, copy and check recipes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from srkd.console import Console
from srkd.verb import verb
from srkd.verb_options import CopyRecipeOptions, ShowRecipeOptions, ValidateRecipesOptions

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
    """List, show, copy and check recipes.

    Recipes of installed packages are included.
    """


@verb("ls")
def ls(console: Console) -> None:
    """List every recipe: its methods, what it needs of a teacher, its length."""
    from recipes.config.listing import list_recipes

    listing = list_recipes()
    if console.wants_json:
        console.emit("recipes", listing)
        return
    headings = ["recipe", "title", "methods", "needs of the teacher", "steps"]
    if any(recipe.package != "srkd" for recipe in listing.recipes):
        headings.append("package")
    console.table(headings, [_row(recipe)[: len(headings)] for recipe in listing.recipes])
    for note in listing.notes:
        console.warn(note)


def _row(recipe: RecipeRow) -> tuple[str, ...]:
    methods = ", ".join(recipe.methods)
    return (recipe.name, recipe.title, methods, TEACHERS[recipe.needs], f"{recipe.steps:,}", recipe.package)


@verb("show", ShowRecipeOptions)
def show(console: Console, options: ShowRecipeOptions) -> None:
    """Print the YAML of a recipe, with the sources of its method and numbers."""
    if options.schema == (options.name is not None):
        raise click.UsageError("give the name of a recipe, or --schema")
    if options.name is None:
        _show_schema(console)
        return
    from recipes.config.listing import show_recipe

    recipe = show_recipe(options.name)
    if console.wants_json:
        console.emit("recipes", recipe)
    else:
        console.result(recipe.text.rstrip("\n"))


def _show_schema(console: Console) -> None:
    from recipes.catalogue import catalogue
    from recipes.config.schema import preset_schema, schema_text

    methods = catalogue().methods
    if console.wants_json:
        console.emit("recipes", {"json_schema": preset_schema(methods)})
    else:
        console.result(schema_text(methods).rstrip("\n"))


@verb("cp", CopyRecipeOptions)
def cp(console: Console, options: CopyRecipeOptions) -> None:
    """Copy the recipe NAME to FILE, a .yaml file to change; an existing file is not overwritten."""
    from recipes.config.listing import copy_recipe

    copied = copy_recipe(options.name, Path(options.file))
    if console.wants_json:
        console.emit("recipes", copied)
        return
    path = copied.path if copied.path.is_absolute() or copied.path.parent.parts else f"./{copied.path}"
    console.say(f"wrote {copied.path}; next: srkd compress --recipe {path} --out RUN")


@verb("validate", ValidateRecipesOptions)
def validate(console: Console, options: ValidateRecipesOptions) -> None:
    """Check recipes. Each mistake is one line: file, line, key, value, what was expected. Exit 1 if there is one."""
    from recipes.config.listing import validate_recipe

    results = [validate_recipe(file) for file in options.files]
    if console.wants_json:
        console.emit("recipes", {"files": results})
    else:
        for result in results:
            if result.valid:
                console.say(f"{result.file}: valid")
            for problem in result.problems:
                console.result(str(problem))
    if not all(result.valid for result in results):
        raise click.exceptions.Exit(1)


for _action in (ls, show, cp, validate):
    command.add_command(_action)
