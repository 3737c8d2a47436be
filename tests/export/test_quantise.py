"""Grids, plans, walks and files of graphs in int8, on small networks."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from compressor.models.networks.base import Network, Spec
from compressor.models.networks.carn_m import CARNMSpec
from compressor.models.networks.compact import CompactSpec
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.plain import PlainSpec
from compressor.models.networks.rcan import RCANSpec
from compressor.models.networks.registry import architecture, build
from compressor.models.students.spread import Value, best_basis, mixing_matrix, rounding_noise, spread_streams
from export.formats.proof_inputs import ProofInput
from export.graph.headroom import measure_graph
from export.graph.onnx_graph import build_graph
from export.int8.float_parts import FloatParts
from export.int8.quantise.ends import meet_image
from export.int8.quantise.equalise import equalise_channels
from export.int8.quantise.grids import S8, U8, choose_grid, image_grid, round_rows, round_with_feedback, row_scales
from export.int8.quantise.plan import CPU, TENSORRT, Flavour, FloatGraph, QuantisationPlan, make_plan
from export.int8.quantise.qdq import QdqWriter
from export.int8.quantise.walk import GraphWalk
from tests.support.onnx_files import model_of
from tests.support.onnx_files import run_graph as run

SMALL = EDSRSpec(width=8, depth=2, scale=2)
SPECS: tuple[Spec, ...] = tuple(
    architecture(name).small for name in ("edsr", "rcan", "carn_m", "swinir", "compact", "plain")
)
ANCHORED = (PlainSpec(width=8, depth=2), PlainSpec(1, width=8, depth=1), CompactSpec(2, width=8, depth=2, act="relu"))


def first_in_make_test(specs: Sequence[Spec]) -> list[Any]:
    """Tracing a network takes seconds: all but the first are of CI's tier."""
    return [pytest.param(spec, marks=pytest.mark.ci if place else []) for place, spec in enumerate(specs)]


def photos_like(count: int = 4, side: int = 16, seed: int = 0) -> torch.Tensor:
    """Return smooth random images with levels of bytes, whose neighbours are alike as in photos."""
    coarse = torch.rand(count, 3, side // 4, side // 4, generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic").clamp(0, 1)
    return smooth.mul(255).round().div(255)


@functools.cache
def graph_bytes(spec: Spec, size: tuple[int, int] | None) -> bytes:
    """The graph of a network, cached for the tests, as tracing takes seconds."""
    return bytes(build_graph(build(spec, seed=1), size, 18).SerializeToString())


def graph_of(spec: Spec, size: tuple[int, int] | None = None) -> tuple[Network, FloatGraph]:
    return build(spec, seed=1).requires_grad_(False), meet_image(onnx.load_model_from_string(graph_bytes(spec, size)))


def quantised(
    graph: FloatGraph, patches: torch.Tensor, flavour: Flavour = CPU
) -> tuple[QuantisationPlan, GraphWalk, onnx.ModelProto]:
    plan = make_plan(graph, flavour)
    walk = GraphWalk(plan, patches.numpy()).run()
    return plan, walk, QdqWriter(plan, walk).write()


def size_for(spec: Spec) -> tuple[int, int] | None:
    """The fixed size of a network with windows; None for other networks."""
    return (16, 16) if spec.arch == "swinir" else None


def test_a_covariance_that_rounding_left_with_a_negative_eigenvalue_takes_more_damping() -> None:
    covariance = torch.diag(torch.tensor([1.0, 1.0, -0.5], dtype=torch.float64))
    weight = torch.tensor([[0.31, -0.72, 0.5]], dtype=torch.float64)
    scales = row_scales(weight, S8)
    integers = round_with_feedback(weight, scales, covariance, S8)
    assert torch.equal(integers, integers.round()) and float((integers * scales[:, None] - weight).abs().max()) < 0.01


@pytest.mark.parametrize("levels", [U8, S8])
def test_a_grid_holds_zero_and_its_own_values(levels: object) -> None:
    values = torch.randn(10_000, generator=torch.Generator().manual_seed(0)) * 3 + 1
    grid = choose_grid(values, levels)  # type: ignore[arg-type]
    rounded = grid.round(values)
    assert torch.equal(grid.round(rounded), rounded)
    assert float(grid.round(torch.zeros(1))) == 0.0
    assert len(set(rounded.tolist())) <= 256


def test_bytes_of_an_image_lie_on_their_grid_exactly() -> None:
    image = torch.arange(256) / 255
    assert torch.allclose(image_grid(U8).round(image), image, atol=1e-7)


def test_an_end_is_cut_off_only_where_that_pays() -> None:
    """An outlier would cost the other values their precision; an even distribution is not clipped."""
    generator = torch.Generator().manual_seed(0)
    far = torch.cat([torch.randn(1_000_000, generator=generator), torch.tensor([12.0])])
    even = torch.rand(1_000_000, generator=generator)
    assert choose_grid(far, S8).scale < 0.9 * 12 / 127
    assert choose_grid(even, U8).scale == pytest.approx(1 / 255, rel=1e-3)


@pytest.mark.parametrize(("low", "high"), [(0.5, 0.9), (-3.0, -2.0)])
def test_zero_is_on_the_grid_of_values_far_from_it(low: float, high: float) -> None:
    values = torch.linspace(low, high, 1000)
    grid = choose_grid(values, U8)
    assert float(grid.round(torch.zeros(1))) == 0.0
    assert 0.9 * max(abs(low), abs(high)) / 255 < grid.scale < 1.01 * max(abs(low), abs(high)) / 255
    assert float((grid.round(values) - values).abs().max()) < 0.51 * grid.scale + 0.02


def test_feedback_changes_the_output_less_than_rounding_each_weight_for_itself_in_any_unit() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(4000, 24, generator=generator, dtype=torch.float64)
    inputs = inputs @ torch.randn(24, 24, generator=generator, dtype=torch.float64)
    weight = torch.randn(8, 24, generator=generator, dtype=torch.float64)
    levels = replace(S8, low=-7, high=7)  # coarse, so that the effect is visible
    scales, covariance = row_scales(weight, levels), inputs.T @ inputs

    def error(integers: torch.Tensor) -> float:
        return float(((integers * scales[:, None] - weight) @ inputs.T).square().mean())

    plain = error(round_rows(weight, scales, levels))
    fed_back = round_with_feedback(weight, scales, covariance, levels)
    assert fed_back.abs().max() <= 7 and error(fed_back) < 0.6 * plain
    for unit in (1e-12, 1e6):
        assert torch.equal(round_with_feedback(weight, scales, unit * covariance, levels), fed_back)


@pytest.mark.parametrize("size", [1, 12, 31, 64])
def test_a_mixing_matrix_is_orthogonal_and_even(size: int) -> None:
    matrix = mixing_matrix(size)
    assert torch.allclose(matrix @ matrix.T, torch.eye(size, dtype=torch.float64), atol=1e-12)
    assert float(matrix.abs().max()) <= (2 / size) ** 0.5 + 1e-12


@pytest.mark.ci
@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: str(spec.arch))
def test_a_turned_network_computes_the_same(spec: Spec) -> None:
    network, patches = build(spec, seed=2), photos_like()
    assert torch.allclose(spread_streams(network, patches)(patches), network(patches), atol=1e-4)


@pytest.mark.ci
def test_turning_lowers_the_peaks_of_a_stream_with_one_strong_channel() -> None:
    network = build(SMALL, seed=0)
    with torch.no_grad():
        network.head.weight[0] *= 20  # type: ignore[union-attr, operator, index]
    patches, peaks = photos_like(), []
    for either in (network, spread_streams(network, patches)):
        either.head.register_forward_hook(lambda _m, _i, output: peaks.append(float(output.abs().max())))  # type: ignore[union-attr]
        with torch.no_grad():
            either(patches)
    assert peaks[1] < 0.75 * peaks[0]


def a_value(size: int, generator: torch.Generator) -> Value:
    """A value whose strong directions are not those that matter to the image."""
    mixing, matters = (torch.randn(size, size, generator=generator) for _ in range(2))
    strengths = torch.logspace(0, -2, size)
    pixels = mixing @ (strengths[:, None] * torch.randn(size, 4000, generator=generator))
    return Value(pixels / pixels.abs().max(), matters @ (strengths[:, None] * matters.T))


def test_the_noise_of_a_basis_is_that_of_rounding_in_it() -> None:
    """Both agree up to one factor for all bases; values are rounded to 255 levels, and the error is turned back."""
    value = a_value(12, torch.Generator().manual_seed(0))
    ratios = []
    for basis in (torch.eye(12), mixing_matrix(12).float(), best_basis([value]).float()):
        turned = basis @ value.pixels
        step = 2 * turned.abs().pow(8).mean() ** (1 / 8) / 255
        error = torch.linalg.inv(basis) @ ((turned / step).round() * step - turned)
        measured = torch.einsum("ip,ij,jp->", error, value.sensitivity, error) / error.shape[1]
        ratios.append(float(measured / rounding_noise(basis, [value])))
    assert max(ratios) / min(ratios) < 1.1


def test_the_best_basis_disturbs_the_image_less_than_an_even_one() -> None:
    generator = torch.Generator().manual_seed(1)
    values = [a_value(12, generator), a_value(12, generator)]
    even, best = (rounding_noise(basis.float(), values) for basis in (mixing_matrix(12), best_basis(values)))
    assert best < 0.6 * even
    assert torch.linalg.det(best_basis(values)).abs() == pytest.approx(1)


@pytest.mark.ci
def test_the_basis_is_the_same_every_time() -> None:
    network, patches = build(SMALL, seed=0), photos_like()
    once, again = (spread_streams(network, patches).state_dict() for _ in range(2))
    assert all(torch.equal(once[name], again[name]) for name in once)


@pytest.mark.ci
@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: str(spec.arch))
def test_the_image_itself_meets_the_first_layer_and_nothing_changes(spec: Spec) -> None:
    """Borders do not change either: they are padded with the mean, which equals zeros after its subtraction."""
    network, graph = graph_of(spec, size_for(spec))
    width, height = size_for(spec) or (9, 21)
    lr = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))
    assert np.abs(run(graph.model, lr) - network(lr).numpy()).max() < 2e-4


def test_the_image_reaches_the_first_layer_without_its_mean() -> None:
    _, graph = graph_of(SMALL)
    layers = [graph.nodes[index] for index in sorted(graph.layers)]
    assert layers[0].input[0] in graph.images
    assert not any(node.op_type == "Div" for node in graph.nodes)
    assert graph.model.graph.output[0].name == layers[-1].output[0]


@pytest.mark.ci
@pytest.mark.parametrize("spec", ANCHORED, ids=str)
def test_a_sum_with_the_image_is_bytes_from_end_to_end(spec: Spec) -> None:
    """The copied image is exact, the sum is rounded to the image's bytes, and nothing is left to compute in float."""
    network, graph = graph_of(spec)
    lr = photos_like(2)
    assert np.abs(run(graph.model, lr) - network.eval()(lr).numpy()).max() < 1e-5
    plan, walk, _ = quantised(graph, lr)
    assert [walk.grids[name] for name in sorted(graph.images)] == [image_grid(U8)] * len(graph.images)
    computing = [index for index, node in enumerate(graph.nodes) if node.op_type in ("Conv", "Add", "Resize")]
    assert set(computing) <= plan.integer
    # Without the layers, whose weights are random, the image itself is left: enlarged without a change.
    zeros = {name for layer in graph.layers.values() if layer.bias is not None for name in (layer.weight, layer.bias)}
    for tensor in graph.model.graph.initializer:
        if tensor.name in zeros:
            tensor.CopyFrom(numpy_helper.from_array(np.zeros(tuple(tensor.dims), np.float32), tensor.name))
    _, _, copied = quantised(FloatGraph(graph.model, graph.images), lr)
    enlarged = lr.repeat_interleave(spec.scale, 2).repeat_interleave(spec.scale, 3)
    assert np.abs(run(copied, lr) - enlarged.numpy()).max() < 1e-6


@pytest.mark.parametrize("spec", first_in_make_test(ANCHORED), ids=str)
def test_without_a_zero_point_the_sum_with_the_image_stays_in_float_and_says_why(spec: Spec) -> None:
    _, graph = graph_of(spec)
    plan, _, model = quantised(graph, photos_like(2), TENSORRT)
    (add,) = [node for node in model.graph.node if node.op_type == "Add"]
    assert "half of an image's levels" in add.doc_string
    # Both are read as floats: the image as it is, and the last layer's result before it is rounded.
    assert not any(name.endswith(".dequantised") for name in add.input)
    others = {index for index, node in enumerate(graph.nodes) if node.op_type == "Conv" and len(node.input) > 2}
    assert others <= plan.integer


@pytest.mark.parametrize("spec", first_in_make_test(SPECS), ids=lambda spec: str(spec.arch))
def test_equalised_channels_compute_the_same(spec: Spec) -> None:
    network, graph = graph_of(spec, size_for(spec))
    patches = photos_like()[:1]
    equal = equalise_channels(graph, patches)
    assert np.abs(run(equal.model, patches) - network(patches).numpy()).max() < 2e-4


@pytest.mark.ci
def test_weak_units_come_nearer_to_the_strong_ones() -> None:
    network = build(CompactSpec(2, width=8, depth=2), seed=0)
    with torch.no_grad():
        network.get_parameter("layers.0.conv.weight")[3] *= 30
    graph = meet_image(build_graph(network, None, 18))
    patches, spreads = photos_like(), []
    for either in (graph, equalise_channels(graph, patches)):
        peaks, _ = measure_graph(either.model, [ProofInput("patches", patches)])
        first = next(peak for name, peak in peaks.items() if "layers.0.conv" in peak.node)
        spreads.append(float(first.channels.max() / np.median(first.channels)))
    assert spreads[1] < spreads[0] ** 0.5 * 1.5


def test_a_stream_with_activations_has_one_factor_a_channel_for_all_that_write_and_read_it() -> None:
    """Two layers write a stream with a ReLU, and two read it; one channel is 30 times larger than the others."""
    generator = np.random.default_rng(0)
    weights = {name: generator.uniform(1, 2, (8, columns, 1, 1)) for name, columns in (("a", 3), ("b", 8), ("c", 8))}
    for name in ("a", "b"):
        weights[name][3] *= 30
    weights["b"][:, 3] /= 30
    model = model_of(
        """stream (float[n, 3, h, w] lr) => (float[n, 8, h, w] sr) {
            begin = Conv <kernel_shape = [1, 1]> (lr, a)
            branch = Conv <kernel_shape = [1, 1]> (begin, b)
            sum = Add(begin, branch)
            stream = Relu(sum)
            sr = Conv <kernel_shape = [1, 1]> (stream, c)
        }""",
        **{name: values.astype(np.float32) for name, values in weights.items()},
    )
    for node in model.graph.node:
        node.name = node.output[0]
    graph, patches = FloatGraph(model), photos_like()
    equal = equalise_channels(graph, patches)
    before, after = (measure_graph(either.model, [ProofInput("patches", patches)])[0] for either in (graph, equal))
    factors = before["stream"].channels / after["stream"].channels
    np.testing.assert_allclose(before["begin"].channels / after["begin"].channels, factors, rtol=1e-5)
    assert factors[3] == pytest.approx(1.0) and np.delete(factors, 3).max() < 0.7
    np.testing.assert_allclose(run(equal.model, patches), run(model, patches), rtol=1e-4, atol=1e-3)


def test_a_stream_of_sums_alone_is_left_to_its_basis() -> None:
    _, graph = graph_of(SMALL)
    before, after = (either.constants for either in (graph, equalise_channels(graph, photos_like())))
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    blocks = {name for name in before if name.startswith("blocks.")}
    assert changed and changed <= blocks and not any(name.endswith("conv2.bias") for name in changed)


@pytest.mark.ci
@pytest.mark.parametrize(
    ("spec", "flavour", "float_sums"),
    [*((spec, CPU, False) for spec in SPECS), *((spec, TENSORRT, True) for spec in (SPECS[0], SPECS[-1]))],
    ids=str,
)
def test_a_file_gives_what_the_walk_foresaw(spec: Spec, flavour: Flavour, float_sums: bool) -> None:
    """The walk uses values that the file really computes; a wrong scale or zero point would shift all of them."""
    _, graph = graph_of(spec, size_for(spec))
    patches = photos_like()[:1] if size_for(spec) else photos_like()
    plan = make_plan(graph, flavour, FloatParts(sums=float_sums))
    walk = GraphWalk(plan, patches.numpy())
    model = QdqWriter(plan, walk.run()).write()
    onnx.checker.check_model(model, full_check=True)
    foreseen = walk.values[graph.model.graph.output[0].name]
    expected = foreseen.raw if foreseen.rounded is None else foreseen.rounded
    difference = np.abs(run(model, patches, exactly=True) - expected)
    # Another order of float sums may round a value to the neighbouring level; a level is 1/255.
    assert difference.max() < 2 / 255 and (difference > 1e-4).mean() < 0.3


def test_every_layer_is_stored_in_integers_and_images_are_bytes_at_both_ends() -> None:
    _, graph = graph_of(SMALL)
    plan, walk, model = quantised(graph, photos_like())
    assert all(walk.grids[name] == image_grid(U8) for name in graph.images)
    sr = run(model, photos_like()) * 255
    assert np.abs(sr - sr.round()).max() < 1e-3
    assert set(walk.layers) == set(graph.layers) == set(plan.layers)
    large = [tensor for tensor in model.graph.initializer if len(tensor.dims) > 1 and np.prod(tensor.dims) > 16]
    assert {tensor.data_type for tensor in large} == {onnx.TensorProto.INT8}


def test_the_tensorrt_flavour_has_no_zero_points_and_biases_in_float() -> None:
    """These are the rules of NVIDIA's explicit quantisation, checked in the graph."""
    _, graph = graph_of(SMALL)
    _, _, model = quantised(graph, photos_like(), TENSORRT)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    pairs = [node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert pairs
    for node in pairs:
        zero_point = stored[node.input[2]]
        assert zero_point.dtype == np.int8 and not zero_point.any()
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert all(stored[node.input[2]].dtype == np.float32 for node in convolutions)
    # Symmetric bytes hold only half of an image's range, so the output is not quantised.
    assert model.graph.node[-1].op_type == "Conv"


def test_layers_and_sums_stay_in_float_that_are_named() -> None:
    _, graph = graph_of(SMALL)
    names = [graph.layers[index].name for index in sorted(graph.layers)]
    plan = make_plan(graph, CPU, FloatParts(layers=frozenset({names[0], names[-1]}), sums=True))
    assert {layer.name for layer in plan.layers.values()} == set(names[1:-1])
    assert "Add" not in [graph.nodes[index].op_type for index in plan.integer]
    with pytest.raises(Exception, match="no layer called 'nothing'"):
        make_plan(graph, CPU, FloatParts(layers=frozenset({"nothing"})))


@pytest.mark.ci
def test_gates_of_a_pooled_image_stay_in_float() -> None:
    """RCAN's attention computes on one pixel per image."""
    _, graph = graph_of(RCANSpec(2, width=8, groups=1, depth=1, hidden=2))
    sides = {tensor.name: tensor.dims[-1] for tensor in graph.model.graph.initializer if tensor.dims}
    kernels = {layer.name: sides[layer.weight] for layer in graph.layers.values()}
    in_eight = {layer.name for layer in make_plan(graph).layers.values()}
    assert in_eight == {name for name, side in kernels.items() if side == 3}
    assert len(in_eight) < len(kernels)


def test_a_weight_that_several_layers_share_is_rounded_alike() -> None:
    """CARN-M may run one block several times, with one set of integer weights."""
    spec = next(spec for spec in SPECS if isinstance(spec, CARNMSpec))
    _, graph = graph_of(spec)
    _, walk, _ = quantised(graph, photos_like())
    by_weight: dict[str, list[np.ndarray]] = {}
    for index, layer in graph.layers.items():
        if index in walk.layers:
            by_weight.setdefault(layer.weight, []).append(walk.layers[index].integers)
    assert all(np.array_equal(copy, copies[0]) for copies in by_weight.values() for copy in copies)


@pytest.mark.ci
def test_the_bias_makes_up_for_what_rounding_shifts() -> None:
    """With very coarsely rounded weights the mean of each channel of the image does not change."""
    _, graph = graph_of(CompactSpec(2, width=8, depth=2))
    coarse = replace(CPU, weights=replace(S8, low=-3, high=3))
    patches, shifts = photos_like(8), []
    for correct in (False, True):
        walk = GraphWalk(make_plan(graph, coarse), patches.numpy(), correct=correct)
        walk.run()
        value = walk.values[graph.model.graph.output[0].name]
        # Bytes also cut off what an image does not show, which shifts the mean of the whole.
        inside = (value.exact > 0.1) & (value.exact < 0.9)
        shifts.append(max(abs((value.raw - value.exact)[:, one][inside[:, one]].mean()) for one in range(3)))
    assert shifts[1] < 0.2 * shifts[0]


def test_the_same_patches_give_the_same_file() -> None:
    _, graph = graph_of(SMALL)
    files = [quantised(graph, photos_like())[2].SerializeToString(deterministic=True) for _ in range(2)]
    assert files[0] == files[1]
