"""A fit needs no more memory for more patches, and no more time for each of more layers; with the same result."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import pytest
import torch

from compressor.base.errors import SrkdError
from compressor.models.fitting import feature_store
from compressor.models.fitting.feature_store import FeatureStore
from compressor.models.fitting.fit import fit
from compressor.models.fitting.replay import Replay
from compressor.models.fitting.same_kind import SameKindFit
from compressor.models.networks.rcan import RCANSpec
from compressor.models.networks.registry import architecture
from tests.support.commands import python
from tests.support.fits import patches
from tests.support.slices import lively

GROWTH = """
import re, torch
from pathlib import Path
from compressor.models.fitting import feature_store
from compressor.models.fitting.fit import fit
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build

feature_store.MEMORY_BYTES = {bound}
teacher, peaks = build(EDSRSpec(2, width=32, depth=2), seed=0), []
for count in (16, 64):
    fit(teacher, teacher.spec.narrowed(0.5), torch.rand(count, 3, 40, 40, generator=torch.Generator().manual_seed(0)))
    # Not ru_maxrss, which a process has from the one that started it.
    peaks.append(1024 * int(re.search(r"VmHWM:\\s+([0-9]+)", Path("/proc/self/status").read_text()).group(1)))
print(peaks[1] - peaks[0])
"""


def growth(bound: int) -> int:
    """Return the growth of a process's peak memory in bytes from 16 patches to 64."""
    return int(python("-c", GROWTH.format(bound=bound)).out)


@pytest.mark.ci
@pytest.mark.skipif(sys.platform != "linux", reason="/proc says how much memory a process needed at most")
def test_four_times_the_patches_need_little_more_memory() -> None:
    """The features of 48 more patches are at least 65 MB; the patches are 1 MB, and allocators keep 8 to 37 MB."""
    assert growth(1 << 20) < 50_000_000 < growth(1 << 40)


@pytest.mark.parametrize("name", ["rcan", "swinir"])
def test_a_student_is_the_same_from_memory_and_from_a_file(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = lively(architecture(name).small).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    spec = teacher.spec.narrowed(0.5)
    expected = fit(teacher, spec, patches(12)).fingerprint()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(feature_store, "MEMORY_BYTES", 20_000)
    fitting = SameKindFit(teacher, spec, patches(12))
    assert fitting.solve().fingerprint() == expected
    assert fitting.store.file_bytes > 100_000
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_on_disk_after_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(feature_store, "MEMORY_BYTES", 0)
    teacher = lively(architecture("edsr").small)
    fitting = SameKindFit(teacher, teacher.spec.narrowed(0.5), patches(4))

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fitting, "_leave", fail)
    with pytest.raises(KeyboardInterrupt):
        fitting.solve()
    assert fitting.store.file_bytes > 0 and getattr(fitting.store._file, "closed", False)
    assert list(tmp_path.iterdir()) == []


def test_tensors_come_back_as_they_were_put(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_store, "MEMORY_BYTES", 1000)
    image = torch.rand(2, 3, 5, 7)
    kinds = {
        "small": torch.rand(3),
        "plain": image,
        "channels last": image.contiguous(memory_format=torch.channels_last),
        "part": image[:, 1:],
        "windows": image.movedim(1, -1),
        "double": image.double(),
    }
    with FeatureStore() as store:
        for name, tensor in kinds.items():
            store[name] = tensor
        assert set(store.in_memory) == {"small", "plain"}
        for name, tensor in kinds.items():
            again = store[name]
            assert torch.equal(again, tensor) and again.dtype == tensor.dtype
            assert again.stride() == tensor.clone().stride()
        size = store.file_bytes
        for _ in range(5):
            store["double"] = image.double()
        assert store.file_bytes == size
        store.discard("small")
        assert store.memory_bytes == image.nbytes and "small" not in store.in_memory


def test_a_disk_without_space_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    monkeypatch.setattr(feature_store, "MEMORY_BYTES", 0)
    with FeatureStore() as store, pytest.raises(SrkdError, match=r"missing .*: set TMPDIR"):
        store["a"] = torch.rand(4)


@pytest.mark.ci
@pytest.mark.parametrize("name", ["rcan", "carn_m", "swinir"])
def test_outputs_that_are_given_again_change_no_student(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = lively(architecture(name).small)
    spec = teacher.spec.narrowed(0.5)
    expected = fit(teacher, spec, patches(9, side=12))
    monkeypatch.setattr(Replay, "_forward", lambda _self, _name, forward, *inputs: forward(*inputs))
    assert fit(teacher, spec, patches(9, side=12)).fingerprint() == expected.fingerprint()
    # The wrapping leaves no trace.
    assert not any("forward" in vars(module) for module in expected.modules())


def test_a_stage_of_twice_the_blocks_takes_twice_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    forward, calls = torch.nn.Conv2d.forward, [0]

    def counted(self: torch.nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
        calls[0] += 1
        return forward(self, x)

    def count(blocks: int) -> int:
        teacher = lively(RCANSpec(2, width=8, groups=1, depth=blocks, hidden=2))
        calls[0] = 0
        fit(teacher, teacher.spec.narrowed(0.5), patches(1, side=12))
        return calls[0]

    monkeypatch.setattr(torch.nn.Conv2d, "forward", counted)
    few, some, many = (count(blocks) for blocks in (2, 4, 8))
    assert many - some == 2 * (some - few)
