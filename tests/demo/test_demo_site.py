"""The content of the demo: models described or refused, samples, and the same files for a static host."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from PIL import Image

import demo.files
import srkd.api.demonstration
from benchmarks.embedded_student import embedded_student
from compressor.base.context import QUIET, Context
from compressor.base.errors import SrkdError, UsageError
from compressor.images.resize import upscale_bicubic
from compressor.models.checkpoints.load import load_checkpoint
from compressor.models.checkpoints.save import save_network
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build
from demo.catalogue import load_samples, read_model, site_contents
from demo.files import CATALOGUE, find_app, require_new, write_site
from export.formats.conversion import FileOptions
from export.plan.emit import emit
from export.plan.measure import Environment
from export.plan.search import CandidateShape, Targets
from srkd.api.demonstration import demo_models, plan_to_time
from srkd.cli.main import run
from srkd.options.verbs import DemoOptions
from tests.support.demo_app import HASHED_SCRIPT, write_app
from tests.support.exports import export_file
from tests.support.onnx_files import enlarger
from tests.support.run_files import save_run_file, teacher_entry

SMALL = EDSRSpec(scale=4, width=8, depth=1)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "small.safetensors"
    save_network(build(SMALL, seed=0), path, metadata={"srkd.recipe": "logits"})
    return path


def test_a_file_of_another_tool_is_described(tmp_path: Path) -> None:
    path = enlarger(tmp_path / "foreign.onnx", scale=3)
    model = read_model(path, "foreign", "student")
    assert (model.role, model.precision, model.descriptor.scale, model.descriptor.channels) == ("student", "fp32", 3, 3)
    assert (model.input, model.output, model.architecture, model.metadata) == ("image", "out", None, {})
    assert model.descriptor.receptive_radius is None and model.descriptor.fixed_size is None
    assert model.content == path.read_bytes()
    assert model.address == f"models/foreign-{hashlib.sha256(path.read_bytes()).hexdigest()[:12]}.onnx"


@pytest.mark.ci
def test_a_file_with_images_in_fp16_is_shown(tmp_path: Path) -> None:
    """The app feeds what the file names: float16 too."""
    file = export_file(build(SMALL, seed=0), "fp16", tmp_path, FileOptions(io="fp16"))
    assert file.path is not None, file.reason
    model = read_model(file.path, "half", "student")
    assert (model.precision, model.input, model.output) == ("fp16", "input", "output")


def test_a_file_that_no_browser_runs_is_refused_in_one_line(tmp_path: Path, checkpoint: Path) -> None:
    (tmp_path / "noise.onnx").write_bytes(bytes(range(256)) * 9)
    (tmp_path / "student.param").write_text("7767517")
    for path, message in {
        enlarger(tmp_path / "outside.onnx", outside=True): "keeps weights in a file beside it",
        enlarger(tmp_path / "bytes.onnx", kind=TensorProto.UINT8): "uint8",
        tmp_path / "noise.onnx": "is not an ONNX file",
        tmp_path / "student.param": "is not an ONNX file, and browsers run only those",
        tmp_path / "nowhere.onnx": "[Nn]o such file",
    }.items():
        with pytest.raises(SrkdError, match=message) as raised:
            read_model(path, "x", "student")
        assert path.name in str(raised.value) or path.stem in str(raised.value)


def test_the_name_of_a_file_stays_out_of_addresses(tmp_path: Path) -> None:
    """Only letters, digits and - remain, so that no address needs escaping or leads to another folder."""
    model = read_model(enlarger(tmp_path / "x.onnx"), "../ä b?#%2e/", "student")
    assert model.address.startswith("models/b-2e-") and ".." not in model.address


def test_a_checkpoint_becomes_onnx_files_beside_its_teacher(checkpoint: Path, tmp_path: Path) -> None:
    int8 = enlarger(tmp_path / "small.int8.onnx", int8=True)
    teacher = enlarger(tmp_path / "teacher.onnx")
    notes: list[str] = []
    models = demo_models(DemoOptions([checkpoint, int8, int8], teacher=teacher), Context(note=notes.append))
    students = [model.precision for model in models if model.role == "student"]
    assert students[0] == "fp32" and set(students) <= {"fp32", "fp16"}
    assert [model.name for model in models][-3:] == ["small.int8", "small.int8-2", "teacher"]
    assert [model.role for model in models][-3:] == ["int8", "int8", "teacher"]
    first = models[0]
    assert first.name == "small" and first.metadata["srkd.recipe"] == "logits"
    assert json.loads(first.metadata["srkd.spec"])["width"] == 8
    descriptor = build(SMALL).descriptor
    assert first.descriptor.receptive_radius == descriptor.receptive_radius and first.descriptor.scale == 4
    assert len({model.address for model in models}) == len(models)


def test_without_arguments_the_students_of_srkd_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(srkd.api.demonstration, "shipped_names", lambda: ("general-x2",))
    notes: list[str] = []
    models = demo_models(DemoOptions(), Context(note=notes.append))
    assert [model.name for model in models] == ["general-x2", "general-x2-textured"]
    assert notes[0] == "no MODEL: showing general-x2 of `srkd students`" and notes[-1].startswith(
        "no teacher beside it"
    )


def test_the_teacher_of_a_run_and_models_that_differ(checkpoint: Path, tmp_path: Path) -> None:
    teacher = enlarger(tmp_path / "own.onnx")
    sha256 = hashlib.sha256(teacher.read_bytes()).hexdigest()
    student = {"arch": "edsr", "scale": 4}
    run = save_run_file(tmp_path / "run", teacher=teacher_entry(teacher, sha256), student=student)
    (run / "student.safetensors").write_bytes(checkpoint.read_bytes())
    models = demo_models(DemoOptions([run]), QUIET)
    assert (models[0].name, models[-1].name, models[-1].role) == ("run", "own", "teacher")
    other = enlarger(tmp_path / "other.onnx", scale=2)
    with pytest.raises(UsageError, match=r"the models differ \(.*x4.*other x2"):
        demo_models(DemoOptions([teacher, other]), QUIET)
    with pytest.raises(UsageError, match="own x4 with 3 channels"):
        demo_models(DemoOptions([teacher], teacher=other), QUIET)
    notes: list[str] = []
    assert [model.name for model in demo_models(DemoOptions([other]), Context(note=notes.append))] == ["other"]
    assert "no teacher beside it" in notes[-1]


@pytest.mark.ci
def test_the_folder_of_a_plan_gives_its_files_by_their_names(tmp_path: Path) -> None:
    shapes = [
        CandidateShape("compact", 8, depth, 1, 1, f"compact:scale=2,width=8,depth={depth}", True) for depth in (1, 2)
    ]
    place, folder = Environment(lr_size=(24, 16)), tmp_path / "phone"
    emitted = emit(shapes, Targets(fps=20, ms=60), place, "abc", 3, folder)
    plan, models = plan_to_time(DemoOptions([folder]), QUIET)
    assert plan == {"id": emitted.id, "width": 24, "height": 16, "target_ms": 50.0}
    assert [model.name for model in models] == ["compact 8x1", "compact 8x2"]
    assert models[1].content == (folder / "compact-8x2.onnx").read_bytes()
    assert json.loads(site_contents(models, (), plan)[CATALOGUE])["plan"]["id"] == emitted.id
    assert plan_to_time(DemoOptions([folder / "compact-8x1.onnx"]), QUIET) is None
    for options in (
        DemoOptions([folder, folder / "compact-8x1.onnx"]),
        DemoOptions([folder], teacher=embedded_student()),
    ):
        with pytest.raises(UsageError, match="holds a plan, whose files are timed alone"):
            plan_to_time(options, QUIET)


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    model = read_model(enlarger(tmp_path_factory.mktemp("model") / "student.onnx"), "student", "student")
    return site_contents([model], load_samples())


def test_the_catalogue_matches_the_files(contents: dict[str, bytes]) -> None:
    catalogue = json.loads(contents[CATALOGUE])
    assert catalogue["schema"] == "srkd.demo-models/1"
    for entry in (*catalogue["models"], *catalogue["samples"]):
        assert len(contents[entry["url"]]) == entry["bytes"]
    (model,) = catalogue["models"]
    assert hashlib.sha256(contents[model["url"]]).hexdigest() == model["sha256"]
    for sample in catalogue["samples"]:
        with Image.open(io.BytesIO(contents[sample["url"]])) as picture:
            assert (picture.format, picture.mode, picture.size) == ("PNG", "RGB", (sample["width"], sample["height"]))
            assert len(picture.getcolors(1 << 20) or ()) > 1000
        assert sample["credit"]


@pytest.mark.ci
def test_samples_show_what_networks_are_compared_on() -> None:
    """The samples are text, hair, foliage and fur, large and free; the student visibly differs from bicubic."""
    network = load_checkpoint(embedded_student()).network.eval()
    samples = {sample.title: sample for sample in load_samples()}
    assert list(samples) == ["Text", "Hair", "Leaves", "Fur", "Coffee"]
    for title, sample in samples.items():
        assert min(sample.width, sample.height) >= 150 and max(sample.width, sample.height) >= 190
        assert any(licence in sample.credit for licence in ("CC0", "public domain", "Apache-2.0"))
        if title == "Coffee":
            assert sample.width * sample.height * 16 > 3e6
            continue
        with Image.open(io.BytesIO(sample.content)) as picture:
            pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255
        with torch.no_grad():
            sharpened = network(pixels).clamp(0, 1)
        assert float((sharpened - upscale_bicubic(pixels, 4).clamp(0, 1)).abs().mean()) > 1.5 / 255, title


def test_another_tools_file_is_nobodys_student(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = enlarger(tmp_path / "theirs.onnx")
    proto = onnx.load(path)
    proto.producer_name, proto.producer_version = "exporter", "4.2"
    path.write_bytes(proto.SerializeToString())
    model = read_model(path, "theirs", "student")
    assert model.producer == model.catalogue_entry()["producer"] == "exporter 4.2"
    app = write_app(tmp_path / "app")
    assert run(["demo", str(path), "--teacher", str(path), "--app", str(app), "--build", str(tmp_path / "site")]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("theirs")]
    assert [row[1:4] for row in rows] == [["-", "exporter", "4.2"], ["teacher", "exporter", "4.2"]]


def test_a_site_is_the_app_and_the_contents_as_files(contents: dict[str, bytes], tmp_path: Path) -> None:
    app, folder = write_app(tmp_path / "app"), tmp_path / "host" / "some" / "path"
    size = write_site(app, contents, folder)
    expected = {path.relative_to(app).as_posix(): path.read_bytes() for path in app.rglob("*") if path.is_file()}
    expected |= contents
    assert {address: (folder / address).read_bytes() for address in expected} == expected
    assert size == sum(map(len, expected.values()))
    headers = (folder / "_headers").read_text()
    assert "/*\n  Cross-Origin-Opener-Policy: same-origin\n" in headers
    assert f"/{HASHED_SCRIPT}\n  Cache-Control: public, max-age=31536000, immutable\n" in headers
    assert "sw.js" not in headers and (folder / ".nojekyll").exists()


def test_a_site_appears_whole_and_only_in_a_new_or_an_empty_folder(contents: dict[str, bytes], tmp_path: Path) -> None:
    app, folder = write_app(tmp_path / "app"), tmp_path / "site"
    with pytest.raises(SrkdError, match=f"{folder}: .*exists"):
        write_site(app, {"sw.js/impossible": b""}, folder)
    assert [path.name for path in tmp_path.iterdir()] == ["app"]
    folder.mkdir()
    require_new(folder)
    write_site(app, contents, folder)
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere", target_is_directory=True)
    for path in (folder, tmp_path / "file", tmp_path / "link"):
        with pytest.raises(SrkdError, match=f"--build {path}"):
            require_new(path)


def test_an_installation_without_the_app_says_how_to_build_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo.files, "APP", tmp_path / "nowhere")
    with pytest.raises(SrkdError, match=r"no built demo app: pip install --force-reinstall --no-deps srkd$"):
        find_app()
    monkeypatch.setattr(demo.files, "APP", write_app(tmp_path / "dist"))
    assert find_app() == tmp_path / "dist"
    with tarfile.open(tmp_path / "dist.tar.xz", "w:xz") as packed:
        packed.add(tmp_path / "dist", "dist")
    monkeypatch.setattr(demo.files, "PACKED", tmp_path / "dist.tar.xz")
    monkeypatch.setenv("SRKD_CACHE", str(tmp_path / "cache"))
    assert find_app() == find_app() and find_app().is_relative_to(tmp_path / "cache")
    with pytest.raises(SrkdError, match=r"app: there is no index\.html"):
        find_app(tmp_path)
