"""Gradients of all processes become one: the mean, in a single reduction, with whatever else must be shared."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from compressor.training.processes import Processes


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
