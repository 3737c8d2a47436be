"""A method needs weights and terms; everything else has a value in its base class."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from compressor.training.method import Method, declares, fit_methods
from compressor.training.stage import with_other_stages
from compressor.training.step import Step
from tests.support.training import network, stage, train_on_patch


@dataclass(frozen=True)
class Two(Method):
    weights = {"pixel": 1.0}  # type: ignore[assignment]  # noqa: RUF012

    def terms(self, step: Step) -> dict[str, torch.Tensor]:
        return {"pixel": F.l1_loss(step.student().sr, step.hr)}


def test_a_method_of_weights_and_terms_trains() -> None:
    method = Two()
    one = stage([method], steps=3, rate=1e-3)
    assert (method.name, one.role, one.updates, one.segments, method.kind) == ("Two", "student", 1, "each", "pixel")
    assert fit_methods([method], None, network(0)) == (method,) and with_other_stages(one) == (one,)
    assert declares(method, "terms") and not declares(method, "kind")
    _, recorder = train_on_patch(one)
    assert len(recorder.losses) == 3 and recorder.losses[-1]["loss"] < recorder.losses[0]["loss"]
