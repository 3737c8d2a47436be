"""Networks equal the official code's outputs, on any size, and say the truth about themselves."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmarks.golden_networks import TOLERANCE, rows
from compressor.checkpoints.load import load_checkpoint
from compressor.errors import UsageError
from compressor.networks.base import Network, Spec
from compressor.networks.carn import CARNSpec
from compressor.networks.carn_m import CARNMSpec
from compressor.networks.edsr import EDSRSpec
from compressor.networks.registry import MODULES, architecture, build, spec_from_dict
from tests import official
from tests.shared import needs_shared, shared_dir

SMALL: dict[str, Callable[[int], Spec]] = {
    "edsr": lambda scale: EDSRSpec(scale, width=4, depth=2),
    "carn": lambda scale: CARNSpec(scale, width=4),
    "carn_m": lambda scale: CARNMSpec(scale, width=4),
}
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
]


def small_networks() -> list[Spec]:
    return [make(scale) for make in SMALL.values() for scale in (2, 3, 4)]


def label(spec: Spec) -> str:
    return f"{spec.arch}-x{spec.scale}"


@pytest.mark.parametrize(("name", "state", "options"), GOLDEN_CASES, ids=[case[0] for case in GOLDEN_CASES])
def test_outputs_equal_the_official_code(
    name: str, state: Callable[[], official.State], options: dict[str, object], tmp_path: Path
) -> None:
    case = official.golden_case(name, state())
    torch.save(case.state, tmp_path / "official.pth")
    scale = int(name[-1]) if name.startswith("carn_multi") else None
    loaded = load_checkpoint(tmp_path / "official.pth", scale=scale, arch_options=options)
    assert loaded.notes == ()  # the mean shift of the file is the constant, to the last digit
    assert loaded.network.spec.to_dict()["mean_shift"] == "constant"
    with torch.no_grad():
        sr = loaded.network(case.lr)
    assert float((official.thinned(sr) - case.outputs["y"]).abs().max()) <= TOLERANCE


@needs_shared
def test_every_golden_case_of_the_shared_folder() -> None:
    shared = shared_dir()
    assert shared is not None
    found = list(rows(shared / "golden", shared / "data" / "checkpoints"))
    assert len(found) >= 25
    assert {row.case for row in found} >= {"edsr_pytorch_x3", "carn_multi", "carn_m_official_checkpoint_outputs"}
    assert [row for row in found if not row.equal] == []


def test_every_registered_network_is_tested_here() -> None:
    assert set(SMALL) == set(MODULES)


@pytest.mark.parametrize("spec", small_networks(), ids=label)
@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 13), (2, 1)])
def test_any_size_works(spec: Spec, height: int, width: int) -> None:
    network = build(spec, seed=0)
    lr = torch.rand(2, 3, height, width)
    with torch.no_grad():
        sr = network(lr)
        alone = network(lr[1:])
    assert sr.shape == (2, 3, height * spec.scale, width * spec.scale)
    assert sr.isfinite().all()
    assert torch.allclose(sr[1:], alone, atol=1e-5)


@pytest.mark.parametrize("spec", small_networks(), ids=label)
def test_a_grey_image_of_the_mean_comes_out_as_the_mean(spec: Spec) -> None:
    """With zero biases and the mean subtracted there is nothing left to convolve, whatever the weights."""
    network = build(spec, seed=0)
    mean = torch.tensor([0.4488, 0.4371, 0.4040]).reshape(1, 3, 1, 1)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
        sr = network(mean.expand(1, 3, 5, 6))
    assert torch.allclose(sr, mean.expand_as(sr), atol=1e-6)


@pytest.mark.parametrize("spec", small_networks(), ids=label)
def test_the_parts_make_the_whole(spec: Spec) -> None:
    network = build(spec, seed=0)
    lr = torch.rand(1, 3, 6, 5)
    with torch.no_grad():
        shallow = network.stem(lr)
        sr = network.finish(network.body(shallow), shallow, lr)
        assert torch.equal(sr, network(lr))
        unused = network.finish(torch.zeros_like(shallow), shallow, lr)
    assert unused.shape == sr.shape
    assert not torch.equal(unused, sr)


def reach(network: Network, size: int) -> int:
    """LR pixels, from the centre, that the SR pixels of the central LR pixel depend on."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.abs_().add_(0.01)  # every ReLU lets everything through, no two paths cancel
    lr = torch.rand(1, 3, size, size).double().requires_grad_(True)
    centre, scale = size // 2, network.spec.scale
    sr = network.double()(lr)
    sr[..., centre * scale : (centre + 1) * scale, centre * scale : (centre + 1) * scale].sum().backward()
    assert lr.grad is not None
    touched = lr.grad.abs().sum(dim=(0, 1)).nonzero()
    return int((touched - centre).abs().max())


@pytest.mark.parametrize("spec", small_networks(), ids=label)
def test_the_receptive_radius_is_exact(spec: Spec) -> None:
    network = build(spec, seed=0)
    radius = network.descriptor.receptive_radius
    assert radius is not None
    found = reach(network, 2 * radius + 5)
    assert found <= radius, "tiling would not be exact"
    assert found >= radius - 1, "tiles would overlap more than they need"


def test_a_mean_shift_that_moved_is_kept(tmp_path: Path) -> None:
    state = official.edsr_pytorch(2, 8, 1)
    torch.save(state, tmp_path / "constant.pt")
    state["sub_mean.bias"] = state["sub_mean.bias"] - 255 * torch.tensor([0.1, -0.2, 0.05])
    torch.save(state, tmp_path / "moved.pt")
    constant, moved = load_checkpoint(tmp_path / "constant.pt"), load_checkpoint(tmp_path / "moved.pt")
    assert "differs from the constants" in moved.notes[0]
    lr = torch.rand(1, 3, 6, 7)
    with torch.no_grad():
        expected = constant.network(lr - torch.tensor([0.1, -0.2, 0.05]).reshape(1, 3, 1, 1))
        got = moved.network(lr)
        assert not torch.allclose(got, constant.network(lr), atol=1e-2)
    assert torch.allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("spec", small_networks(), ids=label)
def test_specs_survive_json(spec: Spec) -> None:
    assert spec_from_dict(spec.to_dict()) == spec


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"arch": "edrs"}, "did you mean 'edsr'"),
        ({"arch": "edsr", "widht": 3}, "did you mean 'width'"),
        ({"arch": "edsr", "width": "64"}, "width='64' is not int"),
        ({"arch": "edsr", "width": 64.0}, "width='64.0' is not int"),
        ({"arch": "edsr", "width": True}, "is not int"),
        ({"arch": "edsr", "width": 0}, "outside 1..65536"),
        ({"arch": "edsr", "depth": 65536}, "outside 1..1024"),
        ({"arch": "edsr", "scale": 1}, "not one of 2, 3, 4, 8"),
        ({"arch": "edsr", "img_range": 0}, "img_range=0 is not above 0"),
        ({"arch": "edsr", "res_scale": math.inf}, "is not float"),
        ({"arch": "edsr", "res_scale": 10**400}, "is not float"),
        ({"arch": "edsr", "mean": [0.1, 0.2]}, "is not tuple"),
        ({"arch": "edsr", "mean": [0.1, 0.2, math.nan]}, "is not tuple"),
        ({"arch": "edsr", "mean_shift": "fil"}, "neither 'constant' nor 'file'"),
        ({"arch": "carn_m", "groups": 5}, "not a multiple of groups=5"),
        ({"width": 64}, "names its network under 'arch'"),
        ([], "names its network under 'arch'"),
    ],
)
def test_a_spec_that_no_network_has_is_refused(fields: object, said: str) -> None:
    with pytest.raises(UsageError) as raised:
        spec_from_dict(fields)
    assert said in str(raised.value)


def test_a_seeded_network_depends_on_its_seed_alone() -> None:
    spec = EDSRSpec(2, 8, 1)
    before = torch.random.get_rng_state()
    first, second, other = build(spec, seed=3), build(spec, seed=3), build(spec, seed=4)
    assert torch.equal(before, torch.random.get_rng_state())
    heads = [dict(network.named_parameters())["head.weight"] for network in (first, second, other)]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_architectures_say_their_own_name() -> None:
    assert [architecture(name).name for name in MODULES] == list(MODULES)
