"""The syntax of --student, refused or unfavourable widths, random students, and students that cannot inherit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from compressor.base.errors import SrkdError, UsageError
from compressor.models.checkpoints.load import load_checkpoint
from compressor.models.networks.base import Architecture, Spec
from compressor.models.networks.carn import CARNSpec
from compressor.models.networks.compact import CompactSpec
from compressor.models.networks.cost import cost
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.plain import PlainSpec
from compressor.models.networks.rcan import RCANSpec
from compressor.models.networks.registry import architectures, build
from compressor.models.networks.swinir import SwinIRSpec
from compressor.models.students.students import build_student, cut_student, parse_student, random_student, width_hint
from tests.support import official
from tests.support.networks import SMALL
from tests.support.slices import lively


def test_random_students_depend_on_the_seed_and_on_nothing_else() -> None:
    teacher = lively(replace(SMALL["edsr"], scale=2))
    before = torch.random.get_rng_state()
    first = build_student(teacher, width=0.5, init="random", seed=5)
    assert torch.equal(before, torch.random.get_rng_state())
    torch.rand(3)
    again, other = (build_student(teacher, width=0.5, init="random", seed=seed) for seed in (5, 6))
    assert first.fingerprint() == again.fingerprint() != other.fingerprint()
    bound = 1 / (3 * 9) ** 0.5
    head = dict(first.named_parameters())["head.weight"]
    assert 0.9 * bound < float(head.detach().abs().max()) <= bound, "torch's default is uniform within 1/sqrt(fan in)"


@pytest.mark.parametrize("init", ["inherit", "random"])
def test_a_mean_shift_that_moved_goes_to_the_student(init: str, tmp_path: Path) -> None:
    state = official.edsr_pytorch(2, 8, 2)
    state["add_mean.bias"] = state["add_mean.bias"] + 3.0
    torch.save(state, tmp_path / "moved.pt")
    teacher = load_checkpoint(tmp_path / "moved.pt").network
    student = build_student(teacher, width=0.5, init=init)  # type: ignore[arg-type]
    assert torch.equal(dict(student.named_buffers())["add_mean.bias"], state["add_mean.bias"])


def test_a_student_has_the_teachers_type() -> None:
    teacher = build(EDSRSpec(2, 8, 1), seed=0).double()
    assert {tensor.dtype for tensor in build_student(teacher, width=0.5).parameters()} == {torch.float64}


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("compact:width=32,depth=8", CompactSpec(4, 32, 8)),
        ("swinir:depths=2/2,heads=4/4,width=32", SwinIRSpec(4, 32, (2, 2), (4, 4))),
        ("swinir:shifted=false", SwinIRSpec(shifted=False)),
        ("edsr", EDSRSpec()),
        (" edsr: width = 8 , res_scale=0.1", EDSRSpec(4, 8, 16, 0.1)),
        ("edsr:mean=0.5/0.25/0.125,img_range=1", EDSRSpec(mean=(0.5, 0.25, 0.125), img_range=1.0)),
        ("plain-s", PlainSpec(4, 32, 4)),
        ("compact-xs:scale=2, depth=4", CompactSpec(2, 24, 4)),
    ],
)
def test_parse_student(text: str, spec: Spec) -> None:
    assert parse_student(text) == spec


@pytest.mark.parametrize("family", [family for family in architectures() if family.sizes], ids=lambda each: each.name)
def test_named_sizes_grow(family: Architecture) -> None:
    counts = [cost(parse_student(f"{family.name}-{size}:scale=3"), (64, 36)) for size in family.sizes]
    assert [each.params for each in counts] == sorted({each.params for each in counts})
    if family.name == "plain":
        assert counts[1].params <= 60_000, "s is for phones in real time"


def test_parse_student_takes_the_rest_from_the_teacher() -> None:
    teacher = EDSRSpec(2, 64, 32, 0.1)
    assert parse_student("edsr:width=8", like=teacher) == replace(teacher, width=8)
    assert parse_student("carn:width=8", like=teacher) == CARNSpec(width=8)
    assert parse_student("carn:width=8", like=teacher, scale=2) == CARNSpec(2, width=8)
    assert parse_student("carn:width=8,scale=3", scale=2) == CARNSpec(3, width=8)
    assert parse_student("edsr:width=8", scale=3) == EDSRSpec(3, 8)
    assert parse_student("compact-s", like=CompactSpec(3, act="relu"), scale=3) == CompactSpec(3, 64, 8, act="relu")


@pytest.mark.parametrize(
    ("spec", "hint"),
    [
        (EDSRSpec(width=46), "46 channels are not a multiple of 8; on most hardware 40 or 48"),
        (CompactSpec(width=5), "5 channels are not a multiple of 8; on most hardware 8 run"),
        (RCANSpec(width=40), None),
    ],
)
def test_widths_that_hardware_dislikes_are_hinted_at(spec: Spec, hint: str | None) -> None:
    message = width_hint(spec)
    assert message is None if hint is None else message is not None and message.startswith(f"hint: {hint}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("edrs:width=3", "did you mean 'edsr'"),
        ("edsr:widht=3", "did you mean 'width'"),
        ("plain-xxl", "plain has no size 'xxl'; it has xs, s, m, l"),
        ("edsr:width", "not of the form field=value"),
        ("edsr:width=3,width=4", "width appears twice"),
        ("edsr:mean=0.1/0.2", "is not tuple"),
        ("", "no network is called ''"),
    ],
)
def test_parse_student_refuses(text: str, message: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse_student(text)
    assert message in str(raised.value)


def test_what_cannot_be_inherited_is_refused() -> None:
    teacher = build(EDSRSpec(2, 8, 2), seed=0)
    with pytest.raises(UsageError, match=r"carn .*edsr.*random weights"):
        cut_student(teacher, CARNSpec(2, 4))
    with pytest.raises(UsageError, match=r"scale 4 .*scale 2"):
        cut_student(teacher, EDSRSpec(4, 4, 2))
    with pytest.raises(SrkdError, match=r"width of 9 .*8"):
        cut_student(teacher, EDSRSpec(2, 9, 2))
    with pytest.raises(SrkdError, match=r"3 blocks .*of 2"):
        cut_student(teacher, EDSRSpec(2, 8, 3))
    with pytest.raises(SrkdError, match=r"carn .*depth=0\.5.*use width"):
        build_student(build(CARNSpec(2, 4)), depth=0.5)
    with pytest.raises(UsageError, match="init='inhert' is not one"):
        build_student(teacher, init="inhert")  # type: ignore[arg-type]
    for width in (0.0, -0.5, 1.0001, float("nan")):
        with pytest.raises(UsageError, match=r"width=.*\(0, 1\]"):
            build_student(teacher, width=width)
    assert random_student(teacher, CARNSpec(4, 4), 0).spec == CARNSpec(4, 4)
