"""CSD and CSD-lite: the contrast as a term, the student inside its teacher, and refusals of both."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import recipes.terms.phi
import srkd
from compressor.base.decided import PLAIN_MODE
from compressor.base.errors import SrkdError, UsageError
from compressor.base.processes import Processes
from compressor.models.checkpoints.load import load_checkpoint
from compressor.models.checkpoints.save import save_network
from compressor.models.networks.base import Network
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build, spec_from_dict
from compressor.models.students.students import StudentView, build_student, cut_student
from compressor.training.loop import Trainer
from compressor.training.networks import build_networks
from compressor.training.stage import Stage
from compressor.training.state import State
from compressor.training.step import Step, StepNetworks
from recipes.config.reading import load_preset
from recipes.methods.csd import Csd, CsdLite
from recipes.terms.contrast import bicubic_negatives
from recipes.terms.perceptual import VGG19, TeacherPhi
from srkd import compress, resume
from srkd.runs.recipe import fit_batch
from tests.support.downloads import UNREACHABLE
from tests.support.foreign_models import save_onnx, twin
from tests.support.small_runs import SMALL
from tests.support.tensors import contrast_ratio
from tests.support.training import OnePatch, Recorder, stage

B = 4
LR = torch.rand(B, 3, 8, 8, generator=torch.Generator().manual_seed(0))
PATCH = OnePatch(LR, nn.functional.interpolate(LR, scale_factor=2, mode="bilinear"))


def teacher_of(width: int = 8, seed: int = 1) -> Network:
    return build(EDSRSpec(scale=2, width=width, depth=2), seed=seed)


def joint_stage(method: Csd, steps: int = 1) -> Stage:
    return load_preset("scratch", ("schedule.rate=1e-3",)).with_steps(steps).stages([method])[-1]


def played(method: CsdLite, teacher: Network, student: Network) -> tuple[State, StepNetworks]:
    one = joint_stage(method) if isinstance(method, Csd) else stage([method], steps=1)
    state = State.fresh(student, teacher, one)
    return state, build_networks(one, state, teacher, lambda line: None, Processes())


def terms_of(method: CsdLite, networks: StepNetworks, number: int = 0) -> dict[str, Tensor]:
    return method.terms(Step(number, 3, PATCH.batch, networks))


def contrast_of(method: CsdLite, networks: StepNetworks, number: int = 0) -> float:
    return float(terms_of(method, networks, number)["contrast"].detach())


# The term


def test_the_contrast_is_the_ratio_over_the_batch_with_k_of_its_images_as_negatives() -> None:
    teacher, student = teacher_of(), teacher_of(4, seed=0)
    method = CsdLite(phi="teacher", negatives=2, compat="csd")
    _, networks = played(method, teacher, student)
    phi = TeacherPhi(teacher)
    with torch.no_grad():
        levels = [phi(images) for images in (student(LR), teacher(LR), bicubic_negatives(LR[:2], 2))]
    assert contrast_of(method, networks) == pytest.approx(float(contrast_ratio(*levels)), rel=1e-6)


def test_negatives_are_drawn_anew_each_step_and_a_small_batch_gives_all_it_has() -> None:
    method, everything = CsdLite(phi="teacher", negatives=2), CsdLite(phi="teacher", negatives=10)
    _, networks = played(method, teacher_of(), teacher_of(4, seed=0))
    assert len({contrast_of(method, networks, number) for number in range(8)}) > 2
    values = {contrast_of(everything, networks, number) for number in range(3)}
    assert values == {contrast_of(CsdLite(phi="teacher", negatives=B), networks)}


def test_a_student_that_is_its_teacher_has_no_contrast() -> None:
    teacher = PLAIN_MODE.lay_out(teacher_of(), frozen=True)  # as in a run: two layouts round differently
    lite, whole = CsdLite(phi="teacher"), Csd(phi="teacher")
    assert contrast_of(lite, played(lite, teacher, teacher_of())[1]) == 0
    terms = terms_of(whole, played(whole, teacher, cut_student(teacher, teacher.spec))[1])
    assert terms["contrast"].item() == 0 and terms["pixel"].item() == terms["teacher"].item() > 0


@pytest.mark.parametrize("detach", [True, False])
def test_the_contrast_teaches_the_teacher_only_if_not_detached(detach: bool) -> None:
    teacher = teacher_of()
    method = Csd(phi="teacher", detach=detach)
    state, networks = played(method, teacher, build_student(teacher, width=0.5))
    terms_of(method, networks)["contrast"].backward()
    gradient = state.trained_network.get_parameter("blocks.0.conv1.weight").grad
    assert gradient is not None and gradient[:4, :4].ne(0).any()
    assert bool(gradient[4:].ne(0).any() or gradient[:, 4:].ne(0).any()) is not detach


def test_the_contrast_counts_the_same_with_fewer_negatives() -> None:
    """All negatives are alike: the distance to one stands for the distance to each."""
    anchor, positive, negative = (torch.full((1, 1, 2, 2), value) for value in (0.0, 0.1, 0.5))
    weighed = []
    for batch in (1, 4, 10, 16):
        method, _ = CsdLite().fit_batch(batch)
        negatives = negative.repeat(min(batch, 10), 1, 1, 1)
        weighed.append(method.weights["contrast"] * float(contrast_ratio([anchor], [positive], [negatives])))
    assert weighed == pytest.approx([weighed[-1]] * 4, rel=1e-6)
    assert CsdLite(lam=0.5).fit_batch(4) == (CsdLite(lam=0.5), None)
    assert CsdLite(negatives=5).fit_batch(16)[0].weights["contrast"] == pytest.approx(0.784314 / 2)


@pytest.mark.parametrize(
    ("recipe", "settings", "note"),
    [
        ("csd", (), "contrast: 4 negatives where the paper has 10: weight 0.314 in place of 0.784"),
        (
            "csd-lite",
            ("schedule.batch=1",),
            "contrast: 1 negative where the paper has 10: weight 0.0784 in place of 0.784",
        ),
        ("csd", ("weights.contrast=0.5",), None),
        ("csd", ("lam=0.5",), None),
        ("csd-paper", (), None),
    ],
)
def test_a_run_says_a_weight_that_is_not_the_published_one(recipe, settings, note) -> None:
    notes: list[str] = []
    fit_batch(load_preset(recipe, settings), notes.append)
    assert notes == ([] if note is None else [note])


# Joint training


def test_phi_is_the_teacher_as_it_came_not_as_it_moves() -> None:
    teacher = teacher_of()
    one = joint_stage(Csd(phi="teacher"), steps=3)
    state = State.fresh(build_student(teacher, width=0.5), teacher, one)
    Trainer([one], state, PATCH, teacher, Recorder(), seed=0).run()
    networks = build_networks(one, state, teacher, lambda line: None, Processes())
    phi, images = networks.helpers["csd"]["phi"], torch.rand(1, 3, 8, 8)
    loaded_phi, trained_phi = (one.mode.lay_out(TeacherPhi(network)) for network in (teacher, state.trained_network))
    assert all(torch.equal(a, b) for a, b in zip(phi(images), loaded_phi(images), strict=True))
    assert not torch.equal(phi(images)[0], trained_phi(images)[0])
    assert not any("phi" in name for name in state.state_dict()["modules"])


def test_several_widths_train_at_once_and_none_twice() -> None:
    teacher = teacher_of()
    method = Csd(phi="teacher", widths=(0.25, 0.5))
    _, networks = played(method, teacher, build_student(teacher, width=0.5))
    assert [runner.network.spec.width for runner in networks.students] == [4, 2]  # type: ignore[attr-defined]
    both = terms_of(method, networks)
    alone = [
        terms_of(one, played(one, teacher, build_student(teacher, width=width))[1])
        for width in (0.25, 0.5)
        for one in [Csd(phi="teacher")]
    ]
    pixel, further = (terms["pixel"].item() for terms in reversed(alone))
    assert (both["pixel"].item(), both["widths_pixel"].item()) == pytest.approx((pixel, further), rel=1e-5)
    contrasts = sum(terms["contrast"].item() for terms in alone)
    assert both["contrast"].item() == pytest.approx(contrasts, rel=1e-5)
    assert method.weights["widths_pixel"] == 1.0 and "widths_pixel" not in Csd(phi="teacher").weights


def test_csds_slices_of_carn_are_contiguous_also_in_what_leaves_the_run() -> None:
    teacher = build(spec_from_dict({"arch": "carn", "scale": 2, "width": 8}), seed=1)
    student, outputs = build_student(teacher, width=0.5), {}
    for compat in ("", "csd"):
        state, networks = played(Csd(phi="teacher", compat=compat), teacher, student)  # type: ignore[arg-type]
        outputs[compat] = networks.students[0](LR, ()).sr
        with torch.no_grad():
            torch.testing.assert_close(state.averaged_network()(LR), outputs[compat])
    torch.testing.assert_close(outputs["csd"], StudentView(teacher, student.spec, "contiguous")(LR))
    assert not torch.equal(outputs[""], outputs["csd"])


# Whole runs


@pytest.fixture
def edsr(tmp_path: Path) -> Path:
    save_network(teacher_of(), tmp_path / "teacher.safetensors")
    return tmp_path / "teacher.safetensors"


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(recipes.terms.phi, "URL", UNREACHABLE)


@pytest.mark.ci
@pytest.mark.usefixtures("offline")
def test_a_run_leaves_student_and_teacher_and_other_widths_can_be_cut(
    edsr: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run has baselines, which use no φ, and is resumed with the φ with which it began."""
    notes: list[str] = []
    report = compress(
        edsr, recipe="csd", with_baseline=True, data=photos, steps=2, settings=SMALL, out=tmp_path / "plan",
        announce=notes.append,
    )  # fmt: skip
    (said,) = (line for line in notes if line.startswith("phi: "))
    assert said.startswith("phi: the teacher's own first blocks, as VGG-19 is not available (")
    files = {file.parent.name: json.loads(file.read_text()) for file in report.run.glob("*/run.json")}
    assert {name: facts["phi"] and facts["phi"]["kind"] for name, facts in files.items()} == {
        "csd-seed10": "teacher", "inherit-seed10": None, "logits-seed10": None, "scratch-seed10": None,
    }  # fmt: skip
    assert files["csd-seed10"]["result"]["phi"] == report.phi == said[5:]
    whole = srkd.load(report.run / "teacher_joint.safetensors")
    student = load_checkpoint(report.student_path).network
    assert srkd.build_student(whole, width=0.5).fingerprint() == student.fingerprint()
    assert whole.fingerprint() != load_checkpoint(edsr).network.fingerprint()
    assert report.teacher_joint is not None and report.teacher_joint.cost is not None
    quarter = tmp_path / "quarter.safetensors"
    srkd.save(srkd.build_student(whole, width=0.25), quarter)
    scores = srkd.evaluate([quarter, report.student_path], data=photos)
    assert {"bicubic", "quarter", "student"} <= set(scores.models)

    expected = report.student_path.read_bytes()
    for folder in (report.run / "csd-seed10", report.run):
        facts = json.loads((folder / "run.json").read_text())
        del facts["result"]
        (folder / "run.json").write_text(json.dumps(facts))
    monkeypatch.setattr(recipes.terms.phi, "resolve_phi", lambda *_, **__: pytest.fail("resolved anew"))
    assert resume(report.run).student_path.read_bytes() == expected


@pytest.mark.ci
@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"recipe": "csd-paper"}, r"VGG-19 is needed .*--phi-weights FILE, or put it at"),
        ({"depth": 0.5}, "the student has 1 of the teacher's 2 blocks.*leave out --depth"),
        ({"width": 1.0}, "the student is the whole teacher"),
        ({"init": "random"}, "--init inherit"),
        ({"init_from": "teacher"}, "leave out --init-from"),
        ({"student": "compact:width=8,depth=2,scale=2"}, "one of compact is not inside one of edsr"),
        ({"settings": ("widths=[1.5]",)}, "widths"),
        ({"lr_only": "photos"}, "--lr-only: csd trains its teacher.*csd-lite"),
        ({"teacher_cache": True}, "--teacher-cache"),
        ({"teacher": "foreign"}, "recipe csd"),
        ({"recipe": "logits", "phi_weights": "vgg.pth"}, "--phi-weights .*logits does not use VGG-19"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_is_refused_before_anything_is_written(
    options: dict[str, object], message: str, edsr: Path, photos: Path, tmp_path: Path
) -> None:
    arguments: dict[str, object] = {"recipe": "csd", "teacher": edsr, "data": photos, "steps": 2, **options}
    if arguments["teacher"] == "foreign":
        arguments["teacher"] = save_onnx(twin(), tmp_path / "foreign.onnx")
    if "init_from" in arguments:
        arguments["init_from"] = edsr
    if "lr_only" in arguments:
        arguments |= {"lr_only": photos, "data": None}
    arguments["settings"] = (*SMALL, *arguments.get("settings", ()))  # type: ignore[misc]
    with pytest.raises(SrkdError, match=message) as caught:
        compress(arguments.pop("teacher"), out=tmp_path / "run", **arguments)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


@pytest.mark.ci
@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(("recipe", "settings"), [("csd-lite", ()), ("clsd", ("phi=teacher", "lam=0.1"))])
def test_features_are_those_of_the_embedded_teacher_if_the_runs_own_gives_outputs_only(
    recipe: str, settings: tuple[str, ...], photos: Path, tmp_path: Path
) -> None:
    foreign, notes = save_onnx(twin(), tmp_path / "foreign.onnx"), list[str]()
    report = compress(
        foreign, recipe=recipe, student="edsr:width=4,depth=3,scale=2", announce=notes.append,
        data=photos, steps=1, settings=(*SMALL, *settings), out=tmp_path / "run",
    )  # fmt: skip
    assert "phi: the embedded teacher's first blocks, as the ONNX teacher gives outputs only" in notes
    assert report.phi is not None and report.phi.startswith("the embedded teacher's own first blocks")


@pytest.mark.ci
@pytest.mark.usefixtures("offline")
def test_csd_lite_takes_a_teacher_of_any_origin_with_vgg(photos: Path, tmp_path: Path) -> None:
    foreign = save_onnx(twin(), tmp_path / "foreign.onnx")
    torch.manual_seed(0)
    torch.save(VGG19().state_dict(), tmp_path / "vgg.pth")
    report = compress(
        foreign, recipe="csd-lite", student="compact:width=8,depth=2,scale=2", phi_weights=tmp_path / "vgg.pth",
        data=photos, steps=1, settings=SMALL, out=tmp_path / "run",
    )  # fmt: skip
    assert report.phi == f"VGG-19 from {tmp_path / 'vgg.pth'}"
    phi = json.loads((report.run / "run.json").read_text())["phi"]
    assert len(phi["sha256"]) == 64 and report.teacher_joint is None
    assert not (report.run / "teacher_joint.safetensors").exists()


def test_one_phi_a_run() -> None:
    with pytest.raises(UsageError, match="teacher in csd and vgg19"):
        recipes.terms.phi.find_phi([Csd(phi="teacher"), CsdLite(phi="vgg19")], None)
