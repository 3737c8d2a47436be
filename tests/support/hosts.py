"""Programs that run students, in the environments that `make hosts` makes, and the students that they run."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from torch import Tensor

from compressor.assets import embedded_student
from compressor.images.sample import sample_photo
from compressor.models.checkpoints.load import load_checkpoint
from compressor.models.networks.base import Network
from compressor.models.networks.compact import CompactSpec
from compressor.models.networks.plain import PlainSpec
from compressor.models.networks.registry import build
from compressor.models.networks.span import SPANSpec

ROOT = Path(__file__).parents[2]
SOFTWARE_VULKAN = Path("/usr/share/vulkan/icd.d/lvp_icd.x86_64.json")

STUDENTS: Mapping[str, Callable[[], Network]] = {
    "edsr": lambda: load_checkpoint(embedded_student()).network,
    "compact-24x8": lambda: build(CompactSpec(4, width=24, depth=8), seed=1),
    "plain-luma-x2": lambda: build(PlainSpec(2, width=16, depth=4, channels=1), seed=2),
    "span": lambda: build(SPANSpec(2, width=24), seed=3),
}
"""The embedded EDSR 16/24, of the kind that `make quickstart` trains, and untrained networks of other kinds."""


def host_python(name: str) -> Path:
    """Return the Python of a program's environment; without it the test skips."""
    python = ROOT / "build" / "hosts" / name / "bin" / "python"
    if not python.is_file():
        pytest.skip(f"{name} is not in build/hosts: make hosts")
    return python


def needs_software_vulkan() -> None:
    if not SOFTWARE_VULKAN.is_file():
        pytest.skip("no software Vulkan driver: apt install mesa-vulkan-drivers libvulkan1")


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


def photo(width: int = 56, height: int = 40, channels: int = 3) -> Tensor:
    """Return a photo in whole grey levels, (1,C,H,W)."""
    return (255 * sample_photo(width, height, channels=channels)).round() / 255


def enlarged(network: Network, lr: Tensor) -> np.ndarray:
    """Return the network's image, clipped, (H,W,C)."""
    with torch.no_grad():
        image: np.ndarray = network(lr).clamp(0, 1)[0].permute(1, 2, 0).numpy()
    return image
