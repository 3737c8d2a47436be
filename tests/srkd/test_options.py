"""One declaration per option gives the command line, the Python function, the checks and run.json."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY
from pathlib import Path
from typing import Annotated, Any, Literal

import click
import pytest
from click.testing import CliRunner
from pydantic import Field

from compressor.base.context import Context
from compressor.base.errors import SrkdError, UsageError
from srkd.cli.verb import verb
from srkd.options.function import public
from srkd.options.option import Group, Option, Options, declarations, from_json, options
from srkd.options.values import SETTING, SIZES, TEXTS
from srkd.terminal.console import Console


@options
class FrameGroup(Group):
    _: KW_ONLY
    frame: bool = True
    """With a frame."""
    gilt: Annotated[float | None, Field(ge=0), Option("Grams of gold.", rare=True)] = None


@options
class PictureFields(Options):
    model: Annotated[str | Path, Option("File to paint.", argument=True)]
    _: KW_ONLY
    layers: Annotated[int | None, Field(ge=1, le=8), Option(unset="as many as fit")] = None
    """How many
    layers."""
    ratio: Annotated[float, Field(gt=0, le=1), Option("Share of it.")] = 0.5
    colour: Annotated[Literal["red", "blue"], Option("Its colour.")] = "red"
    words: Annotated[Sequence[str], TEXTS, Option("Words on it.", flags=("--word",))] = ()
    extras: Annotated[Mapping[str, Any] | None, SETTING, Option("Whatever else.", flags=("--extra",))] = None
    sizes: Annotated[Sequence[tuple[int, int]], SIZES, Option("Sizes.", in_json=False)] = ((2, 2),)
    formats: Annotated[
        Sequence[str], TEXTS, Option("Formats.", flag_per_value={"gif": "A GIF.", "tiff": "A TIFF."})
    ] = ()
    dry: Annotated[bool, Option("Without water.")] = False
    out: Annotated[Path | str | None, Option("Where it goes.", flags=("-o", "--out"), in_json=False)] = None


@options
class PaintOptions(PictureFields):
    _: KW_ONLY
    border: FrameGroup = FrameGroup()


@options
class PaintKeywords(FrameGroup, PictureFields):
    """All of it side by side."""


def run_paint(options: PaintOptions, context: Context) -> PaintOptions:
    """Paint a picture."""
    context.note(f"painting {options.model}")
    return options


paint = public(PaintKeywords, PaintOptions, run_paint, "paint")


PAINTED: list[PaintOptions] = []


@verb("paint", PaintOptions)
@click.option("--twice", is_flag=True)
def command(console: Console, options: PaintOptions, twice: bool) -> None:
    """Paint."""
    PAINTED.append(dataclasses.replace(options, layers=2) if twice else options)


def painted(*words: str) -> PaintOptions:
    result = CliRunner().invoke(command, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return PAINTED.pop()


def test_python_and_the_command_line_give_the_same_options() -> None:
    words = (
        "x.pt --layers 3 --ratio 1 --colour blue --word a --word b --extra k=0.5 --sizes 3x4 --sizes 5x6 --gif --tiff"
    )
    several = {"words": ["a", "b"], "extras": {"k": 0.5}, "sizes": ((3, 4), (5, 6)), "formats": ("gif", "tiff")}
    python = paint("x.pt", layers=3, ratio=1, colour="blue", dry=True, frame=False, out="there", **several)
    by_command = painted(*words.split(), "--dry", "--no-frame", "-o", "there")
    assert [str(v) for v in by_command.to_json().values()] == [str(v) for v in python.to_json().values()]
    assert str(by_command.out) == python.out and by_command.sizes == python.sizes and python.words == ("a", "b")


def test_defaults_are_those_of_the_class_and_other_click_options_are_passed_by_name() -> None:
    assert painted("x.pt") == paint("x.pt")
    assert painted("x.pt", "--twice").layers == 2
    assert painted("x.pt", "--no-frame").border == paint("x.pt", frame=False).border == FrameGroup(frame=False)
    assert painted("x.pt", "--gilt", "2").border.gilt == paint("x.pt", gilt=2).border.gilt == 2.0
    assert paint("x.pt", words="alone").words == ("alone",)


def test_help_shows_types_ranges_and_defaults() -> None:
    text = " ".join(CliRunner().invoke(command, ["--help"]).output.split())
    for words in (
        "How many layers. [default: as many as fit; x>=1, x<=8]",
        "--frame / --no-frame With a frame.",
        "Rare options, explained by help(srkd.paint) in Python: --gilt",
        "[default: 0.5; x>0, x<=1]",
        "[red|blue]",
        "-o, --out",
        "--extra KEY=VALUE",
        "--sizes WxH[,WxH]",
        "--gif A GIF.",
    ):
        assert words in text, words


def test_the_python_function_shows_its_signature_and_its_help() -> None:
    signature = inspect.signature(paint)
    names = [row.name for row in declarations(PaintOptions)]
    assert "frame" in names and list(signature.parameters) == [*names, "progress", "announce"]
    assert signature.parameters["layers"].annotation == (int | None) and signature.return_annotation is PaintOptions
    assert signature.parameters["model"].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    assert paint.__doc__ is not None and paint.__doc__.startswith("Paint a picture.\n\nArgs:")
    assert "    layers: How many layers. None: as many as fit." in paint.__doc__ and "announce: " in paint.__doc__
    assert paint.__name__ == "paint" and paint.__module__ == __name__


def test_callbacks_become_the_context() -> None:
    lines: list[str] = []
    paint("x.pt", announce=lines.append)
    assert lines == ["painting x.pt"]


@pytest.mark.parametrize(
    ("value", "words", "parts"),
    [
        ({"layers": 9}, ["--layers", "9"], ("--layers", "9", "less than or equal to 8")),
        ({"layers": 2.5}, ["--layers", "2.5"], ("--layers", "2.5", "integer")),
        ({"colour": "green"}, ["--colour", "green"], ("--colour", "'green'", "red", "blue")),
        ({"sizes": "3"}, ["--sizes", "3"], ("--sizes", "'3'", "320x180")),
        ({"gilt": -1}, ["--gilt", "-1"], ("--gilt", "-1", "greater than or equal to 0")),
    ],
)
def test_wrong_values_are_refused_alike(value: dict[str, Any], words: list[str], parts: tuple[str, ...]) -> None:
    with pytest.raises(UsageError) as caught:
        paint("x.pt", **value)
    result = CliRunner().invoke(command, ["x.pt", *words])
    assert caught.value.exit_code == result.exit_code == 2
    for part in parts:
        assert part in str(caught.value) and part in result.output


@pytest.mark.parametrize(
    "value", [{"layers": True}, {"dry": 1}, {"model": 3}, {"words": [1]}, {"extras": "k"}, {"sizes": None}]
)
def test_values_of_another_type_are_refused(value: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=rf"(?i:{next(iter(value))[:4]}).*: .+ (should be|is not)"):
        PaintOptions.of(**{"model": "x.pt", **value})


def test_json_reads_back_to_equal_options() -> None:
    options = paint("x.pt", layers=2, words=("a",), extras={"k": 1}, out="there")
    stored = options.to_json()
    assert not {"out", "sizes"} & set(stored) and "progress" not in stored
    assert from_json(PaintOptions, stored, "--resume there", out="there") == options
    for other in ({**stored, "new": 1}, {key: stored[key] for key in stored if key != "layers"}):
        with pytest.raises(SrkdError, match=r"--resume there: .*another version of srkd.*(new|layers)"):
            from_json(PaintOptions, other, "--resume there")
