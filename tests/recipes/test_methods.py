"""Properties of every method: each row of tests/support/methods_table.py, on tiny networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from compressor.data.batches import Batch
from compressor.models.checkpoints.load import load_checkpoint
from compressor.models.checkpoints.save import save_network
from compressor.models.networks.cost import cost
from compressor.models.networks.registry import build
from compressor.training.calibration import Calibrated
from compressor.training.step import Step, StepNetworks
from recipes.catalogue import METHODS
from tests.support.method_runs import Curve, Pair, Waves, numbers, total
from tests.support.methods_table import ROWS, Row
from tests.support.scaled_images import ScaledStep

TEACHERLESS = {name for name, entry in METHODS.items() if entry.needs == "nothing"} | {"inherit", "pact"}
"""Methods that do not run a teacher, though one may be used for its weights or for φ."""
every = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)


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
