"""What several tests of verbs share."""

from __future__ import annotations

from pathlib import Path

import pytest

from compressor.models.checkpoints.save import save_network
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of a small EDSR x2, which no test changes."""
    path = tmp_path_factory.mktemp("models") / "small.safetensors"
    save_network(build(EDSRSpec(scale=2, width=8, depth=2), seed=1), path)
    return path
