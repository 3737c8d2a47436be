"""Damaged and hostile files: a clean load or one line, no code run, no memory eaten."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from compressor.base.errors import SrkdError
from compressor.models.checkpoints.load import load_checkpoint
from compressor.models.checkpoints.save import save_network
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build
from tests.support import official


def torch_bytes(content: object, *, legacy: bool = False) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=not legacy)
    return stream.getvalue()


def zipped(records: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in records.items():
            archive.writestr(name, content)
    return stream.getvalue()


def header_file(header: object, values: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + values


class Runs:
    """An object whose pickle calls `function` with `arguments`."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


STATE = official.basicsr_edsr(2, 4, 1)
GOOD_LEGACY = torch_bytes(STATE, legacy=True)


def running_code(sentinel: Path) -> Iterator[bytes]:
    """Yield files that create `sentinel` when an ordinary unpickler reads them."""
    bomb = Runs(os.system, f"touch {sentinel}")
    payload = pickle.dumps(bomb, 2)
    for legacy in (False, True):
        yield torch_bytes(bomb, legacy=legacy)
        yield torch_bytes({**STATE, "x": bomb}, legacy=legacy)
        yield torch_bytes({"params": STATE, "epoch": bomb}, legacy=legacy)
    yield payload + GOOD_LEGACY
    yield pickle.dumps(0x1950A86A20F9469CFC6C, 2) + payload
    touch = f"touch {sentinel}".encode()
    for program in (
        b"(S'" + touch + b"'\nios\nsystem\n.",
        b"cos\nsystem\n(S'" + touch + b"'\ntR.",
        b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94\x93\x8c" + bytes([len(touch)]) + touch + b"\x85R.",
        b"\x80\x04cos\nsystem\n(S'" + touch + b"'\nt}\x92.",
    ):
        yield zipped({"a/data.pkl": program})
        yield b"\x80\x02" + program


def lying_tensor(size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0, count: int = 9) -> bytes:
    """Return an archive with tensors of any description over nine stored floats."""
    described = io.BytesIO()

    class Describer(pickle.Pickler):
        def persistent_id(self, thing: Any) -> Any:
            return ("storage", torch.FloatStorage, "0", "cpu", count) if thing == "the storage" else None

    tensor = Runs(torch._utils._rebuild_tensor_v2, "the storage", offset, size, stride, False, {})
    Describer(described, 2).dump({"conv_first.weight": tensor, "body.0.conv1.weight": tensor})
    return zipped({"a/data.pkl": described.getvalue(), "a/data/0": bytes(36)})


def lies() -> Iterator[bytes]:
    yield lying_tensor((10**6, 10**6, 3, 3), (0, 0, 0, 0))
    yield lying_tensor((3, 3), (3, 1), offset=1)
    yield lying_tensor((10**12,), (1,), count=10**12)
    yield lying_tensor((2**62, 2**62), (2**62, 2**62), 2**62)
    yield lying_tensor((-1, -9), (1, 1))
    yield lying_tensor((3, 3), (3, 1), count=10**5000)
    wide = {"conv_first.weight": torch.zeros(60_000, 3, 3, 3), "body.0.conv1.weight": torch.zeros(4, 4, 3, 3)}
    yield torch_bytes(wide | {"upsample.0.weight": torch.zeros(240_000, 1, 1, 1)})


def bombs() -> Iterator[bytes]:
    pickled = b"\x80\x02}."
    yield zipped({"a/data.pkl": bytes(2**27)}, zipfile.ZIP_DEFLATED)
    yield zipped({"a/data.pkl": pickled, "a/data/0": bytes(2**28)}, zipfile.ZIP_DEFLATED)
    yield zipped({"a/other.pkl": pickled})


def false_headers() -> Iterator[bytes]:
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    for wrong in ({"shape": [2**62, 2]}, {"shape": [-2]}, {"dtype": "F99"}, {"data_offsets": [8, 0]}):
        yield header_file({"a": {**entry, **wrong}}, bytes(8))
    yield header_file({"a": entry})
    yield header_file([]) + bytes(8)
    yield (2**60).to_bytes(8, "little") + b"{}"


def by_chance(tmp_path: Path) -> Iterator[bytes]:
    """Yield good files with a few flipped, lost, repeated or overwritten bytes."""
    rng = random.Random(0)
    save_network(build(EDSRSpec(2, 4, 1), seed=0), tmp_path / "own.safetensors")
    bases = [torch_bytes({"params": STATE}), GOOD_LEGACY, (tmp_path / "own.safetensors").read_bytes()]
    for number in range(90):
        data = bytearray(bases[number % 3])
        for _ in range(rng.choice((1, 1, 4))):
            at = rng.randrange(min(len(data), rng.choice((2500, len(data)))))
            kind = rng.randrange(4)
            if kind == 0:
                data[at] ^= 1 << rng.randrange(8)
            elif kind == 1:
                del data[at : at + 8]
            elif kind == 2:
                data[at:at] = data[at : at + 8]
            else:
                data[at : at + 8] = rng.randbytes(8)
        yield bytes(data)


def is_refused(path: Path) -> bool:
    """Load a file; if it is refused, require one line that names it, else a network that runs."""
    try:
        network = load_checkpoint(path).network
    except SrkdError as error:
        assert str(error).startswith(f"{path}: ") and str(error).isprintable() and len(str(error)) < 900
        return True
    with torch.no_grad():
        assert network(torch.zeros(1, 3, 2, 3)).shape[-1] == 3 * network.spec.scale
    return False


def test_code_in_a_pickle_is_not_run(tmp_path: Path) -> None:
    path, sentinel = tmp_path / "hostile.pth", tmp_path / "CODE_RAN"
    for content in running_code(sentinel):
        path.write_bytes(content)
        assert is_refused(path) and not sentinel.exists()
    pickle.loads(pickle.dumps(Runs(os.system, f"touch {sentinel}"), 2))
    assert sentinel.exists(), "the same object runs in an ordinary unpickler"


@pytest.mark.parametrize("attacks", [lies, bombs, false_headers])
def test_files_that_claim_what_they_do_not_hold(attacks: Callable[[], Iterator[bytes]], tmp_path: Path) -> None:
    path = tmp_path / "hostile.pth"
    for number, content in enumerate(attacks()):
        path.write_bytes(content)
        assert is_refused(path), number


def test_random_damage_is_one_line_or_harmless(tmp_path: Path) -> None:
    path, refused = tmp_path / "damaged.pth", 0
    for content in by_chance(tmp_path):
        path.write_bytes(content)
        refused += is_refused(path)
    assert 30 < refused < 90


@pytest.mark.parametrize("kind", ["folder", "missing", "pipe", "link to itself"])
def test_what_is_no_file(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "link to itself":
        path.symlink_to(path)
    assert is_refused(path)
