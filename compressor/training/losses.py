"""Gradients of all processes become one: the mean, in a single reduction, with whatever else must be shared.

Terms by name, raw and weighted, and their sum.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from compressor.base.context import Note
from compressor.base.errors import SrkdError
from compressor.base.processes import Processes
from compressor.training.calibration import Calibrated, calibration_steps
from compressor.training.stage import Stage
from compressor.training.state import State
from compressor.training.step import Step


@torch.no_grad()
def averaged(parameters: Sequence[torch.nn.Parameter], numbers: torch.Tensor, processes: Processes) -> torch.Tensor:
    """Replace every gradient by its mean over the processes and return the mean of `numbers`, a vector.

    All travel in one flat buffer: one message a step, whatever a method's graph looks like. A parameter that got a
    gradient nowhere keeps none, so that the optimiser passes it over as it does in one process; where another process
    has one, a missing one counts as zeros.
    """
    if processes.alone:
        return numbers
    gradients = [parameter.grad for parameter in parameters]
    present = torch.tensor([float(gradient is not None) for gradient in gradients], device=numbers.device)
    pieces = [
        torch.zeros_like(parameter).reshape(-1) if gradient is None else gradient.reshape(-1)
        for parameter, gradient in zip(parameters, gradients, strict=True)
    ]
    flat = torch.cat([*pieces, present, numbers])
    processes.mean_(flat)
    sizes = [*(parameter.numel() for parameter in parameters), len(present), len(numbers)]
    parts: tuple[torch.Tensor, ...] = torch.split(flat, sizes)
    means, anywhere, shared = parts[:-2], parts[-2], parts[-1]
    missing = [index for index, gradient in enumerate(gradients) if gradient is None]
    for mean, gradient in zip(means, gradients, strict=True):
        if gradient is not None:
            gradient.copy_(mean.view_as(gradient))
    # Looked at only where something is missing: on a GPU looking costs a synchronisation.
    for index, elsewhere in zip(missing, anywhere[missing].tolist() if missing else [], strict=True):
        if elsewhere:
            parameters[index].grad = means[index].view_as(parameters[index]).clone()
    return shared


SAME = 1e-4
"""Relative, of one quantity that two methods compute each in its way."""


class Losses:
    """Raw terms by name, their weights, and the weighted sum; numbers are fetched only when somebody logs them.

    `observed` are numbers beside the losses, such as how many patches a gate lets through.
    """

    def __init__(
        self,
        terms: Mapping[str, torch.Tensor],
        weights: Mapping[str, float],
        observed: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        self.terms, self.weights, self.observed = terms, weights, observed or {}
        self.total = torch.stack([weights[name] * term for name, term in terms.items()]).sum()

    def numbers(self) -> dict[str, float]:
        raw = {f"raw/{name}": float(term.detach()) for name, term in self.terms.items()}
        weighted = {f"weighted/{name}": self.weights[name] * raw[f"raw/{name}"] for name in self.terms}
        seen = {f"seen/{name}": float(value) for name, value in self.observed.items()}
        return {**raw, **weighted, "loss": float(self.total.detach()), **seen}

    def shared(self, parameters: Sequence[torch.nn.Parameter], processes: Processes) -> Losses:
        """The terms' means over all processes and, in the same message, those of the gradients and the wish to stop.

        From here on every process has the same numbers, so that each decides alone, and all alike, what to skip.
        """
        if processes.alone:
            return self
        wish = torch.tensor(float(processes.wish.asked), device=self.total.device)
        told = [*self.terms.values(), *self.observed.values()]
        numbers = torch.stack([*(number.detach().float() for number in told), wish])
        *means, wished = averaged(parameters, numbers, processes)
        processes.wish.known_to_all = bool(wished > 0)
        terms = dict(zip(self.terms, means, strict=False))
        return Losses(terms, self.weights, dict(zip(self.observed, means[len(terms) :], strict=True)))


def collect(stage: Stage, state: State, step: Step) -> Losses:
    """The terms of every method, under their own names; two methods that name the same term share it.

    That they are the same quantity was made sure of in the rehearsal, by `require_shared`.
    """
    terms: dict[str, torch.Tensor] = {}
    for method in stage.methods:
        terms.update(method.terms(step))
    weights = state.calibration.resolve(asked_weights(stage))
    unweighted = terms.keys() - weights.keys()
    if unweighted:
        raise SrkdError(f"no weight is given for the terms {', '.join(sorted(unweighted))}")
    return Losses(terms, weights, step.observed)


def require_shared(terms: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
    """Refuse two quantities of one name: one of them would be computed and dropped. `terms` are by method."""
    seen: dict[str, tuple[str, float]] = {}
    for method, found in terms.items():
        for name, term in found.items():
            value = float(term.detach())
            first, other = seen.setdefault(name, (method, value))
            if math.isfinite(other + value) and not math.isclose(other, value, rel_tol=SAME, abs_tol=1e-9):
                raise SrkdError(
                    f"the term {name} of {first} ({other:.4g}) and that of {method} ({value:.4g}) are different "
                    "quantities of one name, and only one of them would count: one of the methods must rename its term"
                )


def asked_weights(stage: Stage) -> dict[str, float | Calibrated]:
    """The weights as the methods give them, numbers and what is to be calibrated; the preset's own words win."""
    asked = {name: weight for method in stage.methods for name, weight in method.weights.items()}
    return {**asked, **{name: weight for name, weight in stage.weights.items() if name in asked}}


def calibrate(stage: Stage, state: State, losses: Losses, note: Note) -> None:
    """Let a good step count for the weights that are still to be found."""
    asked = asked_weights(stage)
    if not state.calibration.is_pending(asked):
        return
    raw = {name: float(number.detach()) for name, number in {**losses.observed, **losses.terms}.items()}
    steps = calibration_steps(stage.schedule.steps)
    for name, weight in state.calibration.update(raw, asked, steps=steps).items():
        note(f"weight of {name}: {weight:.6g}, calibrated over {state.calibration.count} steps")
