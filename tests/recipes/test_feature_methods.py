"""FAKD, LFD-style and FACD-style: their taps, their sums, the gate, and the report before training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import torch
from torch.nn import functional as F

from compressor.base.errors import SrkdError, UsageError
from compressor.models.checkpoints.load import load_checkpoint
from compressor.models.checkpoints.save import save_network
from compressor.models.networks.base import Network, Spec
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.rcan import RCANSpec
from compressor.models.networks.registry import NETWORKS, build
from compressor.models.networks.rrdbnet import RRDBNetSpec
from compressor.models.networks.taps import read_taps
from compressor.training.state import State
from recipes.config.options import make_method
from recipes.config.reading import load_preset
from recipes.methods.ds import DeepSupervision
from recipes.methods.facd import FACD, contrast
from recipes.methods.fakd import FAKD
from recipes.methods.lfd import LFD
from recipes.terms.features import describe_taps
from srkd import compress
from tests.support import official
from tests.support.method_runs import Pair, Waves, step_of, total
from tests.support.methods_table import DEEPER, STUDENT, TEACHER
from tests.support.networks import tiny
from tests.support.tensors import affinity

Feature: TypeAlias = FAKD | LFD | FACD
METHODS: tuple[Feature, ...] = (FAKD(), LFD(), FACD(gate="off"))
named = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)


def net(spec: Spec, seed: int = 0) -> Network:
    return build(spec, seed=seed).eval()


# taps


def test_fakd_reads_the_features_that_the_official_code_compares(tmp_path: Path) -> None:
    case = official.golden_case("fakd_edsr_x2_features", official.fakd_edsr(2, 16, 6))
    torch.save(case.state, tmp_path / "fakd.pt")
    network = load_checkpoint(tmp_path / "fakd.pt").network
    pairs = FAKD().tap_pairs(network, network)
    assert pairs == [("body[1]", "body[1]"), ("body[3]", "body[3]"), ("pre_up", "pre_up")]
    with torch.no_grad(), read_taps(network, [tap for tap, _ in pairs]) as features:
        network(case.lr)
    for (tap, _), name in zip(pairs, ("fm1", "fm2", "fm3"), strict=True):
        expected = case.outputs[name]
        assert (official.thinned(features[tap]) - expected).abs().max() <= 1e-5 * expected.abs().max(), name


def test_the_usual_taps_follow_the_lineage() -> None:
    with torch.device("meta"):
        rcan, edsr = build(RCANSpec(groups=10, width=8, depth=1, hidden=1)), build(EDSRSpec(width=8, depth=32))
        six = build(RCANSpec(groups=6, width=8, depth=1, hidden=1))
    assert FAKD().tap_pairs(edsr, rcan) == [("body[2]", "body[9]"), ("body[6]", "body[20]"), ("pre_up", "pre_up")]
    assert FAKD().tap_pairs(six, six)[1] == ("body[3]", "body[3]")
    assert LFD().tap_pairs(edsr, rcan) == [("body[2]", "body[9]"), ("body[5]", "body[20]"), ("pre_up", "pre_up")]
    assert FACD().tap_pairs(edsr, rcan)[1:] == [("body[5]", "body[20]"), ("body_end", "body_end")]


def test_taps_are_options_for_either_side() -> None:
    student, teacher = net(STUDENT), net(EDSRSpec(scale=2, width=8, depth=4))
    assert FAKD(taps=("rel(1/2)", "body_end")).tap_pairs(teacher, student) == [
        ("body[0]", "body[1]"),
        ("body_end", "body_end"),
    ]
    assert FAKD(taps=("head",), teacher_taps=("body[3]",)).tap_pairs(teacher, student) == [("head", "body[3]")]
    preset = load_preset("fakd", ["taps=[rel(1/2), pre_up]", "alpha=0.25"])
    assert preset.build_methods() == (FAKD(taps=("rel(1/2)", "pre_up"), alpha=0.25),)


def test_wrong_taps_are_reported_with_their_side_and_the_nearest_name() -> None:
    student, teacher, method = net(STUDENT), net(TEACHER), FAKD()

    def lines(**options: object) -> list[str]:
        return describe_taps([make_method(method.name, options)], teacher, student, batch=2, lr_patch=8)

    with pytest.raises(UsageError, match=r"the student: .*'bdy\[1\]'"):
        lines(taps=["bdy[1]"], teacher_taps=["head"])
    with pytest.raises(UsageError, match=r"the teacher: .*'body\[7\]'"):
        lines(taps=["head"], teacher_taps=["body[7]"])
    with pytest.raises(UsageError, match=r"3 taps .* and 1 of the teacher"):
        lines(teacher_taps=["head"])
    with pytest.raises(SrkdError, match=r"teacher.*srkd's networks"):
        describe_taps([method], None, student, batch=2, lr_patch=8)
    unshuffling = net(RRDBNetSpec(2, width=8, depth=1, growth=4, unshuffle=2))
    with pytest.raises(UsageError, match=r"features of one size, not student .*x8x8 with teacher .*x4x4"):
        describe_taps([method], unshuffling, student, batch=2, lr_patch=8)


@pytest.mark.parametrize("place", range(len(NETWORKS)), ids=list(NETWORKS))
def test_networks_of_different_kinds_can_be_paired(place: int) -> None:
    """Each kind learns from the next one: a finite gradient reaches its first weights, and none reaches the teacher."""
    kinds, method = list(NETWORKS), METHODS[place % 3]
    student, teacher = (net(tiny(kinds[at % len(kinds)], 2), seed=at) for at in (place, place + 1))
    step = step_of(method, student, teacher, Waves(2, range(2), side=7).at(0))
    method.terms(step)[method.term].backward()
    first = next(student.parameters())
    assert first.grad is not None and first.grad.isfinite().all() and first.grad.ne(0).any()
    assert all(parameter.grad is None for parameter in teacher.parameters())


# the report before training


@named
def test_each_pair_is_reported_with_its_shapes(method: Feature) -> None:
    lines = describe_taps([method], net(TEACHER), net(STUDENT), batch=16, lr_patch=48)
    assert len(lines) == 3
    sides = "student body[0] 16x4x48x48 with teacher body[0] 16x8x48x48"
    assert lines[1] == f"{method.name}: {method.term} of {sides}"


def test_ds_clsd_and_hkdsr_report_theirs_and_refuse_wrong_taps_before_anything_is_written() -> None:
    student, teacher = net(DEEPER), net(EDSRSpec(scale=2, width=8, depth=6))

    def lines(method: str, **options: object) -> list[str]:
        return describe_taps([make_method(method, options)], teacher, student, batch=16, lr_patch=48)

    assert lines("ds") == [f"ds: heads of student body[{k}] 16x4x48x48" for k in (0, 1)]
    assert lines("clsd", phi="teacher") == [f"clsd: heads of student body[{k}] 16x4x48x48" for k in (0, 1)]
    pairs = [("body[0]", "body[1]"), ("body[1]", "body[3]"), ("body[2]", "body[5]")]
    assert lines("hkdsr") == [f"hkdsr: bands of student {a} 16x4x48x48 with teacher {b} 16x8x48x48" for a, b in pairs]
    for method, options, message in (
        ("ds", {"taps": ["bdy[1]"]}, r"ds, taps of the student: .*'bdy\[1\]'; did you mean 'body\[1\]'"),
        ("hkdsr", {"teacher_taps": ["rel(1/3)", "body[7]", "rel(1)"]}, r"hkdsr, taps of the teacher: .*'body\[7\]'"),
    ):
        for refuse in (make_method(method, options).fit, make_method(method, options).feature_pairs):
            with pytest.raises(UsageError, match=message):
                refuse(teacher, student)


# sums


def test_fakd_is_its_sum() -> None:
    student, teacher, batch = net(STUDENT), net(TEACHER, 1), Waves(2).at(0)
    step = step_of(FAKD(), student, teacher, batch)
    with torch.no_grad(), read_taps(student, ("head", "body[0]", "pre_up")) as features:
        s = student(batch.lr)
    with torch.no_grad(), read_taps(teacher, ("head", "body[0]", "pre_up")) as targets:
        t = teacher(batch.lr)
    term = sum(F.l1_loss(affinity(features[tap]), affinity(targets[tap])) for tap in features)
    expected = 0.5 * F.l1_loss(s, batch.hr) + 0.5 * F.l1_loss(s, t) + 10 / 255 * term
    assert total(FAKD().terms(step), FAKD().weights).item() == pytest.approx(expected.item(), rel=1e-5)
    assert step.networks[0] is student


@pytest.mark.parametrize(
    ("method", "student", "part", "shapes"),
    [(LFD(), STUDENT, "weight", [(8, 4, 1, 1)] * 3), (DeepSupervision(), DEEPER, "tail.weight", [(3, 64, 3, 3)] * 2)],
)
def test_regressors_and_heads_depend_on_the_runs_seed_alone_and_differ(
    method: LFD | DeepSupervision, student: Spec, part: str, shapes: list[tuple[int, ...]]
) -> None:
    def weights(seed: int) -> list[torch.Tensor]:
        pair = Pair.build(method, student, TEACHER)
        torch.rand(7)
        state = State.fresh(pair.student, pair.teacher, pair.stages[0], seed)
        return [value for name, value in state.modules.state_dict().items() if name.endswith(part)]

    once, again, other = weights(1), weights(1), weights(2)
    assert [tuple(weight.shape) for weight in once] == shapes
    assert all(torch.equal(a, b) and not torch.equal(a, c) for a, b, c in zip(once, again, other, strict=True))
    assert not torch.equal(once[0], once[1])


@pytest.mark.parametrize("method", ["lfd", "facd"])
def test_a_calibrated_weight_begins_with_a_tenth_to_three_tenths_of_the_pixel_loss(method: str) -> None:
    for share in (0.1, 0.3):
        assert make_method(method, {"share": share}).weights
    for share in (0.09, 0.31):
        with pytest.raises(UsageError, match=r"share=.*expected"):
            make_method(method, {"share": share})


@pytest.mark.parametrize("form", ["ratio", "infonce"])
def test_negatives_of_a_part_of_the_batch_are_those_of_the_whole(form: Any) -> None:
    student, teacher = torch.rand(6, 3, 4, 4), torch.rand(6, 3, 4, 4)
    whole = contrast([student], [teacher], form)
    parts = [contrast([student[at : at + 2]], [teacher], form, first=at) for at in (0, 2, 4)]
    assert torch.allclose(torch.cat(parts), whole, rtol=1e-5)


def test_a_batch_of_one_is_refused_before_anything_is_read() -> None:
    with pytest.raises(UsageError, match=r"batch=1: .*\b2: facd"):
        load_preset("facd", ["schedule.batch=1"])
    assert load_preset("fakd", ["schedule.batch=1"]).schedule.batch == 1


def test_the_gates_fraction_is_logged_and_taps_are_reported(tmp_path: Path) -> None:
    teacher, lines = tmp_path / "teacher.safetensors", list[str]()
    save_network(build(TEACHER, seed=1), teacher)
    settings = ("schedule.batch=2", "schedule.lr_patch=8", "lam=0.01", "student.init=inherit")
    compress(teacher, recipe="facd", steps=2, out=tmp_path / "run", settings=settings, announce=lines.append)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    fractions = [row["seen/gate_open"] for row in rows if row["kind"] == "train"]
    assert len(fractions) == 2 and all(fraction in (0, 0.5, 1) for fraction in fractions)
    assert sum(line.startswith("facd: patch_contrast of student") for line in lines) == 3
