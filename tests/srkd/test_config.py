"""The student of `compress` by --width, --depth, --student, --select and --init-from, and its notes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from compressor.base.context import Context
from compressor.base.errors import SrkdError, UsageError
from compressor.models.checkpoints.load import load_checkpoint
from compressor.models.checkpoints.save import save_network
from compressor.models.networks.base import Network, Spec
from compressor.models.networks.compact import CompactSpec
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.rcan import RCANSpec
from compressor.models.networks.registry import build
from compressor.models.networks.swinir import SwinIRSpec
from compressor.models.students.students import build_student
from compressor.teachers.teacher import Teacher
from recipes.config.preset import Preset
from recipes.config.reading import load_preset, read_preset
from srkd import compress
from srkd.cli.main import run
from srkd.options.compress import CompressOptions
from srkd.record.run_spec import StudentStart
from srkd.runs.student import FirstStudent, choose_student, first_student, is_solved_across
from tests.support.run_files import read_json

STILL = ("schedule.batch=2", "schedule.lr_patch=8", "schedule.rate=1e-30")
"""Settings with a rate that changes no weight: the written student equals the initial one."""

Choose = Callable[..., tuple[FirstStudent, list[str]]]


@pytest.fixture
def teacher() -> Teacher:
    return Teacher(build(RCANSpec(2, width=16, groups=2, depth=2, hidden=4), seed=3))


@pytest.fixture
def choose(teacher: Teacher) -> Choose:
    def choose(recipe: str = "logits", **shape: Any) -> tuple[FirstStudent, list[str]]:
        return chosen(teacher, load_preset(recipe), **shape)

    return choose


def chosen(teacher: Teacher | None, preset: Preset, **shape: Any) -> tuple[FirstStudent, list[str]]:
    """The student that these options give before its first step, and the notes."""
    notes: list[str] = []
    options = CompressOptions.of(seed=0, **shape)
    spec, start = choose_student(teacher, preset, options, notes.append)
    return first_student(spec, start, teacher, None, 0, Context(), options.student.init_from), notes


def test_select_reaches_the_student(teacher: Teacher, choose: Choose) -> None:
    start, notes = choose(width=0.5, select="l1")
    strongest = build_student(teacher.network, width=0.5, select="l1")
    leading = build_student(teacher.network, width=0.5)
    assert start.network.fingerprint() == strongest.fingerprint() != leading.fingerprint()
    assert start.start == StudentStart(init="inherit", select="l1", init_from=None, is_cut=True)
    assert notes == []


def test_a_recipe_that_also_reduces_the_other_side_says_so(choose: Choose) -> None:
    width = "the recipe also halves the width: add --width 1 to keep it"
    assert choose(depth=0.5, init="inherit")[1] == [f"--depth 0.5: {width}"]
    assert choose(width=0.5, recipe="facd-paper")[1] == [
        "--width 0.5: the recipe also takes 0.3 of the depth: add --depth 1 to keep it"
    ]
    assert choose(depth=0.5, width=1.0, init="inherit")[1] == choose(depth=0.5, recipe="scratch")[1] == []


PUBLISHED = """\
title: t
source: s
methods: [{name: logits}]
student:
  width: 0.5
  published:
    - teacher: {arch: rcan, width: 16, groups: 2, scale: 4}
      student: "rcan:width=16,groups=1,depth=1,hidden=4"
    - teacher: {arch: rcan, width: 16, groups: 2}
      student: "rcan:width=16,groups=2,depth=1,hidden=4"
      start_scale: 4
"""


def test_the_published_student_of_a_teacher_counts_unless_a_shape_is_given(teacher: Teacher) -> None:
    preset = read_preset(PUBLISHED, "mine.yaml")
    first, notes = chosen(teacher, preset)
    assert first.network.spec == RCANSpec(2, width=16, groups=2, depth=1, hidden=4) and first.start.init == "random"
    published, begun = notes
    assert "rcan:width=16,groups=2,depth=1,hidden=4" in published and "--init-from" in begun and "x4" in begun
    narrow, notes = chosen(teacher, preset, width=0.5)
    assert narrow.network.spec == RCANSpec(2, width=8, groups=2, depth=2, hidden=2) and notes == []


def is_across(first: FirstStudent, teacher: Teacher) -> bool:
    return is_solved_across(first.network.spec, first.start, teacher)


def test_another_network_takes_the_teachers_scale_and_is_solved_for(teacher: Teacher, choose: Choose) -> None:
    start, notes = choose(student="compact:width=8,depth=2")
    assert start.network.spec == CompactSpec(2, width=8, depth=2)
    assert (start.start.init, is_across(start, teacher), notes) == ("fit", True, [])
    for student in ("carn:width=8", "carn_m:width=8", "swinir:width=8,depths=1/1,heads=2/2", "rrdbnet:unshuffle=2"):
        start, notes = choose(student=student)
        assert (start.start.init, is_across(start, teacher), notes) == ("fit", True, [])
    for recipe in ("fit", "logits"):
        with pytest.raises(UsageError, match=r"^compact has no option 'wdith'"):
            choose(student="compact:wdith=8", recipe=recipe)
    _, notes = choose(student="compact:width=8,depth=2", recipe="csd-paper")
    assert notes == ["--student: random weights, where the recipe would inherit"]
    _, notes = choose(student="rcan:groups=1,depth=1,width=8,hidden=2", recipe="csd-paper")
    assert notes == [
        "--student: random weights, where the recipe would inherit; --init inherit cuts them from the teacher"
    ]
    with pytest.raises(UsageError, match=r"--student compact:width=8,depth=2: the recipe inherit .*; --recipe scratch"):
        choose(student="compact:width=8,depth=2", recipe="inherit")
    assert choose(student="rcan:groups=1,depth=1,width=8,hidden=2", recipe="inherit")[0].start.init == "inherit"


def test_a_spec_of_the_teachers_kind_can_inherit(teacher: Teacher, choose: Choose) -> None:
    start, notes = choose(student="rcan:groups=1,depth=1,width=8,hidden=2", init="inherit")
    assert start.network.spec == RCANSpec(2, width=8, groups=1, depth=1, hidden=2)
    teacher_weights, weights = dict(teacher.network.named_parameters()), dict(start.network.named_parameters())
    middle = teacher_weights["groups.1.blocks.1.conv1.weight"][:8, :8]
    assert torch.equal(weights["groups.0.blocks.0.conv1.weight"], middle)
    assert notes == []


def test_unfriendly_widths_are_hinted_at_and_used_all_the_same(choose: Choose) -> None:
    start, notes = choose(width=0.7)
    assert start.network.spec.to_dict()["width"] == 11
    assert len(notes) == 1 and notes[0].startswith("hint: 11 channels")
    # A width that the teacher has is no hint.
    assert chosen(Teacher(build(EDSRSpec(2, width=20, depth=2))), load_preset("logits"), width=1.0, depth=0.5)[1] == []


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"width": 0.5, "select": "l1", "init": "random"}, "--select l1"),
        ({"student": "rcan:width=8", "select": "l1"}, "--select l1 chooses what is inherited: add --init inherit"),
        ({"student": "rcan:width=8", "depth": 0.5}, "leave out --width and --depth"),
        ({"student": "compact:width=8", "init": "inherit"}, "compact cannot inherit from a teacher of rcan"),
        ({"student": "compact:scale=3"}, "--student is for x3, and --scale for x2"),
        ({"student": "compact:channels=1"}, "add channels=3"),
    ],
)
def test_contradictions_are_told(shape: dict[str, Any], message: str, choose: Choose) -> None:
    with pytest.raises(SrkdError) as raised:
        choose(**shape)
    assert message in str(raised.value)


def test_a_student_without_a_teacher_has_colour_and_inherits_nothing() -> None:
    with pytest.raises(UsageError, match="1 channels"):
        choose_student(None, load_preset("scratch"), CompressOptions.of(student="compact:channels=1"), print)
    with pytest.raises(UsageError, match="add --teacher FILE"):
        choose_student(None, load_preset("scratch"), CompressOptions.of(student="compact", init="inherit"), print)


def saved(spec: Spec, path: Path) -> Network:
    network = build(spec, seed=5)
    save_network(network, path)
    return network


def test_a_run_tells_where_its_student_started(photos: Path, tmp_path: Path) -> None:
    """A ×3 student starts from a ×2 one: run.json lists the copied tensors, which are in the weights."""
    saved(EDSRSpec(3, width=16, depth=2), tmp_path / "teacher.safetensors")
    earlier = saved(EDSRSpec(2, width=8, depth=2), tmp_path / "earlier.safetensors")
    notes: list[str] = []
    words = {"width": 0.5, "init_from": tmp_path / "earlier.safetensors", "steps": 1, "settings": STILL}
    words |= {"data": photos, "out": tmp_path / "run"}
    report = compress(tmp_path / "teacher.safetensors", announce=notes.append, **words)
    assert any("took 14 of 16 tensors" in line for line in notes)
    start = read_json(tmp_path / "run")["start"]
    assert (start["init"], start["select"]) == ("inherit", "leading")
    assert start["init_from"]["misshaped"] == ["upsampler.convs.0.weight", "upsampler.convs.0.bias"]
    keys = "architecture copied differences licence misshaped missing path scale sha256 unused"
    assert sorted(start["init_from"]) == keys.split()
    assert len(start["init_from"]["sha256"]) == 64 and len(start["init_from"]["copied"]) == 14
    student = dict(load_checkpoint(report.student_path).network.named_parameters())
    earlier_weights = dict(earlier.named_parameters())
    for name in start["init_from"]["copied"]:
        assert torch.allclose(student[name], earlier_weights[name], atol=1e-6), name


def test_layers_are_listed_with_what_they_cost(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    saved(SwinIRSpec(2, width=8, depths=(2,), heads=(2,), window=4, features=8), tmp_path / "swinir.safetensors")
    words = ["inspect", str(tmp_path / "swinir.safetensors"), "--layers", "--lr-size", "16x8"]
    assert run([*words, "--json"]) == 0
    report = json.loads(capfd.readouterr().out)
    assert sum(layer["params"] for layer in report["layers"]) == report["params"]
    assert sum(layer["macs"] for layer in report["layers"]) == report["macs"]
    assert report["layers"][0] == {"name": "head", "kind": "Conv2d", "params": 224, "macs": 9 * 3 * 8 * 128}
    assert run(words) == 0
    listing = capfd.readouterr().out
    assert "groups.0.layers.1.attention.qkv" in listing and "MACs at 16x8" in listing
    assert run(["inspect", str(tmp_path / "swinir.safetensors"), "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["layers"] is None
