"""Fake quantisation: values on the grid, gradients through the rounding, PAMS's own numbers, quantised networks."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, get_args

import pytest
import torch
from torch import nn

from compressor.base.errors import UsageError
from compressor.models.checkpoints.load import load_checkpoint
from compressor.models.networks.cost import cost
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import NETWORKS, build, quantise
from compressor.models.quantisation.description import Placement, Quantisation
from compressor.models.quantisation.quantisers import (
    bake_weights,
    following,
    quantise_feature,
    quantise_weight,
    quantised_bytes,
    quantised_layers,
    quantisers_of,
    symmetric_levels,
    weight_levels,
)
from tests.support.networks import SMALL, find_ranges
from tests.support.shared import golden_of, needs_shared, shared

VALUES = torch.linspace(-3.0, 3.0, 601)
SMALL_EDSR = EDSRSpec(2, width=8, depth=2)
every_network = pytest.mark.parametrize("arch", sorted(NETWORKS))


def images(channels: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.rand(2, channels, 16, 20, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("bits", "alpha"), [(2, 2.0), (4, 0.7), (8, 2.0)])
def test_features_lie_on_the_grid_and_stay_there(bits: int, alpha: float) -> None:
    limit = torch.tensor(alpha)
    for quantised, levels, lowest in (
        (quantise_feature(VALUES, limit, bits), 2 ** (bits - 1) - 1, -alpha),
        (quantise_feature(VALUES, limit, bits, signed=False), 2**bits - 1, 0.0),
    ):
        steps = quantised * levels / alpha
        assert float((steps - steps.round()).abs().max()) < 1e-4
        assert float(quantised.min()) == pytest.approx(lowest) and float(quantised.max()) == pytest.approx(alpha)
        inside = VALUES.ge(lowest) & VALUES.le(alpha)
        assert float((quantised - VALUES)[inside].abs().max()) <= alpha / levels / 2 + 1e-6
    again = quantise_feature(quantise_feature(VALUES, limit, bits), limit, bits)
    assert torch.equal(again, quantise_feature(VALUES, limit, bits))


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("per_channel", [False, True])
def test_weights_have_no_more_values_than_their_bits(bits: int, per_channel: bool) -> None:
    weight = torch.randn(6, 5, 3, 3, generator=torch.Generator().manual_seed(0))
    weight[3] *= 0.01
    quantised = quantise_weight(weight, bits, per_channel=per_channel)
    channels = list(quantised) if per_channel else [quantised]
    assert all(len(channel.unique()) <= 2**bits - 1 for channel in channels)
    levels, step = weight_levels(weight, bits, per_channel=per_channel)
    assert torch.equal(levels, levels.round()) and int(levels.abs().max()) == symmetric_levels(bits)
    assert float((levels * step - quantised).abs().max()) < 1e-6
    # A channel of small weights keeps its precision only with a scale of its own.
    assert bool(quantised[3].ne(0).any()) == (per_channel or bits == 8)


def surrogate(values: torch.Tensor, alpha: float, fixed: float, bits: int) -> torch.Tensor:
    """Return Q(v) as the straight-through estimator sees it: level and side of each value are those at α = `fixed`."""
    m = symmetric_levels(bits)
    inside = values.abs() <= fixed
    rounding = (values * m / fixed).round() - values * m / fixed
    return torch.where(inside, values + rounding * alpha / m, values.sign() * alpha)


@pytest.mark.parametrize("bits", [4, 8])
def test_the_gradient_of_alpha_is_that_of_the_surrogate(bits: int) -> None:
    values, upstream = VALUES.double()[::7] * 1.013, torch.linspace(-1, 2, 86).double()
    alpha = torch.tensor(1.7, dtype=torch.float64, requires_grad=True)
    (quantise_feature(values, alpha, bits) * upstream).sum().backward()
    h = 1e-4
    above, below = (float((surrogate(values, 1.7 + sign * h, 1.7, bits) * upstream).sum()) for sign in (1, -1))
    assert float(alpha.grad) == pytest.approx((above - below) / (2 * h), rel=1e-6)


def test_gradients_pass_inside_the_range_alone() -> None:
    values = torch.tensor([-2.5, -1.0, 0.3, 2.0, 2.5], requires_grad=True)
    alpha = torch.tensor(2.0, requires_grad=True)
    quantise_feature(values, alpha, 8).sum().backward()
    assert values.grad is not None and values.grad.tolist() == [0, 1, 1, 1, 0]
    for tie, expected in ((1.0, 1.0), (0.5, 0.5)):
        at_end = torch.tensor([2.0], requires_grad=True)
        quantise_feature(at_end, alpha, 8, tie=tie).sum().backward()
        assert at_end.grad is not None and float(at_end.grad) == expected
    values.grad = alpha.grad = None
    quantise_feature(values, alpha, 8, signed=False).sum().backward()
    assert values.grad.tolist() == [0, 0, 1, 0, 0]
    assert alpha.grad is not None and float(alpha.grad) == 2.0
    weight = torch.tensor([[0.3, -0.9]], requires_grad=True)
    (quantise_weight(weight, 4) * torch.tensor([[2.0, 3.0]])).sum().backward()
    assert weight.grad is not None and weight.grad.tolist() == [[2.0, 3.0]]


def test_numbers_of_pamss_code() -> None:
    """Copied from the output of colorjam/PAMS: values at, beside and beyond α = 2, and the gradient of α at 4 bits."""
    values = torch.tensor([2.0, -2.0, 1.999, 2.001, 0.0, -5.0, 5.0], requires_grad=True)
    limit = torch.tensor(2.0, requires_grad=True)
    quantised = quantise_feature(values, limit, 4, tie=0.5)
    assert quantised.tolist() == [2.0, -2.0, 2.0, 2.0, 0.0, -2.0, 2.0]
    quantised.sum().backward()
    assert values.grad is not None and values.grad.tolist() == [0.5, 0.5, 1, 0, 1, 0, 0]
    assert limit.grad is not None and float(limit.grad) == pytest.approx(1.0005, abs=1e-6)


@needs_shared
def test_outputs_and_gradients_of_pamss_code() -> None:
    _, inputs, expected = golden_of("losses/pams_quant")
    for bits in (4, 8):
        for name, alpha, clips in (("eval_alpha3", 3.0, True), ("train_epoch2_alpha10", 10.0, True)):
            compare_with_golden(inputs, expected, f"act_k{bits}_{name}", bits, alpha, clips)
        largest = float(inputs["x"].abs().flatten(1).amax(1).mean())
        name = f"act_k{bits}_train_epoch1_alpha10"
        assert float(expected[f"{name}_alpha_after"]) == pytest.approx(largest)
        compare_with_golden(inputs, expected, name, bits, largest, clips=False)
        weight = inputs["w"].clone().requires_grad_()
        quantised = quantise_weight(weight, bits)
        quantised.backward(inputs["upstream_w"])
        assert torch.equal(quantised.detach(), expected[f"weight_k{bits}_q"])
        assert weight.grad is not None and torch.allclose(weight.grad, expected[f"weight_k{bits}_g"], atol=1e-6)
    assert torch.equal(quantise_weight(inputs["w_half"], 4), expected["weight_k4_half"])


def compare_with_golden(
    inputs: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], name: str, bits: int, alpha: float, clips: bool
) -> None:
    values, limit = inputs["x"].clone().requires_grad_(), torch.tensor(alpha, requires_grad=True)
    quantised = quantise_feature(values, limit, bits, tie=0.5, clips=clips)
    quantised.backward(inputs["upstream"])
    assert torch.allclose(quantised.detach(), expected[f"{name}_y"], atol=1e-6), name
    assert values.grad is not None and torch.allclose(values.grad, expected[f"{name}_gx"], atol=1e-6), name
    assert limit.grad is not None and float(limit.grad) == pytest.approx(float(expected[f"{name}_galpha"]), abs=5e-6)


@needs_shared
def test_a_network_of_pamss_code(tmp_path_factory: pytest.TempPathFactory) -> None:
    """EDSR of PAMS's code at 8 bits, calibrating and calibrated, with gradients; images and network in [0,255]."""
    _, inputs, expected = golden_of("archs/pams_edsr_x2_k8")
    state = torch.load(shared() / "golden" / "archs" / "pams_edsr_x2_k8" / "state.pth", weights_only=True)
    weights = {
        # Its second convolution comes after the quantiser, which has a number, too.
        name.replace(".body.3.", ".body.2."): tensor
        for name, tensor in state.items()
        if not name.endswith((".alpha", ".max_val"))
    }
    path = tmp_path_factory.mktemp("pams") / "edsr.pt"
    torch.save(weights, path)
    network = quantise(load_checkpoint(path).network, Quantisation("pams", 8, compat="pams"))
    with following(network, lambda _, peaks: peaks.mean()) as followed:
        sr = network(inputs["x"] / 255) * 255
    assert torch.allclose(sr.detach(), expected["y_train_epoch1"], atol=2e-3)
    sr.square().mean().backward()
    places = {"quant_act1": "shortcut", "quant_act2": "hidden", "quant_act3": "branch"}
    parameters = dict(network.named_parameters())
    for block in range(2):
        for there, here in places.items():
            alpha = parameters[f"blocks.{block}.{here}.alpha"]
            assert float(followed[alpha]) == pytest.approx(float(state[f"body.{block}.{there}.alpha"]), rel=1e-5)
            expected_gradient = float(expected[f"grad.body.{block}.{there}.alpha"])
            assert float(alpha.grad) == pytest.approx(expected_gradient, abs=2e-5)
            with torch.no_grad():
                alpha.copy_(followed[alpha])
    gradient = parameters["blocks.0.conv1.weight"].grad
    assert torch.allclose(gradient, expected["grad.body.0.body.0.weight"], atol=2e-3)
    with torch.no_grad():
        difference = (network(inputs["x_eval"] / 255) * 255 - expected["y_eval"]).abs()
    # A processor's order of sums moves a feature to the next level here and there, and the pixels around it with it.
    assert float((difference <= 2e-3).float().mean()) > 0.7 and float(difference.max()) < 0.5


@every_network
def test_at_many_bits_a_network_is_the_float_one(arch: str) -> None:
    network, lr = build(SMALL[arch], seed=1), images()[:1]
    for placement in get_args(Placement):
        quantised = find_ranges(quantise(network, Quantisation("pams", 32, placement)), lr, margin=1.01)
        assert (quantised(lr) - network(lr)).abs().max() < 1e-4


@pytest.mark.ci
@every_network
@pytest.mark.parametrize("method", ["pams", "pact"])
def test_at_eight_bits_it_is_near_and_at_two_it_is_not(arch: str, method: Literal["pams", "pact"]) -> None:
    network, lr = build(SMALL[arch], seed=1), images()[:1]
    errors = []
    for bits in (8, 2):
        quantised = find_ranges(quantise(network, Quantisation(method, bits)), lr)
        with torch.no_grad():
            errors.append(float((quantised(lr) - network(lr)).abs().max()))
    assert 0 < errors[0] < errors[1] / 4


@every_network
def test_the_tensors_keep_their_names_and_only_ranges_are_added(arch: str) -> None:
    network = build(SMALL[arch], seed=1)
    paper, whole = (quantise(network, Quantisation("pams", 4, placement)) for placement in get_args(Placement))
    own = network.state_dict()
    for quantised in (paper, whole):
        state = quantised.state_dict()
        assert set(state) - set(own) == {f"{name}.alpha" for name in quantisers_of(quantised)} != set()
        assert all(torch.equal(tensor, state[name]) for name, tensor in own.items())
    # Another spec, another description, other bits: another network.
    others = (network, paper, whole, quantise(network, Quantisation("pams", 8)))
    assert len({other.fingerprint() for other in others}) == len(others)
    layers = [module for module in network.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    some, every = (list(quantised_layers(quantised).values()) for quantised in (paper, whole))
    assert 0 < len(some) < len(layers) == len(every)
    assert not any(layer.per_channel for layer in some) and all(layer.per_channel for layer in every)
    assert [layer.bits for layer in every] == [8, *[4] * (len(every) - 2), 8]


@every_network
def test_in_every_layer_everything_that_is_read_is_quantised(arch: str) -> None:
    """Each layer's input has at most as many distinct values as its bits allow."""
    network = build(SMALL[arch], seed=1)
    quantised = find_ranges(quantise(network, Quantisation("pams", 3, "all")), images()[:1])
    counts: dict[str, int] = {}

    def count(name: str, x: torch.Tensor) -> None:
        counts[name] = max(counts.get(name, 0), len(x.unique()))

    for name, layer in quantised_layers(quantised).items():
        place: nn.Module = layer if layer.input is None else layer.input
        if layer.input is None:
            place.register_forward_pre_hook(lambda _, inputs, name=name: count(name, inputs[0]))
        else:
            place.register_forward_hook(lambda _, __, output, name=name: count(name, output))
    quantised(images()[:1])
    for name, layer in quantised_layers(quantised).items():
        assert 1 < counts[name] <= 2**layer.bits, name


def test_conv1_reads_what_the_skip_adds_unless_it_is_pamss_code() -> None:
    network = build(SMALL_EDSR, seed=1)
    for compat, is_quantised in (("", True), ("pams", False)):
        quantisation = Quantisation("pams", 3, compat=compat)  # type: ignore[arg-type]
        quantised = find_ranges(quantise(network, quantisation), images())
        conv_inputs: list[torch.Tensor] = []
        conv = quantised.get_submodule("blocks.0.conv1")
        conv.register_forward_pre_hook(lambda _, inputs, kept=conv_inputs: kept.extend(inputs))
        quantised(images())
        assert (len(conv_inputs[0].unique()) <= 7) == is_quantised


def test_quantisation_computes_in_fp32_inside_bf16() -> None:
    network = find_ranges(quantise(build(SMALL_EDSR, seed=1), Quantisation("pams", 8)), images())
    features: list[torch.Tensor] = []
    network.get_submodule("blocks.1.hidden").register_forward_hook(lambda _, __, output: features.append(output))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        network(images())
    hidden = dict(network.named_parameters())["blocks.1.hidden.alpha"]
    steps = features[0].double() * 127 / hidden.detach().double()
    assert features[0].dtype == torch.float32 and float((steps - steps.round()).abs().max()) < 1e-4


def test_a_shared_block_has_one_range_for_all_its_inputs() -> None:
    network = quantise(build(SMALL["carn_m"], seed=1), Quantisation("pams", 8))
    shared = network.get_submodule("cascade.steps.0.steps.0.hidden1")
    largest: list[float] = []
    shared.register_forward_pre_hook(lambda _, inputs: largest.append(float(inputs[0].abs().max())))
    with torch.no_grad(), following(network, lambda _, peaks: peaks.mean()) as followed:
        network(images()[:1])
    assert len(largest) == 3
    alpha = dict(network.named_parameters())["cascade.steps.0.steps.0.hidden1.alpha"]
    assert float(followed[alpha]) == pytest.approx(max(largest), rel=1e-6)


def test_bytes_at_the_given_bits() -> None:
    """Counted by hand for two blocks of two 8×8×3×3 convolutions."""
    network = build(SMALL_EDSR, seed=1)
    params, packed = cost(SMALL_EDSR).params, 2 * 2 * 8 * 8 * 9
    for bits in (8, 4):
        quantised = quantise(network, Quantisation("pams", bits))
        assert quantised_bytes(quantised) == packed * bits // 8 + 4 * (params - packed + 4 + 3 * 2)
    assert quantised_bytes(network) == 4 * params


def test_baked_weights_are_the_quantised_ones() -> None:
    network = find_ranges(quantise(build(SMALL_EDSR, seed=1), Quantisation("pams", 4)), images())
    with torch.no_grad():
        expected = network(images())
        bake_weights(network)
        assert torch.equal(network(images()), expected)
    assert len(network.get_parameter("blocks.0.conv1.weight").unique()) <= 15


def test_what_cannot_be_quantised_is_refused_in_one_line() -> None:
    quantised = quantise(build(SMALL_EDSR, seed=1), Quantisation("pams", 8))
    with pytest.raises(UsageError, match=r"already \(pams, 8 bits"):
        quantise(quantised, Quantisation("pams", 4))
    with pytest.raises(UsageError, match=r"bits=1 .*2 to 32"):
        Quantisation("pams", 1)
    with pytest.raises(UsageError, match="placement='some' is not one"):
        Quantisation("pams", 8, "some")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="leave it out with pact"):
        Quantisation("pact", 8, compat="pams")
    for text in ("{", "[]", '{"bits": 8}', '{"bits": "8", "compat": "", "method": "pams", "placement": "all"}'):
        with pytest.raises(UsageError):
            Quantisation.from_json(text)
    whole = Quantisation("pact", 4, "all")
    assert Quantisation.from_json(whole.to_json()) == whole and replace(whole, bits=8) != whole
