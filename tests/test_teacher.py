"""Teachers of any origin: the same outputs in every format, features only of our own networks, one line otherwise."""

from __future__ import annotations

import json
import os
import pickle
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import srkd
from compressor import teacher as teachers
from compressor.checkpoints.load import UnknownNetwork
from compressor.checkpoints.save import save_network
from compressor.errors import MissingExtra, SrkdError, UsageError
from compressor.foreign import spandrel_teacher
from compressor.networks.base import Network
from compressor.networks.compact import CompactSpec
from compressor.networks.edsr import EDSRSpec
from compressor.networks.registry import build
from compressor.runtimes.open import open_model
from compressor.teacher import Teacher, load_teacher
from compressor.training.step import Runner
from srkd.compression import compress, recipes_for_outputs
from tests.commands import ROOT, python
from tests.foreign_models import MultiplesOf, save_export, save_onnx, save_torchscript, twin
from tests.shared import benchmarks, needs_shared, shared_dir

needs_spandrel = pytest.mark.skipif(
    not spandrel_teacher.spandrel_is_here(), reason="spandrel is not installed: pip install --no-deps spandrel einops"
)
KINDS = {"TorchScript": "twin.pt", "ONNX": "twin.onnx", "torch.export": "twin.pt2"}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("foreign")
    return {
        "TorchScript": save_torchscript(twin(), folder / KINDS["TorchScript"]),
        "ONNX": save_onnx(twin(), folder / KINDS["ONNX"]),
        "torch.export": save_export(twin(), folder / KINDS["torch.export"]),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_outputs_of_its_network(kind: str, files: dict[str, Path]) -> None:
    teacher = load_teacher(files[kind])
    assert (teacher.kind, teacher.network, teacher.descriptor.scale, teacher.params) == (kind, None, 2, 336)
    assert teacher.descriptor.size_multiple == 1
    for shape in ((1, 3, 1, 1), (3, 3, 7, 13), (2, 3, 16, 5)):
        lr = torch.rand(shape)
        with torch.no_grad():
            wanted = twin()(lr)
        sr = teacher(lr)
        assert not sr.requires_grad
        torch.testing.assert_close(sr, wanted, atol=1e-6, rtol=0)
    before = teacher.fingerprint()
    assert teacher.fingerprint() == before and len(before) == 64
    assert teacher.placed(torch.device("cpu")).place == torch.device("cpu")


@pytest.mark.parametrize("kind", KINDS)
def test_a_foreign_teacher_has_no_features_and_names_the_recipes_that_need_none(
    kind: str, files: dict[str, Path]
) -> None:
    teacher = load_teacher(files[kind])
    teacher.recipes_for_outputs = ("scratch", "logits")
    for ask in (
        lambda: teacher.taps,
        lambda: teacher.spec,
        lambda: teacher.stem(torch.rand(1, 3, 4, 4)),
        lambda: Runner(teacher, trains=False)(torch.rand(1, 3, 4, 4), ["pre_up"]),
    ):
        with pytest.raises(SrkdError, match=f"an? {kind} teacher gives outputs only.* take it: scratch, logits"):
            ask()
    assert Runner(teacher, trains=False)(torch.rand(1, 3, 4, 4), []).sr.shape == (1, 3, 8, 8)


def test_a_trace_of_our_own_network_as_a_teacher(tmp_path: Path) -> None:
    network = build(EDSRSpec(3, 4, 1), seed=0)
    torch.jit.trace(network, torch.rand(1, 3, 9, 11)).save(str(tmp_path / "traced.pt"))
    teacher = load_teacher(tmp_path / "traced.pt")
    lr = torch.rand(2, 3, 6, 5)
    with torch.no_grad():
        torch.testing.assert_close(teacher(lr), network(lr), atol=1e-6, rtol=0)
    assert (teacher.kind, teacher.architecture, teacher.descriptor.scale) == ("TorchScript", "EDSR", 3)


def test_a_network_gives_outputs_taps_and_parts() -> None:
    network = build(EDSRSpec(2, 4, 2), seed=0)
    teacher = Teacher(network)
    lr = torch.rand(1, 3, 5, 6)
    shallow = teacher.stem(lr)
    assert torch.equal(teacher.finish(teacher.body(shallow), shallow, lr), teacher(lr))
    assert (teacher.kind, teacher.architecture, teacher.taps.keys()) == ("srkd", "edsr", network.taps.keys())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_the_range_of_the_file(kind: str, files: dict[str, Path]) -> None:
    teacher = load_teacher(files[kind], arch_options={"img_range": 255})
    lr = torch.rand(1, 3, 4, 4)
    with torch.no_grad():
        torch.testing.assert_close(teacher(lr), twin()(lr * 255) / 255, atol=1e-6, rtol=0)
    assert teacher.origin is not None and teacher.origin.assumed == ()
    assumed = load_teacher(files[kind]).origin
    assert assumed is not None and [(one.field, one.value) for one in assumed.assumed] == [("img_range", 1.0)]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"scale": 4}, "is for scale 2, not 4"),
        ({"arch_options": {"res_scale": 0.1}}, "no option 'res_scale'; there is img_range"),
        ({"arch_options": {"img_range": 100}}, "img_range=100 is neither 1 nor 255"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, object], said: str, files: dict[str, Path]) -> None:
    for path in files.values():
        with pytest.raises(UsageError, match=said) as raised:
            load_teacher(path, **options)  # type: ignore[arg-type]
        assert str(path) in str(raised.value)


@pytest.mark.parametrize("multiple", [4, 16])
def test_sizes_that_a_model_refuses_are_padded_and_cropped(multiple: int, tmp_path: Path) -> None:
    path = save_torchscript(MultiplesOf(multiple), tmp_path / "windows.pt")
    teacher = load_teacher(path)
    lr = torch.rand(2, 3, 19, 33)
    right, below = -33 % multiple, -19 % multiple
    with torch.no_grad():
        wanted = twin()(nn.functional.pad(lr, (0, right, 0, below), mode="reflect"))[..., :38, :66]
    torch.testing.assert_close(teacher(lr), wanted, atol=1e-6, rtol=0)
    assert teacher(torch.rand(1, 3, 1, 1)).shape == (1, 3, 2, 2)


def test_files_of_a_fixed_batch_and_size(tmp_path: Path) -> None:
    one = load_teacher(save_onnx(twin(), tmp_path / "one.onnx", batch=1))
    lr = torch.rand(3, 3, 6, 5)
    with torch.no_grad():
        torch.testing.assert_close(one(lr), twin()(lr), atol=1e-6, rtol=0)
        four = load_teacher(save_onnx(twin(), tmp_path / "four.onnx", batch=4, size=(8, 8)))
        lr = torch.rand(6, 3, 8, 8)
        torch.testing.assert_close(four(lr), twin()(lr), atol=1e-6, rtol=0)
    fixed = load_teacher(save_export(twin(), tmp_path / "fixed.pt2", dynamic=False))
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
            load_teacher(path)


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (nn.Sequential(nn.Flatten()), "enlarges no image"),
        (nn.Conv2d(7, 3, 1), "enlarges no image"),
        (nn.Conv2d(3, 5, 1), "enlarges no image"),
    ],
)
def test_what_enlarges_no_image_is_no_teacher(module: nn.Module, said: str, tmp_path: Path) -> None:
    with pytest.raises(SrkdError, match=said) as raised:
        load_teacher(save_torchscript(module, tmp_path / "other.pt"))
    assert len(str(raised.value)) < 900


def benchmarks_like(folder: Path) -> Path:
    """A set of one small image."""
    from PIL import Image

    (folder / "set").mkdir()
    Image.linear_gradient("L").resize((40, 36)).convert("RGB").save(folder / "set" / "ramp.png")
    return folder / "set"


def test_the_public_functions_take_them(files: dict[str, Path], tmp_path: Path) -> None:
    own = tmp_path / "own.safetensors"
    save_network(build(EDSRSpec(2, 4, 1), seed=0), own)
    loaded = srkd.load(own)
    assert isinstance(loaded, Network) and all(parameter.requires_grad for parameter in loaded.parameters())
    assert isinstance(srkd.load(files["TorchScript"]), Teacher)
    for kind, path in files.items():
        found = srkd.inspect(path)
        assert (found.scale, found.spec, found.macs) == (2, None, None)
        assert found.dialect == ("onnx" if kind == "ONNX" else kind)
        with pytest.raises(SrkdError):
            srkd.export(path, out=tmp_path)
    foreign = srkd.load(files["ONNX"])
    for ask in (lambda: srkd.cost(foreign), lambda: srkd.build_student(foreign), lambda: srkd.save(foreign, own)):
        with pytest.raises(SrkdError, match="an ONNX teacher gives outputs only"):
            ask()
    photo = benchmarks_like(tmp_path)
    by_file, by_object = (srkd.evaluate(model, data=photo).models for model in (files["ONNX"], foreign))
    assert by_file["twin"]["set"].psnr_y == pytest.approx(by_object["unknown"]["set"].psnr_y, abs=1e-3)
    runtime = open_model(files["torch.export"])
    lr = torch.rand(1, 3, 5, 4)
    torch.testing.assert_close(runtime.run(lr), load_teacher(files["torch.export"])(lr))
    with pytest.raises(UsageError, match="fp32 here, not bf16"):
        open_model(files["TorchScript"], precision="bf16")
    with pytest.raises(UsageError, match="takes float images"):
        runtime.run(torch.rand(1, 1, 5, 4))


@pytest.fixture(scope="module", name="photos")
def _photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from PIL import Image

    folder = tmp_path_factory.mktemp("photos")
    for index in range(2):
        Image.linear_gradient("L").resize((48, 40)).rotate(90 * index).convert("RGB").save(folder / f"{index}.png")
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_compress_trains_towards_a_foreign_teacher(
    kind: str, files: dict[str, Path], photos: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    report = compress(
        files[kind],
        recipe="logits",
        data=photos,
        student="compact:width=4,depth=1,scale=2",
        steps=2,
        out=tmp_path / "run",
        settings=("schedule.batch=2", "schedule.lr_patch=8"),
        announce=said.append,
    )
    assert report.steps == 2 and report.teacher is not None and report.teacher.cost is None
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["teacher"]["options"] == {}
    assert facts["teacher"]["kind"] == kind and facts["teacher"]["path"] == str(files[kind])
    assert any("img_range=1.0 assumed" in line for line in said)
    assert any(line.startswith("teacher check on the photo") for line in said)


def test_what_a_foreign_teacher_cannot_do_is_said_before_anything_is_read(
    files: dict[str, Path], tmp_path: Path
) -> None:
    path, nowhere = files["TorchScript"], tmp_path / "no such data"
    offered = ", ".join(recipes_for_outputs())
    assert {"scratch", "logits", "logits-paper"} <= set(recipes_for_outputs())
    assert "inherit" not in recipes_for_outputs()
    with pytest.raises(
        UsageError, match=f"inherit needs weights or features.*gives outputs only; recipes that take it: {offered}"
    ):
        compress(path, recipe="inherit", data=nowhere, student="edsr:scale=2", out=tmp_path / "run")
    with pytest.raises(UsageError, match="give its shape, --student compact:width=32,depth=8,scale=2"):
        compress(path, recipe="logits", data=nowhere, out=tmp_path / "run")
    with pytest.raises(UsageError, match="the student is for x4, the teacher for x2"):
        compress(path, recipe="logits", data=nowhere, student="edsr:scale=4", out=tmp_path / "run")
    with pytest.raises(UsageError, match="the student has 1 channels, the teacher 3: add channels=3"):
        compress(path, recipe="logits", data=nowhere, student="compact:scale=2,channels=1", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    grey = tmp_path / "grey.safetensors"
    save_network(build(CompactSpec(2, 4, 1, channels=1), seed=0), grey)
    with pytest.raises(UsageError, match="the teacher takes one channel, and compress trains on RGB"):
        compress(grey, recipe="logits", data=nowhere, out=tmp_path / "run")


class Saver(nn.Module):
    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.save(x, self.path)
        return x


def test_torchscript_that_opens_files_is_refused_before_it_runs(tmp_path: Path) -> None:
    path = save_torchscript(Saver(str(tmp_path / "WRITTEN")), tmp_path / "saver.pt")
    with pytest.raises(SrkdError, match=r"uses 'save\(', which a network does not need: refused, nothing was run"):
        load_teacher(path)
    assert not (tmp_path / "WRITTEN").exists()
    torch.jit.load(str(path))(torch.rand(1, 3, 2, 2))
    assert (tmp_path / "WRITTEN").exists(), "otherwise that nothing was written would prove nothing"


class Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (str(self.path),)


def rewritten(path: Path, out: Path, change: Callable[[str, bytes], bytes], extra: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
        for name, content in extra.items():
            new.writestr(f"{old.namelist()[0].partition('/')[0]}/{name}", content)
    return out


def test_programs_that_hold_code_are_refused_before_torch_reads_them(files: dict[str, Path], tmp_path: Path) -> None:
    sentinel = tmp_path / "RAN"
    bomb = pickle.dumps(Touch(sentinel), 2)
    good = files["torch.export"]

    def program(old: bytes, new: bytes) -> Callable[[str, bytes], bytes]:
        return lambda name, content: content.replace(old, new) if "/models/" in name else content

    def samples(name: str, content: bytes) -> bytes:
        return bomb if "sample_inputs" in name else content

    def weight(name: str, content: bytes) -> bytes:
        return bomb if name.endswith("weight_0") else content

    hidden = f'__import__(\\"os\\").mkdir(\\"{sentinel}\\")'.encode()
    cases = [
        (samples, {}, "would run 'posix.mkdir'"),
        (weight, {}, "would run 'posix.mkdir'"),
        (program(b"torch.ops.aten.conv2d.default", b"torch.hub.load"), {}, "calls 'torch.hub.load'"),
        (program(b"Mul(Integer(2)", hidden + b"*(Integer(2)"), {}, "is no arithmetic"),
        (lambda name, content: content, {"data/aotinductor/model/x.so": b"\x7fELF"}, "aotinductor"),
    ]
    for number, (change, extra, said) in enumerate(cases):
        path = rewritten(good, tmp_path / f"bad{number}.pt2", change, extra)
        with pytest.raises(SrkdError, match=said) as raised:
            load_teacher(path)
        assert str(path) in str(raised.value) and not sentinel.exists()
    same = rewritten(good, tmp_path / "same.pt2", lambda name, content: content, {})
    assert load_teacher(same).kind == "torch.export"


@pytest.mark.parametrize("kind", ["TorchScript", "torch.export"])
def test_damaged_and_inflated_archives(kind: str, files: dict[str, Path], tmp_path: Path) -> None:
    content = files[kind].read_bytes()
    for cut in (len(content) // 2, len(content) - 30):
        path = tmp_path / files[kind].name
        path.write_bytes(content[:cut])
        with pytest.raises(SrkdError, match="damaged"):
            load_teacher(path)
    with zipfile.ZipFile(files[kind]) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
        new.writestr(f"{old.namelist()[0].partition('/')[0]}/data/weights/weight_9", bytes(200 * 2**20))
    with pytest.raises(SrkdError, match=r"unpack to 2.*: this is no model"):
        load_teacher(path)


def test_a_whole_pickled_module_is_refused_with_the_way_out(tmp_path: Path) -> None:
    torch.save(twin(), tmp_path / "whole.pth")
    with pytest.raises(SrkdError, match=r"refused, nothing was run.*state_dict\(\).*export the model to ONNX or Torch"):
        load_teacher(tmp_path / "whole.pth")


def test_without_spandrel_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"unheard.weight": torch.rand(4, 3, 3, 3)}, tmp_path / "unknown.pth")
    monkeypatch.setattr(spandrel_teacher, "spandrel_is_here", lambda: False)
    with pytest.raises(MissingExtra, match=r"unknown network.*pip install 'srkd\[spandrel\]'"):
        load_teacher(tmp_path / "unknown.pth")
    with pytest.raises(MissingExtra):
        spandrel_teacher.import_spandrel()
    assert teachers.load_teacher is load_teacher


@needs_spandrel
def test_what_spandrel_does_not_know_either_is_told_once(tmp_path: Path) -> None:
    torch.save({"unheard.weight": torch.rand(4, 3, 3, 3)}, tmp_path / "unknown.pth")
    with pytest.raises(UnknownNetwork, match=r"unknown network.*; spandrel does not know it either"):
        load_teacher(tmp_path / "unknown.pth")


@needs_spandrel
def test_spandrel_is_imported_without_torchvision_and_leaves_no_stand_in() -> None:
    program = (
        "import sys, importlib.util as u; from compressor.foreign.spandrel_teacher import import_spandrel as get;"
        "had = u.find_spec('torchvision') is not None; spandrel = get();"
        "assert len(list(spandrel.MAIN_REGISTRY.architectures())) >= 40;"
        "assert had or not [name for name in sys.modules if name.startswith('torchvision')];"
        "assert had or u.find_spec('torchvision') is None; print('fine')"
    )
    outcome = python("-W", "ignore", "-c", program)
    assert outcome.out == "fine\n", outcome.err


def test_the_stand_ins_say_what_is_missing() -> None:
    if "torchvision" in sys.modules:
        pytest.skip("torchvision is here")
    with spandrel_teacher.torchvision_stand_in():
        from torchvision.transforms.functional import normalize

        with pytest.raises(SrkdError, match="needs torchvision"):
            normalize(torch.rand(1))
    assert "torchvision" not in sys.modules


@needs_shared
@needs_spandrel
@pytest.mark.parametrize(
    ("name", "kind", "psnr_y"),
    [
        ("DCTLSA_x4.pt", "spandrel", 32.52),
        ("CRAFT_ntire2024_team34_x4.pth", "spandrel", 32.39),
        ("realesr-animevideov3_rezipped.pth", "srkd", 28.23),
    ],
)
def test_published_checkpoints_score_what_they_should(name: str, kind: str, psnr_y: float) -> None:
    shared = shared_dir()
    assert shared is not None
    path = shared / "data" / "checkpoints" / name
    assert load_teacher(path).kind == kind
    scores = srkd.evaluate(path, data=benchmarks() / "Set5").models[path.stem]["Set5"]
    assert scores.psnr_y == pytest.approx(psnr_y, abs=0.01)


def hostile_programs(count: int, seed: int, folder: Path) -> None:
    """In a process of its own: these formats are read by native code, and a crash must be seen."""
    outcome = python("-W", "ignore", "-m", "tests.hostile_programs", count, seed, folder, cwd=ROOT, timeout=900)
    assert outcome.code == 0, f"died at {(folder / 'last').read_text()}: {outcome.err[-500:]}"
    report = outcome.json
    assert report["wrong"] == []
    assert report["loaded"] + report["refused"] == count
    assert report["loaded"] >= count // 10 and report["refused"] >= count // 3


def test_damaged_programs(tmp_path: Path) -> None:
    hostile_programs(80, 0, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_thousands_of_damaged_programs(seed: int, tmp_path: Path) -> None:
    hostile_programs(1500, seed, tmp_path)


def test_a_record_shorter_than_its_tensor_is_refused(files: dict[str, Path], tmp_path: Path) -> None:
    """torch itself reads beyond the record's end, and crashes or shows what lies in memory."""
    short = rewritten(
        files["TorchScript"], tmp_path / "short.pt", lambda name, old: old[:8] if name.endswith("data/1") else old, {}
    )
    with pytest.raises(SrkdError, match=r"record data/1 is shorter than the \d+ bytes of its tensor"):
        load_teacher(short)
    for kept in (0, 8):
        short = rewritten(
            files["torch.export"],
            tmp_path / "short.pt2",
            lambda name, old, kept=kept: old[:kept] if name.endswith("weight_0") else old,  # type: ignore[misc]
            {},
        )
        with pytest.raises(SrkdError, match=r"the values of 0\.weight are not all there"):
            load_teacher(short)
