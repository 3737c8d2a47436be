"""Parts in float when a runtime's own tool quantises: no more than the bound requires, with a note on every try."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from compressor.base.context import Context
from compressor.models.networks.base import Network
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build
from compressor.runtimes.torch_runtime import TorchRuntime
from export.formats.conversion import CannotConvert, Conversion, FileOptions, Int8Options
from export.formats.proof_inputs import ProofInput
from export.int8.float_parts import FloatParts, LayerNames, Search, ends_of
from export.proof.quality import QualityPhotos

LAYERS = LayerNames(("head", "body", "up0", "up1", "tail"), frozenset({"up0", "up1"}))


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


@pytest.fixture(scope="module")
def network() -> Network:
    return build(EDSRSpec(width=8, depth=1, scale=2), seed=0)


def search(
    network: Network, noises: dict[str, float], notes: list[str], *, max_drop: float = 0.1, saturates: str = ""
) -> Search[str]:
    flat = ProofInput("white", torch.ones(1, 3, 24, 24), flat=True)
    job = Conversion(
        network,
        Path("small.file"),
        {},
        FileOptions(int8=Int8Options(max_drop=max_drop)),
        Context(note=notes.append),
        inputs=(flat,),
    )

    def make(parts: FloatParts) -> tuple[str, Noisy]:
        return str(parts), Noisy(network, noises.get(str(parts), 0.05), str(parts) == saturates)

    return Search("the tool", job, QualityPhotos.of(network, None), LAYERS, make)


def test_parts_grow_from_the_ends() -> None:
    steps = list(ends_of(LAYERS))
    assert [parts.layers for parts in steps] == [
        {"tail"},
        {"head", "tail"},
        {"head", "tail", "up0", "up1"},
        {"head", "tail", "up0", "up1"},
    ]
    assert [parts.sums for parts in steps] == [False, False, False, True]
    assert LAYERS.upsampler == {"up0", "up1"}
    assert not LayerNames(("a", "b"), frozenset({"b"})).upsampler, "the last layer is no upsampler"


def test_the_last_layers_follow_where_ends_are_not_enough() -> None:
    names = tuple(f"conv{index}" for index in range(10))
    steps = list(ends_of(LayerNames(names)))
    assert [(parts.words, parts.layers) for parts in steps[3:]] == [
        ("last 3 of 10 layers", set(names[-3:])),
        ("last 5 of 10 layers", set(names[-5:])),
    ]


def test_the_first_within_the_bound_is_taken(network: Network) -> None:
    notes: list[str] = []
    attempts = search(network, {"nothing": 1e-4}, notes).run()
    assert (attempts.product, len(notes)) == ("nothing", 1)
    notes.clear()
    attempts = search(network, {"first layer, last layer": 1e-4}, notes).run()
    assert attempts.product == "first layer, last layer" and attempts.parts.layers == {"head", "tail"}
    assert [note.split(": ")[0] for note in notes] == [
        "the tool, in float nothing",
        "the tool, in float nothing, whole ranges",
        "the tool, in float last layer",
        "the tool, in float first layer, last layer",
    ]
    assert "refused, because it " in notes[0] and "refused" not in notes[-1]
    facts = attempts.describe("the flavour", "photos")
    assert (facts["in_float"], facts["photos"], facts["float_layers"]) == (
        "first layer, last layer",
        2,
        ["head", "tail"],
    )


def test_whole_ranges_stay_where_they_are_better(network: Network) -> None:
    noises = {"nothing, whole ranges": 0.02, "last layer, whole ranges": 1e-4}
    assert search(network, noises, []).run().product == "last layer, whole ranges"


def test_a_file_that_saturates_on_flat_colours_is_no_choice(network: Network) -> None:
    notes: list[str] = []
    noises = {"nothing": 1e-4, "nothing, whole ranges": 2e-4}
    assert search(network, noises, notes, saturates="nothing").run().product == "nothing, whole ranges"
    assert "differs from the network by 0.2 on white" in notes[0]


def test_nothing_within_the_bound_is_told_with_its_figures(network: Network) -> None:
    message = (
        r"in eight bits by the tool it loses \d+\.\d{3} dB of Y-PSNR on 2 photos; --max-drop 0 is allowed; "
        "tried with first layer, last layer, upsampler, sums in float, too"
    )
    with pytest.raises(CannotConvert, match=message):
        search(network, {}, [], max_drop=0).run()
