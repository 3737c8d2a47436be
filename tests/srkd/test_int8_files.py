"""Every verb that reads a model describes an int8 file: flavour, calibration and loss."""

from __future__ import annotations

import csv
import inspect
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import export.profile.measured
import export.profile.models
import srkd
from compressor.base import machine
from compressor.models.checkpoints.save import save_network
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build, quantise
from compressor.models.quantisation.description import Quantisation
from compressor.runtimes.table import RUNTIMES
from export.formats.conversion import FileOptions, Int8Options
from export.formats.table import Format, find_formats
from export.int8 import task
from export.int8.calibration import calibration_patches
from export.writing.exporting import Source, convert_to
from srkd.api.doctor import diagnose
from srkd.cli.main import run
from srkd.cli.verbs.profile import command
from srkd.terminal.console import Console

SPEC = EDSRSpec(width=8, depth=1, scale=2)
UNBOUNDED = FileOptions(int8=Int8Options(max_drop=None))
HASH = "ab" * 32
PROFILE = ("--lr-size", "24x24", "--seconds", "0.1", "--no-memory", "--threads", "1")
QUICK: dict[str, Any] = {"lr_size": "24x24", "seconds": 0.1, "memory": False, "quality": False, "threads": 1}


@pytest.fixture(scope="module", autouse=True)
def _few_patches() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task, "calibration_patches", lambda *args: calibration_patches(*args, count=4))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a float network and one trained quantised (`rounded`), each with float and int8 files."""
    path = tmp_path_factory.mktemp("int8")
    for name, network in (
        ("small", build(SPEC, seed=1)),
        ("rounded", quantise(build(SPEC, seed=1), Quantisation("pams", 8, "all"))),
    ):
        with torch.no_grad():
            for parameter, values in network.named_parameters():
                if parameter.endswith("alpha"):
                    values.fill_(2.0)
        save_network(network, path / f"{name}.safetensors")
        for row in find_formats(["onnx", "int8"]):
            convert_to(row, network, Source(name, HASH), path / f"{name}{row.suffix}", UNBOUNDED)
    Image.fromarray(np.full((40, 48, 3), 90, np.uint8)).save(path / "photo.png")
    return path


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert run([str(argument) for argument in arguments]) == 0
    return " ".join(capsys.readouterr().out.split())


def told(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    assert run([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.ci
def test_inspect_names_flavour_calibration_and_loss(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = folder / "small.int8.onnx"
    words = said(capsys, "inspect", file)
    bits = 8 if machine.integer_products() else 7
    assert f"int8 for cpu, weights of {bits} bits calibration calibrated on 4 patches of embedded photos" in words
    assert "measured loss" in words and "on 2 photos" in words and "srkd.quant" not in words
    facts = told(capsys, "inspect", file)
    assert (facts["int8"]["flavour"], facts["int8"]["precision"], facts["int8"]["photos"]) == ("cpu", "int8", 2)
    assert facts["int8"]["drop_db"] == json.loads(facts["metadata"]["srkd.quant"])["drop_db"]
    assert told(capsys, "inspect", folder / "small.onnx")["int8"] is None


@pytest.mark.ci
def test_inspect_of_a_network_trained_quantised(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = said(capsys, "inspect", folder / "rounded.int8.onnx")
    assert "calibration learnt in training by pams" in words
    assert "measured loss" in words and "unknown" not in words  # the measured drop is in the file
    assert "trained quantised pams, 8 bits, placement all; this file rounds in float" in said(
        capsys, "inspect", folder / "rounded.onnx"
    )


@pytest.mark.ci
def test_evaluate_says_what_was_scored(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = [folder / name for name in ("small.int8.onnx", "rounded.safetensors", "small.onnx")]
    words = said(capsys, "evaluate", *models)
    assert "small.int8: int8 for cpu, " in words and "calibrated on 4 patches" in words
    assert "rounded: trained quantised (pams, 8 bits, placement all), rounded in fp32" in words
    assert "small: " not in words
    scored = told(capsys, "evaluate", *models)["models"]
    assert [scored[name]["precision"] for name in scored] == ["fp32", "int8", "fp32", "fp32"]
    assert scored["small.int8"]["quantised"]["flavour"] == "cpu"
    assert scored["rounded"]["quantised"]["method"] == "pams"
    assert scored["small"]["quantised"] is None
    assert run(["evaluate", str(models[0]), "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["precision"] for row in rows] == ["fp32", "int8"]


@pytest.mark.ci
def test_an_open_network_that_was_trained_quantised_is_no_float_one(folder: Path) -> None:
    network = srkd.load(folder / "rounded.safetensors")
    assert srkd.evaluate(network).numbers[network.architecture].quantised == Quantisation("pams", 8, "all")


@pytest.mark.ci
def test_upscale_names_precision_and_loss(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("upscale", folder / "small.int8.onnx", folder / "photo.png", "-o", tmp_path, "--overwrite")
    assert run([str(argument) for argument in arguments]) == 0
    words = " ".join("".join(capsys.readouterr()).split())
    assert "s, in int8" in words and "small.int8.onnx: int8 for cpu" in words
    report = told(capsys, *arguments)
    assert (report["precision"], report["quantised"]["flavour"]) == ("int8", "cpu")
    assert report["done"][0]["precision"] == "int8"


@pytest.mark.ci
def test_profile_says_what_an_int8_file_is_and_how_it_compares(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = (folder / "small.int8.onnx", folder / "small.onnx")
    report = srkd.profile(files, **QUICK)
    inspect.unwrap(command.callback)(Console(), report)
    words = " ".join(capsys.readouterr().out.split())
    assert "small.int8 under onnxruntime: int8 for cpu, " in words and "nodes compute in integers" in words
    assert "small.int8 beside small: " in words and "float in onnxruntime on this machine" in words
    assert [row.precision for row in report.rows] == ["int8", "fp32"]
    int8 = report.rows[0].int8
    assert int8 is not None and (int8.bounded, int8.nodes_in_int8, report.rows[1].int8) == (True, 8, None)


@pytest.mark.ci
def test_profile_writes_a_checkpoint_in_int8(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch and the teacher stay in float; the row says that the loss is not bounded.

    Such a file is only opened and timed: the comparison of an export would refuse its loss.
    """

    prove = export.profile.models.prove

    def prove_float(row: Format, *rest: Any, **options: Any) -> Any:
        assert row.precision != "int8"
        return prove(row, *rest, **options)

    monkeypatch.setattr(export.profile.models, "prove", prove_float)
    file = folder / "small.safetensors"
    report = srkd.profile(file, teacher=file, precision="int8", **QUICK)
    rows = [(row.runtime, row.precision) for row in report.rows]
    assert rows == [("torch", "fp32"), ("onnxruntime", "fp32"), ("torch", "fp32"), ("onnxruntime", "int8")]
    row = report.rows[3]
    assert [each.int8 is None for each in report.rows] == [True, True, True, False] and row.int8 is not None
    assert (row.arithmetic, row.int8.bounded, row.int8.in_float) == ("int8 unbounded", False, "nothing")
    assert isinstance(row.int8.drop_db, float)
    assert "its loss is not bounded" in " ".join(report.about_int8)
    assert row.int8.nodes_in_int8 == 8


@pytest.mark.ci
def test_a_runtime_without_int8_files_is_left_out(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["profile", str(folder / "small.safetensors"), "--precision", "int8", "--no-quality", *PROFILE]
    assert run([*arguments, "--runtime", "onnxruntime,coreml"]) == 0
    assert "no int8 file is made for runtime coreml" in capsys.readouterr().err


@pytest.mark.ci
def test_a_network_trained_in_int8_needs_no_bound(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = told(
        capsys,
        *("profile", folder / "rounded.safetensors", "--precision", "int8", "--runtime", "onnxruntime"),
        *("--no-quality", *PROFILE),
    )["rows"]
    assert (row["precision"], row["int8"]["bounded"]) == ("int8", True)
    assert row["int8"]["calibration"] == "learnt in training"


@pytest.mark.parametrize("product", ["avx512_vnni", ""])
def test_doctor_says_whether_int8_pays_here(product: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listing = tmp_path / "cpuinfo"
    listing.write_text(f"flags : fpu sse4_2 {product}\n")
    path = machine.Path
    monkeypatch.setattr(machine, "Path", lambda name: listing if name == "/proc/cpuinfo" else path(name))
    monkeypatch.setitem(RUNTIMES.rows, "litert", replace(RUNTIMES["litert"], needs=("no_such_module",)))
    of_processor, of_runtimes = diagnose().int8
    assert bool(machine.integer_products()) is bool(product)
    assert ("(AVX-512 VNNI), so int8 pays here" in of_processor) is bool(product)
    here, _, missing = of_runtimes.partition("; not here: ")
    assert "onnxruntime" in here and "litert" in missing


@pytest.mark.ci
def test_the_demo_lists_the_loss(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    app = tmp_path / "app"
    app.mkdir()
    (app / "index.html").write_text("<!doctype html>")
    files = (folder / "small.onnx", folder / "small.int8.onnx")
    words = said(capsys, "demo", *files, "--teacher", folder / "small.onnx", "--app", app, "--build", tmp_path / "site")
    loss = json.loads(told(capsys, "inspect", files[1])["metadata"]["srkd.quant"])["drop_db"]
    assert f"small.int8 int8 edsr int8 {-loss:+.3f} dB x2" in words
