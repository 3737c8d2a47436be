"""The strongest channels first: the same function, and a narrower student keeps the strongest."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from compressor.base.errors import UsageError
from compressor.models.networks.axes import Axis, AxisPlan
from compressor.models.networks.base import Network, Spec
from compressor.models.networks.carn import CARNSpec
from compressor.models.networks.carn_m import CARNMSpec
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.plain import PlainSpec
from compressor.models.networks.rcan import RCANSpec
from compressor.models.networks.swinir import SwinIRSpec
from compressor.models.students.students import build_student, strongest_first
from compressor.models.students.unit_order import strengths
from tests.support.networks import FORMS, TEACHERS
from tests.support.slices import lively, run

SPECS = {**TEACHERS, **FORMS}


@pytest.mark.parametrize("width", [0.3, 0.7])
@pytest.mark.parametrize("name", SPECS)
def test_the_permuted_teacher_computes_the_same(name: str, width: float) -> None:
    teacher = lively(SPECS[name])
    permuted = strongest_first(teacher, teacher.spec.narrowed(width))
    assert permuted.fingerprint() != teacher.fingerprint()
    bound = 1e-5 if name != "swinir denoiser" else 1e-4  # features 255 times as large
    assert float((run(permuted) - run(teacher)).abs().max()) < bound
    before = {key: sorted(value.flatten().tolist()) for key, value in teacher.named_parameters()}
    assert {key: sorted(value.flatten().tolist()) for key, value in permuted.named_parameters()} == before
    assert strongest_first(teacher, teacher.spec).fingerprint() == teacher.fingerprint()  # nothing is cut


def touching(network: Network, channel: int) -> float:
    """Return, for EDSR by hand, the L1 norm of every weight that writes to a channel of the stream or reads it."""
    up = 4 if network.spec.scale in (2, 4) else 9
    total = 0.0
    for name, parameter in network.named_parameters():
        if not name.endswith("weight"):
            continue
        weight = parameter.detach().abs().double()
        if name != "tail.weight":
            rows = slice(channel * up, (channel + 1) * up) if "upsampler" in name else slice(channel, channel + 1)
            total += float(weight[rows].sum())
        if name != "head.weight":
            total += float(weight[:, channel].sum())
    return total


@pytest.mark.parametrize("scale", [3, 4])
def test_edsrs_strongest_channels_lead_in_falling_order(scale: int) -> None:
    teacher = lively(EDSRSpec(scale, width=7, depth=2))
    by_hand = sorted((touching(teacher, channel) for channel in range(7)), reverse=True)
    permuted = strongest_first(teacher, teacher.spec.narrowed(0.5))
    result = [touching(permuted, channel) for channel in range(7)]
    assert result == pytest.approx(by_hand)
    assert result != pytest.approx([touching(teacher, channel) for channel in range(7)])


def strengthen(network: Network, positions: list[int]) -> None:
    """Make the stream's channels at `positions` ten times as strong in the first layer."""
    with torch.no_grad():
        first = next(parameter for name, parameter in network.named_parameters() if parameter.dim() == 4)
        first[positions] *= 100.0


@pytest.mark.parametrize("spec", [CARNSpec(2, width=8), EDSRSpec(3, width=8, depth=2), RCANSpec(2, 8, 1, 2, 2)])
def test_the_student_keeps_the_strongest(spec: Spec) -> None:
    teacher = lively(spec)
    strengthen(teacher, [6, 3])
    student = build_student(teacher, width=0.25, select="l1")
    first, weight = next(teacher.parameters()), next(student.parameters())
    assert sorted(map(tuple, weight.flatten(1).tolist())) == sorted(map(tuple, first[[3, 6]].flatten(1).tolist()))
    assert not torch.equal(weight, next(build_student(teacher, width=0.25).parameters()))


def test_branches_are_cut_as_what_they_are_summed_to() -> None:
    teacher = lively(PlainSpec(2, width=8, depth=2, branches=True))
    student = build_student(teacher, width=0.5, select="l1").deployed()
    summed = build_student(teacher.deployed(), width=0.5, select="l1")
    for own, other in zip(student.parameters(), summed.parameters(), strict=True):
        torch.testing.assert_close(own, other, atol=1e-5, rtol=1e-4)


def test_each_group_of_carn_m_keeps_its_own_strongest() -> None:
    teacher = lively(CARNMSpec(2, width=12, groups=4))
    strengthen(teacher, [2, 4, 7, 9])  # one in each group of three
    student = build_student(teacher, width=0.34, select="l1")
    first, weight = next(teacher.parameters()), next(student.parameters())
    assert torch.equal(weight, first[[2, 4, 7, 9]])
    everywhere = lively(CARNMSpec(2, width=12, groups=4))
    strengthen(everywhere, [0, 1, 2])  # all in the first group: each other group still keeps one
    weight = next(build_student(everywhere, width=0.34, select="l1").parameters())
    from_each = [any(torch.equal(row, other) for row in weight) for other in next(everywhere.parameters())]
    assert [sum(from_each[group * 3 : group * 3 + 3]) for group in range(4)] == [1, 1, 1, 1]


def test_swinirs_heads_move_whole_with_their_tables() -> None:
    teacher = lively(SwinIRSpec(2, width=12, depths=(2,), heads=(4,), window=4, features=6))
    strengthen(teacher, [6, 7, 8])
    student = build_student(teacher, width=0.25, select="l1")
    source, target = dict(teacher.named_parameters()), dict(student.named_parameters())
    layer = "groups.0.layers.1.attention"
    assert torch.equal(target["head.weight"], source["head.weight"][6:9])
    assert torch.equal(target[f"{layer}.bias_table"], source[f"{layer}.bias_table"][:, 2:3])
    rows = [6, 7, 8, 18, 19, 20, 30, 31, 32]
    assert torch.equal(target[f"{layer}.qkv.weight"], source[f"{layer}.qkv.weight"][rows][:, 6:9])


def test_hidden_units_are_ordered_where_they_live() -> None:
    """The attention of each of RCAN's blocks has its own hidden units, of which it keeps the strongest."""
    teacher = lively(RCANSpec(2, width=8, groups=1, depth=2, hidden=4))
    parameters = dict(teacher.named_parameters())
    with torch.no_grad():
        for block, unit in ((0, 3), (1, 1)):
            parameters[f"groups.0.blocks.{block}.attention.squeeze.weight"][unit] *= 100
    student = build_student(teacher, width=0.25, select="l1")
    for block, unit in ((0, 3), (1, 1)):
        bias = dict(student.named_parameters())[f"groups.0.blocks.{block}.attention.squeeze.bias"]
        assert torch.equal(bias, parameters[f"groups.0.blocks.{block}.attention.squeeze.bias"][[unit]])


def test_strength_counts_each_segment_and_row_of_a_unit() -> None:
    plan = AxisPlan(
        {"width": Axis(2), "rgb": Axis(1)},
        {"join.weight": ("rgb", "width | width"), "up.weight": ("width * 2", "rgb"), "up.bias": ("width * 2",)},
    )
    parameters = {
        "join.weight": torch.tensor([[1.0, -2.0, 4.0, -8.0]]),
        "up.weight": torch.tensor([[1.0], [-1.0], [0.5], [0.5]]),
        "up.bias": torch.full((4,), 100.0),
    }
    result = strengths(plan, parameters, frozenset({"width"}))
    assert {key: value.tolist() for key, value in result.items()} == {("width", ""): [5.0 + 2.0, 10.0 + 1.0]}


def test_selection_with_depth_and_views() -> None:
    teacher = lively(EDSRSpec(2, width=8, depth=4))
    both = build_student(teacher, width=0.5, depth=0.5, select="l1")
    permuted = strongest_first(teacher, both.spec)
    assert build_student(permuted, width=0.5, depth=0.5).fingerprint() == both.fingerprint()


def test_selection_without_inheritance_is_refused() -> None:
    teacher = lively(replace(TEACHERS["edsr"]))
    with pytest.raises(UsageError, match=r"select='l1'.*init='random'"):
        build_student(teacher, width=0.5, init="random", select="l1")
    with pytest.raises(UsageError, match="select='l2' is not one"):
        build_student(teacher, width=0.5, select="l2")  # type: ignore[arg-type]
