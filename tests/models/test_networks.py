"""Networks equal the official code's outputs, at any size, and their descriptors are true."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from compressor.base.errors import SrkdError, UsageError
from compressor.models.checkpoints.load import load_checkpoint
from compressor.models.networks.base import Network, Spec
from compressor.models.networks.compact import CompactSpec
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.layers import DIV2K_MEAN, DIV_FLICKR_MEAN, MeanShift, scale_from_upsampler, shuffle
from compressor.models.networks.prelu import ChannelPReLU
from compressor.models.networks.registry import build, spec_from_dict
from tests.support import official, official_rcan, official_swinir
from tests.support.golden_networks import TOLERANCE, rows
from tests.support.networks import VARIANTS, is_bounded, label, noise, tiny, tiny_networks
from tests.support.shared import needs_shared, shared

GOLDEN_CASES = [
    ("edsr_pytorch_x2_rgb1", lambda: official.edsr_pytorch(2, 16, 2, img_range=1.0), {}),
    ("edsr_pytorch_x3", lambda: official.edsr_pytorch(3, 16, 4), {}),
    ("edsr_pytorch_x4_res0.1", lambda: official.edsr_pytorch(4, 16, 4), {"res_scale": 0.1}),
    ("basicsr_edsr_x2", lambda: official.basicsr_edsr(2, 16, 4), {}),
    ("basicsr_edsr_x4", lambda: official.basicsr_edsr(4, 16, 4), {"res_scale": 0.1}),
    ("carn_multi_x2", lambda: official.carn((2, 3, 4)), {}),
    ("carn_multi_x3", lambda: official.carn((2, 3, 4)), {}),
    ("carn_multi_x4", lambda: official.carn((2, 3, 4)), {}),
    ("carn_m_x4_single", lambda: official.carn_m((4,)), {}),
    ("fakd_edsr_x2_features", lambda: official.fakd_edsr(2, 16, 6), {}),
    ("rcan_x2", lambda: official_rcan.rcan(official_rcan.RCAN, 2), {}),
    ("basicsr_rcan_x2_res0.1", lambda: official_rcan.rcan(official_rcan.BASICSR, 2), {"res_scale": 0.1}),
    ("basicsr_rcan_x3", lambda: official_rcan.rcan(official_rcan.BASICSR, 3), {}),
    *(
        (name, partial(official_swinir.swinir, shape), {"img_range": 255.0} if "range255" in name else {})
        for name, shape in official_swinir.CASES.items()
    ),
]


@pytest.mark.parametrize(("name", "state", "options"), GOLDEN_CASES, ids=[case[0] for case in GOLDEN_CASES])
def test_outputs_equal_the_official_code(
    name: str, state: Callable[[], official.State], options: dict[str, object], tmp_path: Path
) -> None:
    case = official.golden_case(name, state())
    torch.save(case.state, tmp_path / "official.pth")
    scale = int(name[-1]) if name.startswith("carn_multi") else None
    loaded = load_checkpoint(tmp_path / "official.pth", scale=scale, arch_options=options)
    if "imgsize8" in name:
        assert "no layer is shifted" in loaded.notes[0]
    else:
        assert loaded.notes == ()  # the file's mean shift equals the constant, to the last digit
    assert loaded.network.spec.to_dict().get("mean_shift", "constant") == "constant"
    assert (official.thinned(loaded.network(case.lr)) - case.outputs["y"]).abs().max() <= TOLERANCE


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5, 7, 8])
def test_fakds_thirds_of_any_depth(depth: int, tmp_path: Path) -> None:
    state = official.fakd_edsr(2, 4, depth)
    torch.save(state, tmp_path / "fakd.pt")
    loaded = load_checkpoint(tmp_path / "fakd.pt")
    assert (loaded.dialect, loaded.network.spec) == ("fakd", EDSRSpec(2, 4, depth))
    own = dict(loaded.network.named_parameters())
    parts = sorted({tuple(name.split(".")[:2]) for name in state if name.startswith("body") and ".body." in name})
    for index, (part, block) in enumerate(parts):
        assert torch.equal(own[f"blocks.{index}.conv2.weight"], state[f"{part}.{block}.body.2.weight"])


def test_rcan_keeps_a_mean_shift_that_training_has_moved(tmp_path: Path) -> None:
    state = official_rcan.drifted(official_rcan.rcan(official_rcan.RCAN, 2))
    case = official.golden_case("rcan_x2_drifted_meanshift", state)
    torch.save(case.state, tmp_path / "official.pth")
    loaded = load_checkpoint(tmp_path / "official.pth")
    assert "differs from the constants" in loaded.notes[0]
    buffers = dict(loaded.network.named_buffers())
    assert all(torch.equal(buffers[name], state[name]) for name in ("sub_mean.weight", "sub_mean.bias"))
    assert not any("mean" in name for name, _ in loaded.network.named_parameters())
    with torch.no_grad():
        sr = loaded.network(case.lr)
        constant = load_checkpoint(tmp_path / "official.pth", arch_options={"mean_shift": "constant"}).network(case.lr)
    assert float((official.thinned(sr) - case.outputs["y"]).abs().max()) <= TOLERANCE
    assert float((official.thinned(constant) - case.outputs["y"]).abs().max()) > 1e-3


@pytest.mark.ci
@needs_shared
def test_every_golden_case_of_the_shared_folder() -> None:
    result = list(rows(shared() / "golden", shared() / "data" / "checkpoints"))
    assert len(result) >= 57
    kinds = {"y", "y_s3", "y_ema", "group0", "body_before_long_skip", "y_w0.25", "student_out2", "testscript_y_13x18"}
    assert kinds <= {row.output for row in result}
    assert [row for row in result if row.max_abs > TOLERANCE] == []


@pytest.mark.parametrize(
    ("scale", "act", "options"),
    [
        *((scale, partial(nn.PReLU, 6), {}) for scale in (1, 2, 3, 4, 8)),
        (2, nn.ReLU, {}),
        (3, partial(nn.LeakyReLU, 0.1), {"act": "leakyrelu"}),
        (2, partial(nn.PReLU, 6), {"residual": False}),
        (3, nn.PReLU, {}),
    ],
)
def test_compact_is_its_definition(
    scale: int, act: Callable[[], nn.Module], options: dict[str, object], tmp_path: Path
) -> None:
    """Compact: conv, act, n times; conv, shuffle, plus the nearest upscale: written again, from BasicSR's names."""
    torch.manual_seed(scale)
    layers: list[nn.Module] = [nn.Conv2d(3, 6, 3, padding=1), act()]
    for _ in range(3):
        layers += [nn.Conv2d(6, 6, 3, padding=1), act()]
    body = nn.Sequential(*layers, nn.Conv2d(6, 3 * scale**2, 3, padding=1))
    with torch.no_grad():
        for module in body:
            if isinstance(module, nn.PReLU):
                module.weight.uniform_(-0.5, 1.0)
    torch.save({"params": {f"body.{name}": value for name, value in body.state_dict().items()}}, tmp_path / "srvgg.pth")
    loaded = load_checkpoint(tmp_path / "srvgg.pth", arch_options=options)
    assert loaded.network.spec == CompactSpec(scale, 6, 3).with_options(
        {"act": "relu", **options} if act is nn.ReLU else options
    )
    # Without slopes the file is of ReLU or LeakyReLU: an option says which, or the assumption is reported.
    assert [(entry.field, entry.value) for entry in loaded.assumed] == ([("act", "relu")] if act is nn.ReLU else [])
    lr = torch.rand(2, 3, 7, 5)
    sr = nn.PixelShuffle(scale)(body(lr))
    if options.get("residual", True):
        sr = sr + lr.repeat_interleave(scale, -1).repeat_interleave(scale, -2)
    assert torch.allclose(loaded.network(lr), sr, atol=1e-6)


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format], ids=["last", "first"])
def test_a_slope_for_each_channel_gives_the_bits_and_the_gradients_of_torch(layout: torch.memory_format) -> None:
    own, plain = ChannelPReLU(24), nn.PReLU(24)
    with torch.no_grad():
        own.weight.copy_(plain.weight.uniform_(-1, 2))
    x = torch.randn(2, 24, 5, 7).contiguous(memory_format=layout)
    half = x.bfloat16()
    assert torch.equal(own(x), plain(x)) and torch.equal(own.bfloat16()(half), plain.bfloat16()(half))
    inputs = [x.double().requires_grad_() for _ in range(2)]
    for network, values in zip((own.double(), plain.double()), inputs, strict=True):
        network(values).square().sum().backward()
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad)
    torch.testing.assert_close(own.weight.grad, plain.weight.grad)


@pytest.mark.parametrize("spec", [*tiny_networks(), *VARIANTS], ids=label)
def test_any_size_works_and_the_parts_make_the_whole(spec: Spec) -> None:
    network = build(spec, seed=0)
    for height, width in ((1, 1), (2, 1), (7, 13)):
        lr = noise(spec, height, width, batch=2)
        sr, alone, shallow = network(lr), network(lr[1:]), network.stem(lr)
        parts = network.finish(network.body(shallow), shallow, lr)
        unused = network.finish(torch.zeros_like(shallow), shallow, lr)
        assert sr.shape == unused.shape == (2, lr.shape[1], height * spec.scale, width * spec.scale)
        assert sr.isfinite().all() and torch.allclose(sr[1:], alone, atol=1e-5) and torch.equal(parts, sr)
    assert not torch.equal(unused, sr), "the tail reads the feature"


def reach(network: Network, size: int) -> int:
    """Return the distance in LR pixels on which the SR pixels of an LR pixel depend, at any place in a window."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.abs_().add_(0.01)  # every ReLU passes everything, no two paths cancel
    lr = noise(network.spec, size, size).double().requires_grad_(True)
    window, scale, furthest = network.descriptor.window, network.spec.scale, 0
    sr = network.double().train()(lr)  # a network that clips its image does not clip it in training
    for centre in range(size // 2, size // 2 + window):
        own = slice(centre * scale, (centre + 1) * scale)
        (gradient,) = torch.autograd.grad(sr[..., own, own].sum(), lr, retain_graph=True)
        positions = gradient.abs().sum(dim=(0, 1)).nonzero()
        furthest = max(furthest, int((positions - centre).abs().max()))
    return furthest


@pytest.mark.parametrize("spec", [spec for spec in (*tiny_networks(), *VARIANTS) if is_bounded(spec)], ids=label)
def test_the_receptive_radius_is_exact(spec: Spec) -> None:
    network = build(spec, seed=0)
    radius = network.descriptor.receptive_radius
    result = reach(network, 2 * (radius + network.descriptor.window) + 5)
    assert result <= radius, "tiling would not be exact"
    assert result >= radius - 1, "tiles would overlap more than they need"


def test_the_means_are_those_of_the_official_code() -> None:
    """EDSR's common.py, and RCAN's test code with --rgb_mean of DIV2K and Flickr2K."""
    assert DIV2K_MEAN == (0.4488, 0.4371, 0.4040)
    assert DIV_FLICKR_MEAN == (0.4690, 0.4490, 0.4036)


@pytest.mark.parametrize("leave", [False, True])
def test_a_mean_shift_is_its_formula_in_both_forms_and_is_undone(leave: bool) -> None:
    """x → (x - mean)·range, or back: y → y/range + mean."""
    images = torch.rand(2, 3, 5, 4, generator=torch.Generator().manual_seed(0)) * (255 if leave else 1)
    mean = torch.tensor(DIV2K_MEAN)[:, None, None]
    expected = images / 255 + mean if leave else (images - mean) * 255
    for from_file in (False, True):
        layer = MeanShift(DIV2K_MEAN, 255, leave=leave, from_file=from_file)
        for _ in range(3):
            assert torch.allclose(layer(images), expected, atol=1e-6 * 255)
            assert torch.allclose(layer.undo(layer(images)), images, atol=1e-6 * 255)
            layer.become_convolution()
        assert layer.from_file and set(layer.state_dict()) == ({"weight", "bias"} if from_file else set())


@pytest.mark.parametrize(
    ("rows", "width", "scale"), [((4,), 1, 2), ((36,), 4, 3), ((256, 256), 64, 4), ((8, 8, 8), 2, 8)]
)
def test_the_scale_is_read_off_the_upsampler(rows: tuple[int, ...], width: int, scale: int) -> None:
    assert scale_from_upsampler(rows, width) == scale
    for other in ((*rows[:-1], rows[-1] + 1), (*rows, 5 * width)):
        with pytest.raises(SrkdError, match="fit no scale"):
            scale_from_upsampler(other, width)


def test_the_gradient_of_a_shuffle_is_torchs() -> None:
    for layout in (torch.contiguous_format, torch.channels_last):
        x = torch.rand(2, 45, 4, 4).to(memory_format=layout).requires_grad_()
        upstream = torch.rand(2, 5, 12, 12).to(memory_format=layout)
        ours, theirs = (torch.autograd.grad(f(x, 3), x, upstream)[0] for f in (shuffle, nn.functional.pixel_shuffle))
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(("arch", "convolutions"), [("rcan", 20), ("swinir", 10)])
def test_networks_without_a_radius_see_further_than_their_convolutions(arch: str, convolutions: int) -> None:
    """RCAN pools over the whole image; shifted windows pass information to the next one."""
    network = build(tiny(arch, 2), seed=0)
    assert network.descriptor.receptive_radius is None
    lr = torch.rand(1, 3, 61, 61, requires_grad=True)
    network(lr)[..., 60:62, 60:62].sum().backward()
    assert int((lr.grad.abs().sum(dim=(0, 1)).nonzero() - 30).abs().max()) > convolutions


def test_specs_survive_json() -> None:
    for spec in (*tiny_networks(), *VARIANTS):
        assert spec_from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


def test_a_spec_that_no_network_has_is_refused() -> None:
    refusals: list[tuple[object, str]] = [
        ({"arch": "edrs"}, "did you mean 'edsr'"),
        ({"arch": "edsr", "widht": 3}, "did you mean 'width'"),
        ({"arch": "edsr", "width": "64"}, "width='64' is not int"),
        ({"arch": "edsr", "width": True}, "is not int"),
        ({"arch": "edsr", "width": 0}, "outside 1..65536"),
        ({"arch": "edsr", "depth": 65536}, "outside 1..1024"),
        ({"arch": "edsr", "scale": 1}, "not one of 2, 3, 4, 8"),
        ({"arch": "edsr", "img_range": 0}, "img_range=0 is not above 0"),
        ({"arch": "edsr", "res_scale": 10**400}, "is not float"),
        ({"arch": "edsr", "mean": [0.1, 0.2]}, "is not tuple"),
        ({"arch": "edsr", "mean": [0.1, 0.2, math.nan]}, "is not tuple"),
        ({"arch": "edsr", "mean_shift": "fil"}, "neither 'constant' nor 'file'"),
        ({"arch": "carn_m", "groups": 5}, "not a multiple of groups=5"),
        ({"arch": "compact", "scale": 5}, "not one of 1, 2, 3, 4, 8"),
        ({"arch": "compact", "channels": 2}, "neither 1 nor 3"),
        ({"arch": "compact", "act": "gelu"}, "not one of prelu, relu, leakyrelu"),
        ({"arch": "swinir", "width": 61}, "not a multiple of every one of heads"),
        ({"arch": "swinir", "depths": [6, 6]}, "equally many"),
        ({"arch": "swinir", "depths": [], "heads": []}, "is not tuple"),
        ({"arch": "swinir", "upsampler": "nearest+conv", "scale": 2}, "does not give scale=2"),
        ({"arch": "swinir", "padding": "zero"}, "not one of network, testscript"),
        ({"arch": "swinir", "mlp_ratio": 0}, "out of range"),
        ({"arch": "swinir", "window": 0}, "window=0 is outside"),
        ([], "names its network under 'arch'"),
    ]
    for fields, message in refusals:
        with pytest.raises(UsageError) as raised:
            spec_from_dict(fields)
        assert message in str(raised.value), fields
