"""The Python functions: models as networks, files or run folders, single values for sequences, and images."""

from __future__ import annotations

import io
import os
import pydoc
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import srkd
from compressor.base.errors import SrkdError, UsageError
from compressor.models.networks.registry import build
from srkd.options.values import SIZE
from srkd.options.verbs import ExportOptions, ProfileOptions
from srkd.terminal import console
from srkd.terminal.console import context_for_python
from tests.support.foreign_models import save_onnx, twin
from tests.support.run_files import read_json
from tests.support.small_runs import SMALL, TEACHER, save_photos, save_teacher

KINDS = ("network", "text", "run")
QUICK = {"seconds": 0.1, "lr_size": "8x8", "memory": False, "quality": False}


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with teacher.safetensors, photos/ and runs/small, a run whose teacher was an open network."""
    folder = tmp_path_factory.mktemp("ground")
    network = srkd.load(save_teacher(folder / "teacher.safetensors"))
    photos = save_photos(folder / "photos")
    srkd.compress(network, data=photos, width=0.5, steps=2, settings=SMALL, out=folder / "runs" / "small")
    return folder


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest, ground: Path) -> Any:
    """Return the teacher, or its student, in every form of a model."""
    file = ground / "teacher.safetensors"
    return {
        "network": lambda: srkd.load(file),
        "text": lambda: str(file),
        "run": lambda: ground / "runs" / "small",
    }[request.param]()


@pytest.mark.ci
def test_every_function_takes_every_kind_of_model(model: Any, ground: Path, tmp_path: Path) -> None:
    params = srkd.cost(model, "10x12").params
    assert srkd.cost(model, (10, 12)).lr_size == (10, 12)
    assert srkd.inspect(model, lr_size="10x12").params == params
    assert sum(parameter.numel() for parameter in srkd.load(model).parameters()) == params
    srkd.save(model, tmp_path / "saved.safetensors")
    assert srkd.cost(tmp_path / "saved.safetensors") == srkd.cost(model)
    assert srkd.cost(srkd.build_student(model, width=0.5)).params < params
    assert srkd.convert(model, to="basicsr", out=tmp_path / "other.pth").path.is_file()
    report = srkd.export(model, formats="onnx", out=tmp_path / "exported")
    assert report.ok and [file.format for file in report.files] == ["onnx"]
    scores = srkd.evaluate(model, data=ground / "photos").models
    assert len(scores) == 2 and [*scores.values()][1]["photos"].psnr_y > 0
    assert srkd.upscale(model, Image.new("RGB", (6, 5))).size == (12, 10)
    rows = srkd.profile(model, teacher=model, runtime="torch", **QUICK).rows
    assert [row.params for row in rows] == [params, params]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ({"scale": 3}, "scale: for a file; the network is open already"),
        ({"arch_options": {"res_scale": 0.5}}, "res_scale: for a file"),
        ({"runtime": "onnxruntime"}, "runtime onnxruntime: an open network runs in torch"),
        ({"metrics": []}, "--metrics: name at least one of psnr"),
        ({"goal": "original", "data": None, "lr_only": "photos"}, "--goal original: the images of --lr-only have no"),
    ],
)
def test_evaluate_refuses_what_an_open_network_does_not_use(words: dict[str, Any], line: str, ground: Path) -> None:
    network, words = srkd.load(ground / "teacher.safetensors"), dict(words)
    if "lr_only" in words:
        words["lr_only"] = ground / words["lr_only"]
    with pytest.raises(UsageError, match=line):
        srkd.evaluate(network, **{"data": ground / "photos", **words})


def test_an_open_network_is_loaded_as_it_is_and_described_without_a_path(ground: Path) -> None:
    network = srkd.load(ground / "teacher.safetensors")
    assert srkd.load(network) is network
    described = srkd.inspect(network, layers=True, check=True)
    assert described.path is None and described.layers and described.check is not None
    assert all(parameter.requires_grad for parameter in network.parameters())
    with pytest.raises(UsageError, match="res_scale: for a file; the network is open already"):
        srkd.load(network, res_scale=0.1)


def test_an_open_network_has_no_folder_to_write_to() -> None:
    for call in (srkd.export, lambda network: srkd.convert(network, to="basicsr")):
        with pytest.raises(UsageError, match="give out"):
            call(build(TEACHER, seed=0))


@pytest.mark.parametrize("wrong", [3, torch.nn.Conv2d(3, 3, 1)])
def test_what_is_no_model_is_refused_in_one_line(wrong: Any, tmp_path: Path) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: srkd.load(wrong),
        lambda: srkd.cost(wrong),
        lambda: srkd.inspect(wrong),
        lambda: srkd.export(wrong),
        lambda: srkd.profile([wrong]),
        lambda: srkd.evaluate([wrong]),
        lambda: srkd.upscale(wrong, "a.png"),
        lambda: srkd.convert(wrong, to="basicsr"),
        lambda: srkd.compress(wrong, out=tmp_path / "run"),
    ]
    for call in calls:
        with pytest.raises(UsageError, match=r"is not a model: give a path, .* or what srkd\.load returned"):
            call()


def test_foreign_models_stand_for_the_file_they_came_from(tmp_path: Path) -> None:
    file = save_onnx(twin(), tmp_path / "foreign.onnx")
    teacher = srkd.load(file, img_range=255)
    assert isinstance(teacher, srkd.Teacher) and srkd.inspect(teacher).path == file
    report = srkd.profile(build(TEACHER, seed=0), teacher=srkd.load(file), **QUICK)
    assert {row.model for row in report.rows} == {"foreign", "edsr"}
    with pytest.raises(UsageError, match=r"foreign\.onnx was read with options of its own"):
        srkd.profile(teacher)
    with pytest.raises(SrkdError, match="gives outputs only"):
        srkd.cost(teacher)


# A run whose teacher is an open network.


def test_the_teacher_of_a_run_is_kept_beside_it(ground: Path) -> None:
    run = ground / "runs" / "small"
    file = ground / "runs" / "small-teacher.safetensors"
    expected = srkd.load(ground / "teacher.safetensors")
    assert srkd.load(file).fingerprint() == expected.fingerprint()
    assert read_json(run)["options"]["teacher"] == str(file)
    assert srkd.profile(run, runtime="torch", **QUICK).teacher == "small-teacher"


def test_a_run_that_does_not_begin_leaves_no_teacher_behind(ground: Path, tmp_path: Path) -> None:
    network = srkd.load(ground / "teacher.safetensors")
    with pytest.raises(SrkdError, match="no-such-photos"):
        srkd.compress(network, data=tmp_path / "no-such-photos", out=tmp_path / "runs" / "a")
    assert [path for path in tmp_path.rglob("*") if path.is_file() and "cache" not in str(path)] == []
    with pytest.raises(SrkdError, match="runs/small"):
        srkd.compress(network, data=ground / "photos", out=ground / "runs" / "small")
    assert (ground / "runs" / "small-teacher.safetensors").is_file()
    (tmp_path / "b-teacher.safetensors").write_bytes((ground / "runs" / "small" / "student.safetensors").read_bytes())
    with pytest.raises(SrkdError, match=r"b-teacher\.safetensors holds another network"):
        srkd.compress(network, data=ground / "photos", out=tmp_path / "b")
    assert (tmp_path / "b-teacher.safetensors").is_file()


# Single values in place of sequences.


def test_a_size_is_a_text_or_a_pair() -> None:
    given: tuple[Any, ...] = ("64x48", (64, 48), [64, 48], (np.int64(64), 48))
    for size in given:
        assert SIZE.read(size) == (64, 48)
        for sizes in (size, [size]):
            assert ProfileOptions("x.pt", lr_size=sizes).lr_size == ((64, 48),)
        assert ExportOptions("x.pt", static=size, sizes=[size, "9x9"]).sizes == ((64, 48), (9, 9))
    wrong: tuple[Any, ...] = (64, (64,), (0, 4), (1.5, 4), "64", ("64", "48"), ((1, 2), 3))
    for size in wrong:
        with pytest.raises(UsageError, match="is not a size"):
            ProfileOptions("x.pt", lr_size=size)


@pytest.mark.ci
def test_a_forked_child_computes_after_its_parent(ground: Path) -> None:
    """OpenMP's threads do not exist in the child: before, it waited for them for ever."""
    program = f"""
import os, signal, torch, srkd
torch.set_num_threads(2)
network, image = srkd.load({str(ground / "teacher.safetensors")!r}), torch.rand(3, 64, 64)
expected = srkd.upscale(network, image)
pid = os.fork()
if pid == 0:
    signal.alarm(200)
    os._exit(0 if torch.allclose(srkd.upscale(network, image), expected, atol=1e-5) else 3)
print("ended with", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "ended with 0\n", done.stderr


# Images in memory.


def test_images_in_give_images_back_and_files_give_the_report(ground: Path, tmp_path: Path) -> None:
    network, photo = srkd.load(ground / "teacher.safetensors"), ground / "photos" / "0.png"
    report = srkd.upscale(network, photo, out=tmp_path / "large.png")
    assert [picture.output for picture in report.done] == [tmp_path / "large.png"]
    image = Image.open(photo)
    expected = np.asarray(Image.open(tmp_path / "large.png"))
    assert np.array_equal(np.asarray(srkd.upscale(network, image)), expected)
    assert np.array_equal(srkd.upscale(network, np.asarray(image)), expected)
    tensor = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)
    both = srkd.upscale(network, [tensor, np.asarray(image)])
    assert isinstance(both, list) and torch.equal(both[0].permute(1, 2, 0), torch.from_numpy(both[1]))
    assert [path.name for path in tmp_path.glob("*.png")] == ["large.png"]


def test_images_and_files_are_not_mixed_and_images_are_not_written(ground: Path) -> None:
    image = Image.new("RGB", (4, 4))
    with pytest.raises(UsageError, match="files and images in memory at once"):
        srkd.upscale(ground / "teacher.safetensors", [image, "a.png"])
    with pytest.raises(UsageError, match="out, overwrite: for files; an image comes back"):
        srkd.upscale(ground / "teacher.safetensors", image, out="large.png", overwrite=True)
    with pytest.raises(UsageError, match="nothing to enlarge: give at least one"):
        srkd.upscale(ground / "teacher.safetensors", [])
    with pytest.raises(UsageError, match="3 is not a picture: give a path, a PIL image, a NumPy array or a tensor"):
        srkd.upscale(ground / "teacher.safetensors", [3])  # type: ignore[list-item]


# Progress and help.


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """A function that sends a note and progress to a stream, and returns what the stream got."""
    monkeypatch.setattr(console, "PROGRESS_AFTER_SECONDS", 0.0)
    monkeypatch.setattr(console, "STATUS_SECONDS_FIRST", 0.0)

    def shown(stream: io.StringIO, progress: Any = None) -> str:
        monkeypatch.setattr(sys, "stderr", stream)
        with context_for_python(progress, None) as context:
            context.note("a note")
            for done in range(4):
                context.progress("work", done, 3)
        return stream.getvalue()

    return shown


def test_a_terminal_shows_progress_and_notes_and_a_file_does_not(
    shown: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    watched = shown(Terminal())
    assert "a note\n" in watched and "work" in watched
    for progress in (False, lambda *now: None):
        assert shown(Terminal(), progress) == ""
    assert shown(io.StringIO()) == "" and capsys.readouterr().out == ""


def test_a_notebook_shows_lines(shown: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=object())))
    in_notebook = shown(io.StringIO())
    assert "a note\n" in in_notebook and "work 1/3: " in in_notebook
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: None))
    assert shown(io.StringIO()) == ""


def test_a_callback_replaces_what_is_shown(monkeypatch: pytest.MonkeyPatch, ground: Path) -> None:
    monkeypatch.setattr(sys, "stderr", watched := Terminal())
    lines: list[str] = []
    srkd.evaluate((), scale=2, data=ground / "photos", announce=lines.append, progress=False)
    srkd.evaluate((), scale=2, announce=lines.append)
    assert lines == ["no --data: scoring on the embedded validation photos"] and "no --data" not in watched.getvalue()


def functions() -> dict[str, Callable[..., Any]]:
    values = {name: getattr(srkd, name) for name in srkd.__all__}
    return {name: value for name, value in values.items() if callable(value) and not isinstance(value, type)}


def test_help_leads_to_every_function() -> None:
    text = pydoc.plain(pydoc.render_doc(srkd))
    introduction = str(srkd.__doc__)
    for name, function in functions().items():
        assert f"\n    {name} " in introduction and f"srkd.{name}(" in introduction
        assert f"    {name}(" in text
        assert function.__doc__ and name in pydoc.plain(pydoc.render_doc(function))


@pytest.mark.ci
def test_every_example_of_the_help_runs(ground: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They run in one folder, in the order of the introduction, with few steps and small pictures."""
    srkd.convert(save_teacher(tmp_path / "srkd.safetensors"), to="edsr-pytorch", out=tmp_path / "edsr.pt")
    save_photos(tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    texts = {"introduction": str(srkd.__doc__)} | {name: str(one.__doc__) for name, one in functions().items()}
    shorter = {
        "steps=2000": f"steps=2, settings={SMALL}",
        "seconds=0.5": "seconds=0.1, memory=False, quality=False",
        'lr_size="64x48", seconds=0.1': 'lr_size="16x12", seconds=0.02, runtime="torch", quality=False',
    }
    names: dict[str, Any] = {"srkd": srkd, "Image": Image}
    for where, text in texts.items():
        sources = re.findall(r"^ *>>> (.*)$", text, flags=re.MULTILINE)
        assert sources or where == "resume", where
        for source in sources:
            for full, short in shorter.items():
                source = source.replace(full, short)
            if where == "compress":
                source = source.replace("runs/small", "runs/other")
            exec(source, names)
