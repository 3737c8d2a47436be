"""What several tests of runtimes share."""

from __future__ import annotations

from pathlib import Path

import pytest

from compressor.models.checkpoints.save import metadata_of
from compressor.models.networks.base import Network
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build
from export.convert.to_onnx import convert
from export.formats.conversion import Conversion


@pytest.fixture(scope="module")
def network() -> Network:
    """A small EDSR x3, without gradients."""
    return build(EDSRSpec(width=8, depth=2, scale=3), seed=0).requires_grad_(False)


@pytest.fixture(scope="module")
def exported(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its ONNX file."""
    path = tmp_path_factory.mktemp("exported") / "small.onnx"
    convert(Conversion(network, path, {**metadata_of(network.spec), "srkd.recipe": "logits"}))
    return path
