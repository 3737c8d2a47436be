"""SOAP: Adam in the eigenbases of a weight's second moments; its steps, its state and its place in a run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from compressor.training.optimisers import EVERY, Optimiser, Soap
from compressor.training.state import State
from recipes.config.reading import load_preset
from recipes.methods.scratch import Scratch
from tests.support.training import network, stage, train_on_patch

RATE = 0.1


def parameter(*shape: int, seed: int = 0) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))


def walk(soap: torch.optim.Optimizer, weight: torch.nn.Parameter, gradients: list[torch.Tensor]) -> list[torch.Tensor]:
    """Take a step for each gradient, and return the weight after each."""
    places = []
    for gradient in gradients:
        weight.grad = gradient.clone()
        soap.step()
        places.append(weight.detach().clone())
    return places


def soap(*weights: torch.nn.Parameter, rate: float = RATE, decay: float = 0.0) -> torch.optim.Optimizer:
    return Optimiser("soap").build([{"params": list(weights), "weight_decay": decay}], rate)


def gradients(*shape: int, count: int = 2 * EVERY + 3) -> list[torch.Tensor]:
    return [parameter(*shape, seed=seed).detach() for seed in range(1, count + 1)]


def test_the_first_move_is_the_sign_in_the_singular_bases_of_the_first_gradient():
    weight, (first, second) = parameter(5, 7), gradients(5, 7, count=2)
    before, (still, moved) = weight.detach().clone(), walk(soap(weight), weight, [first, second])
    left, _, right = torch.linalg.svd(first, full_matrices=True)
    sign = (left.T @ second @ right.T).sign()
    # The null space of a 5×7 matrix on its right side has no basis of its own: those columns are compared as a whole.
    move = left.T @ ((before - moved) / RATE) @ right.T
    assert torch.equal(still, before) and torch.allclose(move[:, :5], sign[:, :5], atol=1e-6)
    assert torch.linalg.matrix_norm(move[:, 5:]) == pytest.approx((5 * 2) ** 0.5, rel=1e-6), "a step of ±1 in any basis"


def test_vectors_take_adams_steps():
    mine, theirs, steps = parameter(6), parameter(6), gradients(6)
    first, *rest = walk(soap(mine, decay=0.1), mine, steps)
    assert torch.equal(first, theirs)
    adam = torch.optim.Adam([theirs], RATE, betas=(0.9, 0.99), weight_decay=0.1)
    for ours, its in zip(rest, walk(adam, theirs, steps[1:]), strict=True):
        assert torch.allclose(ours, its, atol=1e-9)


def test_turned_coordinates_turn_the_steps_and_adams_do_not():
    """A network whose channels are turned learns the same: turned gradients give turned steps."""
    left, right = (torch.linalg.qr(parameter(side, side, seed=90 + side).detach()).Q for side in (4, 6))

    def turned(values: torch.Tensor) -> torch.Tensor:
        return torch.einsum("ao,oikl,bi->abkl", left, values, right)

    def distance(build) -> float:
        steps, plain = gradients(4, 6, 3, 3), parameter(4, 6, 3, 3)
        other = torch.nn.Parameter(turned(plain.detach()))
        here = walk(build(plain), plain, steps)
        there = walk(build(other), other, [turned(step) for step in steps])
        return max(float((turned(a) - b).abs().max()) for a, b in zip(here, there, strict=True))

    assert distance(soap) < 1e-6
    assert distance(lambda weight: torch.optim.Adam([weight], RATE)) > RATE


def test_a_saved_run_goes_on_bit_for_bit(tmp_path: Path):
    whole = replace(stage([Scratch()], steps=EVERY + 4), optimiser=Optimiser("soap"))
    half = replace(whole, schedule=replace(whole.schedule, steps=EVERY - 2))
    straight, _ = train_on_patch(whole)
    stopped, _ = train_on_patch(half)
    stopped.save(tmp_path / "state.pt")
    resumed = State.fresh(network(0), None, whole)
    resumed.load(tmp_path / "state.pt")
    train_on_patch(whole, resumed)
    assert isinstance(resumed.optimiser, Soap) and resumed.done == straight.done
    for name, values in straight.student.state_dict().items():
        assert torch.equal(values, resumed.student.state_dict()[name]), name
    fresh = network(0).state_dict()
    assert any(not torch.equal(values, fresh[name]) for name, values in straight.student.state_dict().items())


def test_a_recipe_names_its_optimiser():
    preset = load_preset("logits", ["schedule.optimiser=soap", "schedule.betas.1=0.95"])
    optimiser = preset.stage(preset.build_methods()).optimiser
    assert (optimiser.name, optimiser.betas) == ("soap", (0.9, 0.95))
    assert load_preset("logits-paper").schedule.optimiser == "adam"
