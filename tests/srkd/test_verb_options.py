"""Each option of a verb is declared once: the command line and the Python function have the same."""

from __future__ import annotations

import dataclasses
import inspect

import click
import pytest
from click.testing import CliRunner

import srkd
from compressor.base.errors import UsageError
from compressor.inference.tiling import UNBOUNDED_OVERLAP
from export.profile.settings import DEFAULT_SIZE, ProfileSettings
from srkd.cli.main import VERBS, cli
from srkd.cli.verb import VerbCommand
from srkd.options import compress as compress_options
from srkd.options import verbs as verb_options
from srkd.options.option import Options, declarations, groups_of

CALLBACKS = ["progress", "announce"]
CONSOLE = {"as_json", "as_csv", "as_latex", "verbose", "quiet", "help"}

COMMAND_LINE_ONLY = {
    "compress": {"accept_changed_code", "dry_run", "resume", "spec"},
    "export": {"every_format"},
    "evaluate": {"per_image"},
}
"""Options that only the command line has, by verb."""

WRONG = {"width": 0, "depth": 1.5, "steps": 0, "seeds": 0, "scale": 9, "init": "copied", "device": "tpu"}
"""Values that options of compress do not take."""

VERBS_WITH_OPTIONS = [name for name in VERBS if name not in ("recipes", "doctor")]
VERBS_WITH_OPTIONS += [f"recipes {action}" for action in ("show", "cp", "validate")]


def command_of(verb: str) -> VerbCommand:
    name, _, action = verb.partition(" ")
    command = cli.get_command(click.Context(cli), name)
    if action:
        assert isinstance(command, click.Group)
        command = command.commands[action]
    assert isinstance(command, VerbCommand)
    return command


def options_of(verb: str) -> type[Options]:
    options = command_of(verb).options
    assert options is not None
    return options


@pytest.mark.parametrize("verb", VERBS_WITH_OPTIONS)
def test_the_command_line_has_the_declared_options_and_no_others(verb: str) -> None:
    options = options_of(verb)
    others = CONSOLE | COMMAND_LINE_ONLY.get(verb, set())
    parameters = [parameter for parameter in command_of(verb).params if parameter.name not in others]
    names = [declaration.name for declaration in declarations(options)]
    assert list(dict.fromkeys(parameter.name for parameter in parameters)) == names
    fields = {field.name for kind in (options, *groups_of(options).values()) for field in dataclasses.fields(kind)}
    assert fields - set(groups_of(options)) | set(names) == {*names, *CALLBACKS}
    flags = [flag for parameter in command_of(verb).params for flag in parameter.opts]
    assert len(flags) == len(set(flags))


def test_inspect_takes_arch_options_as_keywords_and_all_others_as_declared() -> None:
    parameters = inspect.signature(srkd.inspect).parameters
    for declaration in declarations(verb_options.InspectOptions):
        parameter = parameters[declaration.name]
        if declaration.name == "arch_options":
            assert parameter.kind is parameter.VAR_KEYWORD
        elif not declaration.is_required:
            assert parameter.default == declaration.default
    assert len(parameters) == len(declarations(verb_options.InspectOptions))


def test_a_misspelt_keyword_is_refused_when_called_and_when_type_checked() -> None:
    # mypy reports such a comment if it is not needed.
    with pytest.raises(TypeError, match="outt"):
        srkd.upscale("student.onnx", "photo.png", outt="enlarged")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="unexpected keyword argument 'run'"):
        srkd.compress("edsr.pt", run="small")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="'model'"):
        srkd.export()  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("verb", "name", "value", "words"),
    [
        *(("compress", name, value, [f"--{name}", str(value)]) for name, value in WRONG.items()),
        ("export", "scale", 9, ["x.pt", "--scale", "9"]),
        ("profile", "runtime", "onnx", ["x.pt", "--runtime", "onnx"]),
        ("evaluate", "device", "tpu", ["x.pt", "--device", "tpu"]),
    ],
)
def test_python_and_the_command_line_refuse_alike(verb: str, name: str, value: object, words: list[str]) -> None:
    flag = f"--{name.replace('_', '-')}"
    positional = words[: words.index(flag)]
    with pytest.raises(UsageError) as from_python:
        getattr(srkd, verb)(*positional, **{name: value})
    result = CliRunner().invoke(command_of(verb), words)
    assert result.exit_code == 2 and str(from_python.value).startswith(f"{flag}: ")
    for message in (str(from_python.value), result.stderr):
        assert flag in message and str(value) in message


def test_defaults_are_those_of_the_code_below() -> None:
    assert verb_options.UpscaleOptions("x.pt", "a.png").overlap == UNBOUNDED_OVERLAP
    options, settings = verb_options.ProfileOptions("x.pt"), ProfileSettings()
    assert (options.runtime, options.precision, options.batch, options.seconds) == (
        settings.runtimes,
        settings.precisions,
        settings.batches,
        settings.seconds,
    )
    assert options.lr_size is None and settings.lr_sizes == (DEFAULT_SIZE,)


@pytest.mark.parametrize("verb", [*VERBS_WITH_OPTIONS, "recipes ls", "compress"])
def test_help_reads_plainly(verb: str) -> None:
    command = command_of(verb)
    first_line = str(command.help).splitlines()[0]
    assert first_line.endswith(".")
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            text = str(parameter.help)
            assert text.endswith((".", "?")), text
            assert not {"told", "given", "wanted", "asked", "none's", "whatever"} & set(text.lower().split()), text


@pytest.mark.parametrize(
    ("keywords", "options"),
    [
        (compress_options.CompressKeywords, compress_options.CompressOptions),
        (compress_options.PlanKeywords, compress_options.PlanOptions),
    ],
)
def test_the_typed_keywords_are_those_of_the_groups(keywords: type, options: type) -> None:
    flat = {row.name: (row.field.annotation, row.default) for row in declarations(keywords)}
    nested = {row.name: (row.field.annotation, row.default) for row in declarations(options)}
    assert flat == nested and len(flat) == len(declarations(keywords)) == len(declarations(options))
