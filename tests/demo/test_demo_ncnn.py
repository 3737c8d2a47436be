"""The C++ sample for ncnn: built from ncnn's sources, run on an exported student, equal to torch."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from compressor.images.sets import embedded_photos
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.rcan import RCANSpec
from compressor.models.networks.registry import build
from tests.support.exports import export_file
from tests.support.extras import extra
from tests.support.shared import ROOT

extra("ncnn")
extra("pnnx")
pytestmark = pytest.mark.extras

BUILD = ROOT / "build" / "demo-ncnn"
QUICK_BUILD = ("-DCMAKE_BUILD_TYPE=None", "-DCMAKE_CXX_FLAGS=-O0", "-DNCNN_AVX=OFF")
"""Options for a short build. In a release build ncnn adds -Ofast behind all other flags."""


@pytest.fixture(scope="module")
def program() -> Path:
    """Build the sample once per checkout, without optimisation: half a minute on one core."""
    source_folder = os.environ.get("NCNN_SOURCE")
    source = Path(source_folder) if source_folder else ROOT / "build" / f"ncnn-{importlib.metadata.version('ncnn')}"
    if not (source / "CMakeLists.txt").is_file():
        pytest.skip("ncnn's sources are missing: python scripts/ncnn_source.py, or NCNN_SOURCE=folder")
    if not all(map(shutil.which, ("cmake", "c++"))):
        pytest.skip("cmake and a C++ compiler are needed")
    for command in (
        ["cmake", "-S", str(ROOT / "demo" / "ncnn"), "-B", str(BUILD), f"-DNCNN_SOURCE={source}", *QUICK_BUILD],
        ["cmake", "--build", str(BUILD), "-j", "2"],
    ):
        done = subprocess.run(command, capture_output=True, text=True, timeout=1200)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return BUILD / "upscale"


@pytest.mark.parametrize(
    "spec", [EDSRSpec(width=8, depth=2, scale=4), RCANSpec(width=8, groups=1, depth=2, hidden=2)], ids=lambda s: s.arch
)
def test_the_sample_equals_torch(program: Path, spec: EDSRSpec | RCANSpec, tmp_path: Path) -> None:
    network = build(spec, seed=0)
    file = export_file(network, "ncnn", tmp_path)
    assert file.path is not None, file.reason
    photo = Image.open(min(embedded_photos("val").values())).convert("RGB").crop((40, 30, 103, 71))
    photo.save(tmp_path / "photo.ppm")
    command = [program, file.path, tmp_path / "photo.ppm", tmp_path / "large.ppm", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    pixels = torch.from_numpy(np.array(photo)).permute(2, 0, 1)[None]
    with torch.no_grad():
        expected = network(pixels / 255.0)[0].clamp(0, 1).mul(255)
    output = torch.from_numpy(np.array(Image.open(tmp_path / "large.ppm"))).permute(2, 0, 1)
    assert output.shape == expected.shape and expected.std() > 2
    assert (output - expected).abs().max() < 0.5 + 1e-2  # rounded to the nearest, except ties
