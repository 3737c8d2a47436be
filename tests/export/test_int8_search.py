"""The search for parts in float: no more than the bound requires, in the order or by the time that suits the tool."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import pytest
import torch

from compressor.base.context import Context
from compressor.models.networks.base import Network
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build
from compressor.runtimes.base import Runtime
from compressor.runtimes.torch_runtime import TorchRuntime
from export.formats.conversion import CannotConvert, Conversion, FileOptions, Int8Options
from export.formats.proof_inputs import ProofInput
from export.graph.onnx_graph import build_graph
from export.int8.calibration import CalibrationPatches
from export.int8.float_parts import NOTHING, FloatParts, LayerNames, choices_of, ends_of
from export.int8.quantise.ends import meet_image
from export.int8.quantise.plan import CPU
from export.int8.quantise.tool import OwnQuantiser
from export.int8.search import Search, Times, Tool, TriedParts
from export.int8.task import Int8Task
from export.proof.quality import QualityDrop, QualityPhotos

LAYERS = LayerNames(("head", "body", "up0", "up1", "tail"), frozenset({"up0", "up1"}))


def task(network: Network, notes: list[str], *, max_drop: float | None = 0.1) -> Int8Task:
    flat = ProofInput("white", torch.ones(1, 3, 24, 24), flat=True)
    options = FileOptions(int8=Int8Options(max_drop=max_drop))
    job = Conversion(network, Path("small.file"), {}, options, Context(note=notes.append), inputs=(flat,))
    calibration = CalibrationPatches(torch.rand(8, 3, 12, 12, generator=torch.Generator().manual_seed(0)), "photos")
    return Int8Task(job, network, network.descriptor, calibration, QualityPhotos.of(network, Int8Options()))


def test_parts_grow_from_the_ends() -> None:
    steps = list(ends_of(LAYERS))
    assert [(parts.words, parts.layers, parts.sums) for parts in steps] == [
        ("last layer", {"tail"}, False),
        ("first layer, last layer", {"head", "tail"}, False),
        ("first layer, last layer, upsampler", {"head", "tail", "up0", "up1"}, False),
        ("first layer, last layer, upsampler, sums", {"head", "tail", "up0", "up1"}, True),
    ]
    assert LAYERS.upsampler == ("up0", "up1")
    assert not LayerNames(("a", "b"), frozenset({"b"})).upsampler, "the last layer is no upsampler"


def test_the_last_layers_follow_where_ends_are_not_enough() -> None:
    names = tuple(f"conv{index}" for index in range(10))
    steps = list(ends_of(LayerNames(names)))
    assert [(parts.words, parts.layers) for parts in steps[3:]] == [
        ("last 3 of 10 layers", set(names[-3:])),
        ("last 5 of 10 layers", set(names[-5:])),
    ]


def test_a_graph_without_sums_has_none_to_keep_in_float() -> None:
    layers = LayerNames(LAYERS.names, LAYERS.before_shuffle, has_sums=False)
    assert not any(parts.sums for parts in ends_of(layers))
    assert list(choices_of(layers)) == ["last layer", "first layer", "upsampler"]


class Noisy(TorchRuntime):
    """The network with a fixed pattern of noise added to its images."""

    def __init__(self, network: Network, noise: float, saturates: bool = False) -> None:
        super().__init__(network, label="noisy")
        self.noise, self.saturates = noise, saturates

    def run(self, lr: torch.Tensor) -> torch.Tensor:
        sr = super().run(lr)
        if self.saturates and float(lr.max() - lr.min()) == 0:
            return sr + 0.2
        return sr + self.noise * torch.randn(sr.shape, generator=torch.Generator().manual_seed(0))


class SlowTool(Tool[str]):
    """Writes words instead of files."""

    name, flavour, layers = "the tool", "the flavour", LAYERS

    def __init__(self, network: Network, noises: dict[str, float], saturates: str = "") -> None:
        self.network, self.noises, self.saturates = network, noises, saturates

    def write(self, parts: FloatParts) -> str:
        return f"{parts.words}, whole ranges" if parts.variant else parts.words

    def open(self, file: str) -> Noisy:
        return Noisy(self.network, self.noises.get(file, 0.05), file == self.saturates)


def search(
    network: Network, noises: dict[str, float], notes: list[str], *, max_drop: float | None = 0.1, saturates: str = ""
) -> Search[str]:
    return Search(SlowTool(network, noises, saturates), task(network, notes, max_drop=max_drop))


def test_the_first_within_the_bound_is_taken(network: Network) -> None:
    notes: list[str] = []
    tried = search(network, {"nothing": 1e-4}, notes).run()
    assert (tried.file, len(notes)) == ("nothing", 1)
    notes.clear()
    searching = search(network, {"first layer, last layer": 1e-4}, notes)
    tried = searching.run()
    assert tried.file == "first layer, last layer" and tried.parts.layers == {"head", "tail"}
    parts = ("nothing", "nothing, whole ranges", "last layer", "first layer, last layer")
    assert [note.split(": ")[0] for note in notes] == [f"the tool, in float {part}" for part in parts]
    assert "refused, because it " in notes[0] and "refused" not in notes[-1]
    facts = {"flavour": "the flavour", "calibration": "photos", "photos": 2, "bits": 8, "weight_bits": 8}
    facts |= {"in_float": "first layer, last layer", "float_layers": ["head", "tail"], "whole_ranges": False}
    assert facts.items() <= searching.facts(tried).items()


def test_whole_ranges_stay_where_they_are_better(network: Network) -> None:
    noises = {"nothing, whole ranges": 0.02, "last layer, whole ranges": 1e-4}
    assert search(network, noises, []).run().file == "last layer, whole ranges"


def test_a_file_that_saturates_on_flat_colours_is_no_choice(network: Network) -> None:
    notes: list[str] = []
    noises = {"nothing": 1e-4, "nothing, whole ranges": 2e-4}
    assert search(network, noises, notes, saturates="nothing").run().file == "nothing, whole ranges"
    assert "by 0.2 on white" in notes[0]


def test_without_a_bound_the_first_file_is_taken(network: Network) -> None:
    assert search(network, {}, [], max_drop=None, saturates="nothing").run().file == "nothing"


def test_nothing_within_the_bound_is_told_with_its_figures(network: Network) -> None:
    message = (
        r"in int8 \(the tool\) it loses \d+\.\d{3} dB of Y-PSNR to the original on 2 photos; --max-drop 0 is allowed; "
        "tried with first layer, last layer, upsampler, sums in float, too"
    )
    with pytest.raises(CannotConvert, match=message):
        search(network, {}, [], max_drop=0).run()


class FakePhotos:
    """Photos on which a file loses what it says itself."""

    def measure(self, run: Callable[[object], float]) -> QualityDrop:
        return QualityDrop(30.0, 30.0 - run(None), 50.0, 2)


class FakeFile:
    def __init__(self, drop: float) -> None:
        self.drop = drop

    def run(self, lr: object) -> float:
        return self.drop


class TimedTool(Tool[FloatParts]):
    """Loses and takes what it is told for the parts in float."""

    name, flavour, layers, variant, is_quick = "cpu", "cpu", LAYERS, "solved weights", True

    def __init__(self, drop_of: Callable[[FloatParts], float], ms_of: Callable[[FloatParts], float]) -> None:
        self.drop_of, self.ms_of = drop_of, ms_of
        self.written: list[FloatParts] = []

    def write(self, parts: FloatParts) -> FloatParts:
        self.written.append(parts)
        return parts

    def open(self, file: FloatParts) -> Runtime:
        return cast(Runtime, FakeFile(self.drop_of(file)))

    def time(self, file: FloatParts) -> Times:
        return Times(self.ms_of(file), 9.0, (128, 128))

    def ranking(self, parts: FloatParts) -> Sequence[str]:
        return [name for name in ("body", *self.layers.names) if name not in parts.layers]


def searched(
    network: Network, drop_of: Callable[[FloatParts], float], ms_of: Callable[[FloatParts], float], **options: float
) -> tuple[TriedParts[FloatParts], list[FloatParts]]:
    """The result of a search, and all parts that were tried."""
    tool, asked = TimedTool(drop_of, ms_of), task(network, [], **options)
    job = Conversion(network, Path("small.file"), {}, asked.job.options, asked.job.context)
    fake = Int8Task(job, network, network.descriptor, asked.calibration, cast(QualityPhotos, FakePhotos()))
    return Search(tool, fake).run(), tool.written


def test_nothing_is_given_back_where_all_of_it_is_good_enough(network: Network) -> None:
    best, tried = searched(network, lambda parts: 0.05, lambda parts: 1.0)
    assert tried == [NOTHING] and best.parts.words == "nothing"


def test_of_several_choices_within_the_bound_the_one_that_costs_least_time_is_taken(network: Network) -> None:
    best, tried = searched(
        network,
        lambda parts: 0.05 if parts.layers else 0.5,
        lambda parts: 5.0 if "tail" in parts.layers else 2.0 + len(parts.layers),
    )
    assert best.parts.words == "first layer" and best.parts.layers == {"head"}
    assert [parts.words for parts in tried] == ["nothing", "nothing", "sums", "last layer", "first layer", "upsampler"]
    assert [parts.variant for parts in tried[:2]] == [False, True]


@pytest.mark.parametrize(("ms_of_sums", "sums"), [(2.05, True), (2.2, False)])
def test_where_two_choices_take_the_same_time_the_better_image_decides(
    network: Network, ms_of_sums: float, sums: bool
) -> None:
    best, _ = searched(
        network,
        lambda parts: 0.04 if parts.sums else 0.06 if parts.layers else 0.5,
        lambda parts: ms_of_sums if parts.sums else 2.0,
    )
    assert best.parts.sums is sums


def test_what_gains_most_is_kept_until_the_bound_is_met(network: Network) -> None:
    def drop(parts: FloatParts) -> float:
        return 0.5 - 0.3 * parts.sums - 0.15 * bool(parts.layers)

    best, tried = searched(network, drop, lambda parts: 1.0)
    assert best.parts.sums and best.parts.layers and tried[1].variant
    assert not any(parts.variant for parts in tried[2:]), "solved weights did not gain, so they are not kept"


def test_where_no_choice_is_enough_the_most_sensitive_layers_follow(network: Network) -> None:
    best, _ = searched(network, lambda parts: 0.05 if "body" in parts.layers else 0.5, lambda parts: 1.0)
    assert best.parts.words == "1 most sensitive layers" and best.parts.layers == {"body"}
    with pytest.raises(CannotConvert, match=r"0\.500 dB .*4 most sensitive"):
        searched(network, lambda parts: 0.5, lambda parts: 1.0)


@pytest.mark.ci
def test_the_one_layer_that_spoils_it_is_the_first_of_the_ranking() -> None:
    """One weight of each row is so large that all others round to zero; the unit that it reads is always zero."""
    network = build(EDSRSpec(width=8, depth=2, scale=2), seed=0)
    with torch.no_grad():
        network.get_parameter("blocks.0.conv1.weight")[0] = 0
        network.get_parameter("blocks.0.conv1.bias")[0] = -1
        network.get_parameter("blocks.0.conv2.weight")[:, 0] = 1e4
    tool = OwnQuantiser(meet_image(build_graph(network, None, 18)), CPU, task(network, []))
    assert tool.ranking(NOTHING)[0].startswith("blocks.0.conv2/")
    assert tool.layers.has_sums and [name.partition("/")[0] for name in tool.layers.upsampler] == ["upsampler.convs.0"]
