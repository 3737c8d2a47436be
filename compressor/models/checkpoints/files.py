"""Checkpoint files as tensors: a file of any format, opened without running any of its code.

Each of four formats is read into plain values, with a `TensorRef` for every tensor, and a function that reads a
storage. Memory is bounded by the file: a storage is read when one of its tensors is requested, never past its size in
the file, and all storages together never exceed a small multiple of the file (a deflated archive may be a bomb).
"""

from __future__ import annotations

import math
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import IO

import torch

from compressor.base.errors import SrkdError, is_out_of_memory
from compressor.base.files import sha256_of
from compressor.models.checkpoints.header import AGAIN, HEADER_BYTES_LIMIT, NCNN_BINARY_MAGIC, ncnn_files, read_header
from compressor.models.checkpoints.ncnn_graph import TEXT_BYTES_LIMIT
from compressor.models.checkpoints.ncnn_networks import read_network
from compressor.models.checkpoints.pickles import StorageRef, TensorRef, read_pickle

PICKLE_BYTES_LIMIT = 64 * 2**20
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
CHUNK_BYTES = 2**20
LARGEST_INFLATION = 8
"""Most bytes of values per byte of the file; trained weights deflate only by a tenth, so a larger ratio is not weights.
"""
INFLATED_ANYWAY_BYTES = 64 * 2**20
SAVE_WEIGHTS = "save its weights with torch.save(model.state_dict(), path)"
SAFETENSORS_DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


MAX_AXES = 8


@dataclass
class Container:
    """An open checkpoint. `content` holds plain values, and a `TensorRef` for each tensor of the file.

    `read(storage, bytes)` returns exactly that many leading bytes of a storage, or raises an error.
    """

    kind: str
    content: object
    read: Callable[[StorageRef, int], bytearray]
    budget_bytes: int
    """Bytes that the storages may still occupy together; overlapping or inflated records and tensors exceed it."""
    header: Mapping[str, str] = field(default_factory=dict)
    fields: Mapping[str, object] = field(default_factory=dict)
    """Fields of the network's spec that the file states beside its tensors."""
    notes: tuple[str, ...] = ()
    sha256: str = field(init=False)
    size_bytes: int = field(init=False)
    _storages: dict[tuple[str, torch.dtype], torch.Tensor] = field(default_factory=dict, init=False)

    def tensor(self, ref: TensorRef) -> torch.Tensor:
        """Return the tensor on the CPU, as a view of its storage."""
        count = math.prod(ref.shape)
        if len(ref.shape) > MAX_AXES or (count == 0 and max(ref.shape) > 2**31):
            raise SrkdError(f"a tensor of shape {str(ref.shape)[:60]} is not a tensor of a network")
        if count == 0:
            return torch.empty(ref.shape, dtype=ref.storage.dtype)
        last = ref.offset + sum((size - 1) * step for size, step in zip(ref.shape, ref.stride, strict=True))
        if last >= ref.storage.size or count > ref.storage.size:
            raise SrkdError(
                f"a tensor of shape {str(ref.shape)[:60]} claims more than the {ref.storage.size:,} values of its "
                "storage: save contiguous tensors"
            )
        # The stride of an axis of one element has no meaning, and need not even fit into 64 bits.
        stride = [step if size > 1 else 1 for size, step in zip(ref.shape, ref.stride, strict=True)]
        return self._storage(ref.storage).as_strided(ref.shape, stride, ref.storage.start + ref.offset)

    def _storage(self, ref: StorageRef) -> torch.Tensor:
        assert ref.dtype is not None  # no tensor is described without one
        count = ref.start + ref.size
        storage = self._storages.get((ref.key, ref.dtype))
        if storage is None or storage.numel() < count:
            self.budget_bytes -= count * ref.dtype.itemsize
            if self.budget_bytes < 0:
                raise SrkdError(
                    f"its tensors claim far more than the file's {self.size_bytes:,} bytes: no checkpoint does"
                )
            values = self.read(ref, count * ref.dtype.itemsize)
            storage = self._storages[ref.key, ref.dtype] = torch.frombuffer(values, dtype=ref.dtype)
        return storage


def open_zip(handle: IO[bytes], size_bytes: int) -> Container:
    """Open a file of torch.save since 1.6: a zip of `<name>/data.pkl`, `<name>/data/<key>`, `<name>/byteorder`."""
    with _zip_errors():
        archive = zipfile.ZipFile(handle)
    members = {info.filename: info for info in archive.infolist()}
    pickles = sorted((name for name in members if name.rpartition("/")[2] == "data.pkl"), key=len)
    if not pickles:
        raise SrkdError("a zip archive without data.pkl: torch.save did not write it")
    prefix = pickles[0].removesuffix("data.pkl")
    if f"{prefix}constants.pkl" in members:
        raise SrkdError(f"a TorchScript archive, which holds code: it can be a teacher; else {SAVE_WEIGHTS}")
    byteorder = members.get(f"{prefix}byteorder")
    if byteorder is not None and _member(archive, byteorder, 16) == b"big":
        raise SrkdError("saved on a big-endian machine, which is not supported")
    pickled = _member(archive, members[pickles[0]], PICKLE_BYTES_LIMIT + 1)
    if len(pickled) > PICKLE_BYTES_LIMIT:
        raise SrkdError(f"its data.pkl has over {PICKLE_BYTES_LIMIT:,} bytes: this is not a checkpoint")

    def read(ref: StorageRef, count_bytes: int) -> bytearray:
        member = members.get(f"{prefix}data/{ref.key}")
        content = _member(archive, member, count_bytes) if member and member.file_size >= count_bytes else b""
        return _require_size(content, ref, count_bytes)

    deflated = any(info.compress_type != zipfile.ZIP_STORED for info in members.values())
    max_bytes = LARGEST_INFLATION * size_bytes + INFLATED_ANYWAY_BYTES if deflated else size_bytes
    return Container("torch", read_pickle(BytesIO(pickled)).value, read, max_bytes)


def _require_size(content: bytes | bytearray, ref: StorageRef, size_bytes: int) -> bytearray:
    """Return the bytes of a storage; refuse them if their number is wrong."""
    if len(content) != size_bytes:
        raise SrkdError(f"the values of storage {ref.key[:40]!r} ({size_bytes:,} bytes) are not all there: {AGAIN}")
    return bytearray(content)


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, limit_bytes: int) -> bytearray:
    """Read up to `limit_bytes` of a record, stored or deflated."""
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or member.flag_bits & 1:
        raise SrkdError(f"record {member.filename[:60]!r} is encrypted, or packed by other means than deflate")
    if member.CRC == 0 and hasattr(member, "CRC"):
        # torch.serialization.set_crc32_options(False) writes zeros: there is no checksum to compare.
        del member.CRC
    content = bytearray()
    with _zip_errors(), archive.open(member) as stream:
        while len(content) < limit_bytes and (chunk := stream.read(min(CHUNK_BYTES, limit_bytes - len(content)))):
            content += chunk
        stream.read(1)  # zipfile checks the checksum at the end of the record
    return content


@contextmanager
def _zip_errors() -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, struct.error, ValueError, RuntimeError, OverflowError) as error:
        raise SrkdError(f"a damaged archive ({str(error)[:80]}): {AGAIN}") from error


class _Clamped:
    """A stream that never allocates for more bytes than the file still has."""

    def __init__(self, handle: IO[bytes], size_bytes: int) -> None:
        self.handle, self.size_bytes = handle, size_bytes
        self.readline, self.seek, self.tell = handle.readline, handle.seek, handle.tell

    def read(self, count: int) -> bytes:
        return self.handle.read(max(0, min(count, self.size_bytes - self.handle.tell())))


def open_legacy(handle: IO[bytes], size_bytes: int) -> Container:
    """Open a file of torch.save before 1.6: magic number, protocol, machine, object, the storages' keys and values."""
    stream = _Clamped(handle, size_bytes)
    if read_pickle(stream).value != LEGACY_MAGIC:
        raise SrkdError(f"a pickle that torch.save did not write: {SAVE_WEIGHTS}")
    read_pickle(stream)
    machine = read_pickle(stream).value
    if isinstance(machine, dict) and machine.get("little_endian") is False:
        raise SrkdError("saved on a big-endian machine, which is not supported")
    pickled = read_pickle(stream)
    keys = read_pickle(stream).value
    if not isinstance(keys, list):
        raise SrkdError(f"its list of storages is damaged: {AGAIN}")
    first = stream.tell()

    def read(ref: StorageRef, count_bytes: int) -> bytearray:
        stream.seek(first)
        for key in keys:
            count = int.from_bytes(stream.read(8), "little")
            stored = pickled.storages.get(str(key))
            if stored is None or stored.dtype is None or count != stored.start + stored.size:
                break
            if key == ref.key:
                return _require_size(stream.read(count_bytes), ref, count_bytes)
            if stream.tell() + count * stored.dtype.itemsize > size_bytes:
                break
            stream.seek(count * stored.dtype.itemsize, 1)
        return _require_size(b"", ref, count_bytes)

    return Container("torch-legacy", pickled.value, read, size_bytes)


def open_safetensors(handle: IO[bytes], size_bytes: int) -> Container:
    """Open a safetensors file: header, values."""
    header = read_header(handle, size_bytes)
    refs = {
        name: TensorRef.contiguous(name, SAFETENSORS_DTYPES[entry.dtype], entry.shape)
        for name, entry in header.tensors.items()
    }

    def read(ref: StorageRef, count_bytes: int) -> bytearray:
        handle.seek(header.values_begin + header.tensors[ref.key].begin)
        return _require_size(handle.read(count_bytes), ref, count_bytes)

    return Container("safetensors", refs, read, size_bytes, header.metadata)


def open_ncnn(param: Path, handle: IO[bytes], size_bytes: int) -> Container:
    """Open the .bin of ncnn, whose .param names its tensors."""
    with open(param, "rb") as text:
        content = text.read(TEXT_BYTES_LIMIT + 1)
    if content.startswith(NCNN_BINARY_MAGIC):
        raise SrkdError(f"{param.name} is a binary .param of ncnn: only the text is read")
    if len(content) > TEXT_BYTES_LIMIT:
        raise SrkdError(f"{param.name} has over {TEXT_BYTES_LIMIT:,} bytes: this is not a network")
    refs, fields, notes = read_network(content, handle, size_bytes)

    def read(ref: StorageRef, count_bytes: int) -> bytearray:
        handle.seek(int(ref.key))
        return _require_size(handle.read(count_bytes), ref, count_bytes)

    return Container("ncnn files", refs, read, size_bytes, fields=fields, notes=notes)


@contextmanager
def open_container(path: Path) -> Iterator[Container]:
    """Open a checkpoint of any format. Errors do not name the path: the caller adds the name that the user gave."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise SrkdError("not a file: give a checkpoint (.pt, .pth, .safetensors) or a run folder")
        ncnn = ncnn_files(path)
        with open(ncnn[1] if ncnn else path, "rb") as handle:
            sha256 = sha256_of(handle)
            size_bytes = handle.tell()
            container = open_ncnn(ncnn[0], handle, size_bytes) if ncnn else _open(handle, size_bytes)
            container.sha256, container.size_bytes = sha256, size_bytes
            yield container
    except FileNotFoundError as error:
        raise SrkdError("no such file") from error
    except OSError as error:
        raise SrkdError(f"cannot be read: {error.strerror or error}") from error
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise SrkdError("does not fit into memory") from error


def _open(handle: IO[bytes], size_bytes: int) -> Container:
    handle.seek(0)
    start = handle.read(16)
    handle.seek(0)
    if not start:
        raise SrkdError("the file is empty: download or save it again")
    if start.startswith(b"PK\x03\x04"):
        return open_zip(handle, size_bytes)
    # Test before the pickles: the length of a safetensors header may begin with the byte of a pickle.
    # The test does not ask for the file's size, so that a file that was cut short is still called safetensors.
    if start[8:9] == b"{" and (int.from_bytes(start[:8], "little") <= HEADER_BYTES_LIMIT or start[:1] != b"\x80"):
        return open_safetensors(handle, size_bytes)
    if start.startswith(b"\x80"):
        return open_legacy(handle, size_bytes)
    raise SrkdError(
        f"not a checkpoint, it starts with {start[:8]!r}: srkd reads .pt, .pth, .ckpt and .safetensors "
        "files, ncnn's .param with its .bin, TorchScript, .pt2 and .onnx"
    )
