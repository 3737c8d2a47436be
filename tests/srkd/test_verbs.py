"""Every verb on a small network: figures, JSON keys, exit codes, and the Python functions."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from torch import Tensor

import srkd
from compressor.base.context import QUIET
from compressor.base.errors import SrkdError, UsageError
from compressor.inference import evaluate as evaluation
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build
from compressor.runtimes.base import Runtime
from export.proof.verify import Proof
from export.writing import exporting
from srkd.cli.main import run
from srkd.options.models import common_scale, open_runtime
from srkd.options.shared import RuntimeOptions
from srkd.record.run_teacher import find_run_teacher
from tests.support.foreign_models import save_onnx, twin
from tests.support.run_files import save_run_file, teacher_entry
from tests.support.shared import needs_shared, shared

ReadJson = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def exported(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported")
    assert srkd.export(model, out=out).ok
    return out / "small.onnx"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "gradients"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(2):
        picture = np.clip(np.linspace(0, 255, 40)[:, None, None] + rng.normal(0, 9, (40, 36, 3)), 0, 255)
        Image.fromarray(picture.astype(np.uint8)).save(folder / f"{index}.png")
    return folder


@pytest.fixture
def read_json(capsys: pytest.CaptureFixture[str]) -> ReadJson:
    """Return a function that runs a command with --json, checks the common keys, and returns the object."""

    def read(*arguments: object, code: int = 0) -> dict[str, Any]:
        assert run([*map(str, arguments), "--json"]) == code
        value = json.loads(capsys.readouterr().out)
        assert value["schema"] == f"srkd.{arguments[0]}/1"
        assert value["machine"]["torch"] == torch.__version__
        return value

    return read


def test_inspect_json_has_the_keys_of_the_contract(model: Path, read_json: ReadJson) -> None:
    value = read_json("inspect", model, "--lr-size", "30x20")
    keys = {"architecture", "dialect", "scale", "spec", "params", "macs", "macs_plus", "lr_size", "bytes", "sha256"}
    assert keys | {"assumed"} <= set(value)
    counted = srkd.cost(srkd.load(model), (30, 20))
    assert (value["params"], value["macs"], value["lr_size"]) == (counted.params, counted.macs, "30x20")
    assert (value["architecture"], value["dialect"], value["scale"]) == ("edsr", "srkd", 2)
    assert value["bytes"] == model.stat().st_size


def test_inspect_of_an_exported_file_agrees(model: Path, exported: Path, read_json: ReadJson) -> None:
    of_model, of_exported = read_json("inspect", model), read_json("inspect", exported)
    for key in ("spec", "params", "macs", "macs_plus"):
        assert of_model[key] == of_exported[key]
    assert of_exported["dialect"] == "onnx"
    assert of_exported["metadata"]["srkd.source_sha256"] == of_model["sha256"]


def test_inspect_of_a_foreign_onnx_file(tmp_path: Path, exported: Path, read_json: ReadJson) -> None:
    foreign = onnx.load(str(exported))
    del foreign.metadata_props[:]
    path = tmp_path / "foreign.onnx"
    onnx.save(foreign, str(path))
    value = read_json("inspect", path)
    assert (value["architecture"], value["scale"], value["spec"]) == ("unknown", 2, None)
    assert [entry["field"] for entry in value["assumed"]] == ["img_range"]
    assert value["params"] > 1000 and value["bytes"] == path.stat().st_size
    assert read_json("inspect", path, "--arch-option", "img_range=255")["assumed"] == []
    onnx.save(foreign, str(path), save_as_external_data=True, location="weights.data", size_threshold=0)
    outside = read_json("inspect", path)
    assert outside["bytes"] == path.stat().st_size + (tmp_path / "weights.data").stat().st_size
    assert outside["params"] == value["params"]


def test_messages_name_what_helps(tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def error(*arguments: object) -> str:
        assert run([str(argument) for argument in arguments]) in (1, 2)
        return " ".join(capsys.readouterr().err.split())

    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    assert "is a run that is not finished" in error("export", tmp_path / "run")
    assert f"srkd compress --resume {tmp_path / 'run'}" in error("inspect", tmp_path / "run")
    (tmp_path / "empty").mkdir()
    assert "empty: a folder without student.safetensors" in error("export", tmp_path / "empty")
    (tmp_path / "text.pth").write_text("not a checkpoint at all")
    assert "TorchScript, .pt2 and .onnx" in error("inspect", tmp_path / "text.pth")
    (tmp_path / "theirs.param").write_text("7767517\n1 1\nInput in 0 1 in\n")
    assert "its weights, theirs.bin, are not beside it" in error("inspect", tmp_path / "theirs.param")
    blend = ("--strength", "0.5", "-o", tmp_path / "blend.safetensors")
    assert "nothere: no such file or folder" in error("blend", tmp_path / "nothere", *blend)
    assert f"{model} has one strength" in error("blend", model, *blend)
    assert "a blend is a .safetensors file" in error("blend", model, model, "--strength", "0.5", "-o", "blend.onnx")


def test_an_onnx_teacher_is_not_offered_to_inherit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    teacher = save_onnx(twin(), tmp_path / "teacher.onnx")
    line = ["compress", "--teacher", str(teacher), "--recipe", "logits", "--student", "compact:width=4,depth=1"]
    for options, code in (([], 0), (["--select", "l1"], 2)):
        assert run([*line, *options, "--dry-run"]) == code
        assert "--init inherit" not in "".join(capsys.readouterr())


def test_ctrl_c_during_evaluate_prints_the_sets_that_are_finished(
    model: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("first", "second"):
        shutil.copytree(photos, tmp_path / "sets" / name)
    run_exactly = evaluation.run_exactly

    def until_the_second(model: Runtime, lr: Tensor, tile: int | None, ensemble: bool, path: Path) -> Tensor:
        if path.parent.name == "second":
            raise KeyboardInterrupt
        return run_exactly(model, lr, tile, ensemble, path)

    monkeypatch.setattr(evaluation, "run_exactly", until_the_second)
    command = ["evaluate", str(model), "--data", str(tmp_path / "sets")]
    assert run(command) == 130
    output = capsys.readouterr()
    assert "first PSNR-Y" in output.out and "second PSNR-Y" not in output.out
    assert output.err == "srkd: warning: not finished: second\n\nsrkd: interrupted\n"
    assert run([*command, "--json"]) == 130
    value = json.loads(capsys.readouterr().out)
    assert value["unfinished"] == ["second"] and set(value["models"]["small"]["sets"]) == {"first"}
    assert run([*command, "--csv"]) == 130
    assert capsys.readouterr().out.count(",first,") == 2
    assert run(["evaluate", str(model), "--data", str(tmp_path / "sets" / "second")]) == 130
    assert capsys.readouterr().err == "\nsrkd: interrupted\n"


def test_inspect_names_what_was_assumed(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    srkd.convert(model, to="basicsr", out=tmp_path / "basicsr.pth")
    assert run(["inspect", str(tmp_path / "basicsr.pth")]) == 0
    output = capsys.readouterr().out
    assert "assumed: res_scale = 1" in output and "--arch-option res_scale=" in output
    assert run(["inspect", str(tmp_path / "basicsr.pth"), "--arch-option", "res_scale=0.1"]) == 0
    output = capsys.readouterr().out
    assert "res_scale = 0.1" in output and "assumed: res_scale" not in output
    assert srkd.load(tmp_path / "basicsr.pth", res_scale=0.1).spec.to_dict()["res_scale"] == 0.1


def test_export_json_has_the_keys_of_the_contract(model: Path, tmp_path: Path, read_json: ReadJson) -> None:
    (file,) = read_json("export", model, "--onnx", "-o", tmp_path)["files"]
    assert {"format", "path", "bytes", "parity", "verdict", "seconds", "reason"} <= set(file)
    assert (file["format"], file["verdict"], file["reason"]) == ("onnx", "passed", None)
    assert file["path"] == str(tmp_path / "small.onnx") and file["bytes"] == (tmp_path / "small.onnx").stat().st_size
    assert 0 <= file["parity"]["max_abs"] <= 1e-4 and file["parity"]["psnr"] > 80


def test_an_export_that_differs_is_exit_1_and_no_file(
    model: Path, tmp_path: Path, read_json: ReadJson, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "prove", lambda *_, **__: Proof(None, "differs from the network by 0.1"))
    (file,) = read_json("export", model, "-o", tmp_path, code=1)["files"]
    assert (file["verdict"], file["path"]) == ("failed", None)
    assert "differs from the network by 0.1" in file["reason"]
    assert list(tmp_path.iterdir()) == []


def test_evaluate_json_has_the_keys_of_the_contract(
    model: Path, exported: Path, photos: Path, read_json: ReadJson
) -> None:
    value = read_json("evaluate", model, exported, "--data", photos)
    assert value["protocol"] == "psnr@y,border=2,bicubic=matlab,grey=rgb"
    assert list(value["models"]) == ["bicubic", "small", "small#2"]
    scores = value["models"]["small"]["sets"]["gradients"]
    assert set(scores["images"]) == {"0", "1"}
    assert scores["psnr_y"] == pytest.approx(np.mean([image["psnr_y"] for image in scores["images"].values()]))
    assert {"psnr_y", "ssim_y"} <= set(scores)
    assert value["models"]["small#2"]["sets"]["gradients"]["psnr_y"] == pytest.approx(scores["psnr_y"], abs=1e-3)


def test_evaluate_shows_first_what_the_goal_says(model: Path, read_json: ReadJson) -> None:
    """The teacher has random weights, and is farther from the originals than bicubic."""
    firsts = []
    for goal in ("auto", "teacher", "original"):
        answer = read_json("evaluate", model, "--against", model, "--goal", goal)
        firsts.append((answer["goal"], answer["references"][0]))
    assert firsts == [("teacher", "teacher"), ("teacher", "teacher"), ("original", "original")]
    with pytest.raises(UsageError, match="--goal teacher: name the teacher"):
        srkd.evaluate(model, goal="teacher")


@needs_shared
def test_a_network_for_looks_is_not_called_worse_than_none(capsys: pytest.CaptureFixture[str]) -> None:
    gan = shared() / "data" / "checkpoints" / "realesr-animevideov3_rezipped.pth"
    assert run(["evaluate", str(gan)]) == 0
    error = " ".join("".join(capsys.readouterr()).split())
    assert "as networks for looks are" in error and "warning" not in error


def test_evaluate_against_a_teacher(
    model: Path, exported: Path, photos: Path, read_json: ReadJson, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file of the same network is as sharp as its teacher; a teacher among the models has one row."""
    command = ["evaluate", str(exported), "--against", str(model), "--metrics", "psnr,sharpness"]
    value = read_json(*command, "--data", photos)
    assert (value["teacher"], set(value["references"])) == ("small", {"original", "teacher"})
    assert list(value["models"]) == ["bicubic", "lanczos", "small", "small#2"]
    scores = value["models"]["small#2"]["sets"]["gradients"]
    assert scores["sharpness_teacher"] == pytest.approx(1, abs=1e-3)
    assert scores["psnr_y_teacher"] in (None, pytest.approx(70, abs=20)) and scores["psnr_y"] < 45
    assert run([*command, str(model), "--lr-only", str(photos)]) == 0
    output = capsys.readouterr().out
    assert "to the teacher small" in output and "to the original" not in output
    assert output.count("gradients PSNR-Y") == 1 and "best: sharpness 1" in output
    assert output.count("\nsmall") == 2


def test_evaluate_refuses_what_cannot_be_compared(photos: Path, model: Path) -> None:
    with pytest.raises(UsageError, match=r"no model.*--scale"):
        srkd.evaluate(data=photos)
    with pytest.raises(UsageError, match="--data beside --lr-images"):
        srkd.evaluate(model, lr_images=photos)
    with pytest.raises(UsageError, match="takes the place of --data"):
        srkd.evaluate(model, data=photos, lr_only=photos)
    with pytest.raises(SrkdError, match="gradients/nowhere"):
        srkd.evaluate(model, data=photos / "nowhere")
    networks = [build(EDSRSpec(scale=scale, width=4, depth=1)) for scale in (2, 3)]
    runtimes = [open_runtime(network, RuntimeOptions(), QUIET) for network in networks]
    with pytest.raises(UsageError, match=r"\(edsr x2, edsr x3\)"):
        common_scale(runtimes, None)


def test_upscale_writes_pictures_and_goes_on_after_a_bad_one(
    model: Path, photos: Path, tmp_path: Path, read_json: ReadJson
) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    value = read_json("upscale", model, photos, bad, "-o", tmp_path / "out", code=1)
    assert [Path(done["output"]).name for done in value["done"]] == ["0_x2.png", "1_x2.png"]
    assert (value["done"][0]["lr_size"], value["done"][0]["sr_size"]) == ("36x40", "72x80")
    assert [Path(failed["source"]).name for failed in value["failed"]] == ["bad.png"]
    with Image.open(tmp_path / "out" / "0_x2.png") as picture:
        assert picture.size == (72, 80)


def test_upscale_prints_where_pictures_are(model: Path, photos: Path, tmp_path: Path, capsys: Any) -> None:
    words = [str(model), str(photos / "0.png"), "-o", str(tmp_path / "large.webp")]
    assert run(["upscale", *words]) == 0
    assert f"{tmp_path / 'large.webp'}  36x40 -> 72x80" in capsys.readouterr().out
    assert run(["upscale", *words]) == 1
    assert "exists" in capsys.readouterr().err
    assert run(["upscale", *words, "--overwrite"]) == 0


def test_upscale_names_what_it_leaves_out_and_goes_on_where_it_stopped(
    model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(photos, tmp_path / "in" / "more")
    shutil.copy(photos / "0.png", tmp_path / "in")
    (tmp_path / "in" / "cat.jxl").write_bytes(b"")
    words = ["upscale", str(model), str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--skip-existing"]
    assert run(words) == 0
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and "cat.jxl" in lines[0] and f"{tmp_path / 'in' / 'more'}" in lines[1]
    assert run([*words, "--recursive", "-q"]) == 0
    assert (tmp_path / "out" / "more" / "1_x2.png").is_file()
    assert run([*words, "-r", "-v"]) == 0
    output = capsys.readouterr()
    assert "skipped 3, as their outputs exist" in output.out and f"{tmp_path / 'in' / '0.png'}: " in output.err
    assert run([*words, "--overwrite"]) == 2


QUICK = ("--lr-size", "12x10", "--seconds", "0.1", "--no-memory")


def test_profile_json_has_the_keys_of_the_contract(model: Path, read_json: ReadJson) -> None:
    value = read_json("profile", model, "--teacher", model, *QUICK, "--no-quality")
    assert len(value["rows"]) == 4
    keys = {"model", "runtime", "device", "precision", "lr_size", "batch", "threads", "params", "macs", "latency_ms"}
    keys |= {"fps", "peak_memory_mb", "speedup_same_runtime", "speedup_vs_teacher_eager", "verdict"}
    for row in value["rows"]:
        assert keys <= set(row)
        assert set(row["latency_ms"]) == {"p50", "p95", "p99"}
        assert row["lr_size"] == "12x10"
    assert value["teacher"] == "small"


def test_profile_prints_params_macs_fps_and_psnr(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["profile", str(model), "--runtime", "torch", *QUICK]) == 0
    output = capsys.readouterr().out
    assert f"{srkd.cost(srkd.load(model)).params:,}" in output
    for word in ("GMAC", "FPS", "PSNR-Y", "psnr@y,"):
        assert word in output


def test_a_run_folder_brings_its_teacher(model: Path, tmp_path: Path) -> None:
    notes: list[str] = []
    sha256 = srkd.inspect(model).sha256
    teacher = find_run_teacher(save_run_file(tmp_path / "a", teacher=teacher_entry(model, sha256)), notes.append)
    assert teacher is not None and (teacher.path, teacher.scale, teacher.options) == (model, 2, {})
    assert str(model) in notes.pop()
    assert find_run_teacher(save_run_file(tmp_path / "b", teacher=teacher_entry(model, "0")), notes.append) is None
    assert "has changed" in notes.pop()
    assert find_run_teacher(save_run_file(tmp_path / "c"), notes.append) is None
    assert find_run_teacher(tmp_path, notes.append) is None
    assert notes == []
    (tmp_path / "a" / "run.json").write_text("[]")
    with pytest.raises(SrkdError, match=r"/run\.json .*give --teacher FILE"):
        find_run_teacher(tmp_path / "a", notes.append)


def test_options_of_the_teacher_of_a_run_are_used_for_the_teacher_alone(model: Path, tmp_path: Path) -> None:
    sha256, gains = srkd.inspect(model).sha256, []
    for name, options in (("with", {"res_scale": 0.1}), ("without", {})):
        run = save_run_file(tmp_path / name, teacher=teacher_entry(model, sha256, **options))
        shutil.copy(model, run / "student.safetensors")
        report = srkd.profile(run, seconds=0.1, memory=False, runtime=("torch",), lr_size=((16, 16),))
        quality = {item.model: item.psnr_y for item in report.quality}
        gains.append(quality[name] - quality[report.teacher])
    assert gains[1] == pytest.approx(0.0, abs=1e-6) and abs(gains[0]) > 1e-3
