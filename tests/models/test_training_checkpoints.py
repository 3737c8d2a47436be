"""Files of training scripts: networks inside larger modules, averaged weights, other precisions, damaged files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from compressor.base.errors import SrkdError, UsageError
from compressor.models.checkpoints.load import DoesNotFit, UnknownNetwork, load_checkpoint, read_states
from compressor.models.checkpoints.unwrap import ATTRIBUTES
from tests.support import official
from tests.support.networks import save_state

State = official.State
STATE = official.basicsr_edsr(2, 8, 1)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> str:
    return load_checkpoint(save_state(STATE, tmp_path_factory.mktemp("plain"))).network.fingerprint()


def under(prefix: str, state: State) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


OTHER = {name: tensor * 2 for name, tensor in STATE.items()}
LOSS = {"loss.vgg.0.weight": torch.rand(4, 3, 3, 3), "loss.vgg.0.bias": torch.rand(4)}


@pytest.mark.parametrize("prefix", ["model.", "net_g."])
@pytest.mark.parametrize("lightning", [False, True])
def test_attributes_of_a_training_module(prefix: str, lightning: bool, expected: str, tmp_path: Path) -> None:
    content: object = under(prefix, STATE)
    if lightning:
        content = {
            "epoch": 3,
            "global_step": 100,
            "pytorch-lightning_version": "2.5.0",
            "state_dict": {**under(prefix, STATE), **LOSS},
            "loops": {"fit_loop": {"state_dict": {}}},
            "optimizer_states": [{"state": {0: {"exp_avg": torch.rand(3)}}}],
            "hyper_parameters": {"scale": 2, "lr": 1e-4},
        }
    loaded = load_checkpoint(save_state(content, tmp_path))
    assert loaded.network.fingerprint() == expected
    assert loaded.wrapping == ("state_dict > " if lightning else "") + prefix + "*"
    assert bool(loaded.notes) == lightning
    if lightning:
        assert "2 tensors outside" in loaded.notes[0] and "loss.vgg.0.weight" in loaded.notes[0]


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"model": under("net_g.module.", state)},
        lambda state: {"state_dict": under("model.net.", state)},
        lambda state: under("_orig_mod.model.generator.", state),
    ],
)
def test_wrappings_inside_wrappings(wrap: Callable[[State], object], expected: str, tmp_path: Path) -> None:
    assert load_checkpoint(save_state(wrap(STATE), tmp_path)).network.fingerprint() == expected


@pytest.mark.parametrize("averaged", ["params_ema", "ema"])
def test_averaged_weights_come_first_and_are_said(averaged: str, expected: str, tmp_path: Path) -> None:
    path = save_state({"params": OTHER, "model": OTHER, averaged: STATE}, tmp_path)
    loaded = load_checkpoint(path)
    assert loaded.network.fingerprint() == expected
    message = loaded.assumed[0]
    assert (message.field, message.value) == ("weights", averaged)
    assert "params" in message.why
    selected = load_checkpoint(path, arch_options={"weights": "params"})
    assert selected.network.fingerprint() != expected and "weights" not in {
        assumption.field for assumption in selected.assumed
    }


def test_averaged_weights_inside_one_module(expected: str, tmp_path: Path) -> None:
    content = {"state_dict": {**under("model.", OTHER), **under("ema_model.module.", STATE), **LOSS}}
    path = save_state(content, tmp_path)
    loaded = load_checkpoint(path)
    assert loaded.network.fingerprint() == expected
    assert (loaded.assumed[0].field, loaded.assumed[0].value) == ("weights", "ema_model.")
    assert "the file holds model. too; averaged weights (EMA) come first" in loaded.assumed[0].why
    selected = load_checkpoint(path, arch_options={"weights": "model."})
    assert torch.equal(selected.network.head.weight.detach(), OTHER["conv_first.weight"])  # type: ignore[union-attr, operator]
    with pytest.raises(UsageError, match=r"'modle\.'; did you mean 'model\.'"):
        load_checkpoint(path, arch_options={"weights": "modle."})


def test_a_prefix_is_only_taken_off_where_the_names_as_they_stand_are_unknown(tmp_path: Path) -> None:
    """Names in old ESRGAN files begin with `model.`; other readers must get them unchanged."""
    path = save_state(
        {"model.0.weight": torch.rand(4, 3, 3, 3), "model.1.sub.0.weight": torch.rand(4, 4, 3, 3)}, tmp_path
    )
    readings = read_states(path)
    assert [wrapping for wrapping, _ in readings] == ["bare", "model.*"]
    assert set(readings[0][1]) == {"model.0.weight", "model.1.sub.0.weight"}
    with pytest.raises(UnknownNetwork, match=r"its 2 tensors \(model\.0\.weight"):
        load_checkpoint(path)


def test_names_made_to_have_thousands_of_readings_take_no_time(tmp_path: Path) -> None:
    nested = {
        f"{a}{b}{c}x{n}.weight": torch.zeros(1)
        for n in range(9)
        for a in ATTRIBUTES
        for b in ATTRIBUTES
        for c in ("net.", "ema.")
    }
    with pytest.raises(UnknownNetwork):
        load_checkpoint(save_state(nested, tmp_path))


def test_weights_that_are_no_numbers_are_refused_by_name(tmp_path: Path) -> None:
    broken = {name: tensor.clone() for name, tensor in STATE.items()}
    broken["conv_after_body.weight"][3, 2, 1, 0] = float("nan")
    with pytest.raises(SrkdError, match=r"conv_after_body\.weight holds NaN"):
        load_checkpoint(save_state({"params": broken}, tmp_path))


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda s: {k: v for k, v in s.items() if not k.startswith("conv_last")}, "is it for another scale"),
        (lambda s: {k: v for k, v in s.items() if k != "body.0.conv2.bias"}, "was only a part of it saved"),
        (lambda s: {**s, "body.0.gate.weight": torch.rand(8)}, "variant of this network .* export it to ONNX"),
        (lambda s: {**s, "body.0.conv1.weight": torch.rand(8, 8, 5, 5), "odd": torch.rand(1)}, "is this file complete"),
    ],
)
def test_a_partly_matching_file_tells_the_likely_cause(
    change: Callable[[State], State], cause: str, tmp_path: Path
) -> None:
    with pytest.raises(DoesNotFit, match=rf"recognised as edsr \(basicsr names\), but .*{cause}"):
        load_checkpoint(save_state(change(dict(STATE)), tmp_path))
