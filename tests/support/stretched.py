"""One step of a method whose images live in [0, top]: everything that makes or looks at an image is brought there.

The methods themselves know [0,1] only; what is stretched here are the networks, auxiliary heads and gates of a run, φ,
and the inverted colours of an augmentation, so that nothing but a term's own arithmetic can tell the ranges apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import pytest
import torch
from torch import Tensor, nn

from compressor.base.processes import Processes
from compressor.data.batches import Batch
from compressor.models.networks.base import Network
from compressor.training.networks import build_networks
from compressor.training.state import State
from compressor.training.step import Step, StepNetworks
from recipes import dukd
from recipes.ds import AuxiliaryHead
from recipes.hkdsr import FusionGate
from tests.support.method_runs import Pair, Waves, total
from tests.support.methods_table import Row


@dataclass(frozen=True)
class Stretched:
    """The result of a step: raw terms, the gradient of all that is trained, and the move that Adam made of it."""

    terms: dict[str, float]
    gradient: Tensor
    move: Tensor

    @classmethod
    def of(cls, row: Row, top: float, monkeypatch: pytest.MonkeyPatch) -> Stretched:
        pair = Pair.of(row, **row.settled)
        state = pair.fresh()
        for stage in pair.stages[1:]:
            state.enter(stage, pair.teacher)
        stage = pair.stages[-1]
        networks = stretched(build_networks(stage, state, pair.teacher, lambda line: None, Processes()), top)
        monkeypatch.setattr(dukd, "_invert_colours", lambda images, samples: inverted(images, samples, top))
        weights, batch = stage.term_weights, Waves(row.student.scale).at(0)
        assert batch.hr is not None
        raw: dict[str, float] = {}
        for part in range(stage.updates):
            terms = pair.method.terms(Step(0, 3, Batch(batch.lr * top, batch.hr * top), networks, part))
            total(terms, {name: weights[name] * top ** (1 - row.degrees.get(name, 1)) for name in terms}).backward()
            raw.update({name: float(term.detach()) for name, term in terms.items()})
        return cls(raw, *first_step(state, top))


def first_step(state: State, top: float) -> tuple[Tensor, Tensor]:
    """The gradient, and the optimiser's move by it, parameters one after the other.

    Adam's eps is added to a gradient's size, so it is converted as the weights are: at 1e-8 in both ranges the few
    parameters whose gradient is no larger would move otherwise.
    """
    for group in state.optimiser.param_groups:
        group["eps"] *= top
    trained = [p for group in state.optimiser.param_groups for p in group["params"] if p.grad is not None]
    gradient = torch.cat([cast(Tensor, p.grad).reshape(-1) for p in trained]).clone()
    before = torch.cat([p.detach().reshape(-1) for p in trained])
    state.optimiser.step()
    return gradient, torch.cat([p.detach().reshape(-1) for p in trained]) - before


def stretched(networks: StepNetworks, top: float) -> StepNetworks:
    """The same networks in [0, top]: each once, though it may have several roles."""
    runners = [*networks.students, *([networks.teacher] if networks.teacher else [])]
    for network in {id(runner.network): runner.network for runner in runners}.values():
        stretch(network, top)
    for module in networks.modules.modules():
        if isinstance(module, (AuxiliaryHead, FusionGate)):
            stretch_module(module, top)
    for helpers in networks.helpers.values():
        for helper in helpers.values():
            helper.register_forward_pre_hook(lambda _, images: tuple(image / top for image in images))
    return networks


def stretch(network: Network, top: float) -> None:
    """Images of [0, top] in and out, also those that its tail makes of intermediate features; features stay."""
    stem, finish = network.stem, network.finish

    def stem_of(lr: Tensor) -> Tensor:
        return stem(lr / top)

    def finish_of(feature: Tensor, shallow: Tensor, lr: Tensor) -> Tensor:
        return top * finish(feature, shallow, lr / top)

    # Instead of a wrapper: taps are read inside the network, and a student inside its teacher is run by its name.
    network.stem, network.finish = stem_of, finish_of  # type: ignore[method-assign]


def stretch_module(module: nn.Module, top: float) -> None:
    """A head makes an image of features; a gate makes one of two."""
    if isinstance(module, FusionGate):
        module.register_forward_pre_hook(lambda _, images: tuple(image / top for image in images))
    module.register_forward_hook(lambda *arguments: top * arguments[-1])


def inverted(images: Tensor, samples: Tensor, top: float) -> Tensor:
    return torch.where(samples[:, None, None, None], top - images, images)
