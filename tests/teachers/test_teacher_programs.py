"""Foreign files that contain code, are damaged or state a wrong size: refused before torch reads them."""

from __future__ import annotations

import json
import os
import pickle
import re
import time
import zipfile
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch

from compressor.base.errors import SrkdError
from compressor.teachers.exported_program import rebuild_archive
from compressor.teachers.teacher import load_teacher
from tests.support.foreign_models import save_all, save_export, save_torchscript, twin


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


def test_programs_that_hold_code_are_refused_before_torch_reads_them(files: dict[str, Path], tmp_path: Path) -> None:
    sentinel = tmp_path / "RAN"
    bomb = pickle.dumps(Touch(sentinel), 2)
    good = files["torch.export"]

    def program(old: bytes, new: bytes) -> Callable[[str, bytes], bytes]:
        return lambda name, content: content.replace(old, new) if "/models/" in name else content

    def config(change: Callable[[dict[str, Any]], object], kind: str = "weights") -> Callable[[str, bytes], bytes]:
        """Change the first entry of the archive's list of weights, or put it, changed, into the list of constants."""

        def changed(name: str, content: bytes) -> bytes:
            if name.endswith(f"_{kind}_config.json"):
                name, entry = next(iter(json.loads(weights)["config"].items()))
                return json.dumps({"config": {name: change(entry)}}).encode()
            return content

        with zipfile.ZipFile(good) as archive:
            weights = archive.read(next(n for n in archive.namelist() if n.endswith("_weights_config.json")))
        return changed

    def weight(name: str, content: bytes) -> bytes:
        return bomb if name.endswith("weight_0") else content

    hidden = f'__import__(\\"os\\").mkdir(\\"{sentinel}\\")'.encode()
    zipped = BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("archive/DATA.PKL", bomb)

    def inner(name: str, content: bytes) -> bytes:
        return zipped.getvalue() if name.endswith("weight_0") else content

    use_pickle = config(lambda entry: {**entry, "use_pickle": True})
    opaque = config(lambda entry: {**entry, "path_name": "opaque_obj_0"}, "constants")
    cases = [
        (weight, {}, "are not all there"),
        (lambda name, content: use_pickle(name, weight(name, content)), {}, "would run code"),
        (
            lambda name, content: use_pickle(name, zipped.getvalue() if name.endswith("weight_0") else content),
            {},
            "run code",
        ),
        (opaque, {"data/constants/opaque_obj_0": pickle.dumps(Touch(sentinel), 0)}, "would run code"),
        (lambda name, content: content, {"data/weights/twin.pt": bomb}, "does not: refused"),
        (program(b"torch.ops.aten.conv2d.default", b"torch.hub.load"), {}, "calls 'torch.hub.load'"),
        (program(b"Mul(Integer(2)", hidden + b"*(Integer(2)"), {}, "is not arithmetic"),
        (lambda name, content: content, {"data/aotinductor/model/x.so": b"\x7fELF"}, "aotinductor"),
    ]
    for number, (change, extra, message) in enumerate(cases):
        path = rewritten(good, tmp_path / f"bad{number}.pt2", change, extra)
        with pytest.raises(SrkdError, match=message) as raised:
            load_teacher(path)
        assert str(path) in str(raised.value) and not sentinel.exists()
    for number, samples in enumerate((b"", bomb, pickle.dumps(Touch(sentinel), 0))):
        change = lambda name, content, samples=samples: samples if "sample_inputs" in name else content  # noqa: E731
        assert load_teacher(rewritten(good, tmp_path / f"same{number}.pt2", change, {})).backend == "torch.export"
    assert not sentinel.exists(), "example inputs are not read"


@pytest.mark.parametrize("kind", ["TorchScript", "torch.export"])
def test_damaged_and_inflated_archives(kind: str, files: dict[str, Path], tmp_path: Path) -> None:
    content = files[kind].read_bytes()
    for cut in (len(content) // 2, len(content) - 30):
        path = tmp_path / files[kind].name
        path.write_bytes(content[:cut])
        with pytest.raises(SrkdError, match=r"twin\.pt2?: (.*damaged.* again|.*torch\.save)"):
            load_teacher(path)
    with zipfile.ZipFile(files[kind]) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
        new.writestr(f"{old.namelist()[0].partition('/')[0]}/data/weights/weight_9", bytes(200 * 2**20))
    with pytest.raises(SrkdError, match=r"unpack to 2.*: this is not a model"):
        load_teacher(path)


def nested(tree: Any) -> Iterator[dict[str, Any]]:
    """Yield every object in a tree of JSON."""
    if isinstance(tree, dict):
        yield tree
    for item in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        yield from nested(item)


class Branching(torch.nn.Module):
    """A program with a branch that no trial image takes."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        def bright(y: torch.Tensor) -> torch.Tensor:
            return y + torch.zeros([16], dtype=torch.uint8).to(torch.float32).sum()

        y = torch.nn.functional.interpolate(x, scale_factor=2.0)
        return torch.cond(x.max() > 100, bright, torch.clone, (y,))  # type: ignore[no-any-return]


def test_a_branch_that_no_trial_takes_writes_no_file_either(tmp_path: Path) -> None:
    """Its process may write no file during the trial, but srkd's own may, for as long as the training takes."""
    good, target = save_export(Branching(), tmp_path / "good.pt2"), tmp_path / "WRITTEN"
    assert load_teacher(good)(torch.rand(1, 3, 8, 8)).shape == (1, 3, 16, 16)
    calls = {
        "torch.ops.aten.from_file.default": [
            {"name": "filename", "arg": {"as_string": str(target)}, "kind": 1},
            {"name": "shared", "arg": {"as_bool": True}, "kind": 1},
            {"name": "size", "arg": {"as_int": 16}, "kind": 1},
            {"name": "dtype", "arg": {"as_scalar_type": 1}, "kind": 2},
        ],
        "torch.ops.higher_order.wrap": [{"name": "", "arg": {"as_string": "x"}, "kind": 1}],
        "torch.ops.aten.set_.source_Tensor": [],
        "_operator.call": [],
        "torch._C._jit_pass_inline": [],
    }
    operator = {"": [{"name": "", "arg": {"as_operator": "torch.os.system"}, "kind": 1}]}
    for call, inputs in {**calls, **operator}.items():

        def changed(name: str, content: bytes, call: str = call, inputs: list[Any] = inputs) -> bytes:
            if "/models/" not in name:
                return content
            program = json.loads(content)
            for node in [item for item in nested(program) if item.get("target") == "torch.ops.aten.zeros.default"]:
                node["target"], node["inputs"] = call or node["target"], inputs
            return json.dumps(program).encode()

        with pytest.raises(SrkdError, match=f"calls '{call or 'torch.os.system'}', which is not an operator .*refused"):
            load_teacher(rewritten(good, tmp_path / "bad.pt2", changed, {}))
    assert not target.exists()


def test_classes_of_inputs_are_not_imported(files: dict[str, Path], tmp_path: Path) -> None:
    """torch imports the module that an enum names, even from the folder in which srkd was started."""
    enum = json.dumps([{"__enum__": True, "fqn": "module_of_a_stranger:x", "name": "y"}])
    for kind, context in (("builtins.dict", enum), ("collections.namedtuple", '"x"')):
        tree = json.dumps([1, {"type": kind, "context": context, "children_spec": []}])

        def changed(name: str, content: bytes, tree: str = tree) -> bytes:
            if "/models/" not in name:
                return content
            program = json.loads(content)
            for item in nested(program):
                item.update({"in_spec": tree} if "in_spec" in item else {})
            return json.dumps(program).encode()

        with pytest.raises(SrkdError, match=r"bad\.pt2: its inputs or outputs are of classes .* not imported: refused"):
            load_teacher(rewritten(files["torch.export"], tmp_path / "bad.pt2", changed, {}))


def test_a_hundred_thousand_records_are_looked_through_at_once(files: dict[str, Path], tmp_path: Path) -> None:
    records = {f"extra/{number}": b"" for number in range(100_000)}
    path = rewritten(files["torch.export"], tmp_path / "many.pt2", lambda name, content: content, records)
    content, began = path.read_bytes(), time.process_time()
    rebuild_archive(content, path)
    assert time.process_time() - began < 30, "it was minutes: each name was looked for among all"


@pytest.mark.parametrize("kind", ["TorchScript", "torch.export"])
def test_a_sparse_file_is_not_read_into_memory(kind: str, files: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / files[kind].name
    with open(path, "wb") as file:
        file.write(files[kind].read_bytes()[:1000])
        file.seek(2**36)  # zip directories are at the end, with offsets from there
        file.write(files[kind].read_bytes())
    with pytest.raises(SrkdError, match=r"twin\.pt2? has over 2,147,483,647 bytes"):
        load_teacher(path)


@pytest.mark.parametrize("kind", ["TorchScript", "torch.export"])
def test_a_record_whose_length_in_the_directory_is_a_lie_is_refused(
    kind: str, files: dict[str, Path], tmp_path: Path
) -> None:
    """zipfile's own test of archives only compares the bytes that are present."""
    record = "data/0" if kind == "TorchScript" else "weight_0"
    with zipfile.ZipFile(files[kind]) as archive:
        full = next(member for member in archive.infolist() if member.filename.endswith(record))
    path = rewritten(
        files[kind], tmp_path / "bad", lambda name, content: content[:4] if name == full.filename else content, {}
    )
    content = bytearray(path.read_bytes())
    entry = content.rindex(full.filename.encode()) - 46  # in the directory, which is at the end
    assert content[entry : entry + 4] == b"PK\x01\x02"
    content[entry + 24 : entry + 28] = full.file_size.to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(
        SrkdError, match=rf"bad: a damaged archive \(record '.*{record}'\): download or export it again"
    ):
        load_teacher(path)


class TwoWeights(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.large, self.small = torch.nn.Parameter(torch.ones(1000)), torch.nn.Parameter(torch.ones(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.interpolate(x, scale_factor=2.0) + 0 * (self.large.sum() + self.small.sum())


def test_a_record_named_twice_is_as_long_as_the_longer_of_its_tensors(tmp_path: Path) -> None:
    good = save_torchscript(TwoWeights(), tmp_path / "good.pt")
    first, second = b"X\x01\x00\x00\x000", b"X\x01\x00\x00\x001"

    def changed(name: str, content: bytes) -> bytes:
        return content.replace(first, second) if name.endswith("/data.pkl") else content

    with pytest.raises(SrkdError, match=r"record data/1 is shorter than the 4,000 bytes of its tensor"):
        load_teacher(rewritten(good, tmp_path / "bad.pt", changed, {}))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            # torch numbers classes of the same name within a process.
            rb"c__torch__\.torch\.nn\.modules\.container(\.___torch_mangle_\d+)?\nSequential\n",
            b"c__torch__.torch.classes.quantized\nX\n",
            "C\\+\\+ code",
        ),
        (b"_rebuild_tensor_v2", b"_rebuild_sparse_tensor", "sparse, quantised or meta"),
    ],
)
def test_objects_of_native_code_are_refused(
    old: bytes, new: bytes, message: str, files: dict[str, Path], tmp_path: Path
) -> None:
    def changed(name: str, content: bytes) -> bytes:
        if name.endswith("/data.pkl"):
            changed_content, count = re.subn(old, new, content)
            assert count, content
            return changed_content
        return content

    with pytest.raises(SrkdError, match=rf"bad\.pt: it holds .*{message}"):
        load_teacher(rewritten(files["TorchScript"], tmp_path / "bad.pt", changed, {}))


def test_a_whole_pickled_module_is_refused_with_the_way_out(tmp_path: Path) -> None:
    torch.save(twin(), tmp_path / "whole.pth")
    with pytest.raises(SrkdError, match=r"refused, nothing was run.*state_dict\(\).*export the model to ONNX or Torch"):
        load_teacher(tmp_path / "whole.pth")


@pytest.mark.parametrize("kind", ["TorchScript", "torch.export"])
def test_an_encrypted_record_is_one_line(kind: str, files: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / files[kind].name
    content = bytearray(files[kind].read_bytes())
    content[content.rindex(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(SrkdError, match=r"its record '.*' is encrypted: save the model without a password"):
        load_teacher(path)


@pytest.mark.parametrize("kind", ["TorchScript", "torch.export"])
def test_a_record_beyond_any_file_is_one_line(kind: str, files: dict[str, Path], tmp_path: Path) -> None:
    """The directory of a large archive has 64-bit offsets."""
    path = tmp_path / files[kind].name
    path.write_bytes(files[kind].read_bytes())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"{archive.namelist()[0].partition('/')[0]}/extra/more", b"")
        archive.infolist()[1].header_offset = 2**63 + 5
    with pytest.raises(SrkdError, match=r"a damaged archive \(.*\): download or export it again"):
        load_teacher(path)


def test_a_program_is_rebuilt_to_the_same_bytes_at_any_time(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the stored result of a file would not be found again by its hash."""
    path = files["torch.export"]
    first = rebuild_archive(path.read_bytes(), path)
    monkeypatch.setattr(time, "time", lambda: 2e9)
    assert rebuild_archive(path.read_bytes(), path) == first


@pytest.mark.ci
def test_a_record_shorter_than_its_tensor_is_refused(files: dict[str, Path], tmp_path: Path) -> None:
    """torch itself reads beyond the record's end, and crashes or returns other memory."""
    short = rewritten(
        files["TorchScript"], tmp_path / "short.pt", lambda name, old: old[:8] if name.endswith("data/1") else old, {}
    )
    with pytest.raises(SrkdError, match=r"record data/1 is shorter than the \d+ bytes of its tensor"):
        load_teacher(short)
    for length in (0, 8):
        short = rewritten(
            files["torch.export"],
            tmp_path / "short.pt2",
            lambda name, old, length=length: old[:length] if name.endswith("weight_0") else old,  # type: ignore[misc]
            {},
        )
        with pytest.raises(SrkdError, match=r"the values of 0\.weight are not all there"):
            load_teacher(short)
