"""`srkd.training`: its names and arguments stay, and a loop that uses them trains a student that every verb takes."""

from __future__ import annotations

import inspect
import runpy
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

import srkd
from compressor.base.errors import SrkdError
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build
from srkd import training
from tests.support.commands import ROOT, python
from tests.support.small_runs import save_photos

EXAMPLES = ROOT / "tests" / "example_recipes"
STABLE = {
    "Batch": "(lr, hr, labels=, wider=)",
    "Batches": "(store, sampler, samples, labels=, device=, all_samples=, teacher_side=)",
    "Batches.at": "(self, step)",
    "Batches.for_store": "(store, *, batch, lr_patch, seed, device=, candidates=)",
    "Calibrated": "(share=, against=, by=)",
    "DataChoice": "(data=, lr=, val=, lr_border=, lr_only=, cache_size=, degradation=, degrades_once=)",
    "FeaturePair": "(term, student, teacher)",
    "Losses": "(terms, weights, observed=)",
    "Losses.numbers": "(self)",
    "Method": "",
    "Method.modules": "(self, teacher, student)",
    "Method.terms": "(self, step)",
    "Runner": "(model, *, trains, autocast=, forward=, compiled=)",
    "Step": "(number, seed, batch, networks, part=)",
    "Step.all_gather": "(self, tensor)",
    "Step.student": "(self, lr=, taps=, branch=, *, images=)",
    "Step.teacher": "(self, lr=, taps=, *, images=)",
    "StepNetworks": "(students, teacher=, modules=, helpers=, processes=)",
    "Validation": "(sets, scale, goal=, teacher=, context=)",
    "Validation.score": "(self, model)",
    "ValidationFolder": "(path, name=, is_lr_only=)",
    "make_method": "(name, options)",
    "prepare_data": "(choice, *, scale, lr_patch, context=)",
    "save": "(model, path, *, metadata=)",
}
"""The names and arguments that other people's loops use; `=` has a default."""


def signature_of(name: str) -> str:
    first, _, member = name.partition(".")
    value = getattr(training, first)
    value = getattr(value, member) if member else value
    if name == "Method":
        return ""
    words, is_keyword = [], False
    for parameter in inspect.signature(value).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not is_keyword:
            words, is_keyword = [*words, "*"], True
        words.append(parameter.name + ("" if parameter.default is parameter.empty else "="))
    return f"({', '.join(words)})"


def test_names_and_arguments_stay() -> None:
    assert {name: signature_of(name) for name in STABLE} == STABLE
    assert {name.partition(".")[0] for name in STABLE} == set(training.__all__) and len(training.__all__) <= 15


def test_each_name_is_explained() -> None:
    page = (ROOT / "docs" / "extend" / "write-a-method.md").read_text(encoding="utf-8")
    section = page[page.index("## A loop of your own") : page.index("## In a package")]
    for name in training.__all__:
        assert f"`{name}`" in section and f"    {name}" in str(training.__doc__), name
        assert getattr(training, name).__doc__, name


@pytest.mark.ci
def test_it_is_an_attribute_that_costs_nothing_until_it_is_used() -> None:
    program = "import sys, srkd; print('torch' in sys.modules, srkd.training.__name__, 'torch' in sys.modules)"
    assert python("-c", program).out.split() == ["False", "srkd.training", "True"]


@pytest.mark.ci
def test_the_loop_of_the_page_trains_a_student_that_every_verb_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("mine.py", "own_loop.py"):
        shutil.copy(EXAMPLES / name, tmp_path)
    srkd.save(build(EDSRSpec(scale=2, width=8, depth=2), seed=1), "teacher.safetensors")
    Path("teacher.safetensors").rename("teacher.pt")
    save_photos(Path("photos"))
    text = Path("own_loop.py").read_text(encoding="utf-8")
    assert len([line for line in text.partition('"""\n')[2].splitlines() if line.strip()]) <= 25
    Path("own_loop.py").write_text(text.replace("lr_patch=24", "lr_patch=12"), encoding="utf-8")
    runpy.run_path("own_loop.py")
    sys.modules.pop("mine")
    before, after = (float(line.split()[0]) for line in capsys.readouterr().out.splitlines())
    assert after > before + 3
    scores = srkd.evaluate("student.safetensors", data="photos").models["student"]["photos"]
    assert scores.psnr_y is not None
    assert srkd.export("student.safetensors", formats="onnx").ok
    assert srkd.load("student.safetensors").require_network("weights").spec == EDSRSpec(scale=2, width=4, depth=2)


def test_methods_of_srkd_and_of_files_give_their_terms(tmp_path: Path) -> None:
    teacher = build(EDSRSpec(scale=2, width=8, depth=2), seed=1).requires_grad_(False)
    student = srkd.build_student(teacher, width=0.5)
    data = training.prepare_data(training.DataChoice(save_photos(tmp_path / "photos")), scale=2, lr_patch=8)
    batches = training.Batches.for_store(data.train, batch=2, lr_patch=8, seed=1)
    networks = training.StepNetworks([training.Runner(student, trains=True)], training.Runner(teacher, trains=False))
    for name, options in (("logits", {"kappa": 0.5}), (f"{EXAMPLES / 'mine.py'}:SobelKD", {"lam": 0.2})):
        method = training.make_method(name, options)
        weights: dict[str, Any] = {**method.weights}
        losses = training.Losses(method.terms(training.Step(0, 1, batches.at(0), networks)), weights)
        losses.total.backward()
        assert losses.numbers()["loss"] > 0
    with pytest.raises(SrkdError, match="kappa"):
        training.make_method("logits", {"kapa": 1})
