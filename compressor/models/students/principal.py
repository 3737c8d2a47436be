"""Ordering by principal directions: the same function in another basis, whose leading slices keep most of its features.

If only convolutions and sums use a feature, any orthogonal change of its basis can be folded into them:

    producer   W ← PᵀW, b ← Pᵀb      consumer   W ← W·P      P: the principal directions (`fitting/bases.py`)

Between two convolutions with an activation only the order of the units is free: the most valuable ones come first.
SliceGPT (Ashkboos et al., 2024) rotates transformers in this way.
"""

from __future__ import annotations

import copy

import torch

from compressor.base.errors import UsageError
from compressor.models.fitting.bases import choose_bases
from compressor.models.fitting.layers import change_basis, linear_layer
from compressor.models.fitting.shares import Share
from compressor.models.networks.base import Network, Spec
from compressor.models.networks.linear_plan import Correspondence
from compressor.models.networks.registry import architecture, build, linear_plan


def can_be_turned(spec: Spec) -> bool:
    """Return True if a network's basis can be changed without changing its function."""
    plan = linear_plan(spec)
    return plan is not None and plan.is_exact


def order_by_principal_directions(teacher: Network, student: Spec, patches: torch.Tensor) -> Network:
    """Return a copy of the teacher with the same function, the strongest directions and units first.

    `patches` are low-resolution images, (N, C, H, W) in [0,1], on which directions and units are measured.
    """
    family = architecture(teacher.spec.arch)
    if family.linear is None or not can_be_turned(teacher.spec):
        raise UsageError(
            f"--select principal turns the basis of a stream without gates, norms and activations, and {family.name} "
            "has some on it: take --select l1, which only reorders channels"
        )
    plan = family.linear(teacher.spec)
    # Keep the depth: blocks are dropped by the slice itself, and here each has an order of its own.
    narrow = teacher.spec.with_options({"width": family.axes(student).axes["width"].size})
    places = Correspondence(family.axes(teacher.spec), family.axes(narrow))
    rotated = copy.deepcopy(teacher).eval()
    with torch.no_grad(), torch.device("meta"):
        small = build(narrow)
    with torch.no_grad():
        share = Share(patches, teacher.device)
        # A slice is not solved for afterwards: it keeps the strongest directions, not those that best predict others.
        bases = choose_bases(teacher, plan, small, family.linear(narrow), places, share, strongest=True)
        for layer in plan.layers:
            columns = [bases[space].whole for space in layer.inputs]
            change_basis(linear_layer(rotated, layer), bases[layer.output].whole, columns)
    return rotated
