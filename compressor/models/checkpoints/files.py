"""Checkpoint files as tensors: a file of any format, opened without running any of its code.

Memory is bounded by the file: what a deflated archive grows to is a small multiple of it (it may be a bomb).
"""

from __future__ import annotations

import pickletools
import stat
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import torch
from safetensors import safe_open

from compressor.base.errors import SrkdError, is_out_of_memory, one_line
from compressor.base.files import sha256_of
from compressor.models.checkpoints.header import AGAIN, HEADER_BYTES_LIMIT, NCNN_BINARY_MAGIC, ncnn_files, read_header
from compressor.models.checkpoints.ncnn_graph import TEXT_BYTES_LIMIT
from compressor.models.checkpoints.ncnn_networks import read_network
from compressor.models.checkpoints.pickles import read_pickled

PICKLE_BYTES_LIMIT = 16 * 2**20
LEGACY_PICKLES = 5
"""Pickles of a file of torch.save before 1.6: magic number, protocol, machine, object, the storages' keys."""
LARGEST_INFLATION = 8
"""Most bytes of values per byte of the file; trained weights deflate only by a tenth, so a larger ratio is not weights.
"""
INFLATED_ANYWAY_BYTES = 64 * 2**20
SAVE_WEIGHTS = "save its weights with torch.save(model.state_dict(), path)"


@dataclass(frozen=True)
class Container:
    """The content of a checkpoint: plain values, and tensors by name."""

    content: object
    size_bytes: int
    sha256: str
    header: Mapping[str, str] = field(default_factory=dict)
    fields: Mapping[str, object] = field(default_factory=dict)
    """Fields of the network's spec that the file states beside its tensors."""
    notes: tuple[str, ...] = ()

    def require_own_values(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Refuse tensors that claim more memory than the file can hold."""
        storages = {storage.data_ptr(): storage.nbytes() for storage in (t.untyped_storage() for t in tensors.values())}
        if sum(storages.values()) > most_bytes(self.size_bytes):
            raise SrkdError(f"its tensors claim far more than the file's {self.size_bytes:,} bytes: no checkpoint does")


def most_bytes(size_bytes: int) -> int:
    """Return the most bytes that a file of this size may grow to."""
    return LARGEST_INFLATION * size_bytes + INFLATED_ANYWAY_BYTES


def open_zip(path: Path, size_bytes: int) -> object:
    """Return the content of a file of torch.save since 1.6: a zip of `<name>/data.pkl`, `<name>/data/<key>`, ...

    torch compares no checksums and maps stored records only, so the records are read here first; packed ones are stored
    in a temporary file.
    """
    with tempfile.NamedTemporaryFile() as copy:
        with _zip_errors(), zipfile.ZipFile(path) as archive, zipfile.ZipFile(copy, "w") as stored:
            members = archive.infolist()
            ends = {info.filename.rpartition("/")[2]: info.file_size for info in members}
            if "data.pkl" not in ends:
                raise SrkdError("a zip archive without data.pkl: torch.save did not write it")
            if "constants.pkl" in ends:
                raise SrkdError(f"a TorchScript archive, which holds code: it can be a teacher; else {SAVE_WEIGHTS}")
            if ends["data.pkl"] > PICKLE_BYTES_LIMIT:
                raise SrkdError(f"its data.pkl has over {PICKLE_BYTES_LIMIT:,} bytes: this is not a checkpoint")
            if sum(info.file_size for info in members) > most_bytes(size_bytes):
                raise SrkdError(f"its records claim far more than the file's {size_bytes:,} bytes: no checkpoint does")
            is_packed = any(info.compress_type != zipfile.ZIP_STORED for info in members)
            for info in members:
                if info.CRC == 0:
                    del info.CRC  # torch.serialization.set_crc32_options(False): there is no checksum to compare
                content = archive.read(info)
                if is_packed:
                    stored.writestr(info.filename, content)
        return read_pickled(Path(copy.name) if is_packed else path, mapped=True)


@contextmanager
def _zip_errors() -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, struct.error, ValueError, RuntimeError, OverflowError) as error:
        raise SrkdError(f"a damaged archive ({str(error)[:80]}): {AGAIN}") from error


def open_legacy(path: Path, handle: IO[bytes]) -> object:
    """Return the content of a file of torch.save before 1.6: its pickles, then the storages' values."""
    try:
        for _ in range(LEGACY_PICKLES):
            for _ in pickletools.genops(handle):
                if handle.tell() > PICKLE_BYTES_LIMIT:
                    raise SrkdError(f"its pickles have over {PICKLE_BYTES_LIMIT:,} bytes: this is not a checkpoint")
    except (ValueError, UnicodeError) as error:
        raise SrkdError(f"a pickle that torch.save did not write, or damaged ({str(error)[:80]}): {AGAIN}") from error
    return read_pickled(path, mapped=False)


def open_safetensors(path: Path, handle: IO[bytes], size_bytes: int) -> tuple[object, Mapping[str, str]]:
    """Return the tensors of a safetensors file by name, and its metadata."""
    header = read_header(handle, size_bytes)
    with one_line(f"its safetensors header is damaged, {AGAIN}"), safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in header.tensors}, header.metadata


def open_ncnn(param: Path, handle: IO[bytes], size_bytes: int) -> tuple[object, Mapping[str, object], tuple[str, ...]]:
    """Return the tensors of ncnn's .bin, which its .param names, fields of the spec, and notes."""
    with open(param, "rb") as text:
        content = text.read(TEXT_BYTES_LIMIT + 1)
    if content.startswith(NCNN_BINARY_MAGIC):
        raise SrkdError(f"{param.name} is a binary .param of ncnn: only the text is read")
    if len(content) > TEXT_BYTES_LIMIT:
        raise SrkdError(f"{param.name} has over {TEXT_BYTES_LIMIT:,} bytes: this is not a network")
    return read_network(content, handle, size_bytes)


def open_container(path: Path) -> Container:
    """Open a checkpoint of any format. Errors do not name the path: the caller adds the name that the user gave."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise SrkdError("not a file: give a checkpoint (.pt, .pth, .safetensors) or a run folder")
        ncnn = ncnn_files(path)
        with open(ncnn[1] if ncnn else path, "rb") as handle:
            sha256 = sha256_of(handle)
            size_bytes = handle.tell()
            handle.seek(0)
            if ncnn:
                content, fields, notes = open_ncnn(ncnn[0], handle, size_bytes)
                return Container(content, size_bytes, sha256, fields=fields, notes=notes)
            content, header = _open(path, handle, size_bytes)
            return Container(content, size_bytes, sha256, header)
    except FileNotFoundError as error:
        raise SrkdError("no such file") from error
    except OSError as error:
        raise SrkdError(f"cannot be read: {error.strerror or error}") from error
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise SrkdError("does not fit into memory") from error


def _open(path: Path, handle: IO[bytes], size_bytes: int) -> tuple[object, Mapping[str, str]]:
    """Return the content of a file, and the metadata of safetensors."""
    start = handle.read(16)
    handle.seek(0)
    if not start:
        raise SrkdError("the file is empty: download or save it again")
    if start.startswith(b"PK\x03\x04"):
        return open_zip(path, size_bytes), {}
    # Test before the pickles: the length of a safetensors header may begin with the byte of a pickle.
    # The test does not ask for the file's size, so that a file that was cut short is still called safetensors.
    if start[8:9] == b"{" and (int.from_bytes(start[:8], "little") <= HEADER_BYTES_LIMIT or start[:1] != b"\x80"):
        return open_safetensors(path, handle, size_bytes)
    if start.startswith(b"\x80"):
        return open_legacy(path, handle), {}
    raise SrkdError(
        f"not a checkpoint, it starts with {start[:8]!r}: srkd reads .pt, .pth, .ckpt and .safetensors "
        "files, ncnn's .param with its .bin, TorchScript, .pt2 and .onnx"
    )
