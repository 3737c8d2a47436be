"""`--dry-run`: its report is true of the run, it is quick, and it writes nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import compressor.models.networks.meta_device
import srkd
from compressor.base.durations import format_duration
from compressor.base.errors import SrkdError
from compressor.models.networks.base import Spec
from compressor.models.networks.cost import count_operations
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import NETWORKS, build
from compressor.teachers.teacher import Teacher
from compressor.training.footprint import BatchShape, Footprint, footprint
from compressor.training.method import Kind, PlainMethod
from compressor.training.state import State
from recipes.config.reading import load_preset
from srkd.cli.main import run
from srkd.options.compress import CompressOptions
from srkd.runs import dry_run as dry_runs
from srkd.runs.dry_run import TIMED_STEPS, NetworkSummary, dry_run
from tests.support.commands import python
from tests.support.foreign_models import save_torchscript, twin
from tests.support.networks import tiny
from tests.support.small_runs import save_photos

SMALL: dict[str, Spec] = {name: tiny(name, {"edsr": 4, "carn_m": 3, "rcan": 3}.get(name, 2)) for name in NETWORKS}


@dataclass(frozen=True)
class Asking(PlainMethod):
    """A method that uses features and a second input of the teacher, and has its own module."""

    name: str = "asking"
    kind: Kind = "feature"
    weights: Mapping[str, float] = field(default_factory=lambda: {"feature": 1.0, "small": 1.0})

    def modules(self, teacher: Any, student: Any) -> nn.ModuleDict:
        return nn.ModuleDict({"head": nn.Conv2d(4, 8, 1)})

    def terms(self, step: Any) -> dict[str, torch.Tensor]:
        small = step.lr[..., ::2, ::2]
        student, teacher = step.student(taps=("body_end",)), step.teacher(taps=("body_end", "head"))
        return {
            "feature": (student.features["body_end"].mean() - teacher.features["body_end"].mean()).abs(),
            "small": (step.student(small).sr - step.teacher(small).sr).abs().mean(),
        }


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Return a folder of photos that have room for the patches of every recipe."""
    return save_photos(tmp_path / "photos", times=5)


def of(recipe: str, student: Spec, teacher: Spec | None, batched: BatchShape | None = None) -> Footprint:
    preset = load_preset(recipe)
    frozen = None if teacher is None else Teacher(build(teacher))
    return footprint(preset.stage(preset.build_methods()), student, frozen, batched or BatchShape(2, 16))


@pytest.mark.parametrize("name", SMALL)
def test_macs_are_those_of_torchs_own_counter_module_by_module(name):
    with torch.device("meta"), torch.no_grad():
        network = build(SMALL[name])
        with FlopCounterMode(display=False) as counter:
            network(torch.empty(1, 3, 18, 14))
    root = f"{type(network).__name__}."
    counts = {name.removeprefix(root): sum(by.values()) // 2 for name, by in counter.get_flop_counts().items()}
    expected = {name: macs for name, macs in counts.items() if macs and name not in ("Global", root[:-1])}
    macs_by_module = count_operations(SMALL[name], (14, 18)).macs
    assert macs_by_module.pop("") == counter.get_total_flops() // 2
    assert {name: macs for name, macs in macs_by_module.items() if macs} == expected


@pytest.mark.ci
@pytest.mark.parametrize("name", SMALL)
def test_our_shapes_are_those_of_torchs_kernels(name, monkeypatch):
    quick = of("logits", SMALL[name], SMALL[name])
    monkeypatch.setattr(compressor.models.networks.meta_device, "infer_shape", lambda function, arguments: None)
    assert of("logits", SMALL[name], SMALL[name]) == quick


def test_forwards_and_features_are_counted_as_the_methods_ask():
    assert (of("scratch", SMALL["edsr"], None).student_forwards, of("scratch", SMALL["edsr"], None).taps) == (1, ())
    both = of("logits", SMALL["edsr"], SMALL["edsr"])
    assert (both.student_forwards, both.teacher_forwards) == (1, 1)
    stage = load_preset("scratch").stage((Asking(),))
    step = footprint(stage, SMALL["edsr"], Teacher(build(SMALL["edsr"])), BatchShape(2, 16))
    assert (step.student_forwards, step.teacher_forwards, step.taps) == (2, 2, ("body_end", "head"))
    assert step.memory.modules == 4 * (4 * 8 + 8)
    unlabelled = of("scratch", SMALL["edsr"], SMALL["edsr"], BatchShape(2, 16, labels=False))
    assert unlabelled.teacher_forwards == 1


def test_activations_grow_with_the_batch_and_weights_do_not():
    one, four = (of("scratch", SMALL["edsr"], None, BatchShape(batch, 16)).memory for batch in (1, 4))
    assert four.activations == pytest.approx(4 * one.activations, rel=0.01) and four.trained == one.trained
    params = sum(parameter.numel() for parameter in build(SMALL["edsr"]).parameters())
    assert (one.trained, one.gradients, one.optimiser, one.average) == tuple(4 * params * k for k in (1, 1, 2, 1))


@pytest.mark.parametrize("optimiser", ["adam", "soap"])
def test_the_optimisers_share_is_what_it_keeps(optimiser):
    preset = load_preset("scratch", [f"schedule.optimiser={optimiser}"])
    stage = preset.stage(preset.build_methods())
    state = State.fresh(build(SMALL["edsr"]), None, stage)
    for parameter in state.student.parameters():
        parameter.grad = torch.zeros_like(parameter)
    state.optimiser.step()
    kept = [value for of in state.optimiser.state.values() for value in of.values()]
    tensors = [tensor for value in kept for tensor in (value.values() if isinstance(value, dict) else [value])]
    size = sum(tensor.nbytes for tensor in tensors if isinstance(tensor, torch.Tensor) and tensor.dim() > 0)
    assert size == footprint(stage, SMALL["edsr"], None, BatchShape(1, 16)).memory.optimiser


MEASURE = """
import torch
from compressor.data.batches import Batch
from compressor.base.machine import peak_resident_bytes
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build
from compressor.training.loop import Trainer
from compressor.training.state import State
from recipes.config.reading import load_preset
import psutil
torch.set_num_threads(1)

class Noise:
    def __init__(self, batch, side):
        self.batch, self.side = batch, side
    def at(self, step):
        lr = torch.rand(self.batch, 3, self.side, self.side)
        return Batch(lr, lr.repeat(1, 1, 2, 2))

class Silent:
    def on_step(self, *told):
        pass
    on_skip = after_step = note = flag = on_step

def go(batch, side):
    preset = load_preset("scratch", ["schedule.steps=2"])
    stage = preset.stage(preset.build_methods())
    student = build(EDSRSpec(scale=2, width=32, depth=4)).to(memory_format=torch.channels_last)
    Trainer([stage], State.fresh(student, None, stage), Noise(batch, side), None, Silent(), seed=0).run()

go(1, 8)
before = psutil.Process().memory_info().rss
go(16, 48)
print(peak_resident_bytes() - before)
"""


@pytest.mark.ci
def test_the_estimate_of_memory_is_within_a_factor_of_two_of_what_a_step_takes():
    result = python("-c", MEASURE)
    measured = int(result.out.strip().splitlines()[-1])
    estimated = of("scratch", EDSRSpec(scale=2, width=32, depth=4), None, BatchShape(16, 48)).memory.peak
    assert estimated / 2 < measured < 2 * estimated, (measured / 1e6, estimated / 1e6)


QUICK = """
import sys, time, torch
imported = time.process_time()
from srkd.cli.main import run
code = run(["compress", "--dry-run"])
seconds = time.process_time() - imported
import srkd.runs.compression  # what a run that trains imports
print(code, imported, seconds, "sympy" in sys.modules, "torch._dynamo" in sys.modules)
"""


@pytest.mark.ci
def test_it_takes_a_second_beyond_importing_torch_and_writes_nothing(tmp_path):
    result = python("-c", QUICK, cwd=tmp_path, XDG_CACHE_HOME=str(tmp_path), OMP_NUM_THREADS="1")
    code, importing, seconds, *compilers = result.out.strip().splitlines()[-1].split()
    assert code == "0" and compilers == ["False", "False"]
    # Half a second to a second, where torch takes one to two; both take longer on a slow or busy machine.
    assert float(seconds) < max(2.0, 2 * float(importing))
    assert list(tmp_path.iterdir()) == []


def test_it_tells_what_the_run_would_be(teacher, photos):
    report = dry_run(CompressOptions.of(teacher=teacher, data=photos, width=0.5, steps=100))
    assert report.teacher is not None and report.teacher.spec["width"] == 8 and report.student.spec["width"] == 4
    assert report.speedup_expected == pytest.approx(report.teacher.macs / report.student.macs)
    assert (report.steps, report.batch, report.init) == (100, 16, "fit")
    assert (report.data.origin, report.data.training, report.data.labels) == ("photos", 3, "HR")
    assert report.needs == ("outputs", "weights (the student is solved for with them)") and report.notes != ()
    alone = dry_run(CompressOptions.of(recipe="scratch", student="edsr:width=4,depth=1,scale=2", data=photos))
    assert alone.teacher is None and alone.needs == () and alone.speedup_expected is None


def test_images_are_counted_and_not_read(teacher, tmp_path):
    folder = tmp_path / "broken"
    folder.mkdir()
    for index in range(40):
        (folder / f"{index}.png").write_bytes(b"no image")
    report = dry_run(CompressOptions.of(teacher=teacher, data=folder)).data
    assert report.training + report.validation == 40 and report.validation == 2
    unlabelled = dry_run(CompressOptions.of(teacher=teacher, lr_only=folder, recipe="scratch", width=0.5))
    assert unlabelled.data.labels == "teacher" and unlabelled.step.teacher_forwards == 1


def test_a_foreign_teacher_gives_shapes_alone(tmp_path, photos):
    file = save_torchscript(twin(), tmp_path / "model.pt")
    options = CompressOptions.of(teacher=file, data=photos, student="edsr:width=4,depth=1", trust_code=True)
    report = dry_run(options)
    assert report.teacher.macs is None and report.speedup_expected is None
    assert report.step.teacher_forwards == 1 and report.needs == ("outputs",)
    assert any("TorchScript" in note for note in report.notes)


def test_mistakes_are_those_of_a_run(teacher, tmp_path):
    for options in ({"recipe": "logit"}, {"data": tmp_path / "none"}, {"width": 2.0}, {"device": "cuda:7"}):
        with pytest.raises(SrkdError):
            dry_run(CompressOptions.of(teacher=teacher, **options))


def test_mistakes_that_no_pixel_tells_stop_it_with_the_line_of_the_run(teacher, photos, tmp_path):
    for options, line in (
        ({"lr_patch": 500}, "schedule.lr_patch=500: a patch has 1000x1000 pixels of an image"),
        ({"recipe": "csd", "teacher_cache": True}, "--teacher-cache keeps a teacher's outputs, and recipe csd"),
        ({"recipe": "scratch", "label_margin": 4}, "--label-margin 4: recipe scratch does not run a frozen teacher"),
        ({"teacher_cache": True, "label_margin": 4}, "--label-margin 4: with --teacher-cache the teacher sees whole"),
        ({"baselines": ("init-from",)}, "--baselines init-from: there is no --init-from"),
        ({"baselines": ("inherit",), "student": "span:width=8,depth=1"}, "--baselines inherit: "),
        ({"jobs": 2}, "--jobs 2: there is one run"),
        ({"track_images": 9}, "--track-images 9: there are 2 validation images"),
    ):
        words = {"teacher": teacher, "data": photos, **options}
        messages = []
        for start in (
            lambda words=words: dry_run(CompressOptions.of(**words)),
            lambda words=words: srkd.compress(out=tmp_path / "run", **words),
        ):
            with pytest.raises(SrkdError) as error:
                start()
            messages.append(str(error.value))
        assert messages[0] == messages[1] and messages[0].startswith(line)


def test_measuring_takes_the_runs_own_steps(teacher, photos):
    small = ("schedule.batch=1", "schedule.lr_patch=8", "schedule.validate_every=50")
    report = dry_run(CompressOptions.of(teacher=teacher, data=photos, steps=120, settings=small), "measure")
    figures = report.measured
    assert report.dry_run == "measure" and figures is not None and figures.steps == TIMED_STEPS
    assert figures.steps_per_second == pytest.approx(1e3 / figures.ms_per_step)
    validations = 3 * figures.validation_seconds
    assert figures.run_seconds == pytest.approx(120 * figures.ms_per_step / 1e3 + validations)
    assert figures.peak_memory_mb > 50


def test_on_the_command_line(teacher, photos, tmp_path, capfd):
    before = sorted(path.name for path in tmp_path.rglob("*"))
    arguments = ["compress", "--teacher", str(teacher), "--data", str(photos)]
    assert run([*arguments, "--dry-run"]) == 0
    output = capfd.readouterr().out
    for word in ("edsr", "speed-up", "forwards", "memory", "of the teacher: outputs", "3 images"):
        assert word in output
    assert run([*arguments, "--dry-run", "--json"]) == 0
    result = json.loads(capfd.readouterr().out)
    assert result["schema"] == "srkd.compress/1" and result["dry_run"] == "estimate" and result["measured"] is None
    assert result["step"]["memory"]["peak"] > result["step"]["memory"]["activations"] > 0
    assert run([*arguments, "--resume", "x", "--dry-run"]) == 2 and "--dry-run" in capfd.readouterr().err
    assert run(arguments) == 2 and "--out" in capfd.readouterr().err
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


@pytest.mark.parametrize("seconds, result", [(12.4, "12 s"), (600, "10 min"), (36_000, "10.0 h")])
def test_durations_read_as_one_plans_with_them(seconds, result):
    assert format_duration(seconds) == result


@pytest.mark.ci
def test_the_cost_of_a_step_is_counted_with_phi_and_backward():
    """A step of L1 costs a forward pass and, without the gradient of the first layer's input, twice that backward."""
    alone = of("scratch", SMALL["edsr"], None, BatchShape(2, 16))
    forward = 2 * count_operations(SMALL["edsr"], (16, 16)).macs[""]
    assert 2.9 * forward < alone.macs.total < 3.1 * forward
    assert (alone.macs.frozen, alone.macs.helper_forwards, alone.helper_forwards) == (0, 0, 0)
    logits = of("logits", SMALL["edsr"], SMALL["edsr"], BatchShape(2, 16))
    assert logits.macs.frozen == forward and logits.macs.total == alone.macs.total + forward
    report = dry_run(CompressOptions.of(recipe="csd", settings=("phi=teacher", "schedule.batch=2")))
    assert report.step is not None and report.step.helper_forwards == 2
    # Three images pass through phi, two of them together; the student's also backward.
    assert report.step.macs.total > 4 / 3 * report.step.macs.helper_forwards > 0
    rows = dict(report.rows())
    assert "2 of phi" in rows["forwards"] and "phi's forwards" in rows["cost"]


def test_the_time_of_a_run_is_estimated_from_one_patch(monkeypatch, teacher, photos):
    speeds = {"fp32": 1e9, "bf16": 4e9}
    monkeypatch.setattr(dry_runs, "measure_macs_per_second", lambda student, side, device, name: speeds[name])
    for of_teacher, speed in (("auto", 4e9), ("fp32", 1e9)):
        settings = ("schedule.precision=bf16", f"schedule.teacher_precision={of_teacher}")
        report = dry_run(CompressOptions.of(teacher=teacher, data=photos, steps=9000, settings=settings))
        macs = report.step.macs
        assert report.seconds == pytest.approx(9000 * (macs.frozen / speed + (macs.total - macs.frozen) / 4e9))
    assert dict(report.rows())["time"].startswith("about ")


def test_each_stage_has_the_cost_of_its_own_step(monkeypatch, teacher, photos):
    """A step of the last stage of perceptual, with a discriminator, costs several times one of the main stage."""
    monkeypatch.setattr(dry_runs, "measure_macs_per_second", lambda *_: 1e9)

    def seconds(share):
        settings = (f"perceptual.last_share={share}",)
        words = {"teacher": teacher, "data": photos, "recipe": "perceptual", "goal": "teacher", "steps": 100}
        return dry_run(CompressOptions.of(**words, settings=settings)).seconds

    none, part, most = map(seconds, (0.0, 0.4, 0.8))
    assert most > 3 * none
    assert part == pytest.approx((none + most) / 2)


def test_a_patch_in_hr_pixels_is_told_in_lr_pixels(photos):
    for scale, side in ((2, 96), (3, 64)):
        student = f"edsr:width=4,depth=1,scale={scale}"
        settings = ("schedule.hr_patch=192", "schedule.batch=2")
        report = dry_run(CompressOptions.of(recipe="scratch", student=student, data=photos, settings=settings))
        assert report.lr_patch == side and f" of 2 patches of {side}x{side}, " in dict(report.rows())["steps"]


def test_a_foreign_network_has_a_line_too() -> None:
    line = NetworkSummary("unknown", None, 2188, None, "a.onnx").line()
    assert line == "unknown network: 2,188 params, unknown MACs at 256x256, a.onnx"
