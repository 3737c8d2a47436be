"""`srkd recipes`: list, show, copy and check recipes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from srkd.cli.verb import format_examples, verb
from srkd.terminal.console import Console
from srkd.terminal.tables import Table

if TYPE_CHECKING:
    from recipes.config.listing import RecipeProblems, RecipeTable

TEACHERS = {"nothing": "no teacher", "outputs": "outputs", "network": "weights or features"}


@click.group(
    "recipes",
    epilog=format_examples(
        "srkd recipes ls",
        "srkd recipes show logits",
        "srkd recipes cp logits my.yaml",
        "srkd recipes validate my.yaml",
        "srkd compress --recipe ./my.yaml --out runs/mine",
    ),
)
def command() -> None:
    """List, show, copy and check recipes.

    Recipes of installed packages are included.
    """


@verb("ls", csv=True)
def ls(console: Console) -> None:
    """List every recipe: its methods, what it needs of a teacher, its length."""
    from recipes.config.listing import list_recipes

    console.report("recipes", list_recipes(), show_list, rows=lambda listing: listing.recipes)


def show_list(console: Console, listing: RecipeTable) -> None:
    headings = ["recipe", "title", "methods", "needs of the teacher", "steps"]
    if any(recipe.package != "srkd" for recipe in listing.recipes):
        headings.append("package")
    rows = []
    for row in listing.recipes:
        cells = (row.name, row.title, ", ".join(row.methods), TEACHERS[row.needs], f"{row.steps:,}", row.package)
        rows.append(cells[: len(headings)])
    console.table(Table(headings, rows))
    for note in listing.notes:
        console.warn(note)


@verb("show")
@click.argument("recipe", required=False)
@click.option("--schema", is_flag=True, help="Print the JSON schema of recipes, those of installed packages included.")
def show(console: Console, recipe: str | None, *, schema: bool) -> None:
    """Print the YAML of a recipe, with the sources of its method and numbers."""
    if schema == (recipe is not None):
        raise click.UsageError("give the name of a recipe, or --schema")
    from recipes.catalogue import METHODS, RECIPES
    from recipes.config.reading import recipe_label, recipe_text

    if recipe is not None:
        name, text = recipe_label(recipe), recipe_text(recipe)
        package = RECIPES[name].package if recipe in RECIPES else None
        content: dict[str, object] = {"name": name, "package": package, "text": text}
    else:
        from recipes.config.schema import preset_schema, schema_text

        text = schema_text(METHODS)
        content = {"json_schema": preset_schema(METHODS)}
    console.report("recipes", content, lambda console, _: console.result(text.rstrip("\n")))


@verb("cp")
@click.argument("recipe")
@click.argument("file", type=click.Path(path_type=Path))
def cp(console: Console, recipe: str, file: Path) -> None:
    """Copy RECIPE to FILE, a .yaml file to change; an existing file is not overwritten."""
    from recipes.config.listing import copy_recipe

    path = copy_recipe(recipe, file)
    given = path if path.is_absolute() or path.parent.parts else f"./{path}"
    line = f"wrote {path}; next: srkd compress --recipe {given} --out RUN"
    console.report("recipes", {"name": recipe, "path": path}, lambda console, _: console.say(line))


@verb("validate")
@click.argument("files", nargs=-1, required=True)
def validate(console: Console, files: tuple[str, ...]) -> None:
    """Check recipes. Each mistake is one line: file, line, key, value, what was expected. Exit 1 if there is one."""
    from recipes.config.listing import validate_recipe

    results = [validate_recipe(file) for file in files]
    console.report("recipes", {"files": results}, lambda console, _: show_problems(console, results))
    if not all(result.valid for result in results):
        raise click.exceptions.Exit(1)


def show_problems(console: Console, results: Sequence[RecipeProblems]) -> None:
    for result in results:
        if result.valid:
            console.say(f"{result.file}: valid")
        for problem in result.problems:
            console.result(str(problem))


for _action in (ls, show, cp, validate):
    command.add_command(_action)
