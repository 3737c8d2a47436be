"""`--for HOST` and `srkd hosts`: the table, names, checkpoints for spandrel's programs, and what is refused."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest
import torch

import srkd
from compressor.base.errors import UsageError
from compressor.models.checkpoints.load import load_checkpoint
from compressor.models.checkpoints.save import save_network
from compressor.models.networks.carn import CARNSpec
from compressor.models.networks.compact import CompactSpec
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.plain import PlainSpec
from compressor.models.networks.registry import build
from compressor.models.networks.swinir import SwinIRSpec
from compressor.teachers.spandrel_teacher import import_spandrel, is_spandrel_installed
from export.hosts.table import HOSTS
from export.writing.card import README_MARK
from export.writing.exporting import Source
from srkd.api.export import decide
from srkd.cli.main import run
from srkd.options.verbs import ExportOptions
from tests.support.hosts import STUDENTS, enlarged, export_for_hosts, photo, refusal


def test_the_list_is_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["hosts", "--json"]) == 0
    assert [host["name"] for host in json.loads(capsys.readouterr().out)["hosts"]] == list(HOSTS)
    assert run(["hosts"]) == 0
    out = capsys.readouterr().out
    assert all(host.name == name and name in out and host.writes and host.proved for name, host in HOSTS.items())


@pytest.mark.parametrize(
    ("stem", "run", "expected"),
    [
        ("student", "anime-light", "anime-light"),
        ("student", "x2", "student"),  # a folder that is called by a scale alone
        ("mine", None, "mine"),
        ("4x_mine", None, "mine"),
        ("mine-x3-v2", None, "mine-v2"),
        ("minex2", None, "mine2"),
        ("compact-24x8x2", None, "compact-24by8by2"),
        ("my best: one", None, "my-best-one"),
    ],
)
def test_names_have_no_scale_but_the_networks(stem: str, run: str | None, expected: str) -> None:
    """Upscayl runs a name with x2 or 2x at x2, whatever the network's scale is."""
    name = Source(stem, folder_name=run).model
    assert name == expected
    assert not any(mark in name.lower() for mark in ("x1", "x2", "2x", "x3", "3x", "x8"))


def test_a_student_has_one_name_everywhere_and_it_is_its_runs(tmp_path: Path) -> None:
    """A file that only lies in some folder is not called by that folder."""
    scores = {"srkd.scores": '{"validation_psnr_y": 20.0, "bicubic_psnr_y": 29.0}'}
    network = build(PlainSpec(2, width=4, depth=1), seed=0)
    for folder, is_run, name in (("Downloads", False, "student"), ("r1", True, "r1")):
        path = tmp_path / folder / "student.safetensors"
        path.parent.mkdir()
        save_network(network, path, metadata=scores)
        report = srkd.export(path.parent if is_run else path, hosts="ffmpeg,huggingface", out=tmp_path / "out" / name)
        assert report.warning is not None and report.warning.startswith(f"{name} is BELOW BICUBIC")
        assert (tmp_path / "out" / name / "ffmpeg" / f"2x-{name}.onnx").is_file()
        assert f"# {name}\n" in (tmp_path / "out" / name / "huggingface" / "README.md").read_text(encoding="utf-8")


def test_int8_of_a_host_is_calibrated_as_asked(tmp_path: Path) -> None:
    path, empty = tmp_path / "net.safetensors", tmp_path / "empty"
    srkd.save(build(CompactSpec(2, width=8, depth=1), seed=0), path)
    empty.mkdir()
    out = tmp_path / "new" / "out"
    (host,) = srkd.export(path, hosts="qnn", static="48x32", calibrate=empty, max_drop=0.2, out=out).hosts
    assert host.folder is None and f"--calibrate {empty}" in str(host.reason)
    assert not out.parent.exists(), "a folder that was made for nothing is removed"
    with pytest.raises(UsageError, match="--max-drop"):
        srkd.export(path, hosts="ffmpeg", max_drop=0.2)
    assert decide(ExportOptions.of(model=path, hosts="tensorrt", max_drop=0.2), print).options.int8.max_drop == 0.2


SPANDREL_PROGRAMS = ["spandrel", "chainner", "comfyui", "a1111", "invokeai"]


@pytest.mark.extras
@pytest.mark.skipif(not is_spandrel_installed(), reason="spandrel is not installed")
@pytest.mark.parametrize("student", ["compact-24x8", "span"])
def test_spandrel_gives_the_networks_image(student: str, tmp_path: Path) -> None:
    """It is what these programs load models with."""
    network = STUDENTS[student]().eval()
    folders = export_for_hosts(network, Source("small"), SPANDREL_PROGRAMS, tmp_path)
    scale, contents = network.descriptor.scale, set()
    for folder in folders:
        (file,) = folder.files
        assert file.verdict == "passed" and file.path is not None and file.path.name == f"{scale}x-small.pth"
        contents.add(hashlib.sha256(file.path.read_bytes()).hexdigest())
    assert len(contents) == 1, "one file for all of them"
    model = import_spandrel().ModelLoader(device="cpu").load_from_file(folders[0].files[0].path)
    lr = photo()
    with torch.no_grad():
        image = model(lr)[0].permute(1, 2, 0).numpy()
    assert model.scale == scale and abs(image - enlarged(network, lr)).max() < 1e-5


@pytest.mark.extras
@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(not is_spandrel_installed(), reason="spandrel is not installed")
def test_a_network_is_compared_on_images_that_spandrel_does_not_pad(tmp_path: Path) -> None:
    """It pads images for SwinIR to 16 pixels, and windows see what it added; its network alone gives our image."""
    network = build(SwinIRSpec(scale=2, width=12, depths=(2,), heads=(2,), features=64), seed=1).eval()
    (folder,) = export_for_hosts(network, Source("it"), ["chainner"], tmp_path)
    (file,) = folder.files
    assert file.verdict == "passed" and file.path is not None
    model = import_spandrel().ModelLoader(device="cpu").load_from_file(file.path)
    small = photo(8, 7)
    torch.testing.assert_close(model.model.eval()(small), network(small), atol=1e-5, rtol=0)
    assert abs(model(small) - network(small)).max() > 1e-3


@pytest.mark.parametrize(
    "spec", [EDSRSpec(width=8, depth=1, scale=2), CARNSpec(scale=2, width=8), PlainSpec(2, width=4, depth=1)]
)
def test_spandrels_programs_have_no_edsr_no_carn_and_no_plain(spec: EDSRSpec, tmp_path: Path) -> None:
    for folder in export_for_hosts(build(spec, seed=0), Source("it"), SPANDREL_PROGRAMS, tmp_path):
        assert f"has no {spec.arch}: --student compact-s runs there" in refusal(folder)
    assert not list(tmp_path.rglob("*.pth"))


@pytest.mark.parametrize(
    ("host", "name"), [("comfyui", "2x-net.pth"), ("openmodeldb", "2x-net.pth"), ("huggingface", "model.safetensors")]
)
def test_the_model_itself_is_never_written_over(host: str, name: str, tmp_path: Path) -> None:
    model = tmp_path / host / name
    model.parent.mkdir()
    srkd.save(build(CompactSpec(2, width=8, depth=1), seed=0), tmp_path / "net.safetensors")
    content = (tmp_path / "net.safetensors").read_bytes()
    model.write_bytes(content)
    network = build(CompactSpec(2, width=8, depth=1), seed=0)
    (folder,) = export_for_hosts(network, Source("net", path=model), [host], tmp_path)
    assert folder.reason == f"{name} would be written over the model itself: name another folder (--out)"
    assert model.read_bytes() == content
    with pytest.raises(UsageError, match=rf"--out .*net\.safetensors/{host} cannot be written: .*choose another"):
        export_for_hosts(network, Source("net"), [host], tmp_path / "net.safetensors")


@pytest.mark.parametrize("act", ["relu", "leakyrelu"])
def test_spandrels_programs_get_a_compact_with_prelu(act: str, tmp_path: Path) -> None:
    network = build(CompactSpec(2, width=8, depth=2, act=act), seed=1).eval()
    (folder,) = export_for_hosts(network, Source("it"), ["comfyui"], tmp_path)
    loaded = load_checkpoint(folder.files[0].path).network
    assert loaded.spec == CompactSpec(2, width=8, depth=2)
    torch.testing.assert_close(loaded(photo()), network(photo()))


@pytest.mark.extras
@pytest.mark.skipif(not is_spandrel_installed(), reason="spandrel is not installed")
def test_what_spandrel_takes_for_another_network_is_not_kept(tmp_path: Path) -> None:
    network = build(CompactSpec(2, width=8, depth=2, residual=False), seed=1)  # no file says so: it adds the input
    (folder,) = export_for_hosts(network, Source("it"), ["chainner"], tmp_path)
    assert "--student compact-s" in refusal(folder)
    assert not list((tmp_path / "chainner").glob("*.pth"))


def test_a_command_writes_for_several_and_fails_for_one_that_cannot(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    srkd.save(build(EDSRSpec(width=8, depth=1, scale=2), seed=0), tmp_path / "net.safetensors")
    words = ["export", str(tmp_path / "net.safetensors"), "--for", "vapoursynth,chainner", "-o", str(tmp_path / "out")]
    assert run([*words, "--json"]) == 1
    out, err = capsys.readouterr()
    written, refused = json.loads(out)["hosts"]
    assert written["verdict"] == "written" and written["folder"] == str(tmp_path / "out" / "vapoursynth")
    assert refused["verdict"] == "unavailable" and err.strip().splitlines()[-1].count("chainner: ") == 1
    readme = (tmp_path / "out" / "vapoursynth" / "README.md").read_text(encoding="utf-8")
    assert [line[:6] for line in readme.splitlines() if line.startswith("- ")] == ["- Put ", "- Call", "- Expe"]


@pytest.mark.parametrize("name", ["README.md", "2x_net.vpy"])
def test_a_text_that_a_person_made_their_own_is_left_alone(tmp_path: Path, name: str) -> None:
    network, own = build(EDSRSpec(width=8, depth=1, scale=2), seed=0), tmp_path / "vapoursynth" / name
    for ours, text in ((False, "mine\n"), (True, f"{README_MARK}\n")):
        own.parent.mkdir(exist_ok=True)
        own.write_text(text)
        (folder,) = export_for_hosts(network, Source("net"), ["vapoursynth"], tmp_path)
        assert (own.read_text() == text, own in folder.also) == (not ours, ours)
        assert all(README_MARK in path.read_text() for path in folder.also)


def test_wrong_words_are_refused(tmp_path: Path) -> None:
    srkd.save(build(EDSRSpec(width=8, depth=1, scale=2), seed=0), tmp_path / "net.safetensors")
    with pytest.raises(UsageError, match="--for: 'upscale' is not one of them; did you mean 'upscayl'"):
        srkd.export(tmp_path / "net.safetensors", hosts="upscale")
    with pytest.raises(UsageError, match="--static is for hosts whose files take one size, and upscayl takes any"):
        srkd.export(tmp_path / "net.safetensors", hosts=["litert-gpu", "upscayl"], static="64x64")
    with pytest.raises(UsageError, match="leave out --io"):
        srkd.export(tmp_path / "net.safetensors", hosts="upscayl", io="uint8")


@pytest.mark.ci
@pytest.mark.parametrize("spec", [CompactSpec(4, width=8, depth=2), EDSRSpec(width=8, depth=1, scale=2)])
def test_an_entry_of_openmodeldb_has_the_types_of_its_schema(spec: CompactSpec, tmp_path: Path) -> None:
    """src/lib/schema.ts and model-props.ts: the id's pattern, the keys that are needed, resources, a SPDX name."""
    licence = "CC-BY-NC-4.0" if spec.scale == 4 else "BSD-3-Clause"
    source = Source("it's_one", header={"srkd.recipe": "fit", "srkd.license": licence.lower()})
    (folder,) = export_for_hosts(build(spec, seed=0), source, ["openmodeldb"], tmp_path)
    (entry,) = (path for path in folder.also if path.suffix == ".json")
    assert re.fullmatch(r"\d+x-[a-zA-Z0-9]+(?:-[a-zA-Z0-9]+)*", entry.stem) and entry.stem == f"{spec.scale}x-it-s-one"
    content = json.loads(entry.read_text(encoding="utf-8"))
    required = {"name", "author", "tags", "description", "date", "architecture", "scale"}
    assert {*required, "inputChannels", "outputChannels", "resources", "images"} <= set(content)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", content["date"]) and content["license"] == licence
    assert all(isinstance(size, str) and size for size in content["size"])
    for resource in content["resources"]:
        file = entry.with_suffix(f".{resource['type']}")
        assert {"onnx": "onnx", "pth": "pytorch"}[resource["type"]] == resource["platform"]
        assert resource["size"] == file.stat().st_size
        assert resource["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert [resource["type"] for resource in content["resources"]] == ["pth", "onnx"][spec.arch == "edsr" :]
    entry.write_text(json.dumps(content | {"author": ["me"]}))
    export_for_hosts(build(spec, seed=0), source, ["openmodeldb"], tmp_path)
    assert json.loads(entry.read_text()) == content | {"author": ["me"]}


TAKE_WINDOWS = (*SPANDREL_PROGRAMS, "openmodeldb", "huggingface")
"""Where SwinIR is at home, or any file is."""


def test_a_network_of_windows_is_refused_with_one_that_works(tmp_path: Path) -> None:
    network = build(SwinIRSpec(scale=2, width=8, depths=(2,), heads=(2,), window=4, features=8), seed=0)
    others = [name for name in HOSTS if name not in TAKE_WINDOWS]
    for folder in export_for_hosts(network, Source("it"), others, tmp_path):
        refusal(folder)
    assert not list(tmp_path.iterdir())
