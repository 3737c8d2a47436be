"""Students of another kind than their teacher, solved for: what fits into them is reproduced, and borders excepted,
an activation that cannot be switched off changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import nn

from compressor.assets import embedded_teacher
from compressor.base.context import QUIET
from compressor.base.errors import UsageError
from compressor.images.files import read_rgb_u8
from compressor.images.resize import downscale_u8, upscale_bicubic
from compressor.images.sets import embedded_photos
from compressor.models.checkpoints.load import load_checkpoint
from compressor.models.fitting import across as across_module
from compressor.models.fitting import across_source
from compressor.models.fitting.across import AcrossFit
from compressor.models.fitting.balance import balance
from compressor.models.fitting.fit import fit, is_far_smaller, require_solvable, source_for
from compressor.models.fitting.patches import embedded_patches
from compressor.models.fitting.same_kind import SameKindFit
from compressor.models.networks.base import ImageModel, Network, Spec
from compressor.models.networks.carn import CARNSpec
from compressor.models.networks.carn_m import CARNMSpec
from compressor.models.networks.compact import CompactSpec
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.rcan import RCANSpec
from compressor.models.networks.registry import architecture, architectures, build, linear_plan
from compressor.models.networks.rrdbnet import RRDBNetSpec
from compressor.models.networks.span import SPANSpec
from compressor.models.networks.spanf3 import SPANF3Spec
from compressor.models.networks.swinir import SwinIRSpec
from compressor.teachers.teacher import Teacher
from tests.support.fits import patches
from tests.support.shared import needs_shared, shared
from tests.support.slices import lively

WIDTH = 6
STREAM, SHARE = WIDTH + 3, 0.6
"""Channels of the stream of `composable`: its own, and the three of the image that its long skip adds at the end."""


def one_tap(conv: nn.Module) -> None:
    """Leave a convolution only its middle and no bias: its composition with a 3×3 one is 3×3, also at borders."""
    middle = conv.weight.detach()[:, :, 1:2, 1:2].clone()
    with torch.no_grad():
        conv.weight.zero_()
        conv.weight[:, :, 1:2, 1:2] = 2 * middle
        conv.bias.zero_()


def composable(depth: int = 3, seed: int = 5, scale: int = 2) -> Network:
    """Return a residual network that a chain of 3×3 convolutions can be: each pair of its layers reaches 3×3."""
    spec = EDSRSpec(scale, width=WIDTH, depth=depth, mean=(0.0, 0.0, 0.0), img_range=1.0, res_scale=1.0)
    network = build(spec, seed=seed)
    for conv in (network.get_submodule("head"), *network.get_submodule("upsampler.convs").children()):
        one_tap(conv)
    for index in range(depth):
        one_tap(network.get_submodule(f"blocks.{index}.conv2"))
        with torch.no_grad():
            network.get_parameter(f"blocks.{index}.conv1.weight").mul_(3)
    one_tap(network.get_submodule("body_end"))
    return network.eval()


def inner_error(student: Network, teacher: ImageModel, lr: torch.Tensor | None = None) -> float:
    """Return the largest difference of the images inside their borders, where layers read zeros."""
    lr = patches(4, seed=9) if lr is None else lr
    return (student(lr) - teacher(lr))[..., 16:-16, 16:-16].abs().max().item()


def across(source: Network, spec: Spec, lr: torch.Tensor, share: float) -> Network:
    return AcrossFit(source, source, spec, lr, stream_share=share).solve()


def test_a_residual_network_that_fits_into_a_chain_is_reproduced() -> None:
    teacher, lr = composable(), patches(24)
    exact = inner_error(across(teacher, CompactSpec(2, width=STREAM + WIDTH, depth=3), lr, SHARE), teacher)
    smaller = inner_error(across(teacher, CompactSpec(2, width=STREAM + WIDTH - 3, depth=3), lr, SHARE), teacher)
    assert exact < 1e-3
    assert smaller > 4 * exact, "it has no channel for each unit"


@pytest.mark.parametrize(
    "spec",
    [
        EDSRSpec(2, width=12, depth=3, img_range=1.0),
        EDSRSpec(4, width=12, depth=3, img_range=1.0),
        RCANSpec(2, width=12, groups=1, depth=3, hidden=2, img_range=1.0),
    ],
    ids=["edsr x2", "edsr x4", "rcan"],
)
def test_a_residual_network_that_fits_into_one_is_reproduced(spec: Spec) -> None:
    """Its stream passes by the skips, in another basis, and the layers of its upsampler hold the image's pixels."""
    teacher = composable(scale=spec.scale)
    assert inner_error(across(teacher, spec, patches(24), SHARE), teacher) < 1e-3


@pytest.mark.parametrize(
    ("spec", "gate", "held"),
    [
        (RCANSpec(2, width=16, groups=2, depth=2, hidden=3), "groups.{}.blocks.1.attention.expand", torch.sigmoid),
        (SPANF3Spec(2, width=16, depth=2), "trunk.blocks.{}.attention", torch.tanh),
    ],
    ids=["rcan", "spanf3"],
)
def test_gates_of_another_layer_are_held_and_can_be_trained(
    spec: Spec, gate: str, held: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    """They are the same for any image, neither shut nor beyond reach of a gradient."""
    teacher, lr = lively(replace(architecture("edsr").small, scale=2)), patches(16)
    student = across(teacher, spec, lr, 0.4)
    gates: list[torch.Tensor] = []
    for index in range(2):
        maker = student.get_submodule(gate.format(index))
        maker.register_forward_hook(lambda _module, _inputs, output: gates.append(held(output.detach())))
    (student(lr) - teacher(lr)).square().mean().backward()
    for index, values in enumerate(gates):
        assert torch.equal(values, torch.full_like(values, float(values.flatten()[0])))
        assert 0.4 < float(values.flatten()[0]) < 1
        gradient = student.get_parameter(f"{gate.format(index)}.weight").grad
        assert gradient is not None and float(gradient.abs().max()) > 0


def test_gates_that_open_themselves_are_open_and_their_offset_is_taken_back() -> None:
    teacher, lr = lively(replace(architecture("edsr").small, scale=2)), patches(24)
    spec = SPANSpec(2, width=24, depth=2)
    student = across(teacher, spec, lr, 0.4)
    inputs: list[torch.Tensor] = []
    for index in range(spec.depth):
        student.get_submodule(f"trunk.blocks.{index}.c3").register_forward_hook(lambda *call: inputs.append(call[2]))
    with torch.no_grad():
        student(lr)
        assert float(torch.cat(inputs, 1)[..., 8:-8, 8:-8].sigmoid().quantile(0.01)) > 0.95
        offset = (student(lr) - teacher(lr)).mean((0, 2, 3)).abs().max()
    assert offset < 0.01


def test_relu_is_as_good_as_prelu_inside_the_border(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stream passes it by an offset, which the next layer takes back; here it cuts off nothing."""
    monkeypatch.setattr(across_module, "QUANTILE", 0.0)
    teacher, lr = composable(), patches(24)
    student = across(teacher, CompactSpec(2, width=STREAM + WIDTH, depth=3, act="relu"), lr, SHARE)
    assert inner_error(student, teacher, lr[:4]) < 1e-2


def test_hidden_units_get_the_slopes_of_their_source() -> None:
    teacher = lively(CompactSpec(2, width=6, depth=1))
    student = across(teacher, CompactSpec(2, width=6 + 3, depth=1), patches(24), 0.34)
    slopes = dict(student.named_parameters())["head.slope.weight"]
    theirs = dict(teacher.named_parameters())["head.slope.weight"]
    assert torch.equal(slopes[:3], torch.ones(3)) and set(slopes[3:].tolist()) == set(theirs.tolist())
    assert inner_error(student, teacher) < 2e-2


def test_a_step_later_is_a_wrong_step() -> None:
    """A layer that stands one state later lacks the units of its own block."""
    teacher, lr = composable(), patches(24)
    spec = CompactSpec(2, width=STREAM + WIDTH, depth=3)
    errors = []
    for shift in (0, 1):
        solver = AcrossFit(teacher, teacher, spec, lr, stream_share=SHARE)
        stream = solver.source.stream
        states = stream.states
        solver.source.stream = replace(stream, states=(*states[shift:], *states[len(states) - shift :]))
        errors.append(inner_error(solver.solve(), teacher))
    assert errors[1] > 4 * errors[0], errors


STUDENTS = (
    CompactSpec(2, width=20, depth=2),
    CompactSpec(2, width=24, depth=5),
    EDSRSpec(2, width=24, depth=2),
    SPANSpec(2, width=24, depth=2),
    RCANSpec(2, width=24, groups=2, depth=2, hidden=4),
    SPANF3Spec(2, width=24, depth=2),
    RRDBNetSpec(2, width=24, growth=12, depth=1),
    CARNSpec(2, width=20),
    CARNMSpec(2, width=24),
    SPANF3Spec(2, width=24, depth=2, unshuffle=2),
    SwinIRSpec(2, width=20, depths=(1, 1), heads=(2, 2), window=4, features=16),
)


@pytest.mark.ci
@pytest.mark.parametrize("name", ["edsr", "rcan", "compact", "plain"])
@pytest.mark.parametrize("spec", STUDENTS, ids=str)
def test_a_solved_student_is_nearer_than_random_weights(name: str, spec: Spec) -> None:
    teacher, lr = lively(replace(architecture(name).small, scale=2)), patches(24)
    source, merges = source_for(teacher, spec), name == "edsr"
    student = AcrossFit(source, teacher, spec, lr, stream_share=0.4, merges_units=merges).solve()
    apart = patches(6, seed=11)
    error, random = ((net(apart) - teacher(apart)).square().mean() for net in (student, build(spec, seed=3)))
    # The nearest upsampler of an RRDBNet tells pixels apart by their neighbours only, CARN-M's reads a stream in
    # quarters, and the first SwinIR is linear.
    assert error < random / {RRDBNetSpec: 3, CARNMSpec: 2, SwinIRSpec: 2}.get(type(spec), 4)


def test_a_student_that_unshuffles_is_solved_on_patches_of_any_size() -> None:
    teacher, lr = lively(replace(architecture("edsr").small, scale=2)), patches(24)[..., :15, :15].contiguous()
    spec = SPANF3Spec(2, width=24, depth=2, unshuffle=2)
    student = AcrossFit(source_for(teacher, spec), teacher, spec, lr).solve()
    error, random = ((net(lr) - teacher(lr)).square().mean() for net in (student, build(spec, seed=3)))
    assert error < random / 4


@pytest.mark.parametrize(
    ("spec", "writer", "reader"),
    [
        (CompactSpec(2, width=20, depth=2), "layers.0.conv", "layers.1.conv"),
        (CARNMSpec(2, width=16), "cascade.steps.0.steps.0.conv1", "cascade.steps.0.steps.0.conv2"),
    ],
    ids=["compact", "carn_m"],
)
def test_a_unit_is_as_large_where_it_is_written_as_where_it_is_read(spec: Spec, writer: str, reader: str) -> None:
    """Weights far from 1 beside small ones would train badly; scaling a unit, in its group, changes no output."""
    teacher, lr = lively(replace(architecture("edsr").small, scale=2)), patches(16)
    solver = AcrossFit(teacher, teacher, spec, lr, stream_share=0.4)
    student = solver.solve()
    weights = [student.get_parameter(f"{name}.weight") for name in (writer, reader)]
    with torch.no_grad():
        expected = student(lr[:2])
        weights[0].mul_(8)
        student.get_parameter(f"{writer}.bias").mul_(8)
        weights[1].div_(8)
        scaled = float(weights[0].norm())
        assert torch.allclose(student(lr[:2]), expected, atol=1e-4)
        balance(solver.student, solver.short)
        assert torch.allclose(student(lr[:2]), expected, atol=1e-4)
    assert float(weights[0].norm()) < 0.5 * scaled
    if isinstance(spec, CompactSpec):
        sizes = [weights[0].square().mean((1, 2, 3)).sqrt(), weights[1].square().mean((0, 2, 3)).sqrt()]
        assert torch.allclose(sizes[0], sizes[1], rtol=0.5)


@pytest.mark.ci
def test_more_patches_never_hurt() -> None:
    teacher, apart = lively(replace(architecture("edsr").small, scale=2)), patches(8, seed=12)
    spec = CompactSpec(2, width=20, depth=3)
    errors = []
    for count in (16, 32, 64):
        student = across(teacher, spec, patches(count), 0.4)
        errors.append((student(apart) - teacher(apart)).square().mean())
    assert all(later < 1.02 * earlier for earlier, later in pairwise(errors)), errors


class Outputs(Teacher):
    """A model that gives outputs only, as a foreign file does."""

    network = None  # type: ignore[assignment]


@pytest.mark.ci
@pytest.mark.parametrize("scale", [2, 3])
def test_outputs_alone_are_enough_at_any_scale(scale: int) -> None:
    """The embedded network gives the features, the teacher the image: here a sharpened enlargement."""
    teacher = Outputs(lively(replace(architecture("edsr").small, scale=scale)))
    spec, lr = CompactSpec(scale, width=16, depth=2), patches(16)
    assert source_for(teacher, spec).spec.scale == 4
    torch.manual_seed(1)
    student, apart = fit(teacher, spec, lr), patches(4, seed=13)
    error, random = ((net(apart) - teacher(apart)).square().mean() for net in (student, build(spec, seed=3)))
    assert error < random / 2
    torch.manual_seed(2)
    assert fit(teacher, spec, lr).fingerprint() == student.fingerprint()


SHAPES = [spec for kind in architectures() for spec in (kind.small, *kind.variants)]
COLOUR = [spec for spec in SHAPES if spec.to_dict().get("channels", 3) == 3]


@pytest.mark.ci
@pytest.mark.parametrize("spec", COLOUR, ids=str)
def test_every_shape_is_solved_for(spec: Spec) -> None:
    """No student has to start from random weights: each gives an image."""
    teacher, lr = Outputs(build(spec, seed=1)), patches(8)[..., :16, :16]
    require_solvable(teacher, spec)
    student = AcrossFit(source_for(teacher, spec), teacher, spec.deployed, lr, stream_share=0.4).solve()
    assert student(lr).isfinite().all()


@pytest.mark.ci
@pytest.mark.parametrize(
    "spec",
    [
        SwinIRSpec(4, width=30, depths=(1, 1), heads=(3, 3), features=32),
        SwinIRSpec(4, width=32, depths=(2,), heads=(2,), upsampler="pixelshuffledirect"),
        CARNSpec(4, width=16),
        CARNMSpec(4, width=32),
    ],
    ids=str,
)
def test_a_start_is_nearer_to_the_teacher_than_bicubic(spec: Spec) -> None:
    """Where features of another network pass only in part, or not at all, the image does; at borders layers read
    zeros in place of a stream with an offset.
    """
    teacher, lr = load_checkpoint(embedded_teacher()).network, embedded_patches(4)
    student = fit(teacher, spec, lr)
    errors = torch.zeros(2)
    with torch.no_grad():
        for path in embedded_photos("val").values():
            photo = downscale_u8(read_rgb_u8(path), 4)[None].float() / 255
            images = student(photo), upscale_bicubic(photo, 4)
            errors += torch.stack([(image - teacher(photo))[..., 80:-80, 80:-80].square().mean() for image in images])
    assert errors[0] < errors[1]


def test_what_a_skip_passes_by_is_silent_and_can_be_trained() -> None:
    """The image does not depend on its weights until its last layer has moved, which has a gradient."""
    teacher, lr = lively(replace(architecture("edsr").small, scale=2)), patches(16)
    student = fit(teacher, SwinIRSpec(2, width=20, depths=(2,), heads=(2,), window=4, features=16), lr)
    with torch.no_grad():
        expected = student(lr)
        student.get_parameter("groups.0.layers.0.fc1.weight").mul_(2)
        assert torch.equal(student(lr), expected)
    assert bool(student.get_parameter("groups.0.layers.0.fc1.weight").any())
    (student(lr) - teacher(lr)).square().mean().backward()
    gradient = student.get_parameter("body_end.weight").grad
    assert gradient is not None and float(gradient.abs().max()) > 0


def test_students_that_no_stream_passes_are_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks of other packages may declare no layers, or activations without slopes."""
    teacher = lively(replace(architecture("rcan").small, scale=2))
    plan = linear_plan(CompactSpec(2))
    for other in (None, replace(plan, slopes={})):
        monkeypatch.setattr(across_source, "linear_plan", lambda _, other=other: other)
        with pytest.raises(UsageError, match="a compact cannot be solved for from a network of another kind"):
            require_solvable(teacher, CompactSpec(2))
    monkeypatch.undo()
    with pytest.raises(UsageError, match="the student is for x4, the teacher for x2"):
        require_solvable(teacher, CompactSpec(4))


@pytest.mark.ci
@needs_shared
def test_a_far_smaller_span_follows_the_embedded_network_if_that_is_nearer() -> None:
    teacher = load_checkpoint(shared() / "data" / "checkpoints" / "spanx4_ch48.param").network.deployed()
    lr = embedded_patches(4)[:32]
    spec = replace(teacher.spec, width=24, depth=3)
    own = SameKindFit(teacher, spec, lr, QUIET).solve()
    chosen = fit(teacher, spec, lr)
    photos = [downscale_u8(read_rgb_u8(path), 4)[None].float() / 255 for path in embedded_photos("val").values()]
    with torch.no_grad():
        errors = [
            sum(float((student(photo) - teacher(photo)).square().mean()) for photo in photos)
            for student in (chosen, own)
        ]
    assert errors[0] < 0.95 * errors[1]
    # At the teacher's depth its own layers are the better start, and no time is spent on another.
    assert not is_far_smaller(teacher, replace(teacher.spec, width=24))
    assert is_far_smaller(teacher, spec)
    edsr = build(EDSRSpec(scale=2, width=16, depth=4), seed=0)
    assert not is_far_smaller(edsr, replace(edsr.spec, width=8, depth=2))
