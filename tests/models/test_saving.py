"""Saved networks are loaded bitwise, have the same bytes every time, and are readable by other programs."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

from compressor.base.errors import SrkdError, UsageError
from compressor.base.files import file_sha256
from compressor.models.checkpoints.load import load_checkpoint
from compressor.models.checkpoints.save import save_network
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build
from tests.support import official
from tests.support.commands import python
from tests.support.networks import same_network, save_state, tiny_networks


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    for spec in tiny_networks():
        network = build(spec, seed=1)
        save_network(network, path, metadata={"srkd.recipe": "logits"})
        loaded = load_checkpoint(path)
        assert same_network(loaded.network, network), spec
        assert (loaded.network.spec, loaded.dialect, loaded.assumed) == (spec, "srkd", ())
        content = path.read_bytes()
        assert (loaded.sha256, loaded.bytes) == (hashlib.sha256(content).hexdigest(), len(content))
        assert loaded.header["srkd.recipe"] == "logits"
        assert json.loads(loaded.header["srkd.spec"])["arch"] == spec.arch
        assert loaded.header["srkd.scale"] == str(spec.scale)


def test_the_reference_reader_reads_our_files(tmp_path: Path) -> None:
    network = build(EDSRSpec(2, 4, 1), seed=0)
    save_network(network, tmp_path / "net.safetensors", metadata={"srkd.scores": '{"Set5": 30.1}'})
    with safe_open(tmp_path / "net.safetensors", framework="pt") as reader:
        assert reader.metadata()["srkd.scores"] == '{"Set5": 30.1}'
        assert {"srkd.format", "srkd.spec", "srkd.scale", "srkd.range"} <= set(reader.metadata())
        state = {name: reader.get_tensor(name) for name in reader.keys()}  # noqa: SIM118
    assert state.keys() == network.state_dict().keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in network.state_dict().items())


@pytest.mark.ci
def test_the_same_network_gives_the_same_bytes(tmp_path: Path) -> None:
    network = build(EDSRSpec(2, 4, 1), seed=0)
    recipe, scores = {"srkd.recipe": "csd"}, {"srkd.scores": "{}"}
    save_network(network, tmp_path / "a.safetensors", metadata=recipe | scores)
    for parameter in network.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.to(memory_format=torch.channels_last)
    save_network(network, tmp_path / "b.safetensors", metadata=scores | recipe)
    here = file_sha256(tmp_path / "a.safetensors")
    assert here == file_sha256(tmp_path / "b.safetensors")
    program = (
        "import sys; from compressor.models.checkpoints.load import load_checkpoint as load;"
        "from compressor.models.checkpoints.save import save_network as save;"
        "from compressor.base.files import *;"
        "save(load(sys.argv[1]).network, sys.argv[2], metadata={'srkd.scores': '{}', 'srkd.recipe': 'csd'});"
        "print(file_sha256(Path(sys.argv[2])))"
    )
    done = python("-c", program, tmp_path / "a.safetensors", tmp_path / "c.safetensors", PYTHONHASHSEED="7")
    assert done.out.strip() == here, done.err


def test_half_precision_files(tmp_path: Path) -> None:
    network = build(EDSRSpec(2, 16, 2), seed=0)
    save_network(network, tmp_path / "full.safetensors")
    save_network(network, tmp_path / "half.safetensors", dtype=torch.float16)
    full, half = (tmp_path / "full.safetensors").stat().st_size, (tmp_path / "half.safetensors").stat().st_size
    assert half < 0.6 * full
    loaded = load_checkpoint(tmp_path / "half.safetensors")
    for name, parameter in loaded.network.named_parameters():
        assert parameter.dtype == torch.float32
        assert torch.equal(parameter, dict(network.named_parameters())[name].half().float())
    with torch.no_grad():
        next(network.parameters()).fill_(1e6)
    with pytest.raises(SrkdError, match=r"head\.weight.*torch\.float16.*float32"):
        save_network(network, tmp_path / "over.safetensors", dtype=torch.float16)
    assert not (tmp_path / "over.safetensors").exists()


def test_a_mean_shift_that_moved_survives_saving(tmp_path: Path) -> None:
    state = official.edsr_pytorch(2, 8, 1)
    state["add_mean.weight"] = state["add_mean.weight"] * 1.01
    first = load_checkpoint(save_state(state, tmp_path))
    save_network(first.network, tmp_path / "own.safetensors")
    again = load_checkpoint(tmp_path / "own.safetensors")
    assert same_network(first.network, again.network)
    assert torch.equal(dict(again.network.named_buffers())["add_mean.weight"], state["add_mean.weight"])


def test_saving_refuses_what_readers_would_not_find(tmp_path: Path) -> None:
    network = build(EDSRSpec(2, 4, 1))
    with pytest.raises(UsageError, match=r"'srkd\.score'"):
        save_network(network, tmp_path / "net.safetensors", metadata={"srkd.score": "1"})
    with pytest.raises(UsageError, match=r"cannot save as torch\.int8"):
        save_network(network, tmp_path / "net.safetensors", dtype=torch.int8)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_save_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    save_network(build(EDSRSpec(2, 4, 1), seed=0), path)
    before = path.read_bytes()
    broken = build(EDSRSpec(2, 4, 1), seed=1)
    broken.tail.weight = nn.Parameter(torch.empty(3, 4, 3, 3, device="meta"))  # type: ignore[union-attr]
    with pytest.raises(Exception, match="meta"):
        save_network(broken, path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
