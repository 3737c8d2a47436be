"""Damaged files are refused, and options decide what is described."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import srkd
from compressor.base.errors import SrkdError
from compressor.models.checkpoints.save import save_network
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build


@pytest.fixture
def own(tmp_path: Path) -> Path:
    save_network(build(EDSRSpec(scale=4, width=8, depth=2), seed=1), tmp_path / "own.safetensors")
    return tmp_path / "own.safetensors"


def rewrite(path: Path, change: Callable[[dict[str, object]], None]) -> None:
    """Change the header of a file, without its tensors."""
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[end:])


def test_a_value_that_is_no_number_is_refused_in_every_type(tmp_path: Path) -> None:
    network = build(EDSRSpec(scale=4, width=8, depth=2), seed=1)
    for dtype, value in ((torch.float32, "nan"), (torch.float16, "inf"), (torch.bfloat16, "-inf")):
        with torch.no_grad():
            network.get_parameter("tail.bias")[1] = float(value)
        save_network(network, tmp_path / "damaged.safetensors", dtype=dtype)
        with pytest.raises(SrkdError, match="its training diverged"):
            srkd.inspect(tmp_path / "damaged.safetensors")


def test_another_spec_or_tensor_is_noticed(own: Path, tmp_path: Path) -> None:
    def wider(header: dict[str, object]) -> None:
        metadata = header["__metadata__"]
        metadata["srkd.spec"] = metadata["srkd.spec"].replace('"width": 8', '"width": 9')

    def renamed(header: dict[str, object]) -> None:
        header["tail.other"] = header.pop("tail.bias")

    content = own.read_bytes()
    for change in (wider, renamed):
        own.write_bytes(content)
        rewrite(own, change)
        with pytest.raises(SrkdError, match=r"recognised as edsr \(srkd names\), but "):
            srkd.inspect(own)
    own.write_bytes(content[:-4])
    with pytest.raises(SrkdError, match="its safetensors header is damaged"):
        srkd.inspect(own)


def test_options_decide_what_is_counted(own: Path) -> None:
    small = srkd.inspect(own, lr_size=(64, 64))
    large = srkd.inspect(own)
    assert small.macs is not None and large.macs == 16 * small.macs
    assert srkd.inspect(own, layers=True).layers
    with pytest.raises(SrkdError, match="scale 4, not 3"):
        srkd.inspect(own, scale=3)
    with pytest.raises(SrkdError, match="wideth"):
        srkd.inspect(own, arch_options={"wideth": 9})
