"""The parts of pages that are made from the code when the site is built, and so are not committed.

A line `<!-- rendered: NAME -->` of a page stands for a part. A code host shows the page without it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath

from benchmarks.evidence import results_folder
from benchmarks.pages import index
from scripts.design_parts import combinations, imports, members_table, methods
from scripts.recipe_keys import keys_of_recipes

PARTS: Mapping[str, Callable[[PurePosixPath], str]] = {
    "imports of packages": lambda folder: _picture(imports().draw()),
    "what methods ask": lambda folder: _picture(methods().draw()),
    "optional members": lambda folder: members_table(),
    "methods together": lambda folder: combinations(),
    "keys of a recipe": keys_of_recipes,
    "commands and Python": lambda folder: _reference(),
    "all questions": lambda folder: index(results_folder()),
}
"""The parts by name; each is given the folder of its page, for links."""
MARK = re.compile(r"^<!-- rendered: (.+) -->$", re.MULTILINE)


def with_parts(page: str, folder: PurePosixPath) -> str:
    """Return a page with its parts; `folder` is the page's, relative to the root of the repository."""
    return MARK.sub(lambda mark: PARTS[mark[1]](folder), page)


def _reference() -> str:
    from scripts.reference import reference  # griffe is not in every environment

    return reference()


def _picture(svg: str) -> str:
    return f"<div>\n{svg}</div>"
