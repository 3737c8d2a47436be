"""A method needs four members; every other is optional, and declared in compressor/training/method.py."""

from __future__ import annotations

import re

import torch
from torch import nn
from torch.nn import functional as F

from compressor.models.networks.base import Network
from compressor.training.loop import Trainer
from compressor.training.method import fit_methods, kind_of
from compressor.training.stage import with_other_stages
from compressor.training.state import State
from compressor.training.step import Step
from tests.support.commands import ROOT
from tests.support.training import Recorder, network, smooth_patch, stage


class FourMembers:
    """A method without a base class and without options."""

    name = "four"
    weights = {"pixel": 1.0}  # noqa: RUF012

    def modules(self, teacher: Network | None, student: Network) -> nn.ModuleDict:
        return nn.ModuleDict()

    def terms(self, step: Step) -> dict[str, torch.Tensor]:
        return {"pixel": F.l1_loss(step.student().sr, step.hr)}


def test_a_method_of_four_members_trains() -> None:
    method, recorder = FourMembers(), Recorder()
    one = stage([method], steps=3, rate=1e-3)
    assert (one.role, one.updates, one.segments, kind_of(method)) == ("student", 1, "each", "pixel")
    assert fit_methods([method], None, network(0)) == (method,) and with_other_stages(one) == (one,)
    Trainer([one], State.fresh(network(0), None, one), smooth_patch(), None, recorder).run()
    assert len(recorder.losses) == 3 and recorder.losses[-1]["loss"] < recorder.losses[0]["loss"]


def test_every_optional_member_is_declared_in_one_file_and_says_who_asks() -> None:
    protocols = [
        (path.name, name, docstring)
        for package in ("compressor", "recipes")
        for path in (ROOT / package).rglob("*.py")
        for name, docstring in re.findall(
            r'^@runtime_checkable\nclass (\w+)\(Protocol\):\n    """(A method.*?)"""', path.read_text(), re.M | re.S
        )
    ]
    assert {file for file, _, _ in protocols} == {"method.py"} and len(protocols) == 19
    for _, name, docstring in protocols:
        assert "Asked" in docstring and "Without it:" in docstring, name
