"""SwinIR: official padding, mask and initial weights; one size is the same function."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from compressor.images.resize import reflected_indices
from compressor.models.checkpoints.load import load_checkpoint
from compressor.models.networks.base import Network
from compressor.models.networks.registry import build
from compressor.models.networks.swinir import SwinIRSpec
from compressor.models.networks.windows import shift_mask, to_windows
from tests.support import official
from tests.support.official_swinir import CASES
from tests.support.official_swinir import swinir as official_swinir

TOLERANCE = 1e-5
DIRECT, SHUFFLE = "swinir_pixelshuffledirect_x4", "swinir_pixelshuffle_x2"


def load(name: str, folder: Path, **options: object) -> tuple[official.GoldenCase, Network]:
    case = official.golden_case(name, official_swinir(CASES[name]))
    torch.save({"params": case.state}, folder / "swinir.pth")
    return case, load_checkpoint(folder / "swinir.pth", arch_options=options).network


def distance(network: Network, lr: torch.Tensor, expected: torch.Tensor) -> float:
    return (official.thinned(network(lr)) - expected).abs().max().item()


def test_the_test_scripts_padding_is_an_option(tmp_path: Path) -> None:
    """It also pads what is a multiple of the window already: an image of 16×16."""
    for name, image, output in ((DIRECT, "", "y"), (SHUFFLE, "", "y"), (DIRECT, "x_16x16", "y_16x16")):
        case, network = load(name, tmp_path)
        _, scripted = load(name, tmp_path, padding="testscript")
        lr = case.outputs[image] if image else case.lr
        assert distance(network, lr, case.outputs[output]) <= TOLERANCE
        assert distance(scripted, lr, case.outputs[f"testscript_{output}"]) <= TOLERANCE
        assert distance(scripted, lr, case.outputs[output]) > 1e-2


def test_files_are_equal_whatever_image_size_they_were_trained_on(tmp_path: Path) -> None:
    """attn_mask and relative_position_index are rebuilt: only the lack of any mask has a meaning."""
    case, network = load(DIRECT, tmp_path)
    state = {name: value for name, value in case.state.items() if not name.endswith("attn_mask")}
    torch.save({"params": state}, tmp_path / "no_mask.pth")
    unshifted = load_checkpoint(tmp_path / "no_mask.pth").network
    bare = {name: value for name, value in state.items() if not name.endswith("relative_position_index")}
    torch.save({"params": bare}, tmp_path / "bare.pth")
    assert torch.equal(load_checkpoint(tmp_path / "bare.pth").network(case.lr), network(case.lr))
    assert not torch.allclose(unshifted(case.lr), network(case.lr), atol=1e-2)
    assert unshifted.spec.to_dict()["shifted"] is False


def test_padding_is_torchs_reflection_and_goes_on_where_torch_stops() -> None:
    for size in range(1, 12):
        index = reflected_indices(torch.arange(16), size, repeat_edge=False)
        wave = [abs((position + size - 1) % max(2 * (size - 1), 1) - (size - 1)) for position in range(16)]
        assert index.tolist() == [position if position < size else wave[position] for position in range(16)]
        if 16 - size < size:
            line = torch.arange(float(size)).reshape(1, 1, size)
            assert torch.equal(torch.nn.functional.pad(line, (0, 16 - size), mode="reflect")[0, 0], index.float())


def test_the_mask_separates_what_only_the_shift_made_neighbours() -> None:
    """Positions of a shifted window may attend to each other only if they were neighbours before the shift."""
    window, height, width = 4, 8, 12
    mask = shift_mask(height, width, window, torch.device("cpu"))
    place = torch.stack(torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"), -1)
    windows = to_windows(torch.roll(place, (-2, -2), (0, 1))[None].float(), window)[0]
    assert torch.equal(mask == 0, (windows[:, :, None] - windows[:, None]).abs().amax(-1) < window)
    assert set(mask.unique().tolist()) == {0.0, -100.0}


def test_new_weights_are_drawn_as_the_official_code_draws_them() -> None:
    network = build(SwinIRSpec(2, width=60, depths=(2,), heads=(6,)), seed=0)
    for name, parameter in network.named_parameters():
        value = parameter.detach()
        if name.endswith("bias_table") or (value.dim() == 2 and name.endswith("weight")):
            assert 0.018 < float(value.std()) < 0.022, name
        elif "norm" in name:
            assert torch.equal(value, torch.full_like(value, float(name.endswith("weight")))), name
        elif any(part in name for part in ("qkv", "proj", "fc1", "fc2")):
            assert not value.any(), name
    head = dict(network.named_parameters())["head.weight"].detach()
    assert 0.9 / 27**0.5 < float(head.abs().max()) <= 1 / 27**0.5, "convolutions keep torch's default"


@pytest.mark.parametrize("size", [(16, 12), (13, 18), (1, 1)])
@pytest.mark.parametrize(
    "spec",
    [
        SwinIRSpec(width=12, depths=(2, 3), heads=(2, 3), window=4, features=8, scale=2),
        SwinIRSpec(width=8, depths=(2,), heads=(2,), window=4, upsampler="none", scale=1, channels=1),
        SwinIRSpec(width=8, depths=(2,), heads=(2,), window=3, upsampler="pixelshuffledirect", padding="testscript"),
        SwinIRSpec(width=8, depths=(2,), heads=(1,), window=4, features=8, upsampler="nearest+conv", shifted=False),
    ],
    ids=lambda spec: spec.upsampler,
)
def test_one_size_is_the_same_function_in_other_operations(spec: SwinIRSpec, size: tuple[int, int]) -> None:
    network = build(spec, seed=0).eval()
    fixed = network.for_size(*size)
    assert fixed is not network and not fixed.training and fixed.descriptor == network.descriptor
    lr = torch.rand(1, spec.channels, *size, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(fixed(lr), network(lr), atol=5e-6, rtol=0)
    widest = max(value.dim() for value in fixed.buffers())
    assert widest == 5  # four besides the batch
