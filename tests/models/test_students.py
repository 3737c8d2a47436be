"""Students have the papers' sizes, and equal their teacher with the dropped channels set to zero."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.func import functional_call

from compressor.base.errors import UsageError
from compressor.models.checkpoints.load import load_checkpoint
from compressor.models.networks.base import Network
from compressor.models.networks.carn_m import CARNMSpec
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.rcan import RCANSpec
from compressor.models.networks.registry import build
from compressor.models.networks.slices import student_cuts
from compressor.models.networks.swinir import SwinIRSpec
from compressor.models.students.students import build_student, cut_student, require_slice, view_parameters
from tests.support import official, official_rcan
from tests.support.networks import FORMS, TEACHERS, zero_outside
from tests.support.slices import lively, run, zero_masked


def teacher_of(arch: str, scale: int) -> Network:
    return lively(replace(TEACHERS[arch], scale=scale))


@pytest.mark.ci
@pytest.mark.parametrize("name", [*TEACHERS, *FORMS])
def test_a_slice_is_the_teacher_with_the_dropped_channels_zeroed(name: str) -> None:
    bound = 1e-5 if name != "swinir denoiser" else 1e-4  # features 255 times as large
    for scale, width in ((2, 0.01), (2, 0.29), (3, 0.5), (4, 0.7)):
        teacher = lively(FORMS[name]) if name in FORMS else teacher_of(name, scale)
        student = build_student(teacher, width=width)
        assert student.spec.to_dict()["width"] < teacher.spec.to_dict()["width"]
        masked = run(zero_masked(teacher, student))
        assert float((run(student) - masked).abs().max()) < bound
        assert float((run(teacher) - masked).abs().max()) > 1e-3


def test_a_plain_zero_mask_is_another_network_where_norms_count_every_channel() -> None:
    teacher = teacher_of("swinir", 2)
    student = build_student(teacher, width=0.5)
    cut, source = student_cuts(teacher.spec, student.spec), dict(teacher.named_parameters())
    masked = build(teacher.spec)
    masked.load_state_dict({name: zero_outside(cut[name], source[name].detach()) for name in source})
    assert float((run(student) - run(masked)).abs().max()) > 1e-2


def test_swinir_is_cut_by_whole_heads() -> None:
    """Rows and columns are written out by hand: four of seven heads of three channels are kept."""
    teacher = teacher_of("swinir", 3)
    student = build_student(teacher, width=0.7)
    assert student.spec == replace(TEACHERS["swinir"], scale=3, width=12, heads=(4, 4, 4))
    source, target = dict(teacher.named_parameters()), dict(student.named_parameters())
    rows = [*range(12), *range(21, 33), *range(42, 54)]  # q, k and v have a segment each
    layer = "groups.1.layers.0"
    assert torch.equal(target[f"{layer}.attention.qkv.weight"], source[f"{layer}.attention.qkv.weight"][rows, :12])
    assert torch.equal(target[f"{layer}.attention.qkv.bias"], source[f"{layer}.attention.qkv.bias"][rows])
    assert torch.equal(target[f"{layer}.attention.proj.weight"], source[f"{layer}.attention.proj.weight"][:12, :12])
    assert torch.equal(target[f"{layer}.attention.bias_table"], source[f"{layer}.attention.bias_table"][:, :4])
    assert torch.equal(target[f"{layer}.fc1.weight"], source[f"{layer}.fc1.weight"][:24, :12])
    assert torch.equal(target[f"{layer}.fc2.weight"], source[f"{layer}.fc2.weight"][:12, :24])
    assert torch.equal(target[f"{layer}.norm2.weight"], source[f"{layer}.norm2.weight"][:12])
    assert torch.equal(target["before_upsampler.weight"], source["before_upsampler.weight"][:, :12])
    assert torch.equal(target["upsampler.convs.0.weight"], source["upsampler.convs.0.weight"])


def test_widths_of_swinir_are_whole_heads() -> None:
    for width, heads in ((0.29, 2), (0.5, 3), (0.01, 1), (1.0, 7), (6 / 7, 6)):
        narrowed = TEACHERS["swinir"].narrowed(width).to_dict()
        assert (narrowed["width"], narrowed["heads"]) == (3 * heads, (heads, heads, heads)), width


def test_swinir_with_unequal_heads_is_cut_in_depth_only() -> None:
    spec = SwinIRSpec(2, width=12, depths=(1, 2, 3, 1), heads=(6, 4, 4, 6), window=4, features=6)
    teacher = lively(spec)
    student = build_student(teacher, depth=0.5)
    assert student.spec == replace(spec, depths=(2, 1), heads=(4, 6))
    source, target = dict(teacher.named_parameters()), dict(student.named_parameters())
    for j, k in ((0, 1), (1, 3)):
        name = "layers.0.attention.bias_table"
        assert torch.equal(target[f"groups.{j}.{name}"], source[f"groups.{k}.{name}"])
    assert run(student).shape == run(teacher).shape
    with pytest.raises(UsageError, match=r"heads=\(6, 4, 4, 6\).*depth"):
        build_student(teacher, width=0.5)


@pytest.mark.parametrize("width", [0.25, 0.5, 1])
@pytest.mark.parametrize(
    ("name", "state"),
    [
        ("csd_edsr_x4", lambda: official.csd_edsr(4, 16, 4)),
        ("csd_rcan_x4", lambda: official_rcan.rcan(official_rcan.CSD, 4)),
    ],
)
def test_slices_equal_csds_code(name: str, state: Callable[[], official.State], width: float, tmp_path: Path) -> None:
    case = official.golden_case(name, state())
    torch.save(case.state, tmp_path / "csd.pth")
    student = build_student(load_checkpoint(tmp_path / "csd.pth").network, width=width)
    assert (official.thinned(student(case.lr)) - case.outputs[f"y_w{width}"]).abs().max() <= 1e-5


def test_width_rounds_down_and_never_to_nothing() -> None:
    for width, channels in ((0.29, 18), (0.7, 44), (0.001, 1), (1.0, 64), (0.9999999999, 63), (46 / 64, 46)):
        assert EDSRSpec(width=64).narrowed(width).width == channels
        assert CARNMSpec(width=64).narrowed(width).width == max(4, channels // 4 * 4)
    # Not by a float's last bit: 0.29 · 100 is 28.999999999999996.
    for width, channels in ((0.29, 29), (0.57, 57), (0.58, 58), (1 / 3, 33)):
        for spec in (EDSRSpec(width=100), CARNMSpec(width=100, groups=1)):
            assert spec.narrowed(width).width == channels
    assert [RCANSpec().narrowed(width).hidden for width in (0.01, 0.49, 0.5, 0.75)] == [1, 1, 2, 3]


def test_depth_keeps_the_published_blocks() -> None:
    teacher = build(EDSRSpec(2, 4, 20), seed=0)
    student = build_student(teacher, depth=0.3)
    source, target = dict(teacher.named_parameters()), dict(student.named_parameters())
    for j, k in enumerate([1, 5, 8, 11, 15, 18]):
        assert torch.equal(target[f"blocks.{j}.conv2.weight"], source[f"blocks.{k}.conv2.weight"])
    assert "blocks.6.conv1.weight" not in target
    assert torch.equal(target["body_end.weight"], source["body_end.weight"])


def test_fewer_groups_of_rcan_and_fewer_blocks_in_them_nest() -> None:
    teacher = lively(RCANSpec(2, 4, groups=4, depth=6, hidden=2))
    student = cut_student(teacher, replace(teacher.spec, groups=2, depth=3, width=2, hidden=1))
    assert build_student(teacher, depth=0.5).spec == replace(teacher.spec, depth=3)
    source, target = dict(teacher.named_parameters()), dict(student.named_parameters())
    for g, their_group in ((0, 1), (1, 3)):
        cut, original = target[f"groups.{g}.conv.weight"], source[f"groups.{their_group}.conv.weight"]
        assert torch.equal(cut, original[:2, :2])
        for b, their_block in ((0, 1), (1, 3), (2, 5)):
            cut = target[f"groups.{g}.blocks.{b}.conv2.weight"]
            assert torch.equal(cut, source[f"groups.{their_group}.blocks.{their_block}.conv2.weight"][:2, :2])


def test_width_and_depth_together() -> None:
    teacher = build(EDSRSpec(3, 8, 4), seed=0)
    both = build_student(teacher, width=0.5, depth=0.5)
    after = build_student(build_student(teacher, width=0.5), depth=0.5)
    assert both.fingerprint() == after.fingerprint()


def test_contiguous_segments_differ_where_maps_are_joined_and_nowhere_else() -> None:
    teacher = teacher_of("carn", 2)
    each = build_student(teacher, width=0.5).state_dict()
    csd = build_student(teacher, width=0.5, segments="contiguous").state_dict()
    differing = {name for name in each if not torch.equal(each[name], csd[name])}
    assert differing == {name for name in each if ".fuses." in name and name.endswith("weight")}
    fuse = dict(teacher.named_parameters())["cascade.fuses.0.0.weight"]
    assert torch.equal(csd["cascade.fuses.0.0.weight"], fuse[:10, :20])
    assert torch.equal(each["cascade.fuses.0.0.weight"], torch.cat((fuse[:10, :10], fuse[:10, 20:30]), 1))


@pytest.mark.parametrize("arch", TEACHERS)
def test_an_inherited_student_is_a_copy_and_at_full_width_the_teacher(arch: str) -> None:
    teacher = teacher_of(arch, 2)
    before = teacher.fingerprint()
    whole, half = build_student(teacher), build_student(teacher, width=0.5)
    assert whole.fingerprint() == before and torch.equal(run(whole), run(teacher))
    with torch.no_grad():
        for tensor in (*whole.state_dict().values(), *half.state_dict().values()):
            tensor.fill_(7.0)
    assert teacher.fingerprint() == before


@pytest.mark.parametrize("arch", TEACHERS)
def test_a_view_student_is_the_extracted_one_and_trains_only_the_kept_slices(arch: str) -> None:
    teacher = teacher_of(arch, 3)
    student = build_student(teacher, width=0.5)
    lr = torch.rand(1, 3, 6, 7)
    sr = functional_call(student, view_parameters(teacher, student.spec), (lr,))
    assert torch.equal(sr, student(lr))
    sr.square().mean().backward()
    student(lr).square().mean().backward()
    cut, source = student_cuts(teacher.spec, student.spec), dict(student.named_parameters())
    for name, parameter in teacher.named_parameters():
        assert parameter.grad is not None, name
        assert torch.equal(zero_outside(cut[name], parameter.grad), parameter.grad), name
        inside = source[name].grad
        assert torch.allclose(cut[name].take(parameter.grad), inside, rtol=1e-4, atol=1e-6), name


def test_a_view_of_a_shorter_student_trains_the_kept_blocks() -> None:
    teacher = build(EDSRSpec(2, 4, 4), seed=0)
    skeleton = build(teacher.spec.shortened(0.5))
    functional_call(skeleton, view_parameters(teacher, skeleton.spec), (torch.rand(1, 3, 4, 4),)).sum().backward()
    trained = [parameter.grad is not None for parameter in (block.conv1.weight for block in teacher.blocks)]  # type: ignore[union-attr]
    assert trained == [False, True, False, True]


def test_inside_its_teacher_a_student_has_fewer_channels_and_all_blocks() -> None:
    teacher = EDSRSpec(2, width=8, depth=4)
    require_slice(teacher, replace(teacher, width=4))
    with pytest.raises(UsageError, match="has 3 of the teacher's 4 blocks"):
        require_slice(teacher, replace(teacher, width=4, depth=3))
    with pytest.raises(UsageError, match="is the whole teacher"):
        require_slice(teacher, teacher)
