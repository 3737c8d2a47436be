"""Recipes `-paper` and `-code` against facts of the papers and of the authors' own files (sources.yaml)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from compressor.base.context import Context
from compressor.base.yaml_text import parse_yaml
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
from tests.support.commands import ROOT
from tests.support.small_runs import SMALL, save_photos

EDSR, RCAN = EDSRSpec(4, width=256, depth=32, res_scale=0.1), RCANSpec(4, width=64, groups=10, depth=20)
SWINIR = SwinIRSpec(4, width=180, depths=(6,) * 6, heads=(6,) * 6)
SOURCES: dict[str, Any] = parse_yaml((Path(__file__).parent / "sources.yaml").read_text(), "sources.yaml").values


def facts(source: str, *files: str) -> dict[str, Any]:
    """Return the facts of some files of a source, by name; of one name the last counts."""
    return {name: value for file in files for name, (value, _line) in SOURCES[source]["files"][file].items()}


def in_iterations(said: dict[str, Any]) -> dict[str, Any]:
    """Return the schedule of an option file of BasicSR. The batch of `num_gpu: auto` is that of one GPU."""
    return {
        "steps": said["total_iter"],
        "batch": said["batch_size_per_gpu"] * (1 if said["num_gpu"] == "auto" else said["num_gpu"]),
        "rate": said["lr"],
        "milestones": tuple(step for step in said["milestones"] if step < said["total_iter"]),
        "factor": said["gamma"],
        "betas": tuple(said["betas"]),
        "ema": said["ema_decay"],
        "lr_patch": said["gt_size"] // said["scale"],
    }


def in_epochs(said: dict[str, Any], falls_after: Iterable[int], *, calibrated: int = 0) -> dict[str, Any]:
    """Return the schedule of code that counts epochs, of which the first may calibrate. CLSD's epoch is a guess."""
    epoch = said.get("test_every", 1000)
    return {
        "steps": (said["epochs"] - calibrated) * epoch,
        "batch": said["batch_size"],
        "rate": said["lr"],
        "milestones": tuple((at - calibrated) * epoch for at in falls_after if at < said["epochs"]),
        "factor": said["gamma"],
        "betas": tuple(said.get("betas", (0.9, 0.999))),
        "ema": 0.0,
    }


DUKD: dict[Spec, str] = {
    EDSR: "options/EDSR/dukd_edsr_x{}c256b32_c64b32.yml",
    RCAN: "options/RCAN/dukd_rcan_x{}c64b20g10_c64b6g10.yml",
    SWINIR: "options/Swinir/dukd_swinir_x{}c180s36_c60s24.yml",
}
"""DUKD's option files by teacher, for each scale."""
KD = facts("DUKD", "options/EDSR/kd_edsr_x4c256b32_c64b32.yml")
TEXT = facts("DUKD's paper", "section 4.1")
DCKD = facts("DCKD", "options/train/SwinIR/train_SwinIR_SRx4_DCKD.yml")
HKDSR = facts("HKDSR", "options/train/RCAN/rcan_shareupkd_x2.yml")
TUNING = facts("HKDSR", "options/train/RCAN/rcan_sharedup_ft_x2.yml")
PAMS = facts("PAMS", "option.py", "main.py", "run.sh")
CSD = facts("CSD", *(f"PyTorch version/{file}" for file in ("option.py", "utils/utility.py", "README.md")))
CLSD = facts("CLSD's paper", "section on training")
FAKD = facts("FAKD", "code/option.py", "code/scripts/train_edsr_SA_x4.sh")

FAKD_FALLS = [int(epoch) for epoch in FAKD["decay"].split("-")]
PAMS_FALLS = range(PAMS["decay"], PAMS["epochs"], PAMS["decay"])
OF_CSD = in_epochs(CSD, [CSD["epoch_decay"]]) | {"hr_patch": CSD["patch_size"]}
OF_PAMS = in_epochs(PAMS, PAMS_FALLS, calibrated=PAMS["ema_epoch"])
OF_TEXT = in_iterations(KD | TEXT | {"ema_decay": 0.0})
SCHEDULES = {
    **dict.fromkeys(("dukd-paper", "logits-paper", "scratch-paper"), OF_TEXT),
    **dict.fromkeys(("dukd-code", "logits-code"), in_iterations(KD)),
    **dict.fromkeys(("csd-paper", "csd-code", "csd-lite-paper", "inherit-paper"), OF_CSD),
    **dict.fromkeys(("fakd-paper", "facd-paper", "lfd-paper"), in_epochs(FAKD, FAKD_FALLS)),
    # The scheduler steps before each epoch, which from torch 1.1 on changes the rate an epoch earlier.
    "fakd-code": in_epochs(FAKD, [epoch - 1 for epoch in FAKD_FALLS]),
    **dict.fromkeys(("clsd-paper", "ds-paper"), in_epochs(CLSD, [CLSD["epoch of the halving"]])),
    **dict.fromkeys(("hkdsr-paper", "hkdsr-code"), in_iterations(HKDSR)),
    "dckd-paper": in_iterations(DCKD),
    **dict.fromkeys(("pams-paper", "pams-code"), OF_PAMS),
    "pact-paper": in_epochs(PAMS, PAMS_FALLS),
}
OF_ANOTHER = {"csd-lite": "CSD's", "facd": "FAKD's", "inherit": "CSD's", "lfd": "FAKD's", "pact": "PAMS's"}
"""Methods of whose own schedule no source speaks, and whose schedule their recipe has."""

# CSD's, FAKD's and PAMS's weights are for images in [0,255].
CONTRAST = CSD["contra_lambda"] / 255
OF_FAKD = {
    "pixel": 1 - FAKD["alpha"],
    "logits": FAKD["alpha"],
    "affinity": float(FAKD["feature_distilation_type"].removesuffix("*SA")) / 255,
}
WEIGHTS = {
    # DUKD's paper, equations 1-3: every term counts once.
    "dukd-paper": {"pixel": 1, "logits": 1, "zoom_in": 1, "zoom_out": 1},
    "logits-paper": {"pixel": 1, "logits": 1},
    "logits-code": {"pixel": KD["pixel"], "logits": KD["kd"]},
    **{key: {"pixel": 1} for key in ("scratch-paper", "inherit-paper")},
    **{key: {"pixel": 1, "teacher": CSD["t_lambda"], "contrast": CONTRAST} for key in ("csd-paper", "csd-code")},
    "csd-lite-paper": {"pixel": 1, "contrast": CONTRAST},
    "dckd-paper": {name: DCKD[name] for name in ("pixel", "logits", "consistency", "contrast")},
    **dict.fromkeys(("fakd-paper", "fakd-code"), OF_FAKD),
    **{key: {"pixel": PAMS["w_l1"], "attention": PAMS["w_at"] / 255} for key in ("pams-paper", "pams-code")},
    # The running sum of sr_l1_model.py counts the outputs 4, 3, 2 and 1 times; once each with the same sum is ours.
    "hkdsr-code": {"pixel": 1, "bands": HKDSR["wave"], "fusion": HKDSR["adapt"]},
    "hkdsr-paper": {"pixel": 1, "bands": HKDSR["wave"] * (4 + 3 + 2 + 1) / 4, "fusion": HKDSR["adapt"]},
}


def sizes(said: dict[str, Any]) -> dict[str, Any]:
    """Return the sizes of a student among the facts."""
    names = ("width", "depth", "groups", "depths", "heads", "res_scale")
    return {name: tuple(said[name]) if name in ("depths", "heads") else said[name] for name in names if name in said}


def students(name: str, scale: int) -> dict[Spec, dict[str, Any]]:
    """Return the students of a recipe by their teachers. DUKD's file for SwinIR ×2 alone has width 18, a misprint."""
    method, _, kind = name.rpartition("-")
    files = {one: file.format(4 if (one, scale, kind) == (SWINIR, 2, "paper") else scale) for one, file in DUKD.items()}
    of_dukd = {one: sizes(facts("DUKD", file)) for one, file in files.items()}
    return {
        "dukd": of_dukd,
        "logits": of_dukd,
        "scratch": of_dukd,
        "fakd": {one: sizes(facts("FAKD", f"code/train.py, {one.arch.upper()}")) for one in (EDSR, RCAN)},
        "lfd": {EDSR: sizes(facts("CLSD's paper", "table 1"))},
        "hkdsr": {RCAN: sizes(HKDSR)},
        "dckd": {SWINIR: sizes(DCKD)},
    }.get(method, {})


PUBLISHED = [name for name in sorted(RECIPES) if repeats_published(name)]


def test_the_facts_are_of_all_published_recipes_and_have_lines() -> None:
    assert set(PUBLISHED) == set(SCHEDULES) and len(PUBLISHED) > 14
    of_code = [source["files"] for source in SOURCES.values() if "code" in source]
    assert all(line > 0 for files in of_code for said in files.values() for _, line in said.values())


@pytest.mark.parametrize("name", PUBLISHED)
def test_schedules_are_those_of_the_source(name: str) -> None:
    rule = load_preset(name).schedule
    expected = {"hr_patch": None, "lr_patch": 48} | SCHEDULES[name]
    assert {key: getattr(rule, key) for key in expected} == expected
    assert (rule.precision, rule.eps, rule.clip, rule.warmup) == ("fp32", PAMS["epsilon"], None, 0)
    assert rule.decay == ("milestones" if rule.milestones else "constant")
    assert rule.ema_warmup is False


def test_the_stages_before_are_those_of_the_source() -> None:
    def stages(name: str) -> list[tuple[int, float]]:
        preset = load_preset(name)
        all_stages = preset.stages(preset.build_methods())
        return [(stage.schedule.steps, stage.schedule.rate) for stage in all_stages]

    for name in ("pams-paper", "pams-code"):
        (calibrated, rate), (trained, _) = stages(name)
        assert (calibrated, rate) == (PAMS["ema_epoch"] * PAMS["test_every"], PAMS["lr"])
        assert calibrated + trained == PAMS["epochs"] * PAMS["test_every"]
    loaded = int(HKDSR["path"].removeprefix("net_g_").removesuffix(".pth"))
    assert loaded < TUNING["total_iter"] < min(TUNING["milestones"])
    for name in ("hkdsr-paper", "hkdsr-code"):
        assert stages(name) == [(loaded, TUNING["lr"]), (HKDSR["total_iter"], HKDSR["lr"])]
        # A stage has no batch of its own: that of the file is in words.
        assert f"have {TUNING['num_gpu'] * TUNING['batch_size_per_gpu']} patches" in load_preset(name).source


def test_a_schedule_of_another_method_is_called_so_wherever_it_is_named() -> None:
    for name, owner in OF_ANOTHER.items():
        assert f"{owner} schedule" in load_preset(f"{name}-paper").title
        page = (ROOT / "docs" / "methods" / f"{name}.md").read_text(encoding="utf-8")
        assert re.search(rf"`{name}-paper`[^.]*{owner}", page), name
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("**/*.md")]
    texts = {str(page.relative_to(ROOT)): page.read_text(encoding="utf-8") for page in pages}
    for page in ("README.md", "docs/use/recipes.md", "docs/use/reproduce.md"):
        (sentence,) = re.findall(r"[^.]*another\smethod's[^.]*\.", texts[page])
        assert re.findall(r"`([a-z-]+?)(?:-paper)?`", sentence) == list(OF_ANOTHER), page
    texts |= {name: load_preset(name).title for name in PUBLISHED}
    promise = re.compile(r"(has|have|with|,) (\w+'s |the )?published (schedule|length)")
    assert [name for name, text in texts.items() if promise.search(text)] == []


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_are_those_of_the_source(name: str) -> None:
    (method,) = bind_phi(load_preset(name).build_methods(), resolve_phi("teacher"))
    method = method.fit(None, build_small(EDSR, 4)) if name.startswith("dukd") else method
    assert method.weights == pytest.approx(WEIGHTS[name], abs=1e-6)


@pytest.mark.parametrize("teacher", DUKD)
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_dukds_code_has_its_settings_by_network_and_scale(teacher: Spec, scale: int) -> None:
    said = {"prob": 0.0} | facts("DUKD", DUKD[teacher].format(scale))
    assert in_iterations(said) == SCHEDULES["dukd-code"]
    (method,) = load_preset("dukd-code").build_methods()
    fitted = method.fit(None, build_small(teacher, scale))
    found = (fitted.pixel_weight, fitted.probability, fitted.zoom_out, [fitted.cells])
    assert found == (said["pixel"], said["prob"], "on" if said["zoom_out"] else "off", said["n_gt_sub"])
    assert (fitted.updates, fitted.bug) == (2, True)  # models/dukd_model.py, lines 51 and 87, 10 to 17


def test_further_options_are_those_of_the_source() -> None:
    def options(name: str) -> dict[str, Any]:
        return load_preset(name).methods[0].options

    assert options("dukd-paper") == {"variant": "paper"}
    assert options("csd-paper") == {"phi": "vgg19"}  # CSD: K random negatives
    assert options("csd-code") == {"phi": "vgg19", "compat": "csd"}  # the first K of the batch
    assert options("dckd-paper") == {"phi": "vgg19"}  # DCKD: VQGAN's encoder, which is not at hand
    method = dckd.DCKD()
    assert (method.noisy, method.grey, method.probability) == (DCKD["num_neg"], DCKD["gray_noise_prob"], DCKD["prob"])
    assert (method.decay, list(method.intervals), method.every) == (DCKD["update_decay"], DCKD["step"], 1)
    assert method.sigma == (1.0, 30.0)  # dckd_model.py, line 195
    assert options("fakd-paper") == {"taps": ["rel(1/3)", "rel(2/3)", "body_end"]}  # FAKD's figure: before the skip
    assert options("fakd-code") == {}  # models/edsr.py, models/rcan.py: the network's own taps, after the skip
    fewer = facts("FAKD", "code/scripts/train_rcan_SA_x3.sh")["features"]
    assert len(fewer) < len(FAKD["features"]) and "at x3 its script for RCAN" in load_preset("fakd-code").source
    assert options("hkdsr-code")["compat"] == "hkdsr"  # sr_l1_model.py: weights by a running sum
    assert options("pams-code") == {"compat": "pams"}  # model/edsr.py
    (pams,) = load_preset("pams-code").build_methods()
    assert pams.alpha_rate == PAMS["lr of alpha"]
    assert load_preset("pams-code").student.init == "random"  # main.py loads the float weights into the teacher alone


@pytest.mark.parametrize("name", [name for name in PUBLISHED if students(name, 4)])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_students_are_those_of_the_source(name: str, scale: int) -> None:
    rule = load_preset(name).student
    for teacher, expected in students(name, scale).items():
        entry = rule.published_for(replace(teacher, scale=scale))
        assert entry is not None and rule.init == "random"
        spec = parse_student(entry.student, scale=scale)
        assert {"arch": spec.arch, **{key: getattr(spec, key) for key in expected}} == {
            "arch": teacher.arch,
            **expected,
        }
        may_start = name.split("-")[0] in ("dukd", "logits")
        starts = may_start and facts("DUKD", DUKD[teacher].format(scale))["pretrain_network_g"]
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
    assert decide(options, Context()).preset.schedule.steps == SCHEDULES[name]["steps"]
