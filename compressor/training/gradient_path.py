"""Whether a term can teach the student anything: a term without a gradient path to it is a fault, told at step 1."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from compressor.errors import SrkdError


def require_paths(terms: Mapping[str, torch.Tensor], student: nn.Module) -> None:
    """Refuse the first term from which no gradient reaches a parameter of the student.

    Modules that a method trains beside the student do not count: a term that teaches only them teaches nothing.
    """
    parameters = [parameter for parameter in student.parameters() if parameter.requires_grad]
    for name, term in terms.items():
        if not (_leads_to(term, parameters) or _gradient_arrives(term, parameters)):
            why = "it is computed without gradients" if not term.requires_grad else "its gradient ends elsewhere"
            raise SrkdError(
                f"step 1: the term {name} has no gradient path to the student ({why}): "
                "compute it from step.student(...), without detach or no_grad, or leave it out"
            )


def _leads_to(term: torch.Tensor, parameters: Collection[nn.Parameter]) -> bool:
    """Whether the recorded graph ends in one of the parameters."""
    wanted = {id(parameter) for parameter in parameters}
    return any(id(getattr(node, "variable", None)) in wanted for node in _nodes(term))


def _nodes(term: torch.Tensor) -> Iterator[Any]:
    """Every node of the graph behind a term, once; only the nodes at its ends hold a `variable`."""
    waiting: list[Any] = [term.grad_fn]
    seen = {None}
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        yield node
        waiting.extend(following for following, _ in node.next_functions)


def _gradient_arrives(term: torch.Tensor, parameters: Collection[nn.Parameter]) -> bool:
    """Go backward from this term alone and look. Reentrant checkpointing hides the parameters from the graph, and only
    its backward brings them out; one more backward in the rare run that has it, or that is about to be refused."""
    if not term.requires_grad:
        return False
    kept = [parameter.grad for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    torch.autograd.backward(term, retain_graph=True)
    arrived = any(parameter.grad is not None for parameter in parameters)
    for parameter, gradient in zip(parameters, kept, strict=True):
        parameter.grad = gradient
    return arrived
