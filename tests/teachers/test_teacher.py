"""Teachers of any origin: the same outputs in every format, features of srkd's networks only, one line otherwise."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import srkd
from compressor.base.context import Context
from compressor.base.errors import SrkdError, UsageError
from compressor.inference.open import open_model
from compressor.models.checkpoints.save import save_network
from compressor.models.fitting import across_source
from compressor.models.networks.base import Network
from compressor.models.networks.compact import CompactSpec
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build
from compressor.runtimes.table import OpenOptions
from compressor.teachers.teacher import Teacher, load_teacher
from compressor.training.step import Runner
from srkd import compress
from srkd.options.compress import CompressOptions
from srkd.runs.decide import decide
from srkd.runs.recipe import recipes_for_outputs
from tests.support.foreign_models import KINDS, MultiplesOf, save_all, save_export, save_onnx, save_torchscript, twin


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return save_all(tmp_path_factory.mktemp("foreign"))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_outputs_of_its_network(kind: str, files: dict[str, Path]) -> None:
    teacher = load_teacher(files[kind], trust_code=True)
    assert (teacher.backend, teacher.network, teacher.descriptor.scale, teacher.params) == (kind, None, 2, 336)
    assert teacher.descriptor.size_multiple == 1
    for shape in ((1, 3, 1, 1), (3, 3, 7, 13), (2, 3, 16, 5)):
        lr = torch.rand(shape)
        with torch.no_grad():
            expected = twin()(lr)
        sr = teacher(lr)
        assert not sr.requires_grad
        torch.testing.assert_close(sr, expected, atol=1e-6, rtol=0)
    before = teacher.fingerprint()
    assert teacher.fingerprint() == before and len(before) == 64
    assert teacher.move_to(torch.device("cpu")).device == torch.device("cpu")


@pytest.mark.parametrize("kind", KINDS)
def test_a_foreign_teacher_has_no_features_and_says_which_recipes_need_none(kind: str, files: dict[str, Path]) -> None:
    teacher = load_teacher(files[kind], trust_code=True)
    for ask in (
        lambda: teacher.spec,
        lambda: teacher.require_network("features"),
        lambda: Runner(teacher, trains=False)(torch.rand(1, 3, 4, 4), (), ["body[0]"]),
        lambda: Runner(teacher, trains=False)(torch.rand(1, 3, 4, 4), ["pre_up"]),
    ):
        with pytest.raises(SrkdError, match=f"the {kind} model gives outputs only.* a recipe that needs outputs only"):
            ask()
    assert Runner(teacher, trains=False)(torch.rand(1, 3, 4, 4), []).sr.shape == (1, 3, 8, 8)


def test_a_trace_of_our_own_network_as_a_teacher(tmp_path: Path) -> None:
    network = build(EDSRSpec(3, 4, 1), seed=0)
    torch.jit.trace(network, torch.rand(1, 3, 9, 11)).save(str(tmp_path / "traced.pt"))
    teacher = load_teacher(tmp_path / "traced.pt", trust_code=True)
    lr = torch.rand(2, 3, 6, 5)
    with torch.no_grad():
        torch.testing.assert_close(teacher(lr), network(lr), atol=1e-6, rtol=0)
    assert (teacher.backend, teacher.architecture, teacher.descriptor.scale) == ("TorchScript", "EDSR", 3)


def test_a_network_gives_outputs_taps_and_parts() -> None:
    network = build(EDSRSpec(2, 4, 2), seed=0)
    teacher = Teacher(network)
    lr = torch.rand(1, 3, 5, 6)
    parts = teacher.require_network("parts")
    shallow = parts.stem(lr)
    assert torch.equal(parts.finish(parts.body(shallow), shallow, lr), teacher(lr))
    assert (teacher.backend, teacher.architecture, parts.taps.keys()) == ("srkd", "edsr", network.taps.keys())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_ranges_of_each_side_and_the_order_of_colours(files: dict[str, Path]) -> None:
    options = {"input_range": "-1..1", "output_range": 255, "bgr": 1}
    lr = torch.rand(1, 3, 4, 4)
    with torch.no_grad():
        expected = twin()(lr.flip(1) * 2 - 1).flip(1) / 255
    for path in files.values():
        teacher = load_teacher(path, arch_options=options, trust_code=True)
        torch.testing.assert_close(teacher(lr), expected, atol=1e-6, rtol=0)
        assert teacher.settings() == {**options, "output_range": "255"}
        plain = load_teacher(path, trust_code=True)
        assert plain.fingerprint() != teacher.fingerprint()
        assert teacher.origin is not None and teacher.origin.assumed == ()
        assert [(one.field, one.value) for one in plain.origin.assumed] == [("img_range", 1.0)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arch_options": {"bgr": "yes"}}, "bgr=yes is neither 1 nor 0"),
        ({"scale": 4}, "scale 2, not 4"),
        ({"arch_options": {"res_scale": 0.1}}, "no option 'res_scale', but img_range, input_range, output_range, bgr"),
        ({"arch_options": {"img_range": 100}}, "img_range=100 is not one of 1, 255, -1..1"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, object], message: str, files: dict[str, Path]) -> None:
    for path in files.values():
        with pytest.raises(UsageError, match=message) as raised:
            load_teacher(path, trust_code=True, **options)  # type: ignore[arg-type]
        assert str(path) in str(raised.value)


def test_sizes_that_a_model_refuses_are_padded_and_cropped(tmp_path: Path) -> None:
    teacher = load_teacher(save_torchscript(MultiplesOf(16), tmp_path / "windows.pt"), trust_code=True)
    lr = torch.rand(2, 3, 19, 33)
    right, below = -33 % 16, -19 % 16
    with torch.no_grad():
        expected = twin()(nn.functional.pad(lr, (0, right, 0, below), mode="reflect"))[..., :38, :66]
    torch.testing.assert_close(teacher(lr), expected, atol=1e-6, rtol=0)
    assert teacher(torch.rand(1, 3, 1, 1)).shape == (1, 3, 2, 2)


@pytest.mark.ci
def test_files_of_a_fixed_batch_and_size(tmp_path: Path) -> None:
    one = load_teacher(save_onnx(twin(), tmp_path / "one.onnx", batch=1))
    lr = torch.rand(3, 3, 6, 5)
    with torch.no_grad():
        torch.testing.assert_close(one(lr), twin()(lr), atol=1e-6, rtol=0)
        four = load_teacher(save_onnx(twin(), tmp_path / "four.onnx", batch=4, size=(8, 8)))
        lr = torch.rand(6, 3, 8, 8)
        torch.testing.assert_close(four(lr), twin()(lr), atol=1e-6, rtol=0)
    fixed = load_teacher(save_export(twin(), tmp_path / "fixed.pt2", dynamic=False), trust_code=True)
    assert fixed(torch.rand(2, 3, 9, 12)).shape == (2, 3, 18, 24)
    for teacher, size in ((four, "8x8"), (fixed, "12x9")):
        with pytest.raises(SrkdError, match=f"takes images of {size} only, not 9x10: export it with dynamic"):
            teacher(torch.rand(1, 3, 10, 9))


def test_weights_that_are_no_numbers_are_named(tmp_path: Path) -> None:
    broken = twin()
    with torch.no_grad():
        broken[0].bias[3] = float("nan")
    for path, name in (
        (save_onnx(broken, tmp_path / "nan.onnx"), "bias"),
        (save_torchscript(broken, tmp_path / "nan.pt"), r"0\.bias"),
    ):
        with pytest.raises(SrkdError, match=f"tensor {name} of this .* model holds NaN or infinity"):
            load_teacher(path, trust_code=True)


def test_what_enlarges_no_image_is_no_teacher(tmp_path: Path) -> None:
    for module in (nn.Sequential(nn.Flatten()), nn.Conv2d(3, 5, 1)):
        with pytest.raises(SrkdError, match="enlarges no image"):
            load_teacher(save_torchscript(module, tmp_path / "other.pt"), trust_code=True)


def test_the_public_functions_take_them(files: dict[str, Path], photos: Path, tmp_path: Path) -> None:
    file = tmp_path / "own.safetensors"
    save_network(build(EDSRSpec(2, 4, 1), seed=0), file)
    loaded = srkd.load(file)
    assert isinstance(loaded, Network) and all(parameter.requires_grad for parameter in loaded.parameters())
    assert isinstance(srkd.load(files["TorchScript"], trust_code=True), Teacher)
    for kind, path in files.items():
        result = srkd.inspect(path, trust_code=True)
        assert (result.scale, result.spec, result.macs) == (2, None, None)
        assert result.dialect == ("onnx" if kind == "ONNX" else kind)
        with pytest.raises(SrkdError):
            srkd.export(path, out=tmp_path)
    foreign = srkd.load(files["ONNX"])
    for ask in (lambda: srkd.cost(foreign), lambda: srkd.build_student(foreign), lambda: srkd.save(foreign, file)):
        with pytest.raises(SrkdError, match="ONNX model"):
            ask()
    by_file, by_object = (srkd.evaluate(model, data=photos).models for model in (files["ONNX"], foreign))
    assert by_file["twin"]["photos"].psnr_y == pytest.approx(by_object["unknown"]["photos"].psnr_y, abs=1e-3)
    runtime = open_model(files["torch.export"], OpenOptions(trust_code=True))
    lr = torch.rand(1, 3, 5, 4)
    torch.testing.assert_close(runtime.run(lr), load_teacher(files["torch.export"], trust_code=True)(lr))
    with pytest.raises(UsageError, match="bf16"):
        open_model(files["TorchScript"], OpenOptions(precision="bf16", trust_code=True))
    with pytest.raises(UsageError, match=r"\(1, 1, 5, 4\)"):
        runtime.run(torch.rand(1, 1, 5, 4))


@pytest.mark.ci
@pytest.mark.parametrize("kind", KINDS)
def test_compress_trains_towards_a_foreign_teacher(
    kind: str, files: dict[str, Path], photos: Path, tmp_path: Path
) -> None:
    message: list[str] = []
    options = {"recipe": "logits", "student": "compact:width=4,depth=1,scale=2", "steps": 2, "trust_code": True}
    options |= {"data": photos, "out": tmp_path / "run", "settings": ("schedule.batch=2", "schedule.lr_patch=8")}
    report = compress(files[kind], announce=message.append, **options)
    assert report.steps == 2 and report.teacher is not None and report.teacher.cost is None
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["teacher"]["options"] == {}
    assert facts["teacher"]["kind"] == kind and facts["teacher"]["path"] == str(files[kind])
    assert any("img_range=1.0 assumed" in line for line in message)
    assert any(line.startswith("teacher check ") for line in message)


def test_every_recipe_that_a_refusal_names_takes_a_foreign_teacher(files: dict[str, Path], photos: Path) -> None:
    student = "edsr:width=4,depth=4,scale=2"
    for recipe in recipes_for_outputs():
        options = CompressOptions.of(teacher=files["ONNX"], recipe=recipe, student=student, data=photos, lr_patch=8)
        assert decide(options, Context()).start.init != "inherit"


def test_what_a_foreign_teacher_cannot_do_is_said_before_anything_is_read(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, nowhere = files["ONNX"], tmp_path / "empty"
    nowhere.mkdir()
    offered = ", ".join(recipes_for_outputs())
    assert {"scratch", "logits", "logits-paper"} <= set(recipes_for_outputs())
    assert "inherit" not in recipes_for_outputs()
    with pytest.raises(UsageError, match=f"inherit needs weights or features.*recipes that take it: {offered}"):
        compress(path, recipe="inherit", data=nowhere, student="edsr:scale=2", out=tmp_path / "run")
    with monkeypatch.context() as patch, pytest.raises(UsageError, match=r"fit solves for it, .*trains it from random"):
        patch.setattr(across_source, "linear_plan", lambda spec: None)  # as of another package, without layers
        compress(path, recipe="fit", data=nowhere, student="carn:scale=2", out=tmp_path / "run")
    with pytest.raises(UsageError, match="give its shape, --student compact:width=32,depth=8,scale=2"):
        compress(path, recipe="logits", data=nowhere, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    grey = tmp_path / "grey.safetensors"
    save_network(build(CompactSpec(2, 4, 1, channels=1), seed=0), grey)
    with pytest.raises(UsageError, match=r"one channel.*teacher of 3 channels"):
        compress(grey, recipe="logits", data=nowhere, out=tmp_path / "run")
