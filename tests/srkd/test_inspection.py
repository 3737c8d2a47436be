"""srkd's own file is described by its header without torch, but only if the header is sufficient."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from compressor.base.errors import SrkdError
from compressor.models.checkpoints.header import read_own_file
from compressor.models.checkpoints.save import save_network
from compressor.models.networks.base import Spec
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build
from srkd.api.network_inspection import inspect_opened, run_inspect
from srkd.options.verbs import InspectOptions
from tests.support.commands import python
from tests.support.networks import label, tiny_networks

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    save_network(build(EDSRSpec(scale=4, width=8, depth=2), seed=1), tmp_path / "own.safetensors")
    return tmp_path / "own.safetensors"


def described(inspection: object) -> object:
    """Return an inspection as JSON values, in which tuples are lists."""
    return json.loads(json.dumps(vars(inspection), default=str))


def rewrite(path: Path, change: Callable[[dict[str, object]], None]) -> None:
    """Change the header of a file, without its tensors."""
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[end:])


@pytest.mark.ci
@pytest.mark.parametrize("spec", tiny_networks(), ids=label)
def test_the_header_says_what_the_network_is(spec: Spec, tmp_path: Path) -> None:
    for dtype in DTYPES:
        path = tmp_path / f"{dtype}.safetensors"
        save_network(build(spec, seed=1), path, metadata={"srkd.recipe": "logits"}, dtype=dtype)
        assert read_own_file(path) is not None
        options = InspectOptions(path)
        assert described(run_inspect(options)) == described(inspect_opened(options))


def test_no_torch_is_needed(own: Path) -> None:
    lines = (
        "import sys",
        "from srkd.cli.main import run",
        "code = run(sys.argv[1:])",
        "sys.exit(3 if 'torch' in sys.modules else code)",
    )
    outcome = python("-c", "\n".join(lines), "inspect", own, "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json["params"] == build(EDSRSpec(scale=4, width=8, depth=2)).params
    machine = outcome.json["machine"]
    # That of the package: builds for CUDA add "+cu130" only in torch.__version__.
    installed = importlib.metadata.version("torch")
    assert (machine["torch"], machine["torch_threads"], machine["gpu"]) == (installed, None, None)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_no_number_is_refused_all_the_same(dtype: torch.dtype, value: float, tmp_path: Path) -> None:
    network = build(EDSRSpec(scale=4, width=8, depth=2), seed=1)
    with torch.no_grad():
        network.get_parameter("tail.bias")[1] = value
    save_network(network, tmp_path / "damaged.safetensors", dtype=dtype)
    with pytest.raises(SrkdError, match="its training diverged"):
        run_inspect(InspectOptions(tmp_path / "damaged.safetensors"))


def test_another_spec_or_tensor_is_noticed(own: Path, tmp_path: Path) -> None:
    def wider(header: dict[str, object]) -> None:
        metadata = header["__metadata__"]
        assert isinstance(metadata, dict)
        metadata["srkd.spec"] = metadata["srkd.spec"].replace('"width": 8', '"width": 9')

    def renamed(header: dict[str, object]) -> None:
        header["tail.other"] = header.pop("tail.bias")

    content = own.read_bytes()
    for change in (wider, renamed):
        own.write_bytes(content)
        rewrite(own, change)
        assert read_own_file(own) is None
        with pytest.raises(SrkdError, match=r"recognised as edsr \(srkd names\), but "):
            run_inspect(InspectOptions(own))
    own.write_bytes(content[:-4])
    with pytest.raises(SrkdError, match="its safetensors header is damaged"):
        run_inspect(InspectOptions(own))


@pytest.mark.parametrize("stored", [None, "{}", "[]", "no JSON", '{"layout": 1}'])
def test_a_file_without_its_cost_is_opened(own: Path, stored: str | None) -> None:
    before = described(run_inspect(InspectOptions(own)))

    def change(header: dict[str, object]) -> None:
        metadata = header["__metadata__"]
        assert isinstance(metadata, dict)
        metadata.pop("srkd.cost")
        metadata.update({} if stored is None else {"srkd.cost": stored})

    rewrite(own, change)
    after = described(run_inspect(InspectOptions(own)))
    assert isinstance(before, dict) and isinstance(after, dict)
    same = before.keys() - {"metadata", "sha256", "bytes"}
    assert {key: before[key] for key in same} == {key: after[key] for key in same}


def test_what_the_header_does_not_hold_is_counted(own: Path) -> None:
    small = run_inspect(InspectOptions(own, lr_size=(64, 64)))
    large = run_inspect(InspectOptions(own))
    assert small.macs is not None and large.macs == 16 * small.macs
    assert run_inspect(InspectOptions(own, layers=True)).layers
    with pytest.raises(SrkdError, match="scale 4, not 3"):
        run_inspect(InspectOptions(own, scale=3))
    with pytest.raises(SrkdError, match="wideth"):
        run_inspect(InspectOptions(own, arch_options={"wideth": 9}))
