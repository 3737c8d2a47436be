"""Properties of every method: each row of tests/support/methods_table.py, on tiny networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import cast

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from compressor.data.batches import Batch
from compressor.images.metrics import as_in_a_file
from compressor.models.checkpoints.load import load_checkpoint
from compressor.models.checkpoints.save import save_network
from compressor.models.networks.base import Network
from compressor.models.networks.cost import cost
from compressor.models.networks.registry import build
from compressor.training.calibration import Calibrated
from compressor.training.state import State
from compressor.training.step import Step, StepNetworks
from recipes.catalogue import METHODS
from recipes.methods import calm, dckd, perceptual
from recipes.methods.ds import AuxiliaryHead
from recipes.methods.hkdsr import FusionGate
from recipes.terms import symmetries
from tests.support.method_runs import Curve, Pair, Waves, numbers, total
from tests.support.methods_table import ROWS, Row

TEACHERLESS = {name for name, entry in METHODS.items() if entry.needs == "nothing"} | {"inherit", "pact"}
"""Methods that do not run a teacher, though one may be used for its weights or for φ."""
every = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)


# Methods work in [0,1]. In a scaled step all that writes or reads an image (networks, heads, gates, φ, noise, inverted
# colours) works in [0, top], so that only the arithmetic of a term can depend on the range.


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


class Run:
    """A run of a row on one batch, after any earlier stages; the state three steps before the end is saved."""

    def __init__(self, row: Row, path: Path) -> None:
        self.row, self.path = row, path
        self.pair = self.fresh_pair()
        self.fingerprint = None if self.pair.teacher is None else self.pair.teacher.fingerprint()
        self.state = self.pair.fresh()
        self.losses = self.pair.train(self.state, still=True, curve=Curve(path, at=self.pair.steps - 3))[-row.steps :]

    def fresh_pair(self) -> Pair:
        rate, settled = (f"schedule.rate={self.row.rate}",), self.row.settled
        return Pair.from_row(self.row, settings=rate, steps=self.row.steps, **settled)


@pytest.fixture(scope="module")
def run_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Row], Run]:
    folder = tmp_path_factory.mktemp("runs")
    rows = {row.name: row for row in ROWS}
    of_name = cache(lambda name: Run(rows[name], folder / f"{name}.pt"))
    return lambda row: of_name(row.name)


def terms_of(pair: Pair, networks: StepNetworks, batch: Batch) -> Iterator[tuple[Step, dict[str, Tensor]]]:
    for part in range(pair.stages[-1].updates):
        step = Step(0, 3, batch, networks, part)
        yield step, dict(pair.method.terms(step))


def test_every_method_has_a_row():
    assert {row.of for row in ROWS} == set(METHODS) and len({row.name for row in ROWS}) == len(ROWS)


@every
def test_terms_are_finite_and_named_as_their_weights(row: Row):
    pair = Pair.from_row(row)
    networks, names = pair.networks(pair.fresh()), set()
    for step, terms in terms_of(pair, networks, Waves(row.student.scale).at(0)):
        for name, term in terms.items():
            assert term.shape == () and torch.isfinite(term) and term.dtype == torch.float32, name
        assert not names & terms.keys(), "a term belongs to one update"
        names |= terms.keys()
        student = networks.students[0].outputs.get(id(step.lr))
        assert set(row.taps) == (set(student[1].features) if student else set())
    assert names == set(pair.method.weights)


@every
def test_gradients_reach_the_learners_alone(row: Row):
    pair = Pair.from_row(row, **row.settled)
    state = pair.fresh()
    networks = pair.networks(state)
    weights = pair.stages[-1].term_weights
    for _, terms in terms_of(pair, networks, Waves(row.student.scale).at(0)):
        total(terms, weights).backward()
    assert (state.networks.get("joint") is not None) == ("joint" in row.learners)
    assert any(parameter.requires_grad for parameter in state.modules.parameters()) == ("modules" in row.learners)
    assert all_moved(state.trained_network, row.spared) and all_moved(state.modules, (*row.spared, *row.followers))
    followers = [state.modules.get_submodule(name) for name in row.followers]
    others = [pair.teacher, state.networks.get("teacher"), *networks.helpers.values(), *followers]
    for network in others:
        for parameter in () if network is None else network.parameters():
            assert parameter.grad is None and not parameter.requires_grad


def all_moved(module: nn.Module, spared: tuple[str, ...]) -> bool:
    """Require a non-zero gradient for exactly the parameters that are not `spared`; return True."""
    for name, parameter in module.named_parameters():
        has_gradient = parameter.grad is not None and bool(parameter.grad.ne(0).any())
        if has_gradient == name.startswith(spared or ("\0",)):
            raise AssertionError(f"{name} {'got a gradient' if has_gradient else 'got no gradient'}")
    return True


@pytest.mark.ci
@every
def test_the_teacher_stays_to_the_bit_and_a_resumed_run_too(row: Row, run_of: Callable[[Row], Run]):
    run = run_of(row)
    assert run.fingerprint == (None if run.pair.teacher is None else run.pair.teacher.fingerprint())
    again = run.fresh_pair()
    resumed = again.fresh()
    resumed.load(run.path, again.stages, again.teacher)
    assert again.train(resumed, still=True) == run.losses[-3:]
    actual, expected = numbers(resumed), numbers(run.state)
    assert actual.keys() == expected.keys() and all(torch.equal(actual[name], expected[name]) for name in actual)


@every
def test_the_loss_falls(row: Row, run_of: Callable[[Row], Run]):
    run = run_of(row)
    calibrated = [name for name, weight in run.pair.method.weights.items() if isinstance(weight, Calibrated)]
    assert not calibrated, f"give the weights of {calibrated} in `settled`"
    losses, fifth = [step["loss"] for step in run.losses], row.steps // 5
    assert sum(losses[-fifth:]) < 0.9 * sum(losses[:fifth])


@every
def test_only_the_students_tensors_leave_the_run(row: Row, run_of: Callable[[Row], Run], tmp_path: Path):
    run = run_of(row)
    student, path = run.state.averaged_network(), tmp_path / "student.safetensors"
    fresh = build(row.student, quantisation=run.pair.student.quantisation)
    save_network(student, path)
    # The counts equal the numbers in the file, and the multiplications of a real run.
    with safe_open(path, framework="pt") as file:
        sizes = {name: file.get_tensor(name).numel() for name in file.keys()}  # noqa: SIM118
    assert sizes == {name: value.numel() for name, value in fresh.state_dict().items()}
    learnt = {name for name, _ in fresh.named_parameters() if not name.endswith(".alpha")}
    assert sum(sizes[name] for name in learnt) == cost(row.student).params
    back, lr = load_checkpoint(path).network, Waves(row.student.scale).at(0).lr
    counts = [multiplications(network, lr) for network in (student, back, fresh)]
    assert counts[0] == counts[1] == counts[2] > 0
    with torch.no_grad():
        # Trained with channels last; networks of files have them first, and round differently.
        student.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        assert torch.equal(back(lr), student(lr))


def multiplications(network: nn.Module, lr: Tensor) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(lr)
    return int(counter.get_total_flops()) // 2


@every
def test_bf16_runs_in_bf16_and_stays_finite(row: Row):
    """Every convolution of the student computes in bf16, in each update, and so does the teacher."""
    pair = Pair.from_row(row, settings=("schedule.precision=bf16",), **row.settled)
    state = pair.fresh()
    networks = pair.networks(state)
    students = [precisions(runner.network) for runner in networks.students]
    taught = precisions(networks.teacher.network) if networks.teacher else {}
    for _, terms in terms_of(pair, networks, Waves(row.student.scale).at(0)):
        assert all(term.dtype == torch.float32 for term in terms.values())
        for dtypes, runner in zip(students, networks.students, strict=True):
            convolutions = {name for name, part in runner.network.named_modules() if isinstance(part, nn.Conv2d)}
            assert dtypes == {name: {torch.bfloat16} for name in convolutions}
            dtypes.clear()
        total(terms, pair.stages[-1].term_weights).backward()
    assert all(dtypes == {torch.bfloat16} for dtypes in taught.values())
    assert bool(taught) == (row.teacher is not None and row.of not in TEACHERLESS)
    learners = [*state.trained_network.parameters(), *state.modules.parameters()]
    assert all(learner.grad is None or learner.grad.isfinite().all() for learner in learners)


def precisions(network: nn.Module) -> dict[str, set[torch.dtype]]:
    """Return the output types of each convolution; filled while the network runs."""
    dtypes: dict[str, set[torch.dtype]] = {}
    for name, part in network.named_modules():
        if isinstance(part, nn.Conv2d):
            part.register_forward_hook(
                lambda module, inputs, output, name=name: dtypes.setdefault(name, set()).add(output.dtype)
            )
    return dtypes


@every
def test_images_in_0_255_give_the_same_direction(row: Row, monkeypatch: pytest.MonkeyPatch):
    """One step is run with images and networks in [0,1] and in [0,255], with the weights converted: a term of degree d
    in the image range grows by 255^d, and weights are given for [0,1].

    The compared direction is that of Adam's first step, as in the acceptance list. The gradients before Adam are
    compared, too: the first step mostly depends on their signs, and would not reveal a slightly wrong weight of one
    term.
    """
    small, large = (ScaledStep.run(row, top, monkeypatch) for top in (1.0, 255.0))
    for name, term in small.terms.items():
        assert large.terms[name] == pytest.approx(255.0 ** row.degrees.get(name, 1) * term, rel=1e-3), name
    assert small.gradient.norm() > 0
    for one, other in ((small.gradient, large.gradient), (small.update, large.update)):
        assert torch.nn.functional.cosine_similarity(one, other, dim=0) > 0.9999
