"""Shaders: their text by the rules of mpv, RetroArch and Magpie, and their images by ffmpeg's libplacebo."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import srkd
from compressor.base.errors import SrkdError
from compressor.inference.open import open_model, read_metadata
from compressor.inference.super_resolve import super_resolve
from compressor.models.checkpoints.save import save_network
from compressor.models.networks.base import Network
from compressor.models.networks.compact import CompactSpec
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.plain import PlainSpec
from compressor.models.networks.registry import build, quantise
from compressor.models.quantisation.description import Quantisation
from compressor.runtimes import shader_player
from compressor.runtimes.libplacebo_runtime import CHECKSUM, format_shader
from compressor.runtimes.shader_player import player_missing
from compressor.runtimes.torch_runtime import TorchRuntime
from export.writing.exporting import Source, export_model
from tests.support.exports import export_file, unproved_file
from tests.support.hosts import export_for_hosts
from tests.support.magpie import passes_of
from tests.support.slices import lively

LUMA = PlainSpec(2, width=16, depth=4, channels=1)
RGB = CompactSpec(2, width=8, depth=1)
IN_RGB = (
    PlainSpec(3, width=6, depth=1, act="leakyrelu", residual=False),
    CompactSpec(4, width=22, depth=1),
    CompactSpec(1, width=12, depth=1),
)
LEVEL = 1 / 255

plays = pytest.mark.usefixtures("player")


@pytest.fixture(scope="session")
def player() -> None:
    """Skip by name what cannot be played; the text is tested without it."""
    missing = player_missing()
    if missing is not None:
        pytest.skip(missing)


def shader(network: Network, folder: Path, name: str = "glsl") -> Path:
    return unproved_file(network, name, folder)[0]


def blocks(path: Path) -> list[dict[str, list[str]]]:
    """Return the lines of metadata of each pass, by their keyword."""
    found = []
    for text in re.split(r"(?<=\n)(?=//!HOOK)", path.read_text())[1:]:
        block: dict[str, list[str]] = {}
        for keyword, arguments in re.findall(r"^//!(\w+) (.*)$", text, re.M):
            block.setdefault(keyword, []).append(arguments)
        found.append(block)
    return found


@pytest.mark.parametrize(
    ("spec", "hook", "across"),
    [(LUMA, "LUMA", 2), (RGB, "MAIN", 2), (CompactSpec(4, width=30, depth=2, channels=1), "LUMA", 4)],
    ids=["plain luma", "compact RGB", "width 30"],
)
def test_passes_follow_the_manual_of_mpv(spec: PlainSpec | CompactSpec, hook: str, across: int, tmp_path: Path) -> None:
    passes = blocks(shader(build(spec, seed=0), tmp_path))
    assert len(passes) == spec.depth + 2
    textures = {hook}
    for number, block in enumerate(passes, 1):
        last = number == len(passes)
        assert block["HOOK"] == [hook] and len(block["DESC"]) == 1
        assert set(block["BIND"]) <= textures, "a texture is saved before it is bound"
        assert len(block["BIND"]) == len(set(block["BIND"])) == (2 if last else 1)
        (width,), (height,) = block["WIDTH"], block["HEIGHT"]
        block_width, block_height, threads_across, threads_down = map(int, block["COMPUTE"][0].split())
        copies = block_width // threads_across, block_height // threads_down
        assert width == f"{hook}.w {copies[0]} *" and height == f"{hook}.h {copies[1]} *"
        assert block["WHEN"] == [f"OUTPUT.w {hook}.w 1.2 * > OUTPUT.h {hook}.h 1.2 * > *"]
        if last:  # without SAVE it overwrites what it hooks
            assert "SAVE" not in block and copies == (spec.scale, spec.scale)
        else:
            assert block["COMPONENTS"] == ["4"] and copies[0] == across
            assert 4 * copies[0] * copies[1] >= spec.width
            textures.update(block["SAVE"])
    assert len(textures) == spec.depth + 2, "no pass overwrites what another saved"


def test_a_shader_for_the_same_size_is_not_left_out_when_nothing_is_enlarged(tmp_path: Path) -> None:
    passes = blocks(shader(build(CompactSpec(1, width=4, depth=1), seed=0), tmp_path))
    assert not any("WHEN" in block for block in passes)


def test_every_weight_is_in_the_text_with_all_its_digits(tmp_path: Path) -> None:
    network = build(CompactSpec(2, width=6, depth=1, channels=1), seed=0)
    numbers = re.findall(r"(?<=[(,])-?\d[\d.]*(?:e-?\d+)?(?=[,)])", shader(network, tmp_path).read_text())
    held = {float(np.float32(number)) for number in numbers}
    for name, tensor in network.state_dict().items():
        assert set(tensor.flatten().tolist()) <= held, name


def test_the_first_lines_hold_the_metadata_and_players_skip_them(tmp_path: Path) -> None:
    network = build(LUMA, seed=0)
    source = Source("small", header={"srkd.recipe": "a\n//!HOOK MAIN\nb é"})
    path, _ = unproved_file(network, "glsl", tmp_path, source=source)
    assert read_metadata(path)["srkd.recipe"] == "a\n//!HOOK MAIN\nb é"
    assert list(tmp_path.iterdir()) == [path], "a shader has no sidecar"
    first, text = path.read_text().split("//!HOOK", 1)
    assert all(line.startswith("//") for line in first.splitlines() if line)
    assert text.count("//!HOOK") == LUMA.depth + 1 and "MAIN" not in text


@pytest.mark.ci
@plays
@pytest.mark.parametrize(
    ("spec", "name"),
    [
        pytest.param(spec, name, id=f"{spec.arch} x{spec.scale} {spec.channels} {name}")
        for spec in (LUMA, *IN_RGB, CompactSpec(2, width=8, depth=2, channels=1))
        for name in (["glsl", "glsl-fp16", "slang"] if spec.channels == 3 else ["glsl", "glsl-fp16"])
    ],
)
def test_images_are_those_of_the_network_to_the_border(
    spec: PlainSpec | CompactSpec, name: str, tmp_path: Path
) -> None:
    network = lively(spec)
    model = open_model(shader(network, tmp_path, name))
    assert model.precision == ("fp16" if name == "glsl-fp16" else "fp32")
    lr = torch.rand(2, spec.channels, 19, 37, generator=torch.Generator().manual_seed(2))
    expected = TorchRuntime(network, label="network").run(lr).clamp(0, 1)
    difference = (model.run(lr) - expected).abs()
    assert difference.max() <= 1.5 * LEVEL
    inner = difference[..., spec.scale : -spec.scale, spec.scale : -spec.scale].max()
    # The border differs no more than the middle; repeated pixels in place of zeros would move it by more than that.
    assert difference.max() <= max(2 * float(inner), 0.5 * LEVEL)
    repeated = network(F.pad(lr, (9, 9, 9, 9), mode="replicate")).clamp(0, 1)
    cut = 9 * spec.scale
    assert (repeated[..., cut:-cut, cut:-cut] - expected).abs().max() > 4 * LEVEL


@pytest.mark.ci
@plays
def test_images_of_any_size_run_and_those_of_a_pixel(tmp_path: Path) -> None:
    network = lively(LUMA)
    model = open_model(shader(network, tmp_path))
    for height, width in ((1, 1), (1, 50), (17, 3)):
        lr = torch.rand(1, 1, height, width, generator=torch.Generator().manual_seed(height))
        assert (model.run(lr) - TorchRuntime(network, label="network").run(lr)).abs().max() <= LEVEL


@plays
def test_a_luma_shader_enlarges_pictures_in_colour(tmp_path: Path) -> None:
    network = lively(LUMA)
    lr = torch.rand(1, 3, 12, 15, generator=torch.Generator().manual_seed(3))
    played = super_resolve(open_model(shader(network, tmp_path)), lr).sr
    assert (played - super_resolve(TorchRuntime(network, label="network"), lr).sr).abs().max() <= 2 * LEVEL


@pytest.mark.ci
def test_a_student_in_rgb_is_written_for_luma(tmp_path: Path) -> None:
    network = lively(RGB)
    save_network(network, tmp_path / "student.safetensors", metadata={"srkd.scores": "{}", "srkd.recipe": "logits"})
    report = srkd.export(tmp_path / "student.safetensors", formats=("glsl", "onnx"), luma=True)
    shader_file, onnx_file = (file.path for file in report.files)
    assert shader_file == tmp_path / "student-luma.glsl" and onnx_file == tmp_path / "student-luma.onnx"
    assert {block["HOOK"][0] for block in blocks(shader_file)} == {"LUMA"}
    metadata = read_metadata(shader_file)
    assert metadata["srkd.recipe"] == "logits" and "srkd.scores" not in metadata, "its scores were not measured"
    assert open_model(onnx_file).descriptor.channels == 1


def test_a_network_without_a_form_for_luma_is_refused(tmp_path: Path) -> None:
    save_network(build(EDSRSpec(width=8, depth=1, scale=2), seed=0), tmp_path / "edsr.safetensors")
    with pytest.raises(SrkdError, match="this edsr has no form for luma alone"):
        srkd.export(tmp_path / "edsr.safetensors", formats=("glsl",), luma=True)
    assert len(list(tmp_path.iterdir())) == 1


@plays
@pytest.mark.ci
@pytest.mark.parametrize(
    ("spec", "name"), [(LUMA, "glsl"), (LUMA, "glsl-fp16"), (RGB, "glsl"), (RGB, "glsl-fp16"), (RGB, "slang")]
)
def test_a_shader_is_compared_before_it_is_kept(spec: PlainSpec | CompactSpec, name: str, tmp_path: Path) -> None:
    report = export_file(build(spec, seed=0), name, tmp_path)
    assert (report.verdict, report.reason) == ("passed", None)
    assert report.parity is not None and report.parity.max_abs <= 1.5 * LEVEL
    assert report.facts["passes"] == spec.depth + (3 if name == "slang" else 2)


@plays
def test_another_network_than_that_of_the_shader_fails(tmp_path: Path) -> None:
    """The bound of a file is no wider than a weight that a little training would move."""
    network = build(CompactSpec(2, width=4, depth=1, channels=1), seed=0)
    path = shader(network, tmp_path)
    with torch.no_grad():
        network.get_parameter("tail.bias").add_(2 * LEVEL)
    lr = torch.full((1, 1, 8, 8), 0.5)
    assert (open_model(path).run(lr) - TorchRuntime(network, label="network").run(lr)).abs().max() > 1.5 * LEVEL


@plays
def test_a_shader_that_does_not_compile_is_an_error(tmp_path: Path) -> None:
    """libplacebo would leave it out, and return an enlarged image without it."""
    path = shader(build(LUMA, seed=0), tmp_path)
    passes = path.read_text().partition(CHECKSUM)[2].partition("\n\n")[2]
    path.write_text(format_shader(read_metadata(path), passes.replace("barrier();", "barrier(;", 1)))
    with pytest.raises(SrkdError, match=r"small: ffmpeg's libplacebo does not run the shader: .+") as error:
        open_model(path).run(torch.rand(1, 1, 8, 8))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("spec", IN_RGB, ids=str)
def test_a_preset_names_its_passes_and_their_exact_sizes(spec: PlainSpec | CompactSpec, tmp_path: Path) -> None:
    path = shader(build(spec, seed=0), tmp_path, "slang")
    values, size = dict(re.findall(r'^(\w+) = "(.*)"$', path.read_text(), re.M)), 1.0
    for index in range(int(values["shaders"])):
        size *= float(values[f"scale_x{index}"])
        is_last, file = index == spec.depth + 2, tmp_path / values[f"shader{index}"]
        assert size == spec.scale if is_last else size in (1, 2, 4)
        # The picture itself has the format of the screen.
        assert ("#pragma format R16G16B16A16_SFLOAT" in file.read_text()) is not is_last
    file.write_text("changed")
    with pytest.raises(SrkdError, match=r"small\.slangp is damaged or was changed after its export"):
        read_metadata(path)


@pytest.mark.parametrize("spec", IN_RGB, ids=str)
def test_passes_compile_to_spirv(spec: PlainSpec | CompactSpec, tmp_path: Path) -> None:
    network, sources = build(spec, seed=0), list[tuple[str, str]]()
    for file in shader(network, tmp_path, "slang").with_suffix(".slang").iterdir():
        declared, *stages = re.split(r"#pragma stage \w+\n", file.read_text())
        sources += zip(("vert", "frag"), [declared + stage for stage in stages], strict=True)
    effect = shader(network, tmp_path, "magpie")
    assert re.sub("//(?!!).*\n", "", effect.read_text()).strip().startswith("//!MAGPIE EFFECT\n//!VERSION 4\n")
    with pytest.raises(SrkdError, match="Magpie's effects run in Magpie only, on Windows"):
        open_model(effect)
    sources += [("comp", source) for *_, source in passes_of(effect.read_text())]
    assert len(sources) == 2 * (spec.depth + 3) + spec.depth + 2
    if shutil.which("glslangValidator") is None:
        pytest.skip("glslangValidator is not installed (Debian's package is glslang-tools)")
    for stage, text in sources:
        language = ("-D", "-e", "main") if stage == "comp" else ()
        command = ["glslangValidator", "--stdin", "-S", stage, "-V", *language]
        done = subprocess.run(command, input=text, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda text: text.replace("0.1", "0.2", 1), "is damaged or was changed after its export"),
        (lambda text: text.replace('"2"', '"3"', 1), "is damaged or was changed after its export"),
        (
            lambda text: "//!HOOK LUMA\n//!BIND HOOKED\nvec4 hook() { return HOOKED_tex(HOOKED_pos); }\n",
            "was not written",
        ),
    ],
    ids=["weight", "metadata", "foreign"],
)
def test_a_changed_file_is_one_line(change: object, error: str, tmp_path: Path) -> None:
    path = shader(build(LUMA, seed=0), tmp_path)
    path.write_text(change(path.read_text()))  # type: ignore[operator]
    with pytest.raises(SrkdError, match=rf"small\.glsl {error}"):
        read_metadata(path)


def quantised() -> Network:
    return quantise(build(PlainSpec(2, width=8, depth=1), seed=0), Quantisation("pams", 8, "all"))


def large_weight() -> Network:
    network = build(PlainSpec(2, width=8, depth=1), seed=0)
    with torch.no_grad():
        next(network.parameters())[0, 0, 0, 0] = 1e5
    return network


@pytest.mark.parametrize(
    ("network", "name", "reason"),
    [
        (
            lambda: build(EDSRSpec(width=8, depth=1, scale=2), seed=0),
            "glsl",
            "edsr is not written as a shader: plain and compact are; a student: --student plain:width=8,depth=4",
        ),
        (
            lambda: build(CompactSpec(2, width=68, depth=1), seed=0),
            "glsl",
            "compact with width=68 is not written as a shader: at most 64 are; a student: --student plain:width=16,",
        ),
        (quantised, "glsl", "trained quantised"),
        (large_weight, "glsl-fp16", "a weight of 100000 is beyond fp16: export --glsl"),
        (lambda: build(LUMA, seed=0), "slang", "--slang takes a network of three channels, as what it enlarges is RGB"),
        (
            lambda: build(PlainSpec(2, width=4, depth=62), seed=0),
            "slang",
            "up to 64 passes, as RetroArch does, and thes",
        ),
    ],
    ids=["edsr", "wide", "quantised", "fp16", "luma", "deep"],
)
def test_what_cannot_be_written_is_refused_in_one_line(network: object, name: str, reason: str, tmp_path: Path) -> None:
    report = export_file(network(), name, tmp_path)  # type: ignore[operator]
    assert report.verdict == "unavailable" and report.reason is not None
    assert reason in report.reason and "\n" not in report.reason
    assert list(tmp_path.iterdir()) == []


@plays
def test_a_check_that_takes_too_long_is_left_and_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def run(command: list[str], **options: Any) -> None:
        size = command[command.index("-s") + 1]
        calls.append((size, options["timeout"], sorted(path.name for path in tmp_path.rglob("2x-*.onnx"))))
        raise subprocess.TimeoutExpired(command, options["timeout"])

    slow = SimpleNamespace(run=run, TimeoutExpired=subprocess.TimeoutExpired)
    monkeypatch.setattr(shader_player, "subprocess", slow)
    mpv, _ = export_for_hosts(build(RGB, seed=0).eval(), Source("a"), ["mpv", "ffmpeg"], tmp_path)
    assert calls == 2 * [("24x24", 60, ["2x-a.onnx"])] and mpv.host == "mpv"
    for file in mpv.files:
        assert file.verdict == "unproved" and file.path is not None and file.path.is_file()
        assert str(file.reason).startswith("not checked: ") and "no image after 60 s" in str(file.reason)
    report = export_model(build(RGB, seed=0).eval(), Source("2x-b"), ["glsl", "onnx"], tmp_path)
    assert calls[2][2] == ["2x-a.onnx", "2x-b.onnx"]
    assert [file.format for file in report.files] == ["glsl", "onnx"]


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (None, "ffmpeg, which runs mpv's shaders, is not installed"),
        ("echo ' ... scale  V->V  Scale'", "this ffmpeg was built without its filter libplacebo"),
        (
            'case "$*" in *-filters*) echo " ..C libplacebo V->V";; *) echo "No device" >&2; exit 1;; esac',
            r"ffmpeg finds no Vulkan driver, .*: No device$",
        ),
        ('case "$*" in *-filters*) echo " ..C libplacebo V->V";; esac', None),
    ],
    ids=["no ffmpeg", "no filter", "no driver", "all"],
)
def test_what_is_missing_here_is_named(
    program: str | None, reason: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if program is not None:
        file = tmp_path / "ffmpeg"
        file.write_text(f"#!/bin/sh\n{program}\n")
        file.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    missing = player_missing.__wrapped__()
    if reason is None:
        assert missing is None
    else:
        assert missing is not None and re.search(reason, missing), missing
        assert "Debian's packages are ffmpeg, libvulkan1 and mesa-vulkan-drivers" in missing
