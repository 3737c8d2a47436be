"""Taps read the features they name, and leave the network unchanged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from compressor.base.errors import UsageError
from compressor.models.checkpoints.load import load_checkpoint
from compressor.models.networks.base import Network, Spec
from compressor.models.networks.carn import CARNSpec
from compressor.models.networks.compact import CompactSpec
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build
from compressor.models.networks.swinir import SwinIRSpec
from compressor.models.networks.taps import read_taps, resolve_tap
from tests.support import official, official_rcan
from tests.support.networks import VARIANTS, label, noise, save_state, tiny_networks


def hooks(network: Network) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in network.modules())


def edsr(depth: int = 3) -> Network:
    return build(EDSRSpec(2, 8, depth), seed=0)


@pytest.mark.parametrize(
    ("name", "state", "addresses"),
    [
        ("edsr_pytorch_x3", lambda: official.edsr_pytorch(3, 16, 4), {"head": "head", "body_end": "body_end"}),
        (
            "rcan_x2",
            lambda: official_rcan.rcan(official_rcan.RCAN, 2),
            {"body[0]": "group0", "body_end": "body_before_long_skip"},
        ),
    ],
)
def test_feature_maps_equal_the_official_code(
    name: str, state: Callable[[], official.State], addresses: dict[str, str], tmp_path: Path
) -> None:
    case = official.golden_case(name, state())
    network = load_checkpoint(save_state(case.state, tmp_path)).network
    with torch.no_grad(), read_taps(network, addresses) as features:
        network(case.lr)
    for address, output in addresses.items():  # in the network's own range, 0..255
        assert float((official.thinned(features[address]) - case.outputs[output]).abs().max()) / 255 < 1e-5


@pytest.mark.parametrize("spec", [*tiny_networks(), *VARIANTS], ids=label)
def test_every_tap_is_a_feature_of_the_low_resolution_size(spec: Spec) -> None:
    network = build(spec, seed=0)
    assert next(iter(network.taps)) == "head"
    assert {"body[0]", "body_end", "pre_up"} <= set(network.taps)
    with torch.no_grad(), read_taps(network, network.taps) as features:
        network(noise(spec, 5, 4, batch=2))
    width, square = spec.to_dict()["width"], spec.to_dict().get("unshuffle", 1)
    shapes = {name: tuple(feature.shape) for name, feature in features.items()}
    assert shapes == dict.fromkeys(network.taps, (2, width, -(-5 // square), -(-4 // square)))


def test_what_edsrs_taps_are() -> None:
    network = edsr()
    lr = torch.rand(1, 3, 6, 5)
    with torch.no_grad(), read_taps(network, [*network.taps, "rel(2/3)"]) as features:
        network(lr)
        shallow = network.stem(lr)
        body = [shallow]
        for block in network.blocks:  # type: ignore[union-attr]
            body.append(block(body[-1]))
        end = network.body_end(body[-1])  # type: ignore[operator]
    assert torch.equal(features["head"], shallow)
    for k in range(3):
        assert torch.equal(features[f"body[{k}]"], body[k + 1])
    assert torch.equal(features["body_end"], end) and torch.equal(features["pre_up"], end + shallow)
    assert torch.equal(features["rel(2/3)"], features["body[1]"])


@pytest.mark.parametrize("spec", [CARNSpec(2, 8), CompactSpec(2, width=4, depth=3)], ids=str)
def test_the_last_tap_of_the_body_is_what_the_tail_reads(spec: Spec) -> None:
    network, lr = build(spec, seed=0), torch.rand(1, 3, 5, 4)
    assert network.taps["body_end"] == network.taps["pre_up"] == network.taps["body[2]"]
    with torch.no_grad(), read_taps(network, network.taps) as features:
        sr = network(lr)
        assert torch.equal(features["head"], network.stem(lr))
        assert torch.equal(features["body[2]"], network.body(features["head"]))
        assert torch.equal(network.finish(features["body_end"], features["head"], lr), sr)


def test_swinirs_taps_are_maps_cropped_to_the_input() -> None:
    network = build(SwinIRSpec(2, width=8, depths=(2, 2), heads=(2, 2), window=4, features=6), seed=0)
    lr = torch.rand(1, 3, 5, 7)
    with torch.no_grad(), read_taps(network, network.taps) as features:
        network(lr)
        shallow = network.stem(lr)
        deep = network.body(shallow)
        joined = network.body_end(network.norm(deep)) + shallow  # type: ignore[operator]
    assert shallow.shape[-2:] == (8, 8), "padded to the window"
    assert torch.equal(features["head"], shallow[..., :5, :7])
    assert torch.equal(features["body[1]"], deep[..., :5, :7])
    assert torch.equal(features["pre_up"], joined[..., :5, :7])


@pytest.mark.parametrize(
    ("address", "depth", "name"),
    [
        ("rel(1/3)", 6, "body[1]"),
        ("rel(2/3)", 20, "body[12]"),
        ("rel(1)", 20, "body[19]"),
        ("rel( 1/3 )", 3, "body[0]"),
        ("rel(0.29)", 100, "body[28]"),  # a float would give 27: 0.29 · 100 is 28.999…
        ("body[0]", 2, "body[0]"),
    ],
)
def test_relative_addresses_are_exact(address: str, depth: int, name: str) -> None:
    with torch.device("meta"):
        network = build(EDSRSpec(2, 1, depth))
    assert resolve_tap(network, address) == name


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("rel(1/4)", "before the first of edsr's 3 blocks"),
        ("rel(0)", "outside (0, 1]"),
        ("rel(4/3)", "outside (0, 1]"),
        ("rel(1/0)", "is not a fraction"),
        ("rel(nan)", "is not a fraction"),
        ("body[3]", "there are head, body[0], body[1], body[2], body_end, pre_up"),
        ("body[-1]", "has no tap 'body[-1]'"),
        ("pre-up", "did you mean 'pre_up'"),
    ],
)
def test_addresses_that_lead_nowhere(address: str, message: str) -> None:
    network = edsr()
    with pytest.raises(UsageError) as raised, read_taps(network, ["head", address]):
        raise AssertionError("the block must not be entered")
    assert message in str(raised.value) and hooks(network) == 0


def test_no_trace_is_left() -> None:
    network = edsr()
    before = set(vars(network)), set(network.state_dict())
    plain = network(torch.ones(1, 3, 4, 4))
    with read_taps(network, ["head", "pre_up"]) as features:
        watched = network(torch.ones(1, 3, 4, 4))
        assert hooks(network) == 3  # the two taps, and the size of the input
    assert torch.equal(plain, watched) and hooks(network) == 0
    assert (set(vars(network)), set(network.state_dict())) == before
    copy = features["head"].clone()
    network(torch.zeros(1, 3, 4, 4))
    assert torch.equal(features["head"], copy)
    with pytest.raises(RuntimeError, match="must match"), read_taps(network, ["head", "body[1]"]):
        network(torch.rand(1, 5, 4, 4))
    with read_taps(network, ()):  # every training step enters the block, and most methods read no features
        assert hooks(network) == 0


def test_contexts_nest() -> None:
    network = edsr()
    bright, dark = torch.ones(1, 3, 4, 4), torch.zeros(1, 3, 4, 4)
    with torch.no_grad(), read_taps(network, ["head"]) as outer:
        network(bright)
        copy = outer["head"].clone()
        with read_taps(network, ["head", "body[0]"]) as inner:
            network(dark)
        assert set(outer) == {"head"}
        assert torch.equal(outer["head"], inner["head"])
        assert not torch.equal(outer["head"], copy)
        network(bright)
        assert torch.equal(outer["head"], copy)
        assert not torch.equal(inner["head"], copy)


def test_features_do_not_change_with_what_is_done_in_place_later() -> None:
    network = edsr()
    network.blocks.register_forward_hook(lambda module, inputs, output: output.add_(1000.0))  # type: ignore[union-attr]
    network.upsampler.register_forward_hook(lambda module, inputs, output: [inputs[0].zero_(), output][1])  # type: ignore[union-attr]
    with torch.no_grad(), read_taps(network, ["body[2]", "pre_up"]) as features:
        network(torch.rand(1, 3, 4, 4))
    assert float(features["body[2]"].abs().max()) < 500
    assert float(features["pre_up"].abs().max()) > 0


def test_gradients_pass_through_features() -> None:
    network = edsr()
    with read_taps(network, ["body[0]"]) as features:
        network(torch.rand(1, 3, 4, 4))
    F.mse_loss(features["body[0]"], torch.zeros_like(features["body[0]"])).backward()  # type: ignore[no-untyped-call]
    trained = {name for name, parameter in network.named_parameters() if parameter.grad is not None}
    assert {name.split(".conv")[0] for name in trained} == {"head.weight", "head.bias", "blocks.0"}
