"""Every dialect and wrapper loads and reports its assumptions; misfits are named."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from compressor.base.errors import SrkdError, UsageError
from compressor.models.checkpoints.load import Loaded, load_checkpoint
from compressor.models.networks.base import Network, Spec
from compressor.models.networks.carn import CARNSpec
from compressor.models.networks.carn_m import CARNMSpec
from compressor.models.networks.edsr import EDSRSpec
from tests.support import official
from tests.support.networks import same_network, save_state

State = official.State
DIALECTS: list[tuple[str, Callable[[], State], int | None, Spec]] = [
    ("edsr-pytorch", lambda: official.edsr_pytorch(2, 8, 3), None, EDSRSpec(2, 8, 3)),
    ("edsr-pytorch", lambda: official.edsr_pytorch(3, 8, 1, img_range=1.0), None, EDSRSpec(3, 8, 1, img_range=1.0)),
    ("edsr-pytorch", lambda: official.edsr_pytorch(8, 4, 2), None, EDSRSpec(8, 4, 2)),
    ("edsr-pytorch", lambda: official.edsr_pytorch(4, 256, 1), None, EDSRSpec(4, 256, 1, 0.1)),
    ("basicsr", lambda: official.basicsr_edsr(4, 12, 2), None, EDSRSpec(4, 12, 2)),
    ("csd", lambda: official.csd_edsr(4, 8, 2), None, EDSRSpec(4, 8, 2, 0.1)),
    ("carn", lambda: official.carn((3,), 8), None, CARNSpec(3, 8)),
    ("carn", lambda: official.carn((2, 3, 4), 8), 4, CARNSpec(4, 8)),
    ("carn_m", lambda: official.carn_m((2, 3, 4), 8, groups=2), 2, CARNMSpec(2, 8, groups=2)),
    ("carn_m", lambda: official.carn_m((4,), 12, groups=4), 4, CARNMSpec(4, 12, groups=4)),
]


def weights_of(loaded: Loaded) -> dict[str, torch.Tensor]:
    return dict(loaded.network.named_parameters())


@pytest.mark.parametrize(
    ("dialect", "state", "scale", "spec"),
    DIALECTS,
    ids=[f"{row[0]}-{row[3].scale}-{i}" for i, row in enumerate(DIALECTS)],
)
def test_hyper_parameters_are_inferred(
    dialect: str, state: Callable[[], State], scale: int | None, spec: Spec, tmp_path: Path
) -> None:
    tensors = state()
    loaded = load_checkpoint(save_state(tensors, tmp_path), scale=scale)
    assert (loaded.dialect, loaded.network.spec) == (dialect, spec)
    assert not loaded.network.training
    values = {tensor.double().sum().item() for tensor in weights_of(loaded).values()}
    assert values <= {tensor.double().sum().item() for tensor in tensors.values()}
    with torch.no_grad():
        assert loaded.network(torch.rand(1, 3, 4, 5)).shape == (1, 3, 4 * spec.scale, 5 * spec.scale)


@pytest.mark.parametrize(
    ("state", "assumed"),
    [
        (lambda: official.edsr_pytorch(2, 64, 1), {"res_scale": 1.0}),
        (lambda: official.edsr_pytorch(2, 256, 1), {"res_scale": 0.1}),
        (lambda: official.csd_edsr(2, 8, 1), {"res_scale": 0.1}),
        (
            lambda: official.basicsr_edsr(2, 8, 1),
            {"res_scale": 1.0, "img_range": 255.0, "mean": (0.4488, 0.4371, 0.4040)},
        ),
        (lambda: official.carn((2,), 8), {}),
    ],
)
def test_what_the_file_does_not_hold_is_said(
    state: Callable[[], State], assumed: dict[str, object], tmp_path: Path
) -> None:
    loaded = load_checkpoint(save_state(state(), tmp_path))
    assert {assumption.field: assumption.value for assumption in loaded.assumed} == assumed
    assert all(assumption.why.startswith("not in the file; ") for assumption in loaded.assumed)


def test_what_was_said_can_be_overridden(tmp_path: Path) -> None:
    path = save_state(official.basicsr_edsr(2, 8, 1), tmp_path)
    loaded = load_checkpoint(path, arch_options={"res_scale": "0.1", "mean": "0.5,0.5,0.25", "img_range": 1})
    assert loaded.network.spec == EDSRSpec(2, 8, 1, 0.1, mean=(0.5, 0.5, 0.25), img_range=1.0)
    assert loaded.assumed == ()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"res_scal": 1.0}, "did you mean 'res_scale'"),
        ({"res_scale": "big"}, "res_scale='big' is not float"),
        ({"res_scale": None}, "res_scale='None' is not float"),
        ({"arch": "carn"}, "has no option 'arch'"),
        ({"img_range": 0}, "img_range=0"),
        ({"weights": "params_emma"}, "no weights called 'params_emma'; did you mean 'params_ema'"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, object], message: str, tmp_path: Path) -> None:
    state = official.basicsr_edsr(2, 8, 1)
    path = save_state({"params": state, "params_ema": state}, tmp_path)
    with pytest.raises(UsageError) as raised:
        load_checkpoint(path, arch_options=options)
    assert message in str(raised.value) and str(path) in str(raised.value)


def test_an_option_that_contradicts_the_file_names_the_tensors(tmp_path: Path) -> None:
    path = save_state(official.basicsr_edsr(2, 8, 2), tmp_path)
    with pytest.raises(SrkdError, match=r"conv_first\.weight is \(8, .*\(9, "):
        load_checkpoint(path, arch_options={"width": 9})
    with pytest.raises(SrkdError, match=r"4 unexpected \(body\.1\.conv1\.weight"):
        load_checkpoint(path, arch_options={"depth": 1})
    with pytest.raises(SrkdError, match=r"4 missing \(sub_mean\.weight"):
        load_checkpoint(path, arch_options={"mean_shift": "file"})


@pytest.mark.parametrize(
    ("wrap", "wrapping"),
    [
        (lambda state: state, "bare"),
        (lambda state: OrderedDict(state), "bare"),
        (lambda state: {"params": state}, "params"),
        (lambda state: {"params_ema": state}, "params_ema"),
        (lambda state: {"state_dict": state, "epoch": 3}, "state_dict"),
        (lambda state: {"params": {f"module.{k}": v for k, v in state.items()}}, "params > module.*"),
        (lambda state: {f"_orig_mod.module.{k}": v for k, v in state.items()}, "bare > _orig_mod.module.*"),
        (lambda state: {"epoch": 1, "model_state_dict": {f"module.{k}": v for k, v in state.items()}}, ""),
        (lambda state: {"checkpoint": {"model": state}}, "checkpoint > model"),
        (lambda state: {"gen_weights": state, "loss": [0.5] * 100}, "gen_weights"),
        (lambda state: {k: nn.Parameter(v) for k, v in state.items()}, "bare"),
        (lambda state: {k: v.double() for k, v in state.items()}, "bare"),
        (lambda state: {k: v.T.contiguous().T if v.dim() == 2 else v for k, v in state.items()}, "bare"),
        (
            lambda state: {k: v.to(memory_format=torch.channels_last) if v.dim() == 4 else v for k, v in state.items()},
            "",
        ),
    ],
)
def test_wrappers(wrap: Callable[[State], object], wrapping: str, plain: tuple[State, Network], tmp_path: Path) -> None:
    state, network = plain
    loaded = load_checkpoint(save_state(wrap(state), tmp_path))
    assert same_network(loaded.network, network)
    assert not wrapping or loaded.wrapping == wrapping.replace("bare > ", "")


def test_a_file_of_several_scales_asks_which_and_of_one_has_no_other(tmp_path: Path) -> None:
    path = save_state(official.carn((2, 3, 4), 8), tmp_path)
    with pytest.raises(UsageError, match="2, 3, 4: choose one"):
        load_checkpoint(path)
    with pytest.raises(UsageError, match="holds scales 2, 3, 4, not 8"):
        load_checkpoint(path, scale=8)
    two, three = load_checkpoint(path, scale=2), load_checkpoint(path, scale=3)
    assert torch.equal(weights_of(two)["entry.weight"], weights_of(three)["entry.weight"])
    assert weights_of(three)["upsampler.convs.0.weight"].shape[0] == 9 * 8
    with pytest.raises(UsageError, match="for scale 2, not 4"):
        load_checkpoint(save_state(official.edsr_pytorch(2, 8, 1), tmp_path), scale=4)


def test_missing_unexpected_and_misshaped_tensors_are_named(tmp_path: Path) -> None:
    state = official.edsr_pytorch(2, 8, 2)
    del state["body.1.body.2.bias"]
    state["body.1.body.2.scale"] = torch.ones(1)
    state["tail.1.weight"] = torch.zeros(3, 8, 1, 1)
    state["body.0.body.0.bias"] = torch.zeros(8, dtype=torch.int32)
    with pytest.raises(SrkdError) as raised:
        load_checkpoint(save_state(state, tmp_path))
    message = str(raised.value)
    assert "recognised as edsr (edsr-pytorch names)" in message
    assert "1 missing (body.1.body.2.bias)" in message
    assert "1 unexpected (body.1.body.2.scale)" in message
    assert "1 misshaped (tail.1.weight is (3, 8, 1, 1) and should be (3, 8, 3, 3))" in message
    assert "1 not floating-point (body.0.body.0.bias is torch.int32)" in message
    assert str(tmp_path) in message and "\n" not in message


def test_a_gap_in_the_blocks_is_named(tmp_path: Path) -> None:
    state = {k: v for k, v in official.basicsr_edsr(2, 8, 4).items() if not k.startswith("body.2.")}
    with pytest.raises(SrkdError, match="block numbers 2 "):
        load_checkpoint(save_state(state, tmp_path))


def test_loading_leaves_the_random_generator_alone(plain: tuple[State, Network], tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    load_checkpoint(tmp_path / "checkpoint.pth")
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_range_of_its_own_is_read_off_the_mean_shift(tmp_path: Path) -> None:
    """EDSR-PyTorch's --rgb_range accepts any number; the file contains it as add_mean.bias / mean."""
    state = dict(official.edsr_pytorch(2, 8, 1))
    for side in ("sub_mean", "add_mean"):
        state[f"{side}.bias"] = state[f"{side}.bias"] * (1023 / 255)
    network = load_checkpoint(save_state(state, tmp_path)).network
    assert network.spec.img_range == pytest.approx(1023, rel=1e-6)
    flat = torch.full((1, 3, 4, 4), 0.25)
    with torch.no_grad():
        assert torch.allclose(network.sub_mean(flat)[0, :, 0, 0], 0.25 * 1023 + state["sub_mean.bias"], atol=1e-3)
