"""Which students can follow the features of which networks in a fit across kinds."""

from __future__ import annotations

from compressor.base.errors import UsageError
from compressor.models.networks.base import Spec
from compressor.models.networks.linear_plan import LinearPlan
from compressor.models.networks.registry import linear_plan


def has_stream_for(student: Spec, source: Spec) -> bool:
    """Return True if the student can follow the features of the source: one with skips needs a stream with skips."""
    short, long = linear_plan(student), linear_plan(source)
    if short is None or long is None or long.stream is None:
        return False
    has_skips = any(len(short.producers[layer.output]) > 1 for layer in short.body_layers)
    return long.stream.is_residual or not has_skips


def can_follow(spec: Spec) -> bool:
    """Return True if a student of this spec can be solved for from a network of another kind."""
    plan = linear_plan(spec)
    return plan is not None and plan.can_follow


def following_plan(spec: Spec) -> LinearPlan:
    """Return the plan by which a student follows another network; refuse one that the stream cannot pass."""
    plan = linear_plan(spec)
    if plan is None or not plan.can_follow:
        raise UsageError(f"a {spec.arch} cannot be solved for from a network of another kind: take --init random")
    return plan.following
