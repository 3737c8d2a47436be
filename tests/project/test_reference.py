"""The reference on the site has every option, public function and type; the site is built without a warning."""

from __future__ import annotations

import dataclasses
import html
import inspect
import os
import re
from pathlib import Path

import click
import pytest

import srkd
from export.writing.exporting import ExportReport, FileReport
from srkd.api.compress import CompressReport
from srkd.cli.main import VERBS, cli
from tests.support.commands import ROOT, python

pytestmark = pytest.mark.ci


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site as `make site` does; every warning ends the build. BUILT_SITE names one that was just built."""
    if built := os.environ.get("BUILT_SITE"):
        return ROOT / built
    pytest.importorskip("mkdocstrings")
    pytest.importorskip("mkdocs_click")
    folder = tmp_path_factory.mktemp("site")
    words = ("-m", "mkdocs", "build", "--quiet", "--site-dir", folder)
    done = python(*words, cwd=ROOT, timeout=1200, NO_MKDOCS_2_WARNING="1")
    assert (done.code, done.err) == (0, "")
    return folder


@pytest.fixture(scope="module")
def page(site: Path) -> str:
    return (site / "reference.html").read_text(encoding="utf-8")


def text_of(part: str) -> str:
    """Return HTML as text with single spaces."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", "", part)).split())


def entry(page: str, name: str) -> str:
    """Return the text below the heading of a public name or a result."""
    begins = page.index(f'id="{name}"')
    ends = re.compile(r'<h[23] id="').search(page, begins)
    return text_of(page[begins : ends.start() if ends else len(page)])


def test_every_picture_of_a_page_is_there(site: Path) -> None:
    pictures = [
        (page, source)
        for page in site.rglob("*.html")
        for source in re.findall(r'<img [^>]*src="([^"]+)"', page.read_text(encoding="utf-8"))
        if "://" not in source and not source.startswith("data:")
    ]
    missing = [(page.name, source) for page, source in pictures if not (page.parent / html.unescape(source)).is_file()]
    assert missing == [] and len(pictures) > 8
    assert {Path(source).suffix for _, source in pictures} <= {".svg", ".webp", ".png"}


def test_the_page_has_every_option_with_its_help(page: str) -> None:
    text = text_of(page)
    for verb in VERBS:
        command = cli.get_command(click.Context(cli), verb)
        for action in command.commands.values() if isinstance(command, click.Group) else [command]:
            for option in (parameter for parameter in action.params if isinstance(parameter, click.Option)):
                assert all(flag in text for flag in option.opts), (verb, option.name)
                assert " ".join((option.help or "").replace("`", "").split()) in text, (verb, option.name)


def test_every_public_function_has_its_signature_and_docstring(page: str) -> None:
    functions = [name for name in srkd.__all__ if inspect.isfunction(getattr(srkd, name))]
    assert {"compress", "load", "report"} <= set(functions)
    for name in functions:
        function, text = getattr(srkd, name), entry(page, f"srkd.{name}")
        assert inspect.cleandoc(function.__doc__).splitlines()[0].replace("`", "") in text, name
        signature = text[text.index(f"{name} (" if f"{name} (" in text else f"{name}(") :]
        for parameter in inspect.signature(function).parameters.values():
            assert re.search(rf"\b{parameter.name} ?: ", signature), (name, parameter.name)
        assert re.search(r"\) -> \w", signature), name


def test_every_public_class_has_an_entry(page: str) -> None:
    for name in srkd.__all__:
        value = getattr(srkd, name)
        if inspect.isclass(value):
            assert inspect.cleandoc(value.__doc__ or "").splitlines()[0].replace("`", "") in entry(page, f"srkd.{name}")


def test_what_functions_return_has_its_fields_and_so_have_the_parts_of_it(page: str) -> None:
    report = entry(page, path_of(CompressReport))
    assert all(f"{field.name}: " in report for field in dataclasses.fields(CompressReport))
    exported = entry(page, path_of(ExportReport))
    ((_, meaning),) = re.findall(
        r"^    (compared_on): .*\n    \"\"\"(.*)\"\"\"", inspect.getsource(ExportReport), re.MULTILINE
    )
    assert "files: tuple[FileReport, ...]" in exported and meaning in exported
    assert f'id="{path_of(FileReport)}"' in page


def path_of(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def test_results_keys_of_recipes_and_pictures_are_on_the_site(site: Path) -> None:
    measured = (site / "methods" / "results.html").read_text(encoding="utf-8")
    assert "[result:" not in measured and measured.count("<table>") > 3
    assert "schedule.milestones" in (site / "recipe-reference.html").read_text(encoding="utf-8")
    assert "<svg" in (site / "design" / "house.html").read_text(encoding="utf-8")
    results = (site / "results" / "index.html").read_text(encoding="utf-8")
    assert "tour.html" in results and "settled.html" in results
    for name in ("tour", "settled"):
        assert "<table>" in (site / "results" / f"{name}.html").read_text(encoding="utf-8")
