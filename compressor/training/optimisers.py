"""The optimisers of a stage: Adam, and SOAP, which is Adam in bases of each weight's own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from compressor.base.choices import OptimiserName

EVERY = 10
"""Steps of SOAP between two computations of its bases."""

LARGEST_BASIS = 1024
"""Side of a weight beyond which it keeps its own basis: eigenvectors cost its cube."""


@dataclass(frozen=True)
class Optimiser:
    """The optimiser of a stage; `clip` bounds the gradient norm (CARN uses 10)."""

    name: OptimiserName = "adam"
    betas: tuple[float, float] = (0.9, 0.99)
    eps: float = 1e-8
    clip: float | None = None

    def build(self, groups: list[dict[str, Any]], rate: float) -> torch.optim.Optimizer:
        if self.name == "soap":
            return Soap(groups, rate, self.betas, self.eps)
        # One kernel for all parameters: a third of the time of foreach on CPU, and one launch on a GPU.
        return torch.optim.Adam(groups, lr=rate, betas=self.betas, eps=self.eps, fused=True)


class Soap(torch.optim.Optimizer):
    """SOAP: Adam in the eigenbases of a weight's second moments (Vyas et al., 2024, arXiv:2409.11321, algorithm 3).

        C_k ← β₂·C_k + (1-β₂)·G_(k)·G_(k)ᵀ,    G_(k): the gradient with mode k (outputs, inputs, pixels) as its rows
        Q_k = the eigenvectors of C_k, anew every `EVERY` steps: Adam's step is taken in these bases, and turned back.

    Vectors, and modes longer than `LARGEST_BASIS`, keep their own basis. The first step moves nothing.
    """

    def __init__(self, params: list[dict[str, Any]], lr: float, betas: tuple[float, float], eps: float) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        trained = [(p, group) for group in self.param_groups for p in group["params"] if p.grad is not None]
        due = list[dict[str, Any]]()
        for parameter, group in trained:
            gradient, state = _as_modes(parameter.grad), self.state[parameter]
            if group["weight_decay"]:
                gradient = gradient.add(_as_modes(parameter), alpha=group["weight_decay"])
            if not state:
                _begin(state, gradient)
            else:
                self._move(parameter, gradient, state, group)
            for mode, moments in state["moments"].items():
                rows = gradient.movedim(mode, 0).flatten(1)
                moments.lerp_(rows @ rows.T, 1 - group["betas"][1] if state["step"] else 1.0)
            if state["step"] % EVERY == 0:
                due.append(state)
            state["step"] += 1
        _renew_bases(due)

    def _move(self, parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: Mapping[str, Any]) -> None:
        """Take Adam's step in the parameter's bases."""
        beta1, beta2 = group["betas"]
        state["first"].lerp_(gradient, 1 - beta1)
        state["second"].lerp_(_turned(gradient, state["bases"]).square_(), 1 - beta2)
        size = (state["second"] / (1 - beta2 ** state["step"])).sqrt_().add_(group["eps"])
        step = _turned(state["first"], state["bases"]).div_(size * (1 - beta1 ** state["step"]))
        step = _turned(step, {mode: basis.T for mode, basis in state["bases"].items()})
        parameter.sub_(step.reshape(parameter.shape), alpha=group["lr"])


def _as_modes(weight: Tensor) -> Tensor:
    """Return the weight with all pixels of its kernels as one mode."""
    return weight.flatten(2) if weight.dim() > 2 else weight


def _begin(state: dict[str, Any], gradient: Tensor) -> None:
    state["step"] = 0
    state["first"], state["second"] = torch.zeros_like(gradient), torch.zeros_like(gradient)
    sides = enumerate(gradient.shape if gradient.dim() > 1 else ())
    turned = [(mode, side) for mode, side in sides if 1 < side <= LARGEST_BASIS]
    for name in ("moments", "bases"):
        state[name] = {mode: gradient.new_zeros(side, side) for mode, side in turned}


def _renew_bases(states: Iterable[dict[str, Any]]) -> None:
    """Set the bases to the eigenvectors of the moments; those of one size are computed together."""
    by_side: dict[int, list[tuple[dict[int, Tensor], int, Tensor]]] = {}
    for state in states:
        for mode, moments in state["moments"].items():
            by_side.setdefault(len(moments), []).append((state["bases"], mode, moments))
    for entries in by_side.values():
        moments = torch.stack([moments for *_, moments in entries])
        size = moments.diagonal(dim1=1, dim2=2).mean(1).clamp_min(torch.finfo(moments.dtype).tiny)
        vectors = torch.linalg.eigh(moments / size[:, None, None]).eigenvectors
        for (bases, mode, _), basis in zip(entries, vectors, strict=True):
            bases[mode].copy_(basis)


def _turned(values: Tensor, bases: Mapping[int, Tensor]) -> Tensor:
    """Return a copy of the values with each of these modes in its basis."""
    for mode, basis in bases.items():
        values = (values.movedim(mode, -1) @ basis).movedim(-1, mode)
    return values.clone() if not bases else values
