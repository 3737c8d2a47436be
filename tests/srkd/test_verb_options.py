"""Each option of a verb is declared once: the command line and the Python function have the same."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, get_type_hints

import click
import pytest

import srkd
from compressor.base.errors import UsageError
from compressor.inference.tiling import UNBOUNDED_OVERLAP
from export.profile.models import Settings
from srkd import verb_options
from srkd.cli import VERBS, cli
from srkd.options import Options, declarations

CALLBACKS = ["progress", "announce"]
CONSOLE = {"as_json", "verbose", "quiet", "help"}

OPTIONS: dict[str, tuple[type[Options], set[str]]] = {
    "export": (verb_options.ExportOptions, {"every_format"}),
    "profile": (verb_options.ProfileOptions, set()),
    "evaluate": (verb_options.EvaluateOptions, {"explain", "per_image"}),
    "upscale": (verb_options.UpscaleOptions, set()),
    "inspect": (verb_options.InspectOptions, set()),
    "convert": (verb_options.ConvertOptions, set()),
    "demo": (verb_options.DemoOptions, set()),
    "doctor": (verb_options.DoctorOptions, set()),
    "recipes show": (verb_options.ShowRecipeOptions, set()),
    "recipes cp": (verb_options.CopyRecipeOptions, set()),
    "recipes validate": (verb_options.ValidateRecipesOptions, set()),
}
"""Verb → its options, and the names of those that the command line alone has."""


def command_of(verb: str) -> click.Command:
    name, _, action = verb.partition(" ")
    command = cli.get_command(click.Context(cli), name)
    if action:
        assert isinstance(command, click.Group)
        command = command.commands[action]
    assert command is not None
    return command


def test_every_verb_is_in_the_table() -> None:
    assert {verb.partition(" ")[0] for verb in OPTIONS} | {"compress"} == set(VERBS)


@pytest.mark.parametrize("verb", OPTIONS)
def test_the_command_line_has_the_declared_options_and_no_others(verb: str) -> None:
    options, command_line_only = OPTIONS[verb]
    parameters = [p for p in command_of(verb).params if p.name not in CONSOLE | command_line_only]
    names = [declaration.name for declaration in declarations(options)]
    assert list(dict.fromkeys(parameter.name for parameter in parameters)) == names
    assert {field.name for field in dataclasses.fields(options)} == {*names, *CALLBACKS}
    flags = [flag for parameter in command_of(verb).params for flag in parameter.opts]
    assert len(flags) == len(set(flags))
    for declaration in declarations(options):
        if declaration.default is not dataclasses.MISSING:
            assert not any(parameter.required for parameter in parameters if parameter.name == declaration.name)


@pytest.mark.parametrize("name", ["export", "profile", "evaluate", "upscale"])
def test_the_python_function_has_the_declared_options_and_no_others(name: str) -> None:
    function: Callable[..., Any] = getattr(srkd, name)
    options, _ = OPTIONS[name]
    parameters = inspect.signature(function).parameters
    assert list(parameters) == [*(declaration.name for declaration in declarations(options)), *CALLBACKS]
    hints = get_type_hints(options)
    for declaration in declarations(options):
        parameter = parameters[declaration.name]
        assert parameter.annotation == hints[declaration.name]
        expected = parameter.empty if declaration.default is dataclasses.MISSING else declaration.default
        assert parameter.default == expected
        is_keyword = parameter.kind is parameter.KEYWORD_ONLY
        assert is_keyword != declaration.option.argument
        assert f"{declaration.name}: " in (function.__doc__ or "")
    assert (function.__name__, function.__module__) == (name, "srkd.api")


def test_inspect_takes_arch_options_as_keywords_and_all_others_as_declared() -> None:
    parameters = inspect.signature(srkd.inspect).parameters
    for declaration in declarations(verb_options.InspectOptions):
        parameter = parameters[declaration.name]
        if declaration.name == "arch_options":
            assert parameter.kind is parameter.VAR_KEYWORD
        elif declaration.default is not dataclasses.MISSING:
            assert parameter.default == declaration.default
    assert len(parameters) == len(declarations(verb_options.InspectOptions))


def test_a_misspelt_keyword_is_refused_when_called_and_when_type_checked() -> None:
    # mypy fails where such a comment is not needed.
    with pytest.raises(TypeError, match="outt"):
        srkd.upscale("student.onnx", "photo.png", outt="enlarged")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="model"):
        srkd.export()  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("verb", "name", "value", "words"),
    [
        ("export", "scale", 9, ["x.pt", "--scale", "9"]),
        ("export", "io", "int8", ["x.pt", "--io", "int8"]),
        ("export", "static", "0x5", ["x.pt", "--static", "0x5"]),
        ("profile", "batch", 0, ["x.pt", "--batch", "0"]),
        ("profile", "seconds", 0.01, ["x.pt", "--seconds", "0.01"]),
        ("profile", "runtime", "onnx", ["x.pt", "--runtime", "onnx"]),
        ("evaluate", "device", "tpu", ["x.pt", "--device", "tpu"]),
        ("evaluate", "border", -1, ["x.pt", "--border", "-1"]),
        ("upscale", "threads", 0, ["x.pt", "a.png", "--threads", "0"]),
        ("upscale", "runtime", "onnx", ["x.pt", "a.png", "--runtime", "onnx"]),
    ],
)
def test_python_and_the_command_line_refuse_alike(verb: str, name: str, value: object, words: list[str]) -> None:
    flag = f"--{name.replace('_', '-')}"
    positional = words[: words.index(flag)]
    with pytest.raises(UsageError) as from_python:
        getattr(srkd, verb)(*positional, **{name: value})
    with pytest.raises(click.BadParameter) as from_command:
        command_of(verb).make_context(verb, words)
    assert str(from_python.value).startswith(f"{flag}: ")
    for message in (str(from_python.value), from_command.value.format_message()):
        assert flag in message and str(value) in message


def test_defaults_are_those_of_the_code_below() -> None:
    assert verb_options.UpscaleOptions("x.pt", "a.png").overlap == UNBOUNDED_OVERLAP
    options, settings = verb_options.ProfileOptions("x.pt"), Settings()
    assert (options.runtime, options.lr_size, options.seconds) == (
        settings.runtimes,
        settings.lr_sizes,
        settings.seconds,
    )


@pytest.mark.parametrize("verb", [*OPTIONS, "recipes ls", "compress"])
def test_help_reads_plainly(verb: str) -> None:
    command = command_of(verb)
    first_line = str(command.help).splitlines()[0]
    assert first_line.endswith(".")
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            text = str(parameter.help)
            assert text.endswith((".", "?")), text
            assert not {"told", "given", "wanted", "asked", "none's", "whatever"} & set(text.lower().split()), text
