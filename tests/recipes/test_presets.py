"""Presets as files: all mistakes at once, settings, the schema for editors."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from typing import Any

import pytest
from jsonschema import Draft7Validator  # type: ignore[import-untyped]

from compressor.base.errors import SrkdError, UsageError
from compressor.base.yaml_errors import Problem, YamlError
from compressor.base.yaml_text import parse_value, parse_yaml
from compressor.training.method import TeacherNeeds
from recipes.catalogue import METHODS, MethodEntry, teacher_needs
from recipes.config.options import make_method, options_model
from recipes.config.reading import load_preset, read_preset
from recipes.config.schema import COMMENT, preset_schema
from recipes.methods.scratch import Scratch
from tests.support.commands import ROOT

PRESETS = ROOT / "recipes" / "presets"
CHECKER = Draft7Validator(preset_schema(METHODS))
GOOD: dict[str, Any] = {
    "title": "t",
    "source": "s",
    "methods": [{"name": "logits", "options": {"kappa": 0.5}}],
    "schedule": {"rate": 1e-3, "betas": [0.9, 0.99]},
}

WRONG = """\
title: 5
sorce: somewhere
methods:
  - name: logits
    options:
      form: C
      kappa: a lot
      kapa: 1
  - name: logit
student:
  width: yes
schedule:
  step: 5
  batch: 0
  betas: [0.9]
  decay: cosin
  rate: .inf
batch: 3
"""


def problems(text: str, *settings: str) -> list[Problem]:
    with pytest.raises(YamlError) as caught:
        read_preset(text, "my.yaml", settings)
    assert "\n" not in str(caught.value) and caught.value.exit_code == 2
    return list(caught.value.problems)


def test_every_mistake_is_reported_at_once_with_line_key_value_and_what_was_expected():
    assert [str(problem) for problem in problems(WRONG)] == [
        "my.yaml:1: title=5: expected text",
        "my.yaml:1: source: is missing",
        "my.yaml:2: sorce: unknown key, did you mean source?",
        "my.yaml:6: methods.0.options.form='C': expected 'A' or 'B'",
        "my.yaml:7: methods.0.options.kappa='a lot': expected a number",
        "my.yaml:8: methods.0.options.kapa: unknown key, did you mean kappa?",
        "my.yaml:9: methods.1.name: no method is called 'logit'; did you mean 'logits'? "
        + f"there are {', '.join(METHODS)}",
        "my.yaml:11: student.width='yes': expected a number",
        "my.yaml:13: schedule.step: unknown key, did you mean steps?",
        "my.yaml:14: schedule.batch=0: expected at least 1",
        "my.yaml:15: schedule.betas.1: is missing",
        "my.yaml:16: schedule.decay='cosin': expected 'constant', 'milestones' or 'cosine'",
        "my.yaml:17: schedule.rate=Infinity: expected a finite number",
        "my.yaml:18: batch: unknown key, did you mean schedule.batch?",
    ]


@pytest.mark.parametrize(
    "settings, message",
    [
        (["kapa=1"], "--set kapa=1: unknown key, did you mean logits.kappa?"),
        (["kappa=lots"], "--set kappa=lots: expected a number"),
        (["form=C"], "--set form=C: expected 'A' or 'B'"),
        (["schedule.rate"], "--set schedule.rate: not of the form key=value"),
        (["schedule.batches=3"], "--set schedule.batches=3: unknown key, did you mean batch?"),
        (["steps=3"], "did you mean schedule.steps?"),
        (["title.x=1"], "title is a plain value and has no key x"),
        (["methods.1.name=scratch"], "methods has entries 0 to 0, not 1"),
    ],
)
def test_wrong_settings_say_which(settings, message):
    with pytest.raises(UsageError) as caught:
        load_preset("logits", settings)
    assert message in str(caught.value) and len(caught.value.problems) == 1


def test_a_file_of_hundreds_of_mistakes_is_one_line_that_can_be_read():
    """One line is pasted many times: a method is incompatible with each of the others."""
    text = GOOD_TEXT + "  - name: logits\n" * 60
    assert len(problems(text)) == 1
    text = GOOD_TEXT + "".join(f"wrong{number}: 1\n" for number in range(300))
    with pytest.raises(YamlError, match=r"my\.yaml:5: wrong0: .*; and 280 more$") as caught:
        read_preset(text, "my.yaml")
    assert len(caught.value.problems) == 300


GOOD_TEXT = "title: t\nsource: s\nmethods:\n  - name: logits\n"


def test_mistakes_of_settings_and_of_the_file_come_together():
    lines = [str(problem) for problem in problems("title: t\nmethods: []\n", "schedule.rate=x", "nothing", "title=ok")]
    assert lines == [
        "my.yaml:1: source: is missing",
        "my.yaml:2: methods=[]: expected at least 1 entries, not 0",
        "--set nothing: not of the form key=value",
        "--set schedule.rate=x: expected a number",
    ]


def test_settings_reach_lists_options_and_whatever_the_file_leaves_open():
    settings = ["schedule.betas.1=0.999", "logits.kappa=2", "methods.0.options.form=B", "schedule.milestones=[3, 5]"]
    preset = load_preset("logits", [*settings, "schedule.ema_warmup=false", "schedule.steps=2e4", "alpha=0.25"])
    assert preset.schedule.betas == (0.9, 0.999) and preset.schedule.milestones == (3, 5)
    assert preset.schedule.ema_warmup is False and preset.schedule.steps == 20_000
    assert preset.build_methods()[0].weights == {"pixel": 0.75, "logits": 0.25}


def test_a_setting_mends_a_wrong_file_and_the_last_one_counts():
    text = (PRESETS / "logits.yaml").read_text().replace("batch: 16", "batch: none")
    assert read_preset(text, "f", ["schedule.batch=3", "schedule.batch=4"]).schedule.batch == 4


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "f: expected keys and values"),
        ("title: [\n", "f:2: not YAML"),
        ("title: a\nsource: b\ntitle: c\n", "f:3: not YAML: the key title appears twice"),
        ("title: &a x\nsource: *a\n", "f:2: not YAML: aliases"),
        ("title: !!python/name:os.system x\n", "f:1: not YAML: the tag"),
        ("title: " + "[" * 1500, "f: nested too deeply"),
        ("? [a]\n: b\n", "f:1: not YAML: a key must be a plain word"),
    ],
)
def test_a_file_that_is_not_a_preset_is_one_line(text, message):
    with pytest.raises(YamlError) as caught:
        read_preset(text, "f")
    assert str(caught.value).startswith(message)


def test_files_that_cannot_be_read_are_one_line(tmp_path):
    (tmp_path / "latin.yaml").write_bytes(b"title: \xe9\n")
    for name, message in (("none.yaml", "No such file"), ("latin.yaml", "UTF-8"), (".", "directory")):
        with pytest.raises(UsageError, match=message):
            load_preset(f"{tmp_path}/{name}")


@pytest.mark.parametrize(
    "text, value",
    [
        ("1e-4", 1e-4),
        ("2e4", 20_000),
        ("no", "no"),
        ("false", False),
        ("", None),
        ("~", None),
        ("2026-01-01", "2026-01-01"),
        ("[1, .5]", [1, 0.5]),
        ("{a: 1}", {"a": 1}),
        ("'1'", "1"),
    ],
)
def test_values_are_those_of_yaml_1_2(text, value):
    parsed = parse_value(text)
    assert parsed == value and type(parsed) is type(value)


def test_a_method_whose_entry_promises_less_than_it_needs_is_refused(monkeypatch):
    monkeypatch.setitem(METHODS.rows, "greedy", MethodEntry(f"{__name__}:Greedy", "nothing", "elsewhere"))
    with pytest.raises(SrkdError, match=r"elsewhere.*needs 'outputs'"):
        make_method("greedy", {})


@dataclass(frozen=True)
class Greedy(Scratch):
    name: str = "greedy"
    teacher_needs: TeacherNeeds = "outputs"


@pytest.mark.parametrize("name", METHODS)
def test_entries_say_what_the_methods_need(name):
    # The largest possible need: a φ of the teacher's blocks needs more of the teacher than VGG-19 does.
    most = {"phi": "teacher"} if "phi" in options_model(METHODS[name]).model_fields else {}
    assert METHODS[name].needs == teacher_needs(make_method(name, most))


@pytest.mark.parametrize("name", sorted(path.stem for path in PRESETS.glob("*.yaml")))
def test_every_preset_is_valid_fits_the_schema_and_names_no_file_of_one_machine(name):
    assert load_preset(name).build_methods()
    text = (PRESETS / f"{name}.yaml").read_text()
    assert COMMENT not in text
    CHECKER.validate(parse_yaml(text, name).values)


@pytest.mark.parametrize(
    "path, value",
    [
        (("methods", 0, "options", "kappa"), "a lot"),
        (("methods", 0, "options", "kappa"), -1),
        (("methods", 0, "options", "kappa"), True),
        (("methods", 0, "options", "form"), "C"),
        (("methods", 0, "options", "form"), "B"),
        (("methods", 0, "options", "other"), 1),
        (("methods", 0, "name"), "scratch"),
        (("methods", 0, "name"), "none"),
        (("methods",), []),
        (("title",), ""),
        (("title",), 3),
        (("student",), {"width": 0}),
        (("schedule", "clip"), None),
        (("schedule", "clip"), 0),
        (("schedule", "steps"), 2.5),
        (("schedule", "steps"), True),
        (("schedule", "betas"), [0.9]),
        (("schedule", "betas"), [0.9, 1.0]),
        (("schedule", "milestones"), [1, 2, 3]),
        (("unknown",), 1),
    ],
)
def test_the_schema_and_the_check_agree(path, value):
    values = copy.deepcopy(GOOD)
    place: Any = values
    for piece in path[:-1]:
        place = place[piece]
    place[path[-1]] = value
    try:
        read_preset(json.dumps(values), "f")
        accepted = True
    except YamlError:
        accepted = False
    assert CHECKER.is_valid(values) is accepted


def test_every_key_of_the_schema_is_explained():
    schema = preset_schema(METHODS)
    CHECKER.check_schema(schema)
    silent = [
        f"{name}.{key}"
        for name, part in {"": schema, **schema["definitions"]}.items()
        for key, value in part["properties"].items()
        if not value.get("description")
    ]
    assert silent == []
