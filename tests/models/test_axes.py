"""The axis plan covers every parameter, and cuts where the rules say."""

from __future__ import annotations

import pytest
import torch

from compressor.base.errors import SrkdError
from compressor.models.networks.axes import Axis, AxisPlan, Repeat, cuts, inherited_index
from compressor.models.networks.base import Spec
from compressor.models.networks.carn_m import CARNMSpec
from compressor.models.networks.registry import architecture, build
from tests.support.networks import VARIANTS, label, tiny_networks


def plan(width: int, groups: int = 1, depth: int = 1, **parameters: tuple[str, ...]) -> AxisPlan:
    parameters_by_name = {name.replace("_", "."): axes for name, axes in parameters.items()}
    return AxisPlan({"width": Axis(width, groups), "rgb": Axis(3)}, parameters_by_name, (Repeat("blocks", depth),))


@pytest.mark.parametrize(
    ("expression", "groups", "runs"),
    [
        ("width", 1, ((0, 3),)),
        ("width * 4", 1, ((0, 12),)),
        ("width | width | width", 1, ((0, 3), (8, 3), (16, 3))),
        ("rgb | width", 1, ((0, 6),)),  # adjacent runs are one run, which is a view
        ("width", 2, ((0, 2), (4, 2))),
        ("width * 9", 2, ((0, 18), (36, 18))),
        ("width / 2 | rgb", 2, ((0, 2), (4, 3))),
        ("width | width", 2, ((0, 2), (4, 2), (8, 2), (12, 2))),
    ],
)
def test_kept_runs_of_8_units(expression: str, groups: int, runs: tuple[tuple[int, int], ...]) -> None:
    """One group is cut to three units; of two groups of four the two leading ones of each are kept."""
    teacher, student = plan(8, groups, w=(expression,)), plan(3 if groups == 1 else 4, groups, w=(expression,))
    assert cuts(teacher, student, ["w"])["w"].runs == (runs,)


def test_a_single_run_is_a_view_and_several_are_not() -> None:
    teacher, student = plan(8, w=("width", "width | width")), plan(3, w=("width", "width | width"))
    tensor = torch.arange(8.0 * 16).reshape(8, 16)
    kept = cuts(teacher, student, ["w"])["w"].take(tensor)
    assert kept.tolist() == [[row * 16.0 + column for column in (0, 1, 2, 8, 9, 10)] for row in range(3)]
    leading = cuts(teacher, student, ["w"], segments="contiguous")["w"].take(tensor)
    assert torch.equal(leading, tensor[:3, :6])
    assert leading.untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr()


def test_the_published_depth_rule() -> None:
    assert [inherited_index(j, 6, 20) for j in range(6)] == [1, 5, 8, 11, 15, 18]
    assert [inherited_index(j, 16, 32) for j in range(16)] == list(range(1, 32, 2))
    assert [inherited_index(j, 7, 7) for j in range(7)] == list(range(7))
    assert [inherited_index(j, 1, 3) for j in range(1)] == [1]


@pytest.mark.parametrize("spec", [*tiny_networks(), *VARIANTS, CARNMSpec(3, width=12, groups=3)], ids=label)
def test_the_plan_declares_every_axis_of_every_parameter(spec: Spec) -> None:
    declared = architecture(spec.arch).axes(spec)
    network = build(spec)
    whole = cuts(declared, declared, [name for name, _ in network.named_parameters()])
    for name, parameter in network.named_parameters():
        # A convolution's kernel axes are never cut and are not declared; all others must add up.
        planned = [sum(length for _, length in runs) for runs in whole[name].runs]
        assert planned == list(parameter.shape[:2]), name


def test_a_pattern_may_name_one_number_and_leave_another_open() -> None:
    axis_plan = AxisPlan({"width": Axis(2), "rgb": Axis(3)}, {"a.*.b.0.w": ("width",), "a.*.b.2.w": ("rgb",)})
    assert axis_plan.expressions("a.17.b.0.w") == ("width",)
    assert axis_plan.expressions("a.1.b.2.w") == ("rgb",)
    with pytest.raises(SrkdError, match=r"a\.1\.b\.1\.w"):
        axis_plan.expressions("a.1.b.1.w")


def test_refusals_name_what_does_not_fit() -> None:
    with pytest.raises(SrkdError, match=r" v$"):
        cuts(plan(8, w=("width",)), plan(3, w=("width",)), ["v"])
    with pytest.raises(SrkdError, match=r"width of 9 .*8"):
        cuts(plan(8, w=("width",)), plan(9, w=("width",)), ["w"])
    with pytest.raises(SrkdError, match=r"2 groups .*with 1"):
        cuts(plan(8, w=("width",)), plan(4, 2, w=("width",)), ["w"])
