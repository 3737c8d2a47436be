"""Recipes `-paper` and `-code` against the facts of the papers and of the authors' option files, field by field."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from compressor.base.context import Context
from compressor.models.checkpoints.save import save_network
from compressor.models.networks.base import Network, Spec
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.rcan import RCANSpec
from compressor.models.networks.registry import architecture, build
from compressor.models.networks.swinir import SwinIRSpec
from compressor.models.students.students import parse_student
from recipes.catalogue import RECIPES
from recipes.config.reading import load_preset
from recipes.methods import dckd
from recipes.terms.phi import UsesPerceptualNet, bind_phi, resolve_phi
from srkd.options.compress import CompressOptions
from srkd.runs.decide import decide
from srkd.runs.recipe import repeats_published
from tests.support.small_runs import SMALL, save_photos

EDSR, RCAN = EDSRSpec(4, width=256, depth=32, res_scale=0.1), RCANSpec(4, width=64, groups=10, depth=20)
SWINIR = SwinIRSpec(4, width=180, depths=(6,) * 6, heads=(6,) * 6)

# Optimiser and schedule: steps, batch, rate, milestones, factor, betas, EMA, HR patch or 48 LR pixels at each scale.
DUKD_TEXT = (250_000, 16, 1e-4, (100_000, 200_000), 0.1, (0.9, 0.99), 0.0, None)  # DUKD, section 4.1: names no EMA
DUKD_FILES = (*DUKD_TEXT[:6], 0.999, None)  # DUKD, options/*: ema_decay 0.999
CSD = (400_000, 16, 1e-4, (200_000,), 0.1, (0.9, 0.999), 0.0, 192)  # CSD, option.py, utility.py adjust_learning_rate
FAKD = (200_000, 16, 1e-4, (150_000,), 0.5, (0.9, 0.999), 0.0, None)  # FAKD, option.py and scripts (--epochs 200)
# FAKD, train.py and utility.py: MultiStepLR at 150 steps before each epoch, which from torch 1.1 on is after 149.
FAKD_CODE = (*FAKD[:3], (149_000,), *FAKD[4:])
CLSD = (600_000, 16, 2e-4, (300_000,), 0.5, (0.9, 0.999), 0.0, None)  # CLSD's paper: 2e-4, halved at 300 of 600 epochs
HKDSR = (300_000, 16, 1e-4, (200_000,), 0.5, (0.9, 0.99), 0.999, None)  # HKDSR, options/rcan_shareupkd_x2.yml
# DCKD, options/train/SwinIR: 16 on each of four GPUs; the only milestone is the last step.
DCKD = (250_000, 64, 1e-4, (), 0.1, (0.9, 0.99), 0.999, None)
PAMS = (30_000, 16, 1e-4, (10_000, 20_000), 0.5, (0.9, 0.999), 0.0, None)  # PAMS: 30 epochs, halved every 10

SCHEDULES = {
    **dict.fromkeys(("dukd-paper", "logits-paper", "scratch-paper"), DUKD_TEXT),
    **dict.fromkeys(("dukd-code", "logits-code"), DUKD_FILES),
    **dict.fromkeys(("csd-paper", "csd-code", "csd-lite-paper", "inherit-paper"), CSD),
    **dict.fromkeys(("fakd-paper", "facd-paper", "lfd-paper"), FAKD),
    "fakd-code": FAKD_CODE,
    **dict.fromkeys(("clsd-paper", "ds-paper"), CLSD),
    **dict.fromkeys(("hkdsr-paper", "hkdsr-code"), HKDSR),
    "dckd-paper": DCKD,
    **dict.fromkeys(("pams-paper", "pams-code", "pact-paper"), PAMS),
}

WEIGHTS = {
    # DUKD, equations 1-3: every term counts once.
    "dukd-paper": {"pixel": 1, "logits": 1, "zoom_in": 1, "zoom_out": 1},
    "logits-paper": {"pixel": 1, "logits": 1},
    "logits-code": {"pixel": 1, "logits": 1},  # DUKD, options/EDSR/kd_edsr_x4*.yml: pixel_opt and kd_opt
    "scratch-paper": {"pixel": 1},
    "inherit-paper": {"pixel": 1},
    # CSD, option.py: contra_lambda 200, t_lambda 1, for images in [0,255].
    "csd-paper": {"pixel": 1, "teacher": 1, "contrast": 200 / 255},
    "csd-code": {"pixel": 1, "teacher": 1, "contrast": 200 / 255},
    "csd-lite-paper": {"pixel": 1, "contrast": 200 / 255},
    # DCKD, options/train/SwinIR, for images in [0,1].
    "dckd-paper": {"pixel": 1, "logits": 1, "consistency": 1, "contrast": 0.1},
    # FAKD, scripts: --alpha 0.5, 10*SA, for images in [0,255].
    "fakd-paper": {"pixel": 0.5, "logits": 0.5, "affinity": 10 / 255},
    "fakd-code": {"pixel": 0.5, "logits": 0.5, "affinity": 10 / 255},
}

# c, p, zoom-out and cells of DUKD's option files: pixel_opt.loss_weight, noisy.prob, dukd_opt.zoom_out and n_gt_sub.
DUKD_CODE: dict[tuple[Spec, int], tuple[float, float, str, int]] = {
    (EDSR, 2): (5, 0.3, "on", 2),
    (EDSR, 3): (5, 0.3, "on", 1),
    (EDSR, 4): (5, 0.3, "on", 1),
    (RCAN, 2): (1, 0.0, "off", 1),
    (RCAN, 3): (2, 0.3, "on", 1),
    (RCAN, 4): (1, 0.0, "off", 1),
    (SWINIR, 2): (5, 0.3, "off", 1),
    (SWINIR, 3): (5, 0.3, "off", 1),
    (SWINIR, 4): (5, 0.3, "off", 1),
}

DUKD_STUDENTS: dict[Spec, dict[str, Any]] = {  # DUKD, table 1; options/: res_scale 0.1 of EDSR
    EDSR: {"width": 64, "depth": 32, "res_scale": 0.1},
    RCAN: {"width": 64, "groups": 10, "depth": 6},
    SWINIR: {"width": 60, "depths": (6, 6, 6, 6), "heads": (6, 6, 6, 6)},
}
FAKD_STUDENTS: dict[Spec, dict[str, Any]] = {  # FAKD, train.py, create_student_model
    EDSR: {"width": 64, "depth": 16, "res_scale": 1.0},
    RCAN: {"width": 64, "groups": 10, "depth": 6},
}
STUDENTS: dict[str, dict[Spec, dict[str, Any]]] = {
    "dckd-paper": {SWINIR: DUKD_STUDENTS[SWINIR]},
    **dict.fromkeys(("dukd-paper", "logits-paper", "scratch-paper", "dukd-code", "logits-code"), DUKD_STUDENTS),
    **dict.fromkeys(("fakd-paper", "fakd-code"), FAKD_STUDENTS),
    "lfd-paper": {EDSR: FAKD_STUDENTS[EDSR]},  # CLSD, table 5: EDSR 16/64 from 32/256
    # HKDSR, options/rcan_shareupkd_x2.yml: five groups of five blocks.
    **{name: {RCAN: {"width": 64, "groups": 5, "depth": 5}} for name in ("hkdsr-paper", "hkdsr-code")},
}

PUBLISHED = [name for name in sorted(RECIPES) if repeats_published(name)]


def test_the_facts_are_of_all_published_recipes() -> None:
    assert set(PUBLISHED) == set(SCHEDULES) and len(PUBLISHED) > 14


@pytest.mark.parametrize("name", PUBLISHED)
def test_schedules_are_those_of_the_source(name: str) -> None:
    rule = load_preset(name).schedule
    numbers = (rule.steps, rule.batch, rule.rate, rule.milestones, rule.factor, rule.betas, rule.ema, rule.hr_patch)
    assert numbers == SCHEDULES[name]
    assert (rule.precision, rule.eps, rule.clip, rule.warmup) == ("fp32", 1e-8, None, 0)
    assert rule.decay == ("milestones" if rule.milestones else "constant")
    assert rule.ema_warmup is False and (rule.hr_patch is not None or rule.lr_patch == 48)


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_are_those_of_the_source(name: str) -> None:
    (method,) = bind_phi(load_preset(name).build_methods(), resolve_phi("teacher"))
    method = method.fit(None, build_small(EDSR, 4)) if name.startswith("dukd") else method
    assert method.weights == pytest.approx(WEIGHTS[name], abs=1e-6)


@pytest.mark.parametrize(("teacher", "scale"), DUKD_CODE)
def test_dukds_code_has_its_settings_by_network_and_scale(teacher: Spec, scale: int) -> None:
    (method,) = load_preset("dukd-code").build_methods()
    fitted = method.fit(None, build_small(teacher, scale))
    assert (fitted.pixel_weight, fitted.probability, fitted.zoom_out, fitted.cells) == DUKD_CODE[(teacher, scale)]
    assert (fitted.updates, fitted.bug) == (2, True)  # models/dukd_model.py


def test_further_options_are_those_of_the_source() -> None:
    def options(name: str) -> dict[str, Any]:
        return load_preset(name).methods[0].options

    assert options("dukd-paper") == {"variant": "paper"}
    assert options("csd-paper") == {"phi": "vgg19"}  # CSD: K random negatives
    assert options("csd-code") == {"phi": "vgg19", "compat": "csd"}  # the first K of the batch
    assert options("dckd-paper") == {"phi": "vgg19"}  # DCKD: VQGAN's encoder, which is not at hand
    assert options("fakd-paper") == {"taps": ["rel(1/3)", "rel(2/3)", "body_end"]}  # FAKD's figure: before the skip
    assert options("fakd-code") == {}  # models/edsr.py, models/rcan.py: the network's own taps, after the skip
    assert options("hkdsr-code")["compat"] == "hkdsr"  # sr_l1_model.py: weights by a running sum
    assert options("pams-code") == {"compat": "pams"}  # model/edsr.py
    assert load_preset("pams-code").student.init == "random"  # main.py loads the float weights into the teacher alone


def test_dckds_numbers_are_those_of_its_code() -> None:
    """DCKD, options/train/SwinIR/*.yml and dckd_model.py: an update of H keeps 0.1 of it."""
    method = dckd.DCKD()
    assert (method.noisy, method.sigma, method.grey, method.probability) == (4, (1.0, 30.0), 0.5, 0.5)
    assert (method.decay, method.intervals, method.every) == (0.1, (1000, 2000, 3000), 1)


@pytest.mark.parametrize("name", STUDENTS)
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_students_are_those_of_the_source(name: str, scale: int) -> None:
    rule = load_preset(name).student
    for teacher, sizes in STUDENTS[name].items():
        entry = rule.published_for(replace(teacher, scale=scale))
        assert entry is not None and rule.init == "random"
        spec = parse_student(entry.student, scale=scale)
        # DUKD, options/Swinir/dukd_swinir_x2*.yml: embed_dim 18.
        is_misprint = name.endswith("-code") and teacher is SWINIR and scale == 2
        assert {"arch": spec.arch, **{key: getattr(spec, key) for key in sizes}} == (
            {"arch": teacher.arch, **sizes} | ({"width": 18} if is_misprint else {})
        )
        # DUKD, options/EDSR/*_x4*.yml: pretrain_network_g is the student of x2.
        starts = teacher is EDSR and scale == 4 and name.split("-")[0] in ("dukd", "logits")
        assert entry.start_scale == (2 if starts else None)
    assert rule.published_for(EDSRSpec(4, width=64, depth=16)) is None


def build_small(teacher: Spec, scale: int) -> Network:
    return build(replace(architecture(teacher.arch).small, scale=scale))


@pytest.mark.ci
@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_recipe_is_decided_for_small_networks(name: str, tmp_path: Path) -> None:
    """On small networks of ten blocks, which HKDSR's taps need; its student has five."""
    teacher = tmp_path / "teacher.safetensors"
    save_network(build(EDSRSpec(2, width=8, depth=10)), teacher, metadata={})
    shape = {"student": "edsr:width=4,depth=5,scale=2"} if name.startswith("hkdsr") else {}
    takes_phi = any(isinstance(method, UsesPerceptualNet) for method in load_preset(name).build_methods())
    settings = (*SMALL, *(["phi=teacher"] if takes_phi else []))
    options = CompressOptions.of(
        recipe=name, teacher=teacher, data=save_photos(tmp_path / "photos"), settings=settings, **shape
    )
    assert decide(options, Context()).preset.schedule.steps == SCHEDULES[name][0]
