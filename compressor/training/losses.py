"""The losses of a step: terms by name, raw and weighted, their sum, and means over all processes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch

from compressor.base.errors import SrkdError, shorten
from compressor.base.processes import Processes
from compressor.training.method import KINDS, Method, declares
from compressor.training.stage import Stage
from compressor.training.state import State
from compressor.training.step import Step

SAME_TERM_TOLERANCE = 1e-4
"""Relative tolerance for one quantity that two methods compute differently."""


class Losses:
    """Raw terms by name, their weights, and the weighted sum; numbers are copied from the device only for logging."""

    def __init__(
        self,
        terms: Mapping[str, torch.Tensor],
        weights: Mapping[str, float],
        observed: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        self.terms, self.weights, self.observed = terms, weights, observed or {}
        self.total = torch.stack([weights[name] * term for name, term in terms.items()]).sum()

    def numbers(self) -> dict[str, float]:
        """Return all numbers, which are copied from the device together."""
        values = {"loss": self.total, **{f"seen/{name}": value for name, value in self.observed.items()}}
        values = {f"raw/{name}": term for name, term in self.terms.items()} | values
        copied = torch.stack([value.detach().float().reshape(()) for value in values.values()]).tolist()
        numbers = dict(zip(values, copied, strict=True))
        return numbers | {f"weighted/{name}": self.weights[name] * numbers[f"raw/{name}"] for name in self.terms}

    def merged(self, later: Losses) -> Losses:
        """Return these losses merged with those of a later update of the same step."""
        terms, observed = {**self.terms, **later.terms}, {**self.observed, **later.observed}
        return Losses(terms, later.weights, observed)


def compute_losses(stage: Stage, state: State, step: Step) -> Losses:
    """Return the losses of the methods, which share terms of one name (`require_same_terms` has checked them)."""
    terms: dict[str, torch.Tensor] = {}
    for method in stage.methods:
        step.uses_features = False
        terms.update(terms_of(method, step))
        if step.uses_features and not declares(method, "kind"):
            raise SrkdError(
                f"{method.name} compares features and declares no kind, which decides the methods it goes with: add "
                f'kind = "feature" to its class, or one of {", ".join(KINDS)}'
            )
        if method.gate != "off" and "gate_open" not in step.observed:
            raise SrkdError(f"{method.name} has the gate {method.gate} and its terms do not read it: set gate=off")
    weights = state.calibration.resolve(stage.term_weights)
    if not terms:
        raise SrkdError(f"{' and '.join(method.name for method in stage.methods)}: terms(step) returned no loss at all")
    if unweighted := terms.keys() - weights.keys():
        raise SrkdError(f"no weight is given for the terms {', '.join(sorted(unweighted))}")
    return Losses(terms, weights, step.observed)


def terms_of(method: Method, step: Step) -> Mapping[str, torch.Tensor]:
    """Return the terms of a method; refuse what is no mapping of names to means."""
    terms: Any = method.terms(step)
    means = terms.values() if isinstance(terms, Mapping) else [None]
    if not all(isinstance(mean, torch.Tensor) and mean.is_floating_point() and not mean.dim() for mean in means):
        given = shorten(" ".join(str(terms).split()))
        raise SrkdError(f'{method.name}: terms(step) returned {given}, not means by name: {{"pixel": loss.mean()}}')
    return cast("Mapping[str, torch.Tensor]", terms)


def require_same_terms(terms_by_method: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
    """Refuse different quantities with one name, as one of them would be dropped."""
    first: dict[str, tuple[str, float]] = {}
    for method, terms in terms_by_method.items():
        for name, term in terms.items():
            value = float(term.detach())
            owner, other = first.setdefault(name, (method, value))
            is_same = math.isclose(other, value, rel_tol=SAME_TERM_TOLERANCE, abs_tol=1e-9)
            if math.isfinite(other + value) and not is_same:
                raise SrkdError(
                    f"the term {name} of {owner} ({other:.4g}) and that of {method} ({value:.4g}) are different "
                    "quantities of one name, and only one of them would count: one of the methods must rename its term"
                )


def average_over_processes(losses: Losses, parameters: Sequence[torch.nn.Parameter], processes: Processes) -> Losses:
    """Average the gradients over all processes and, in the same message, the terms and the stop request.

    From here on every process has the same numbers and decides in the same way which steps to skip.
    """
    if processes.is_single:
        return losses
    request = processes.stop_request
    stop = torch.tensor(float(request.received), device=losses.total.device)
    values = [*losses.terms.values(), *losses.observed.values()]
    numbers = torch.stack([*(value.detach().float() for value in values), stop])
    *means, stop = average_gradients(parameters, numbers, processes)
    request.agreed = bool(stop > 0)
    terms = dict(zip(losses.terms, means, strict=False))
    return Losses(terms, losses.weights, dict(zip(losses.observed, means[len(terms) :], strict=True)))


@torch.no_grad()
def average_gradients(
    parameters: Sequence[torch.nn.Parameter], numbers: torch.Tensor, processes: Processes
) -> torch.Tensor:
    """Replace every gradient by its mean over the processes, and return the mean of `numbers`, a vector.

    Everything is sent in one flat buffer: one message per step, whatever a method's graph looks like. A parameter
    without a gradient on any process keeps none, so that the optimiser skips it as in a single process; if another
    process has a gradient, a missing one counts as zeros.
    """
    gradients = [parameter.grad for parameter in parameters]
    present = torch.tensor([float(gradient is not None) for gradient in gradients], device=numbers.device)
    pieces = [
        torch.zeros_like(parameter).reshape(-1) if gradient is None else gradient.reshape(-1)
        for parameter, gradient in zip(parameters, gradients, strict=True)
    ]
    flat = torch.cat([*pieces, present, numbers])
    processes.sum_(flat)
    flat.div_(processes.rank.world_size)
    sizes = [*(parameter.numel() for parameter in parameters), len(present), len(numbers)]
    parts: tuple[torch.Tensor, ...] = torch.split(flat, sizes)
    means, anywhere, mean_numbers = parts[:-2], parts[-2], parts[-1]
    missing = [index for index, gradient in enumerate(gradients) if gradient is None]
    for mean, gradient in zip(means, gradients, strict=True):
        if gradient is not None:
            gradient.copy_(mean.view_as(gradient))
    # Read this only if a gradient is missing: on a GPU reading it costs a synchronisation.
    for index, elsewhere in zip(missing, anywhere[missing].tolist() if missing else [], strict=True):
        if elsewhere:
            parameters[index].grad = means[index].view_as(parameters[index]).clone()
    return mean_numbers
