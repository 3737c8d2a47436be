"""`srkd plan`: the largest student that meets a target."""

from __future__ import annotations

from srkd.options.compress import PlanKeywords, PlanOptions
from srkd.options.function import public
from srkd.runs.planning import run_plan

plan = public(PlanKeywords, PlanOptions, run_plan, "plan")
