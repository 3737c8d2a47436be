"""ExecuTorch: files equal the network up to their largest size, and a damaged file gives a one-line error."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from compressor.base.errors import SrkdError, UsageError
from compressor.inference.open import open_model
from compressor.inference.super_resolve import super_resolve
from compressor.models.networks.base import Network, Spec
from compressor.models.networks.carn import CARNSpec
from compressor.models.networks.carn_m import CARNMSpec
from compressor.models.networks.compact import CompactSpec
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.rcan import RCANSpec
from compressor.models.networks.registry import build
from compressor.models.networks.swinir import SwinIRSpec
from compressor.runtimes.executorch_runtime import ExecuTorchRuntime
from compressor.runtimes.table import OpenOptions
from export.convert.to_executorch import SIDE_RANGE, max_side
from export.formats.conversion import FileOptions
from export.writing.exporting import FileReport, Source, export_model

pytest.importorskip("executorch")
pytestmark = pytest.mark.extras

SOURCE = Source("small", "ab" * 32, {"srkd.recipe": "logits"})
COMPACT = CompactSpec(width=8, depth=1, scale=2)
SWINIR = SwinIRSpec(width=4, depths=(2,), heads=(2,), window=4, scale=2, features=4)


def exported(network: Network, folder: Path, options: FileOptions | None = None) -> FileReport:
    (file,) = export_model(network, SOURCE, ["executorch"], folder, options=options).files
    return file


@pytest.fixture(scope="module")
def network() -> Network:
    return build(COMPACT, seed=0)


@pytest.fixture(scope="module")
def good(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = exported(network, tmp_path_factory.mktemp("good"))
    assert file.verdict == "passed" and file.path is not None, file.reason
    assert file.parity is not None and file.parity.max_abs < 1e-5
    assert file.facts["max_size"] == "512x512"
    return file.path


@pytest.fixture
def copied(good: Path, tmp_path: Path) -> Path:
    """Return a copy of the program and its sidecar that a test may damage."""
    for part in good.parent.iterdir():
        (tmp_path / part.name).write_bytes(part.read_bytes())
    return tmp_path / good.name


@pytest.mark.parametrize(
    ("spec", "size"),
    [(SWINIR, (19, 10)), (SWINIR, (16, 8)), (EDSRSpec(width=8, depth=1, scale=4), (20, 12))],
    ids=lambda value: getattr(value, "arch", None),
)
@pytest.mark.slow
def test_files_of_one_size(spec: SwinIRSpec, size: tuple[int, int], tmp_path: Path) -> None:
    network = build(spec, seed=3)
    file = exported(network, tmp_path, FileOptions(lr_size=size))
    assert file.verdict == "passed" and file.parity is not None and file.parity.max_abs < 1e-5, file.reason
    assert file.path is not None and file.path.name == "small-{}x{}.pte".format(*size)
    runtime = open_model(file.path)
    assert runtime.descriptor.fixed_size == size and runtime.descriptor.max_size is None
    with pytest.raises(UsageError, match="takes images of {}x{} only, got 8x9".format(*size)):
        runtime.run(torch.rand(1, 3, 9, 8))
    assert super_resolve(runtime, torch.rand(1, 3, 30, 25)).sr.shape == (1, 3, 30 * spec.scale, 25 * spec.scale)


@pytest.mark.parametrize(
    "spec",
    [
        RCANSpec(width=8, hidden=2, groups=1, depth=1, scale=3),
        EDSRSpec(width=8, depth=1, scale=2),
        pytest.param(CompactSpec(width=8, depth=1, scale=3, channels=1), marks=pytest.mark.slow),
        pytest.param(CARNSpec(width=8, scale=2), marks=pytest.mark.slow),
        pytest.param(CARNMSpec(width=8, scale=4), marks=pytest.mark.slow),
    ],
    ids=lambda spec: f"{spec.arch}{getattr(spec, 'channels', 3)}",
)
def test_more_networks_with_free_sizes(spec: Spec, tmp_path: Path) -> None:
    file = exported(build(spec, seed=3), tmp_path)
    assert file.verdict == "passed" and file.parity is not None and file.parity.max_abs < 1e-5, file.reason


def test_the_file_says_what_it_is_and_nothing_is_printed(
    network: Network, good: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    runtime = open_model(good, OpenOptions(threads=1))
    assert isinstance(runtime, ExecuTorchRuntime) and runtime.threads == 1
    assert (runtime.name, runtime.device, runtime.precision, runtime.label) == ("executorch", "cpu", "fp32", "small")
    assert runtime.spec == COMPACT and runtime.metadata["srkd.source_sha256"] == "ab" * 32
    lr = torch.rand(3, 3, 5, 9)
    with torch.no_grad():
        torch.testing.assert_close(runtime.run(lr), network(lr), atol=1e-5, rtol=0)
    first = runtime.run(lr[:1])
    stored = first.clone()
    runtime.run(lr[1:2])
    assert torch.equal(first, stored), "an output is the caller's own"
    assert capfd.readouterr() == ("", "")


def test_pictures_beyond_the_bound_are_cut(good: Path, copied: Path, network: Network) -> None:
    with pytest.raises(UsageError, match="takes images of at most 512x512, got 513x8"):
        open_model(good).run(torch.rand(1, 3, 8, 513))
    sidecar = copied.with_name(copied.name + ".json")
    message = json.loads(sidecar.read_text())
    message["facts"]["max_size"] = "24x24"
    sidecar.write_text(json.dumps(message))
    lr = torch.rand(1, 3, 50, 40)
    tiled = super_resolve(open_model(copied), lr, tile=0)
    assert tiled.tile is not None and tiled.seam is None
    with torch.no_grad():
        torch.testing.assert_close(tiled.sr, network(lr), atol=1e-5, rtol=0)


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :]


@pytest.mark.parametrize("damage", [flipped, lambda content: content[:100], lambda content: b""])
def test_a_damaged_program_is_one_line(copied: Path, damage: Callable[[bytes], bytes]) -> None:
    copied.write_bytes(damage(copied.read_bytes()))
    with pytest.raises(SrkdError, match=r"small\.pte .*\.json.*export it again") as caught:
        open_model(copied)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("message", ["0x4", "wide", 7])
def test_a_bound_that_is_none(copied: Path, message: object) -> None:
    sidecar = copied.with_name(copied.name + ".json")
    lines = json.loads(sidecar.read_text())
    lines["facts"]["max_size"] = message
    sidecar.write_text(json.dumps(lines))
    with pytest.raises(SrkdError, match=r"small\.pte\.json.*max_size '?(0x4|wide|7)\b.*export the model again"):
        open_model(copied)


def test_a_program_without_its_sidecar(copied: Path) -> None:
    copied.with_name(copied.name + ".json").unlink()
    with pytest.raises(SrkdError, match=r"small\.pte\.json is not beside it: copy that from the export"):
        open_model(copied)


def test_the_bound_follows_from_the_width() -> None:
    sides = [max_side(build(EDSRSpec(4, width=width, depth=1), seed=0)) for width in (8, 32, 64, 256)]
    assert sides == sorted(sides, reverse=True) and sides[0] == SIDE_RANGE[1] and sides[-1] == SIDE_RANGE[0]
    assert sides[1] == 256, "4 KB a pixel: 32·4 channels at twice the size, before and after the shuffle"
