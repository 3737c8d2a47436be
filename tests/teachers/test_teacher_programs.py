"""Foreign files that contain code or are damaged: what they run does no harm, and the rest is one line."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch

from compressor.base.errors import SrkdError
from compressor.teachers.teacher import load_teacher
from tests.support.foreign_models import save_all, twin
from tests.support.jail import needs_jail

pytestmark = needs_jail


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return save_all(tmp_path_factory.mktemp("foreign"))


class Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (str(self.path),)


def rewritten(path: Path, out: Path, change: Callable[[str, bytes], bytes], extra: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
        for name, content in extra.items():
            new.writestr(f"{old.namelist()[0].partition('/')[0]}/{name}", content)
    return out


CODE = ["a weight", "an object", "the example inputs", "an expression", "an operator", "a class of the inputs"]


@pytest.mark.ci
@pytest.mark.parametrize("place", CODE)
def test_code_within_an_exported_program_does_no_harm(place: str, files: dict[str, Path], tmp_path: Path) -> None:
    """torch unpickles weights, objects and example inputs, evaluates expressions, and imports what they name."""
    sentinel, good = tmp_path / "RAN", files["torch.export"]
    pickled, zipped = pickle.dumps(Touch(sentinel), 2), BytesIO()
    torch.save(Touch(sentinel), zipped)
    with zipfile.ZipFile(good) as archive:
        weights = archive.read(next(name for name in archive.namelist() if name.endswith("_weights_config.json")))
    first, entry = next(iter(json.loads(weights)["config"].items()))
    object_entry = {"config": {first: {**entry, "path_name": "opaque_obj_0", "use_pickle": True}}}
    code = f'__import__(\\"os\\").mkdir(\\"{sentinel}\\")'.encode()
    enum = json.dumps([{"__enum__": True, "fqn": "stranger:x", "name": "y"}])
    tree = json.dumps([1, {"type": "builtins.dict", "context": enum, "children_spec": []}])
    (tmp_path / "stranger.py").write_text(f"import os; os.mkdir({str(sentinel)!r})")

    def change(name: str, content: bytes) -> bytes:
        if place == "a weight" and name.endswith("_weights_config.json"):
            return json.dumps({"config": {first: {**entry, "use_pickle": True}}}).encode()
        if place == "a weight" and name.endswith("weight_0"):
            return zipped.getvalue()
        if place == "an object" and name.endswith("_constants_config.json"):
            return json.dumps(object_entry).encode()
        if place == "the example inputs" and "sample_inputs" in name:
            return zipped.getvalue()
        if "/models/" not in name:
            return content
        if place == "an expression":
            return content.replace(b"Mul(Integer(2)", code + b"*(Integer(2)")
        if place == "an operator":
            return content.replace(b"torch.ops.aten.conv2d.default", b"torch.os.mkdir")
        if place == "a class of the inputs":
            program = json.loads(content)
            queue: list[Any] = [program]
            while queue:
                item = queue.pop()
                if isinstance(item, dict):
                    item.update({"in_spec": tree} if "in_spec" in item else {})
                queue.extend(item.values() if isinstance(item, dict) else item if isinstance(item, list) else ())
            return json.dumps(program).encode()
        return content

    path = rewritten(good, tmp_path / "bad.pt2", change, {"data/constants/opaque_obj_0": pickled})
    with suppress(SrkdError):
        load_teacher(path)
    assert not sentinel.exists()
    if place in ("a weight", "an object", "the example inputs", "an expression"):
        with suppress(Exception):
            torch.export.load(path)
        assert sentinel.exists(), "otherwise that nothing ran would prove nothing"


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def encrypted(content: bytes) -> bytes:
    changed = bytearray(content)
    changed[changed.rindex(b"PK\x01\x02") + 8] |= 1
    return bytes(changed)


def altered(content: bytes) -> bytes:
    """Change a byte of the longest record that is not compressed."""
    with zipfile.ZipFile(BytesIO(content)) as archive:
        stored = [member for member in archive.infolist() if member.compress_type == zipfile.ZIP_STORED]
        record = max(stored, key=lambda member: member.file_size)
        value = archive.read(record)
    at = content.index(value)
    return content[:at] + bytes([value[0] ^ 255]) + content[at + 1 :]


def beyond(content: bytes) -> bytes:
    """Move a record beyond the end of any file: the directory of a large archive has 64-bit offsets."""
    stream = BytesIO(content)
    with zipfile.ZipFile(stream, "a") as archive:
        archive.writestr(f"{archive.namelist()[0].partition('/')[0]}/extra/more", b"")
        archive.infolist()[1].header_offset = 2**63 + 5
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["TorchScript", "torch.export"])
@pytest.mark.parametrize("damage", [cut, encrypted, altered, beyond])
def test_a_damaged_archive_is_one_line(
    kind: str, damage: Callable[[bytes], bytes], files: dict[str, Path], tmp_path: Path
) -> None:
    path = tmp_path / files[kind].name
    path.write_bytes(damage(files[kind].read_bytes()))
    with pytest.raises(SrkdError, match=r"twin\.pt2?: (.*damaged.* again|.*torch\.save)"):
        load_teacher(path)


@pytest.mark.parametrize("kind", ["TorchScript", "torch.export"])
def test_a_sparse_file_is_not_read_into_memory(kind: str, files: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / files[kind].name
    with open(path, "wb") as file:
        file.write(files[kind].read_bytes()[:1000])
        file.seek(2**36)  # zip directories are at the end, with offsets from there
        file.write(files[kind].read_bytes())
    with pytest.raises(SrkdError, match=r"twin\.pt2? has over 2,147,483,647 bytes"):
        load_teacher(path)


def test_a_whole_pickled_module_is_refused_with_the_way_out(tmp_path: Path) -> None:
    torch.save(twin(), tmp_path / "whole.pth")
    with pytest.raises(SrkdError, match=r"state_dict\(\).*export the model to ONNX or Torch"):
        load_teacher(tmp_path / "whole.pth")
