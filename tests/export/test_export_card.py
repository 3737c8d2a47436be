"""The model card and the record of exports, and the teacher's licence in both."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from safetensors import safe_open
from safetensors.numpy import save_file

import srkd
from compressor.assets import embedded_teacher
from compressor.models.checkpoints.licence import commercial_warning, hub_licence, read_licence
from compressor.models.networks.compact import CompactSpec
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build
from compressor.runtimes.onnx_file import read_facts
from compressor.teachers.licence import licence_of
from export.writing.card import MARK, CardFacts, write_card
from srkd.cli.main import run
from tests.support.onnx_files import model_of
from tests.support.pages import head_of
from tests.support.run_files import read_json
from tests.support.small_runs import SMALL, save_photos, save_teacher

FORBIDS = "CC-BY-NC-4.0"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with an export, whose teacher, a link as in a hub's cache, has a licence that forbids commercial use."""
    folder = tmp_path_factory.mktemp("card")
    photos, teacher = save_photos(folder / "photos"), folder / "big.safetensors"
    teacher.symlink_to(licensed(save_teacher(folder / "stored.safetensors"), FORBIDS))
    srkd.compress(teacher, recipe="inherit", data=photos, width=0.5, steps=2, settings=SMALL, out=folder / "run")
    srkd.export(folder / "run", formats="onnx")
    return folder / "run"


def licensed(path: Path, licence: str) -> Path:
    """Rewrite a safetensors file with a licence in its header, as model hubs do."""
    with safe_open(path, "numpy") as file:
        metadata, tensors = dict(file.metadata()), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(tensors, path, metadata={**metadata, "license": licence})
    return path


def test_the_card_is_what_hubs_read(small: Path) -> None:
    head = head_of(small / "student.md")
    result = read_json(small)["result"]
    assert (head["license"], head["library_name"]) == ("cc-by-nc-4.0", "srkd")
    assert "base_model" not in head, "the teacher is a file, which hubs would take for a repository"
    assert {"super-resolution", "x2", "edsr", "inherit"} <= set(head["tags"])
    (index,) = head["model-index"]
    (entry,) = index["results"]
    assert entry["task"]["type"] == "image-to-image" and entry["dataset"]["name"]
    values = {metric["name"].partition(", ")[0]: metric["value"] for metric in entry["metrics"]}
    keys = {"Y-PSNR in dB to the teacher": "psnr_y_teacher", "Y-PSNR in dB to the original": "psnr_y"}
    assert values == {name: pytest.approx(result["student"][key], abs=1e-3) for name, key in keys.items()}
    assert next(iter(values)).endswith("to the teacher"), "the teacher's weights are random"
    assert all(result["protocol"] in metric["name"] for metric in entry["metrics"])
    body = (small / "student.md").read_text().split("---\n", 2)[2]
    assert "\n# run\n" in body and "big.safetensors" in body, "the names of the run and of its teacher"
    assert "forbids commercial use" in body and "student.onnx" in body and MARK in body


@pytest.mark.ci
def test_the_licence_goes_with_the_student(small: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The student's files state it, and so does every verb that describes the student."""
    warning = commercial_warning(FORBIDS)
    assert licence_of(small / "student.safetensors") == FORBIDS
    assert read_facts(small / "student.onnx")[1]["srkd.license"] == FORBIDS
    facts = read_json(small)
    assert facts["teacher"]["licence"] == FORBIDS and warning in facts["result"]["flags"]
    for model in (small, small / "student.onnx", small.parent / "big.safetensors"):
        assert run(["inspect", str(model)]) == 0
        assert warning in capsys.readouterr().err
    assert run(["export", str(small), "-o", str(tmp_path / "out")]) == 0
    assert warning in capsys.readouterr().err
    page = srkd.report(small, out=tmp_path / "page.html").path.read_text()
    assert page.lower().count(warning.lower()) == 1


def test_the_record_says_what_was_compared(small: Path) -> None:
    record = json.loads((small / "exports.json").read_text())["files"]["student.onnx"]
    assert record["verdict"] == "passed" and 0 <= record["parity"]["max_abs"] < 1e-3
    assert record["bytes"] == (small / "student.onnx").stat().st_size


def write(folder: Path, licence: str | None = None) -> bool:
    facts = CardFacts("net", {"srkd.recipe": "scratch"}, "0" * 64, licence)
    return write_card(folder / "net.md", build(EDSRSpec(scale=2, width=4, depth=1), seed=0), facts, {})


def test_the_card_says_what_images_its_files_take(tmp_path: Path) -> None:
    card, grey = tmp_path / "net.md", tmp_path / "grey.md"
    assert write(tmp_path) and "RGB in [0,1], N,C,H,W, in and out; LiteRT's files N,H,W,C" in card.read_text()
    network = build(CompactSpec(2, width=4, depth=1, channels=1))
    assert write_card(grey, network, CardFacts("net", {}, "", None), {})
    assert "One channel, luma or grey in [0,1]" in grey.read_text()


def test_a_card_of_somebody_else_stays(tmp_path: Path) -> None:
    assert write(tmp_path) and write(tmp_path)
    (tmp_path / "net.md").write_text("mine")
    assert not write(tmp_path) and (tmp_path / "net.md").read_text() == "mine"


def test_without_a_stated_licence_none_is_claimed(tmp_path: Path) -> None:
    write(tmp_path)
    assert "license" not in head_of(tmp_path / "net.md")
    assert "not declared in its file" in (tmp_path / "net.md").read_text()


def test_names_cannot_become_yaml_or_markup(tmp_path: Path) -> None:
    """A licence is untrusted text from a file."""
    teacher = licensed(
        save_teacher(tmp_path / "evil.safetensors"), 'x\nlicense: mit\n---\n<script>alert(1)</script> | "'
    )
    write(tmp_path, licence_of(teacher))
    head = head_of(tmp_path / "net.md")
    assert head["license"] == "other" and head["license_name"].startswith("x license: mit")
    assert "<script>" not in (tmp_path / "net.md").read_text().split(MARK)[1]


def test_licences_of_files(tmp_path: Path) -> None:
    assert licence_of(embedded_teacher()) == "Apache-2.0"
    path = tmp_path / "x.onnx"
    model = model_of("g (float[1] a) => (float[1] b) { b = Identity(a) }")
    helper.set_model_props(model, {"license": "MIT"})
    onnx.save(model, path)
    assert licence_of(path) == "MIT"
    (tmp_path / "y.onnx").write_bytes(b"no onnx")
    save_file({"a": np.zeros(1, np.float32)}, tmp_path / "z.safetensors")
    assert licence_of(tmp_path / "y.onnx") is None and licence_of(tmp_path / "z.safetensors") is None


def test_licences_that_forbid_commercial_use_and_others() -> None:
    for text in ("CC-BY-NC-4.0", "cc by-nc-sa 4.0", "Non-Commercial", "for research only", "S-Lab License"):
        assert commercial_warning(text), text
    for other in ("Apache-2.0", "MIT", "NCSA", "Academic Free License v3.0", "CC-BY-4.0", None):
        assert not commercial_warning(other), other


def test_identifiers_of_hubs() -> None:
    assert hub_licence("Apache-2.0") == {"license": "apache-2.0"}
    assert hub_licence("My own") == {"license": "other", "license_name": "My own"}
    assert hub_licence(None) == {}
    assert read_licence({"modelspec.license": " MIT\n"}) == "MIT" and read_licence({"license": ""}) is None
