"""Fitted students: nothing is lost if nothing is cut, and little if something is."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from compressor.assets import embedded_teacher
from compressor.base.context import Context
from compressor.base.errors import SrkdError, UsageError
from compressor.images.metrics import psnr
from compressor.models.checkpoints.load import load_checkpoint
from compressor.models.fitting import least_squares
from compressor.models.fitting.fit import Fitting, fit, pixel_weights
from compressor.models.fitting.patches import embedded_patches
from compressor.models.networks.base import Network, Spec
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import architecture
from compressor.models.students.students import build_student
from compressor.models.students.unit_order import order_by_strength
from tests.support.few_directions import in_few_directions
from tests.support.networks import pairs
from tests.support.slices import lively, run

FITTED = ("edsr", "rcan", "carn", "carn_m", "compact", "swinir")


def patches(count: int = 8, side: int = 20, seed: int = 4) -> torch.Tensor:
    """Return smooth noise: neighbouring pixels are alike, as in photos."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, side // 4 + 2, side // 4 + 2, generator=generator)
    fine = torch.rand(count, 3, side, side, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic", align_corners=False)
    return (0.8 * smooth + 0.2 * fine).clamp(0, 1)


def difference(one: Network, other: Network, lr: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return one(lr) - other(lr)


@pytest.mark.parametrize(("name", "scale"), [(name, scale) for name, scale in pairs() if name in FITTED])
def test_nothing_is_lost_where_nothing_is_cut(name: str, scale: int) -> None:
    family = architecture(name)
    teacher = lively(replace(family.small, scale=scale))
    student = fit(teacher, teacher.spec, patches(4))
    assert student is not teacher and student.fingerprint() != "" and not student.training
    assert float((run(student) - run(teacher)).abs().max()) < 1e-4


@pytest.mark.parametrize(
    "spec",
    [spec for name in FITTED for spec in architecture(name).variants],
    ids=lambda spec: f"{spec.arch} {spec.scale}",
)
def test_nothing_is_lost_in_other_forms(spec: Spec) -> None:
    teacher = lively(spec)
    student = fit(teacher, spec, patches(6)[:, : teacher.descriptor.channels])
    assert float((run(student) - run(teacher)).abs().max()) < 1e-4


@pytest.mark.parametrize("cut", ["width", "depth", "both"])
@pytest.mark.parametrize("name", FITTED)
def test_a_fitted_student_is_nearer_than_a_slice(name: str, cut: str) -> None:
    teacher = lively(architecture(name).small)
    axes = {"width": {"width": 0.5}, "depth": {"depth": 0.6}, "both": {"width": 0.5, "depth": 0.6}}[cut]
    if "depth" in axes and name.startswith("carn"):
        pytest.skip("CARN has no depth to cut")
    sliced = build_student(teacher, **axes)
    student = fit(teacher, sliced.spec, patches(16))
    others = patches(4, seed=9)
    errors = [float(difference(one, teacher, others).square().mean()) for one in (student, sliced)]
    assert errors[0] < (0.99 if (name, cut) == ("rcan", "depth") else 0.7) * errors[1]


def test_what_lies_in_few_directions_is_reproduced() -> None:
    teacher = in_few_directions(EDSRSpec(4, width=12, depth=3), rank=5)
    student = fit(teacher, replace(teacher.spec, width=5), patches(4))
    assert float((run(student) - run(teacher)).abs().max()) < 1e-4


@pytest.mark.parametrize(
    ("axes", "share"),
    [({"width": 0.5}, 0.75), pytest.param({"depth": 0.5}, 0.75, marks=pytest.mark.ci), ({"width": 0.25}, 0.2)],
)
def test_the_embedded_teacher(axes: dict[str, Any], share: float) -> None:
    """Its student keeps this much of its gain over bicubic, on photos that were not used, without a gradient."""
    from compressor.images.files import read_rgb_u8
    from compressor.images.resize import downscale_u8, upscale_bicubic
    from compressor.images.sets import embedded_photos

    teacher = load_checkpoint(embedded_teacher()).network
    student = fit(teacher, build_student(teacher, **axes).spec, embedded_patches(4)[::3, :, :40, :40])
    gains: dict[str, list[float]] = {"teacher": [], "student": []}
    for path in embedded_photos("val").values():
        hr = read_rgb_u8(path)[:, :256, :256]
        lr = downscale_u8(hr, 4)[None].float() / 255
        expected = hr[None].float()
        base = float(psnr(upscale_bicubic(lr, 4).clamp(0, 1) * 255, expected).mean())
        for label, network in (("teacher", teacher), ("student", student)):
            with torch.no_grad():
                gains[label].append(float(psnr(network(lr).clamp(0, 1) * 255, expected).mean()) - base)
    assert sum(gains["student"]) > share * sum(gains["teacher"]) > 0


@pytest.mark.parametrize(
    "name",
    ["edsr", "compact", *(pytest.param(name, marks=pytest.mark.ci) for name in ("rcan", "carn", "carn_m", "swinir"))],
)
def test_the_order_of_the_teachers_units_does_not_matter(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ridge is fixed: another order rounds differently, which may decide between two equally good ridges."""
    monkeypatch.setattr(least_squares, "RIDGES", (1e-3,))
    family = architecture(name)
    teacher = lively(family.small)
    reordered = order_by_strength(teacher, family.axes(teacher.spec), frozenset({"width"}))
    assert float((run(reordered) - run(teacher)).abs().max()) < 1e-5
    spec = teacher.spec.narrowed(0.5)
    one, other = (fit(network, spec, patches(24)) for network in (teacher, reordered))
    assert float(difference(one, other, patches(2, seed=8)).abs().max()) < 1e-3


def test_more_patches_do_no_harm() -> None:
    teacher = lively(EDSRSpec(2, width=16, depth=3))
    spec, apart = teacher.spec.narrowed(0.5), patches(8, seed=99)

    def error(count: int) -> float:
        students = [fit(teacher, spec, patches(count, seed=seed)) for seed in range(3)]
        return sum(float(difference(one, teacher, apart).square().mean()) for one in students)

    assert error(32) < 1.02 * error(16)


@pytest.mark.parametrize("lr", [torch.rand(1, 3, 2, 3), torch.zeros(4, 3, 12, 12), torch.full((4, 3, 12, 12), 0.5)])
def test_images_that_say_little_give_a_student_all_the_same(lr: torch.Tensor) -> None:
    for name in FITTED:
        teacher = lively(architecture(name).small)
        student = fit(teacher, teacher.spec.narrowed(0.5), lr)
        assert all(torch.isfinite(value).all() for value in student.state_dict().values())


def test_dead_units_are_not_kept() -> None:
    teacher = lively(EDSRSpec(2, width=8, depth=2))
    with torch.no_grad():
        for block in teacher.blocks:  # type: ignore[union-attr]
            block.conv1.weight[:4], block.conv1.bias[:4] = 0.0, -1.0  # type: ignore[index, union-attr, operator]
    bases = Fitting(teacher, replace(teacher.spec, width=4), patches(8)).bases
    for block in range(2):
        assert bases[f"blocks.{block}.hidden"].matrix[:4].count_nonzero() == 0


def test_the_same_images_give_the_same_bytes() -> None:
    teacher = lively(architecture("carn_m").small)
    before = teacher.fingerprint()
    one, other = (fit(teacher, teacher.spec.narrowed(0.5), patches()) for _ in range(2))
    assert one.fingerprint() == other.fingerprint() and teacher.fingerprint() == before


def test_what_cannot_be_solved_for_is_one_line() -> None:
    teacher = lively(EDSRSpec(2, width=8, depth=2))
    broken = copy.deepcopy(teacher)
    with torch.no_grad():
        broken.head.weight[0] = float("nan")  # type: ignore[index, union-attr, operator]
    with pytest.raises(SrkdError, match=r"the input of .* is not finite"):
        fit(broken, broken.spec.narrowed(0.5), patches())
    other: Spec = architecture("compact").small
    with pytest.raises(UsageError, match=r"a compact cannot be solved for from a edsr"):
        fit(teacher, other, patches())


def test_borders_are_as_rare_as_in_an_image() -> None:
    weights = pixel_weights(48, 48, scale=1, like=torch.zeros(1)).reshape(48, 48)
    inside = weights[8:-8, 8:-8].sum() / weights.sum()
    assert float(inside) == pytest.approx((240 / 256) ** 2, rel=1e-4)
    assert float(weights.mean()) == pytest.approx(1)
    assert float(pixel_weights(5, 9, scale=1, like=torch.zeros(1)).std()) == 0


def test_a_fit_says_how_far_it_is_and_how_long_it_takes() -> None:
    teacher, shares, lines = lively(architecture("carn_m").small), [], []
    context = Context(
        progress=lambda _title, done, total: shares.append(done / total),
        status=lambda line, seconds: lines.append((line, seconds)),
    )
    fit(teacher, teacher.spec.narrowed(0.5), patches(4), context=context)
    assert shares == sorted(shares) and shares[0] == 0 and shares[-1] == 1
    assert len(lines) > 10 and all(seconds > 0 for _, seconds in lines)


def broken(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Break one input of a student's fit."""
    from compressor.models.fitting import bases
    from compressor.models.fitting import fit as fitting
    from compressor.models.networks import linear_plan

    project, last_of = bases.Basis.project, linear_plan.Correspondence.last_of
    leave: Callable[..., None] = fitting.Fitting._leave
    solve = least_squares.Sums.solve

    def transposed(basis: bases.Basis, feature: torch.Tensor, parts: int = 1) -> torch.Tensor:
        square = basis.whole if basis.whole.shape[0] == basis.whole.shape[1] else basis.matrix
        columns = square.T[:, : basis.matrix.shape[1]] if square.shape[0] == square.shape[1] else basis.matrix
        return project(replace(basis, matrix=columns), feature)

    def uncorrected(self: Any, stage: Any) -> None:
        """Let the student continue from the teacher's features."""
        leave(self, stage)
        for batch in self.patches.batches() if stage.kind == "body" else ():
            feature = self.store["teacher", "feature", batch.first]
            self.store["student", "feature", batch.first] = self.bases["stream"].project(feature)

    def shuffled(basis: bases.Basis, feature: torch.Tensor, parts: int = 1) -> torch.Tensor:
        units = len(basis.matrix)
        if feature.shape[1] == units:
            return project(basis, feature)
        offsets = feature.shape[1] // units
        wrong = feature.reshape(len(feature), offsets, units, *feature.shape[2:]).transpose(1, 2)
        return project(basis, wrong.reshape(feature.shape))

    patched: dict[str, tuple[Any, str, Any]] = {
        "transposed basis": (bases.Basis, "project", transposed),
        "errors of earlier layers": (fitting.Fitting, "_leave", uncorrected),
        "bias": (least_squares.Sums, "solve", lambda sums, ridge: (solve(sums, ridge)[0], 0 * sums.r)),
        "order of offsets": (bases.Basis, "project", shuffled),
        "wrong target": (linear_plan.Correspondence, "last_of", lambda places, name: places.all_of(name)[0]),
    }
    assert last_of is not None
    monkeypatch.setattr(*patched[name])


@pytest.mark.parametrize(
    "fault", ["transposed basis", "errors of earlier layers", "bias", "order of offsets", "wrong target"]
)
def test_a_fault_is_noticed(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = lively(EDSRSpec(2, width=16, depth=8, res_scale=0.1))
    with torch.no_grad():
        for name, parameter in teacher.named_parameters():
            if name.endswith("bias"):
                parameter.add_(0.3)
    spec = teacher.spec.shortened(0.25)
    apart = patches(8, seed=99)

    def error() -> float:
        return float(difference(fit(teacher, spec, patches(16)), teacher, apart).square().mean())

    right = error()
    broken(monkeypatch, fault)
    assert error() > 1.02 * right
