"""One step of a method with images in [0, top]: everything that writes or reads an image is converted.

Methods work in [0,1]. Here the networks, auxiliary heads and gates of a run, φ, noise, and the inverted colours of an
augmentation are scaled to [0, top], so that only the arithmetic of a term can depend on the range.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import pytest
import torch
from torch import Tensor, nn

from compressor.data.batches import Batch
from compressor.images.metrics import as_in_a_file
from compressor.models.networks.base import Network
from compressor.training.state import State
from compressor.training.step import Step, StepNetworks
from recipes.methods import calm, dckd, perceptual
from recipes.methods.ds import AuxiliaryHead
from recipes.methods.hkdsr import FusionGate
from recipes.terms import symmetries
from tests.support.method_runs import Pair, Waves, total
from tests.support.methods_table import Row


@dataclass(frozen=True)
class ScaledStep:
    """The result of a step: raw terms, the gradient of all trained parameters, and Adam's update."""

    terms: dict[str, float]
    gradient: Tensor
    update: Tensor

    @classmethod
    def run(cls, row: Row, top: float, monkeypatch: pytest.MonkeyPatch) -> ScaledStep:
        """Run the first step of the main stage of a row's method."""
        pair = Pair.from_row(row, **row.settled)
        state = pair.fresh()
        networks, stage = pair.networks(state), pair.stages[-1]
        scale_networks(networks, top)
        monkeypatch.setattr(
            symmetries, "_invert_colours", lambda images, at: torch.where(at[:, None, None, None], top - images, images)
        )
        noisy = dckd.noisy_inputs
        monkeypatch.setattr(dckd, "noisy_inputs", lambda lr, *how, **draw: top * noisy(lr / top, *how, **draw))
        disturbed = calm.disturbed
        monkeypatch.setattr(calm, "disturbed", lambda lr, *how: top * disturbed(lr / top, *how))
        monkeypatch.setattr(perceptual, "target_of", lambda step: top * as_in_a_file(step.teacher().sr / top))
        weights, batch = stage.term_weights, Waves(row.student.scale).at(0)
        raw: dict[str, float] = {}
        for part in range(stage.updates):
            terms = pair.method.terms(Step(0, 3, Batch(batch.lr * top, batch.hr * top), networks, part))
            total(terms, {name: weights[name] * top ** (1 - row.degrees.get(name, 1)) for name in terms}).backward()
            raw.update({name: float(term.detach()) for name, term in terms.items()})
        return cls(raw, *first_step(state, top))


def first_step(state: State, top: float) -> tuple[Tensor, Tensor]:
    """Return the gradient and the optimiser's update, the parameters one after the other.

    Adam's eps is added to the size of a gradient, so it is scaled as gradients are: with 1e-8 in both ranges the few
    parameters whose gradient is that small would get another update.
    """
    for group in state.optimiser.param_groups:
        group["eps"] *= top
    trained = [p for group in state.optimiser.param_groups for p in group["params"] if p.grad is not None]
    gradient = torch.cat([cast(Tensor, p.grad).reshape(-1) for p in trained]).clone()
    before = torch.cat([p.detach().reshape(-1) for p in trained])
    state.optimiser.step()
    return gradient, torch.cat([p.detach().reshape(-1) for p in trained]) - before


def scale_networks(networks: StepNetworks, top: float) -> None:
    """Scale the images of all networks to [0, top]; a network with several roles is scaled once."""
    runners = [*networks.students, *([networks.teacher] if networks.teacher else [])]
    for network in {id(runner.network): runner.network for runner in runners}.values():
        scale_network(network, top)
    for module in networks.modules.modules():
        if isinstance(module, (AuxiliaryHead, FusionGate)):
            scale_module(module, top)
        elif isinstance(module, Network):
            scale_network(module, top)
    for helpers in networks.helpers.values():
        for helper in helpers.values():
            helper.register_forward_pre_hook(lambda _, images: tuple(image / top for image in images))


def scale_network(network: Network, top: float) -> None:
    """Scale input and output images, also those that the tail makes from intermediate features; features stay."""
    stem, finish = network.stem, network.finish

    def stem_of(lr: Tensor) -> Tensor:
        return stem(lr / top)

    def finish_of(feature: Tensor, shallow: Tensor, lr: Tensor) -> Tensor:
        return top * finish(feature, shallow, lr / top)

    # A wrapper would break taps, which are read inside, and students inside teachers, which run by module names.
    network.stem, network.finish = stem_of, finish_of  # type: ignore[method-assign]


def scale_module(module: nn.Module, top: float) -> None:
    """Scale the output image of a head, or the images of a gate."""
    if isinstance(module, FusionGate):
        module.register_forward_pre_hook(lambda _, images: tuple(image / top for image in images))
    module.register_forward_hook(lambda *arguments: top * arguments[-1])
