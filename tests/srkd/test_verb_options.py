"""Each option of a verb is declared once: the command line and the Python function have the same."""

from __future__ import annotations

import dataclasses

import click
import pytest

import srkd
from compressor.inference.tiling import UNBOUNDED_OVERLAP
from export.profile.settings import DEFAULT_SIZE, ProfileSettings
from srkd.cli.main import VERBS, cli
from srkd.cli.verb import VerbCommand
from srkd.options import compress as compress_options
from srkd.options import verbs as verb_options
from srkd.options.option import declarations, groups_of

CALLBACKS = ["progress", "announce"]
CONSOLE = {"as_json", "as_csv", "as_latex", "verbose", "quiet", "help"}

COMMAND_LINE_ONLY = {
    "compress": {"accept_changed_code", "dry_run", "resume", "spec"},
    "export": {"every_format"},
    "evaluate": {"per_image"},
}
"""Options that only the command line has, by verb."""

VERBS_WITH_OPTIONS = [name for name in VERBS if name not in ("recipes", "doctor", "hosts")]


def command_of(verb: str) -> VerbCommand:
    return cli.get_command(click.Context(cli), verb)


def test_the_command_line_has_the_declared_options_and_no_others() -> None:
    for verb in VERBS_WITH_OPTIONS:
        command = command_of(verb)
        options = command.options
        others = CONSOLE | COMMAND_LINE_ONLY.get(verb, set())
        parameters = [parameter for parameter in command.params if parameter.name not in others]
        names = [declaration.name for declaration in declarations(options)]
        assert list(dict.fromkeys(parameter.name for parameter in parameters)) == names
        fields = {field.name for kind in (options, *groups_of(options).values()) for field in dataclasses.fields(kind)}
        assert fields - set(groups_of(options)) | set(names) == {*names, *CALLBACKS}
        flags = [flag for parameter in command.params for flag in parameter.opts]
        assert len(flags) == len(set(flags))


def test_a_misspelt_keyword_is_refused_when_called_and_when_type_checked() -> None:
    # mypy reports such a comment if it is not needed.
    with pytest.raises(TypeError, match="outt"):
        srkd.upscale("student.onnx", "photo.png", outt="enlarged")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="unexpected keyword argument 'run'"):
        srkd.compress("edsr.pt", run="small")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="'model'"):
        srkd.export()  # type: ignore[call-arg]


def test_defaults_are_those_of_the_code_below() -> None:
    assert verb_options.UpscaleOptions("x.pt", "a.png").overlap == UNBOUNDED_OVERLAP
    options, settings = verb_options.ProfileOptions("x.pt"), ProfileSettings()
    expected = (settings.runtimes, settings.precisions, settings.batches, settings.seconds)
    assert (options.runtime, options.precision, options.batch, options.seconds) == expected
    assert options.lr_size is None and settings.lr_sizes == (DEFAULT_SIZE,)


def test_help_reads_plainly() -> None:
    for command in map(command_of, VERBS_WITH_OPTIONS):
        assert str(command.help).splitlines()[0].endswith(".")
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                text = str(parameter.help)
                assert text.endswith((".", "?")), text
                assert not {"told", "given", "wanted", "asked", "none's", "whatever"} & set(text.lower().split()), text


def test_the_typed_keywords_are_those_of_the_groups() -> None:
    for keywords, options in (
        (compress_options.CompressKeywords, compress_options.CompressOptions),
        (compress_options.PlanKeywords, compress_options.PlanOptions),
    ):
        flat = {row.name: (row.field.annotation, row.default, row.help) for row in declarations(keywords)}
        nested = {row.name: (row.field.annotation, row.default, row.help) for row in declarations(options)}
        assert flat == nested and len(flat) == len(declarations(keywords)) == len(declarations(options))
