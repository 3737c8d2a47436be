"""A method needs four members; every other is an optional capability, declared as in docs/design/methods.md."""

from __future__ import annotations

import importlib
import re

import torch
from torch import nn
from torch.nn import functional as F

from compressor.models.networks.base import Network
from compressor.training.loop import Trainer
from compressor.training.method import fit_methods
from compressor.training.stage import with_earlier_stages
from compressor.training.state import State
from compressor.training.step import Step
from recipes.composition import kind_of
from tests.support.commands import ROOT
from tests.support.training import Recorder, network, smooth_patch, stage

PAGE = (ROOT / "docs" / "design" / "methods.md").read_text(encoding="utf-8")


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
    assert fit_methods([method], None, network(0)) == (method,) and with_earlier_stages(one) == (one,)
    Trainer([one], State.fresh(network(0), None, one), smooth_patch(), None, recorder).run()
    assert len(recorder.losses) == 3 and recorder.losses[-1]["loss"] < recorder.losses[0]["loss"]


def test_the_page_names_every_capability_and_its_file() -> None:
    rows = re.findall(r"^\| `[^|]*` \| `(\w+)`, `([\w/]+)\.py` \|", PAGE, flags=re.MULTILINE)
    capabilities = set()
    for name, file in rows:
        module = importlib.import_module(
            (file if file.startswith("recipes") else f"compressor/{file}").replace("/", ".")
        )
        assert getattr(module, name)._is_runtime_protocol, name
        capabilities.add(name)
    declared = set()
    for package in ("compressor", "recipes"):
        for path in (ROOT / package).rglob("*.py"):
            declared |= set(
                re.findall(r'^@runtime_checkable\nclass (\w+)\(Protocol\):\n    """A method', path.read_text(), re.M)
            )
    assert declared == capabilities
