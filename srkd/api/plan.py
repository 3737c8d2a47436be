"""`srkd plan`: the largest student that meets a target."""

from __future__ import annotations

from srkd.options.declare import public
from srkd.options.verbs import PlanOptions
from srkd.runs.planning import run_plan

plan = public(PlanOptions, run_plan, "plan")
