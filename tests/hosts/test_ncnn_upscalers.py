"""realesrgan-ncnn-py runs what `--for upscayl`, realesrgan-ncnn-vulkan and realesrgan-ncnn-py write."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from compressor.models.networks.base import Network
from compressor.models.networks.compact import CompactSpec
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.plain import PlainSpec
from compressor.models.networks.registry import build
from compressor.models.networks.span import SPANSpec
from export.hosts.ncnn_upscalers import FEW_LAYERS, in_few_layers, padding_seam
from export.writing.exporting import Source
from tests.support.hosts import (
    STUDENTS,
    check_in_realesrgan,
    export_for_hosts,
    needs_software_vulkan,
    photo,
    refusal,
    run_host,
)

LOAD = """
import sys
from pathlib import Path
from realesrgan_ncnn_py import Realesrgan
Realesrgan(gpuid=0, model=-1)._load(Path(sys.argv[1]), Path(sys.argv[1]).with_suffix(".bin"), 2)
"""


@pytest.mark.extras
@pytest.mark.parametrize("student", STUDENTS)
def test_the_program_gives_the_networks_image(student: str, tmp_path: Path) -> None:
    pytest.importorskip("ncnn")
    pytest.importorskip("pnnx")
    needs_software_vulkan()
    network = STUDENTS[student]().eval()
    (folder,) = export_for_hosts(network, Source(student), ["realesrgan-ncnn-py"], tmp_path)
    if student == "span":
        assert "built without ncnn's Sigmoid, Swish" in refusal(folder)
        assert not list((tmp_path / "realesrgan-ncnn-py").rglob("*.param"))
        # Upscayl's ncnn has these layers; the file is compared in ncnn's own package.
        (written,) = export_for_hosts(network, Source(student), ["upscayl"], tmp_path)
        assert written.verdict == "written" and written.files[0].verdict == "passed"
        return
    assert folder.verdict == "written", folder.reason
    (file,) = folder.files
    check_in_realesrgan(file.path, network, tmp_path, most=8 if student == "edsr" else 4)  # fp16, in EDSR of 0 to 255


def test_a_grey_network_does_to_each_channel_what_it_does_to_grey() -> None:
    for spec in (PlainSpec(2, width=8, depth=2, channels=1), CompactSpec(3, width=6, depth=2, channels=1)):
        grey: Network = build(spec, seed=4).eval()
        colour = grey.in_rgb()
        lr = photo(20, 16)
        with torch.no_grad():
            expected = torch.cat([grey(lr[:, index : index + 1]) for index in range(3)], 1)
            assert torch.allclose(colour(lr), expected, atol=1e-5)
    assert colour.in_rgb() is colour


@pytest.mark.parametrize("student", STUDENTS)
def test_fewer_kinds_of_layers_are_the_same_function(student: str) -> None:
    network = STUDENTS[student]().eval()
    lr = photo(channels=network.descriptor.channels)
    with torch.no_grad():
        expected, rewritten = network(lr), in_few_layers(network)(lr)
    assert torch.allclose(expected.clamp(0, 1), rewritten.clamp(0, 1), atol=2e-6)


@pytest.mark.extras
def test_the_programs_layers_are_those_that_were_written_down(tmp_path: Path) -> None:
    """A file of one layer that the program's ncnn is built without is told on stderr."""
    needs_software_vulkan()
    for kind in ("Clip", "MemoryData", "Sigmoid", "Swish", "Reshape", "PReLU", "PixelShuffle", "Interp"):
        lines = ("7767517", "2 2", "Input data 0 1 data", f"{kind} it 1 1 data output", "")
        (tmp_path / "one.param").write_text("\n".join(lines))
        (tmp_path / "one.bin").write_bytes(bytes(64))
        said = run_host("realesrgan-ncnn-py", LOAD, tmp_path / "one.param", may_fail=True)
        assert ("not exists" in said) == (kind not in FEW_LAYERS.split()), kind


def test_the_seam_of_ten_pixels_is_nothing_up_to_eight_blocks() -> None:
    assert padding_seam(build(CompactSpec(2, width=8, depth=8), seed=0).eval()) < 1e-5
    assert padding_seam(build(CompactSpec(2, width=8, depth=16), seed=0).eval(), padding=2) > 1e-5


@pytest.mark.extras
def test_a_network_that_sees_farther_is_told_with_its_seam(tmp_path: Path) -> None:
    pytest.importorskip("ncnn")
    pytest.importorskip("pnnx")
    network = build(EDSRSpec(width=8, depth=8, scale=2), seed=0).eval()
    (folder,) = export_for_hosts(network, Source("deep"), ["upscayl"], tmp_path)
    assert any("grey levels off" in note for note in folder.notes)
    readme = (tmp_path / "upscayl" / "README.md").read_text(encoding="utf-8")
    assert "grey levels off" in readme and "2x-deep" in readme and " ms for an image of 320x180" in readme
    assert sorted(path.name for path in (tmp_path / "upscayl" / "models").iterdir()) == [
        *("2x-deep.bin", "2x-deep.param", "2x-deep.param.json")
    ]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (CompactSpec(1, width=8, depth=1), "runs scales 2, 3, 4, not x1"),
        (SPANSpec(2, width=8, channels=1), "RGB only: this span for grey has no form for RGB"),
    ],
)
def test_what_they_do_not_run_is_refused_with_one_that_they_do(spec: EDSRSpec, words: str, tmp_path: Path) -> None:
    (folder,) = export_for_hosts(build(spec, seed=0), Source("it"), ["upscayl"], tmp_path)
    assert words in refusal(folder)
    assert not (tmp_path / "upscayl").exists()
