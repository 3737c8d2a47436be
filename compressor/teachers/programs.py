"""Programs that torch saves, TorchScript and torch.export (.pt2): searched for code before torch reads them.

`torch.export.load` unpickles parts of a file without restriction, evaluates expressions in its JSON and looks up any
attribute of `torch` by name (torch/export/pt2_archive/_package.py, torch/_export/serde/serialize.py); TorchScript has
operators that open files. A file is handed to torch only after none of that was found in it, and after its archive
is known to fit into memory.
"""

from __future__ import annotations

import inspect
import json
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compressor.base.errors import SrkdError, one_line
from compressor.models.checkpoints.files import INFLATED_ANYWAY_BYTES, LARGEST_INFLATION
from compressor.models.checkpoints.pickles import read_pickle, read_storages
from compressor.models.networks.base import Descriptor
from compressor.teachers.foreign import ForeignFacts, ModuleProgram, count_params, find_scale, probe, run_module

TEXT_LIMIT_BYTES = 256 * 2**20
TORCHSCRIPT_FILES = re.compile(
    r"\b(?:save|from_file|load|_load_for_lite_interpreter)\s*\(|ops\.(?!aten\b|prims?\b|quantized\b|mkldnn_prepacked\b)\w+"
)
"""TorchScript operators that read or write files (aten::save, aten::from_file), and operators of other libraries."""
EXPORT_MEMBERS = re.compile(
    r"(models/[\w.-]+\.json|data/(weights|constants|sample_inputs)/[\w./-]+|archive_(format|version)|version|byteorder"
    r"|\.data/[\w-]+|\.format_version|\.storage_alignment|extra/.*)"
)
EXPORT_TARGETS = re.compile(
    r"torch\.ops\.(aten|prims|higher_order)\.\w+(\.\w+)?|torch\.(sym_\w+|_sym_\w+)|_operator\.\w+|math\.\w+"
    r"|torch\._check\w*"
)
EXPORT_VALUE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 2, 7: 4, 8: 8, 9: 4, 10: 8, 11: 16, 12: 1, 13: 2}
"""Bytes of a value by the number of its type in torch/_export/serde/schema.py, ScalarType."""
EXPORT_WORDS = re.compile(
    r"Symbol|Integer|Rational|Float|Mul|Add|Pow|Max|Min|Mod|PythonMod|FloorDiv|CleanDiv|CeilDiv|CeilToInt|FloorToInt"
    r"|ModularIndexing|ToFloat|IntTrueDiv|FloatTrueDiv|TruncToInt|Where|Eq|Ne|Lt|Le|Gt|Ge|And|Or|Not|Equality|Unequality"
    r"|StrictLessThan|LessThan|StrictGreaterThan|GreaterThan|BooleanTrue|BooleanFalse|Identity|positive|integer|real"
    r"|nonnegative|True|False|true|false|oo|int_oo|IntInfinity|NegativeIntInfinity|[suz]\d+"
)
"""Symbols of sizes, and the functions of sympy and torch.utils._sympy that their arithmetic uses."""


def archive_kind(path: Path) -> str | None:
    """Return "torchscript", "export" or "export-old"; None for anything else, such as an ordinary checkpoint."""
    try:
        with open(path, "rb") as handle:
            if handle.read(4) != b"PK\x03\x04":
                return None
            names = {name.partition("/")[2] or name for name in zipfile.ZipFile(handle).namelist()}
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError):
        return None
    if "constants.pkl" in names and any(name.startswith("code/") for name in names):
        return "torchscript"
    if any(name.startswith("models/") and name.endswith(".json") for name in names):
        return "export"
    return "export-old" if "serialized_exported_program.json" in names else None


@contextmanager
def open_bounded(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open the archive, once its records are known to fit a small multiple of the file; damage becomes one line."""
    try:
        with zipfile.ZipFile(path) as archive:
            size_bytes = path.stat().st_size
            unpacked = sum(member.file_size for member in archive.infolist())
            if unpacked > LARGEST_INFLATION * size_bytes + INFLATED_ANYWAY_BYTES:
                raise SrkdError(f"{path}: its {size_bytes:,} bytes unpack to {unpacked:,}: this is not a model")
            damaged = archive.testzip()
            if damaged is not None:
                raise SrkdError(f"{path}: a damaged archive (record {damaged[-60:]!r}): download or export it again")
            yield archive
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, NotImplementedError) as error:
        raise SrkdError(f"{path}: a damaged archive ({str(error)[:80]}): download or export it again") from error


def check_torchscript(path: Path) -> None:
    """Refuse a TorchScript file whose code would open files, or needs operators of another library."""
    with open_bounded(path) as archive:
        for member in archive.infolist():
            if "/code/" in member.filename and member.filename.endswith(".py"):
                match = TORCHSCRIPT_FILES.search(_read_text(archive, member, path))
                if match:
                    raise SrkdError(
                        f"{path}: its code {member.filename.rpartition('/')[2]} uses {match.group()[:40]!r}, which a "
                        "network does not need: refused, nothing was run"
                    )
        _check_storages(archive, path)


def _check_storages(archive: zipfile.ZipFile, path: Path) -> None:
    """Refuse records shorter than their pickle says: torch would read beyond their end."""
    sizes = {member.filename: member.file_size for member in archive.infolist()}
    # A trace's examples (traced_inputs.pkl) are described and not stored, and not read either.
    for pickled in [name for name in sizes if name.endswith(("/data.pkl", "/constants.pkl")) and "/code/" not in name]:
        folder = pickled.removesuffix(".pkl")
        for ref in read_storages(BytesIO(archive.read(pickled))).values():
            expected = (ref.start + ref.size) * (ref.dtype.itemsize if ref.dtype is not None else 1)
            if sizes.get(f"{folder}/{ref.key}", 0) < expected:
                raise SrkdError(
                    f"{path}: a damaged archive: its record {folder.rpartition('/')[2]}/{ref.key[:40]} is shorter than "
                    f"the {expected:,} bytes of its tensor: download or export it again"
                )


def check_export(path: Path) -> None:
    """Refuse a torch.export file with anything in it that loading would run."""
    with open_bounded(path) as archive:
        for member in archive.infolist():
            name = member.filename.partition("/")[2]
            if not EXPORT_MEMBERS.fullmatch(name):
                raise SrkdError(f"{path}: it holds {name[:80]!r}, which a torch.export program does not: refused")
            if name.startswith("models/"):
                _check_program(_read_text(archive, member, path), path)
            elif name.startswith("data/") and name.endswith("_config.json"):
                _check_values(archive, member, path)
            elif name.startswith("data/") and not name.endswith(".json"):
                _check_record(archive, member, path)


def _check_values(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> None:
    """Refuse raw records with fewer values than the tensor that is laid over them."""
    sizes = {record.filename: record.file_size for record in archive.infolist()}
    folder = member.filename.rpartition("/")[0]
    try:
        entries = json.loads(_read_text(archive, member, path))["config"]
        for name, entry in entries.items():
            meta = entry["tensor_meta"]
            if entry["use_pickle"] or meta is None:
                continue
            shape, strides = ([size["as_int"] for size in meta[key]] for key in ("sizes", "strides"))
            last = meta["storage_offset"]["as_int"] + sum(
                (n - 1) * step for n, step in zip(shape, strides, strict=True)
            )
            expected = 0 if 0 in shape else (last + 1) * EXPORT_VALUE_BYTES[meta["dtype"]]
            if min([0, *shape, *strides]) < 0 or sizes.get(f"{folder}/{entry['path_name']}", -1) < expected:
                raise SrkdError(f"{path}: the values of {str(name)[:60]} are not all there: export it again")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise SrkdError(f"{path}: its list of tensors is damaged ({error!r:.80}): export it again") from error


def _read_text(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> str:
    if member.file_size > TEXT_LIMIT_BYTES:
        raise SrkdError(f"{path}: {member.filename[:60]} has {member.file_size:,} bytes of text: this is not a model")
    return archive.read(member).decode("utf-8", errors="replace")


def _check_record(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> None:
    """Read whatever torch.load would unpickle as data first, which refuses code; raw values may be anything.

    Another part of the file says which records are unpickled, so a weight whose values look like a pickle is refused
    too: as float32 they would have to begin with a number of an archive's or a pickle's first bytes.
    """
    with archive.open(member) as stream:
        start = stream.read(4)
    pickled = "sample_inputs/" in member.filename or start.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03"))
    if not pickled and not start.startswith((b"\x80\x04", b"\x80\x05")):
        return
    content = archive.read(member)
    try:
        if start.startswith(b"PK\x03\x04"):
            with zipfile.ZipFile(BytesIO(content)) as inner:
                for name in inner.namelist():
                    if name.endswith(".pkl"):
                        read_pickle(BytesIO(inner.read(name)))
        elif content:
            pickles = BytesIO(content)
            while pickles.tell() < len(content):
                read_pickle(pickles)
    except SrkdError as error:
        raise SrkdError(f"{path}: its record {member.filename[-60:]!r}: {error}") from error


def _check_program(text: str, path: Path) -> None:
    """Allow operators from torch's own list, and expressions of symbols and arithmetic; no guards written as Python."""
    try:
        program = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SrkdError(f"{path}: its program is damaged ({str(error)[:80]}): export it again") from error
    for key, value in _entries(program):
        if key == "target" and isinstance(value, str) and not EXPORT_TARGETS.fullmatch(value):
            raise SrkdError(f"{path}: its program calls {value[:80]!r}, which is not an operator of torch: refused")
        if key == "expr_str" and isinstance(value, str):
            words = re.findall(r"[^\W\d]\w*", value)
            unknown = [word for word in words if not EXPORT_WORDS.fullmatch(word)]
            if unknown or "__" in value:
                raise SrkdError(f"{path}: its sizes are computed by {value[:80]!r}, which is not arithmetic: refused")


def _entries(value: object) -> Iterator[tuple[str, object]]:
    """Yield every key and value of nested JSON, without recursion."""
    queue = [value]
    while queue:
        item = queue.pop()
        if isinstance(item, dict):
            yield from item.items()
            queue.extend(item.values())
        elif isinstance(item, list):
            queue.extend(item)


def open_torchscript(path: Path) -> ModuleProgram:
    """Open a traced or scripted module in eval mode, on the CPU; its scale is found by running small images."""
    check_torchscript(path)
    with one_line(f"{path} is not a TorchScript file that this torch {torch.__version__} can open"):
        module = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    module.eval()
    label = f"TorchScript {path.name}"
    descriptor = probe(lambda images: run_module(module, images, label), None, label)
    facts = ForeignFacts("TorchScript", module.original_name, descriptor, count_params(module) or None)
    return ModuleProgram(module, facts, label)


class ExportedProgram(ModuleProgram):
    """A torch.export program. Devices are written into its graph, so a pass over the graph moves it."""

    def __init__(self, program: Any, facts: ForeignFacts, label: str) -> None:
        super().__init__(_callable(program), facts, label)
        self._program = program

    def move_to(self, device: torch.device) -> torch.device:
        from torch.export.passes import move_to_device_pass

        with one_line(f"{self.label} cannot go to {device}"):
            self._program = move_to_device_pass(self._program, str(device))
            self.module = _callable(self._program)
        return device


def open_exported_program(path: Path) -> ExportedProgram:
    """Open a program of one image input and one image output."""
    check_export(path)
    with one_line(f"{path} is not a torch.export program that this torch {torch.__version__} can open"):
        program = torch.export.load(str(path))
    label = f"torch.export program {path.name}"
    inputs = program.graph_signature.user_inputs
    nodes = [node for node in program.graph.nodes if node.op == "placeholder" and node.name in inputs]
    shapes: list[tuple[object, ...]] = [tuple(getattr(node.meta.get("val"), "shape", ())) for node in nodes]
    if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][1] not in (1, 3):
        raise SrkdError(f"{label} takes {[tuple(map(str, shape)) for shape in shapes]}: expected one (N, 3, H, W)")
    # None where a size may vary.
    batch, channels, height, width = (size if isinstance(size, int) else None for size in shapes[0])
    assert channels is not None  # an int, as it is 1 or 3
    module = _callable(program)

    def run(images: torch.Tensor) -> torch.Tensor:
        return run_module(module, images, label)

    if height is None or width is None:
        descriptor = probe(run, channels, label)
    else:
        with one_line(f"{label} is not a super-resolution model"):
            scale = find_scale(run, (batch or 1, channels, height, width))
        descriptor = Descriptor(scale=scale, channels=channels, fixed_size=(width, height))
    params = sum(tensor.numel() for name, tensor in program.named_parameters())
    return ExportedProgram(program, ForeignFacts("torch.export", "unknown", descriptor, params, batch), label)


def _callable(program: Any) -> nn.Module:
    """Return the program as a module, without the guards that newer versions keep as Python text and would run."""
    guarded = "check_guards" in inspect.signature(program.module).parameters
    module: nn.Module = program.module(check_guards=False) if guarded else program.module()
    return module
