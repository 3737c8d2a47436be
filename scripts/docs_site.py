"""The hook of mkdocs.yml: the menu is docs/README.md, and what is generated is added to the pages.

- The first page is the repository's README.md; docs/README.md is the page `pages.md`.
- Links remain as on a code host: relative paths to files of the repository. A Markdown file outside docs/ becomes a
  page under `project/`, a source file a page with its text, a result (docs/results/NAME.json) a page with its tables.
- A line `[result: NAME](...)` becomes a table (benchmarks/pages.py), `<!-- rendered: NAME -->` what is made from the
  code (rendered.py).
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from benchmarks.evidence import ROOT, Result, results_folder
from benchmarks.pages import with_results
from scripts.rendered import with_parts

DOCS = PurePosixPath("docs")
RESULTS = DOCS / "results"
PROJECT = PurePosixPath("project")
PLACES = {PurePosixPath("README.md"): PurePosixPath("index.md"), DOCS / "README.md": PurePosixPath("pages.md")}
"""Pages that have another place than their folder's."""

STYLE = ".md-typeset td:first-child code { white-space: nowrap }\n"
"""Names of options stay on one line."""
LINK = re.compile(r"""(\]\(|<img src=")([^)"\s#]*)(#[^)\s]*)?(\)|")""")
CODE = re.compile(r"^```.*?^```$|`[^`\n]*`|^ {4}[^\n]*$", re.MULTILINE | re.DOTALL)


def anchor_of(heading: str, separator: str = "-") -> str:
    """Return the anchor that code hosts generate for a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", separator)


def menu(index: str) -> list[dict[str, Any]]:
    """Return the menu: each heading of the index with the pages linked in the first column of its tables."""
    entries: list[dict[str, Any]] = [{"Overview": "index.md"}, {"All pages": "pages.md"}]
    for section in re.split(r"^## ", index, flags=re.MULTILINE)[1:]:
        title, _, body = section.partition("\n")
        links = [
            (text, link)
            for row in re.findall(r"^\| (\[.*?) \|", body, re.MULTILINE)
            for text, link in re.findall(r"\[([^\]]+)\]\(([^)#]+)\)", row)
        ]
        entries.append({title: [{text: str(place_of(repository_path(DOCS, link)))} for text, link in links]})
    return entries


def with_all_methods(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the menu with the pages of docs/methods that the index does not list, at the end of its Methods."""
    (methods,) = (section["Methods"] for section in entries if "Methods" in section)
    listed = {page for entry in methods for page in entry.values()}
    for path in sorted((ROOT / DOCS / "methods").glob("*.md")):
        if (page := f"methods/{path.name}") not in listed:
            title = path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
            methods.append({title: page})
    return entries


def repository_path(folder: PurePosixPath, link: str) -> PurePosixPath:
    """Return the target of a link in a file of this folder, relative to the root of the repository."""
    return PurePosixPath(posixpath.normpath(folder / link))


def place_of(path: PurePosixPath) -> PurePosixPath:
    """Return the site's path of a file's page."""
    if path in PLACES:
        return PLACES[path]
    if path.parent == RESULTS and path.suffix == ".json":
        path = path.with_suffix(".md")
    if path.is_relative_to(DOCS):
        return path.relative_to(DOCS)
    page = PROJECT / path
    return page if path.suffix == ".md" else page.with_name(f"{page.name}.md")


def origin_of(place: PurePosixPath) -> PurePosixPath:
    """Return the source file of a page, if it is a Markdown file."""
    for path, its_place in PLACES.items():
        if place == its_place:
            return path
    return place.relative_to(PROJECT) if place.is_relative_to(PROJECT) else DOCS / place


def links_of(text: str, folder: PurePosixPath) -> Iterator[PurePosixPath]:
    """Yield the files that a page links to."""
    for _, link, _, _ in LINK.findall(CODE.sub("", text)):
        if link and "://" not in link and not link.startswith("mailto:"):
            yield repository_path(folder, link)


def outside() -> dict[PurePosixPath, str]:
    """Return the pages of files outside docs/ that are linked, directly or through each other."""
    pages: dict[PurePosixPath, str] = {}
    pending = [PurePosixPath(path.relative_to(ROOT).as_posix()) for path in sorted((ROOT / "docs").rglob("*.md"))]
    while pending:
        path = pending.pop()
        text = (ROOT / path).read_text(encoding="utf-8")
        if not path.is_relative_to(DOCS):
            pages[path] = text
        if path.suffix != ".md":
            language = {".py": "python", ".toml": "toml", ".yaml": "yaml"}.get(path.suffix, "text")
            pages[path] = f"# {path}\n\n~~~~{language}\n{text}~~~~\n"
            continue
        pending += [
            target
            for target in links_of(text, path.parent)
            if not target.is_relative_to(DOCS) and target not in pages and (ROOT / target).is_file()
        ]
    return pages


def moved(text: str, place: PurePosixPath) -> str:
    """Return a page of the site with its links changed to the site's pages."""
    origin = origin_of(place)

    def move(match: re.Match[str]) -> str:
        start, link, anchor, end = match.groups()
        target = repository_path(origin.parent, link) if link and "://" not in link else None
        if target is None or not (ROOT / target).is_file():
            return match.group()
        return f"{start}{posixpath.relpath(place_of(target), place.parent)}{anchor or ''}{end}"

    parts, last = [], 0
    for code in CODE.finditer(text):
        parts += [LINK.sub(move, text[last : code.start()]), code.group()]
        last = code.end()
    return "".join([*parts, LINK.sub(move, text[last:])])


def with_plain_bars(text: str) -> str:
    """Return a page with plain bars in the code of its tables: code hosts want a backslash, which MkDocs would show."""

    def plain(row: re.Match[str]) -> str:
        return re.sub(r"`[^`]*`", lambda code: code.group().replace(r"\|", "|"), row.group())

    return re.sub(r"^\|.*\|$", plain, text, flags=re.MULTILINE)


# MkDocs calls these by name.


def on_config(config: Any) -> Any:
    config.nav = with_all_methods(menu((ROOT / "docs" / "README.md").read_text(encoding="utf-8")))
    return config


def on_files(files: Any, config: Any) -> Any:
    from mkdocs.structure.files import File, InclusionLevel

    pages = {str(place_of(path)): text for path, text in outside().items()}
    index = files.get_file_from_path("README.md")
    files.remove(index)
    pages[str(PLACES[DOCS / "README.md"])] = index.content_string
    for file in results_folder().glob("*.json"):
        pages[str(place_of(RESULTS / file.name))] = "\n\n".join(result.page() for result in Result.read_all(file))
    for place, text in pages.items():
        page = File.generated(config, place, content=text)
        page.inclusion = InclusionLevel.NOT_IN_NAV
        files.append(page)
    files.append(File.generated(config, "site.css", content=STYLE))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    place = PurePosixPath(page.file.src_uri)
    text = with_results(with_parts(markdown, origin_of(place).parent), results_folder())
    return with_plain_bars(moved(text, place))
