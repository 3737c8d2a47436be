"""torch's two formats, deflated archives and safetensors give the same tensors as torch's own readers."""

from __future__ import annotations

import argparse
import zipfile
from collections import defaultdict
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.serialization import set_crc32_options

from compressor.base.errors import SrkdError
from compressor.models.checkpoints.files import open_container
from compressor.models.checkpoints.load import load_checkpoint
from compressor.models.networks.base import Network
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build
from tests.support import official
from tests.support.networks import same_network, save_state
from tests.support.shared import needs_shared, shared

State = official.State


def test_a_training_checkpoint_with_optimizer_and_numbers(plain: tuple[State, Network], tmp_path: Path) -> None:
    state, network = plain
    optimizer = torch.optim.Adam(build(EDSRSpec(2, 4, 1)).parameters())
    content = {
        "epoch": 7,
        "model_state_dict": state,
        "optimizer_state_dict": optimizer.state_dict(),
        "best_psnr": np.float64(32.1),
        "history": np.arange(5),
        "args": argparse.Namespace(scale=[2], rgb_range=255),
        "seen": defaultdict(list, {1: [2]}),
        "started": datetime(2026, 1, 2),
        "folder": Path("runs"),
        "device": torch.device("cpu"),
        "dtype": torch.float32,
    }
    assert same_network(load_checkpoint(save_state(content, tmp_path)).network, network)


@pytest.mark.parametrize("legacy", [False, True])
def test_tensors_that_share_a_storage(legacy: bool, plain: tuple[State, Network], tmp_path: Path) -> None:
    state, network = plain
    flat = torch.cat([tensor.reshape(-1) for tensor in state.values()])
    views, begin = {}, 0
    for name, tensor in state.items():
        views[name] = flat[begin : begin + tensor.numel()].reshape(tensor.shape)
        begin += tensor.numel()
    path = save_state(views, tmp_path, _use_new_zipfile_serialization=not legacy)
    assert same_network(load_checkpoint(path).network, network)


def test_deflated_archives(plain: tuple[State, Network], tmp_path: Path) -> None:
    state, network = plain
    with zipfile.ZipFile(save_state(state, tmp_path)) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    packed = tmp_path / "packed.pth"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in records.items():
            archive.writestr(name, content)
    assert packed.stat().st_size < (tmp_path / "checkpoint.pth").stat().st_size
    assert same_network(load_checkpoint(packed).network, network)


def test_archives_without_checksums(plain: tuple[State, Network], tmp_path: Path) -> None:
    state, network = plain
    set_crc32_options(False)
    try:
        path = save_state(state, tmp_path)
    finally:
        set_crc32_options(True)
    assert same_network(load_checkpoint(path).network, network)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_load_as_fp32(dtype: torch.dtype, plain: tuple[State, Network], tmp_path: Path) -> None:
    state, _ = plain
    loaded = load_checkpoint(save_state({name: tensor.to(dtype) for name, tensor in state.items()}, tmp_path))
    head = dict(loaded.network.named_parameters())["head.weight"]
    assert head.dtype == torch.float32
    assert torch.equal(head, state["conv_first.weight"].to(dtype).float())


def test_foreign_safetensors(plain: tuple[State, Network], tmp_path: Path) -> None:
    state, network = plain
    save_file(state, tmp_path / "foreign.safetensors", metadata={"format": "pt"})
    loaded = load_checkpoint(tmp_path / "foreign.safetensors")
    assert same_network(loaded.network, network)
    assert (loaded.dialect, dict(loaded.header)) == ("basicsr", {"format": "pt"})


@pytest.mark.parametrize("header_bytes", [0x100, 0x280])
def test_a_safetensors_file_that_was_cut_short(header_bytes: int, tmp_path: Path) -> None:
    """A length that ends in 0x80 begins the file as a pickle begins: it is read, and the error speaks of the header."""
    file = tmp_path / "cut.safetensors"
    save_file({"weight": torch.zeros(4)}, file, metadata={"x": ""})
    spare = header_bytes - int.from_bytes(file.read_bytes()[:8], "little")
    save_file({"weight": torch.zeros(4)}, file, metadata={"x": "y" * spare})
    content = file.read_bytes()
    assert int.from_bytes(content[:8], "little") == header_bytes and open_container(file).content.keys() == {"weight"}
    for length in (9, 100, header_bytes):
        file.write_bytes(content[:length])
        with pytest.raises(SrkdError, match="its safetensors header is damaged"):
            load_checkpoint(file)


@needs_shared
def test_every_published_file_holds_what_torch_reads() -> None:
    """This covers other networks, deflated and old archives, tensor by tensor."""
    files = [*(shared() / "data" / "checkpoints").glob("*.pt*"), *(shared() / "golden" / "archs").glob("*/*.pth")]
    assert len(files) >= 20
    for file in files:
        reference = tensors(torch.load(file, weights_only=True, map_location="cpu"))
        actual = tensors(open_container(file).content)
        assert actual.keys() == reference.keys(), file
        for name, tensor in actual.items():
            assert tensor.dtype == reference[name].dtype
            assert torch.equal(tensor, reference[name]), (file, name)


def tensors(content: Any, prefix: str = "") -> dict[str, Any]:
    """Return the tensors in nested dictionaries, by path."""
    result: dict[str, Any] = {}
    for name, value in content.items():
        if isinstance(value, dict):
            result |= tensors(value, f"{prefix}{name}/")
        elif isinstance(value, torch.Tensor):
            result[f"{prefix}{name}"] = value
    return result


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": torch.eye(3).to_sparse()}, "is sparse, quantised"),
        (nn.Conv2d(1, 1, 1), r"would run 'torch\.nn\.modules\.conv\.Conv2d': refused, nothing was run"),
        ([torch.eye(3)], "holds a list, not a state dict"),
        (torch.eye(3), "holds a tensor, not a state dict"),
        ({"epoch": 3}, r"holds no tensors \(its keys: epoch\)"),
        ({3: torch.eye(3)}, "a tensor is named '3', which is not text"),
        ({"a": {"x": torch.eye(3)}, "b": {"x": torch.eye(3)}}, r"several state dicts \(a, b\): choose one"),
    ],
)
def test_what_is_no_state_dict(content: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(SrkdError, match=message):
        load_checkpoint(save_state(content, tmp_path))
