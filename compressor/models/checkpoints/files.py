"""Checkpoint files as tensors: a file of any format, opened without running any of its code.

Memory is bounded by the file: what a deflated archive grows to is a small multiple of it (it may be a bomb).
"""

from __future__ import annotations

import stat
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from safetensors import safe_open

from compressor.base.errors import SrkdError, is_out_of_memory, one_line
from compressor.base.files import sha256_of
from compressor.models.checkpoints.header import AGAIN, NCNN_BINARY_MAGIC, ncnn_files
from compressor.models.checkpoints.ncnn_graph import TEXT_BYTES_LIMIT
from compressor.models.checkpoints.ncnn_networks import read_network
from compressor.models.checkpoints.pickles import read_pickled

HEADER_BYTES_LIMIT = 16 * 2**20
"""The most bytes of a safetensors header."""
LARGEST_INFLATION = 8
"""Most bytes of values per byte of the file; trained weights deflate by a tenth, so a larger ratio is not weights."""
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
    """Fields of the spec that the file states beside its tensors, and `image_scale` if it reduces the image to that."""


def most_bytes(size_bytes: int) -> int:
    """Return the most bytes that a file of this size may grow to."""
    return LARGEST_INFLATION * size_bytes + INFLATED_ANYWAY_BYTES


def open_zip(path: Path, size_bytes: int) -> object:
    """Return the content of a file of torch.save since 1.6: a zip of `<name>/data.pkl`, `<name>/data/<key>`, ...

    Its records are mapped, so that no tensor reaches beyond the file; packed ones are stored in a temporary file first.
    """
    with (
        tempfile.NamedTemporaryFile() as copy,
        one_line(f"a damaged archive, {AGAIN}", first=True),
        zipfile.ZipFile(path) as archive,
    ):
        members = archive.infolist()
        names = {info.filename.rpartition("/")[2] for info in members}
        if "data.pkl" not in names:
            raise SrkdError("a zip archive without data.pkl: torch.save did not write it")
        if "constants.pkl" in names:
            raise SrkdError(f"a TorchScript archive, which holds code: it can be a teacher; else {SAVE_WEIGHTS}")
        if sum(info.file_size for info in members) > most_bytes(size_bytes):
            raise SrkdError(f"its records claim far more than the file's {size_bytes:,} bytes: no checkpoint does")
        require_whole(archive)
        if all(info.compress_type == zipfile.ZIP_STORED for info in members):
            return read_pickled(path, mapped=True)
        with zipfile.ZipFile(copy, "w") as stored:
            for info in members:
                stored.writestr(info.filename, archive.read(info))
        return read_pickled(Path(copy.name), mapped=True)


def require_whole(archive: zipfile.ZipFile, label: str = "") -> None:
    """Refuse an archive with a record that is not the one that was written: torch compares no checksums."""
    for info in archive.infolist():
        if info.CRC == 0:
            del info.CRC  # torch.serialization.set_crc32_options(False): there is no checksum to compare
    damaged = archive.testzip()
    if damaged is not None:
        raise SrkdError(f"{label}a damaged archive (record {damaged[-60:]!r}): {AGAIN}")


def open_ncnn(param: Path, handle: IO[bytes], size_bytes: int) -> tuple[object, Mapping[str, object]]:
    """Return the tensors of ncnn's .bin, which its .param names, and fields of the spec."""
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
                content, fields = open_ncnn(ncnn[0], handle, size_bytes)
                return Container(content, size_bytes, sha256, fields=fields)
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
    start = handle.read(16)
    handle.seek(0)
    if not start:
        raise SrkdError("the file is empty: download or save it again")
    if start.startswith(b"PK\x03\x04"):
        return open_zip(path, size_bytes), {}
    # Test before the pickles: the length of a safetensors header may begin with the byte of a pickle.
    # The test does not ask for the file's size, so that a file that was cut short is still called safetensors.
    if start[8:9] == b"{" and (int.from_bytes(start[:8], "little") <= HEADER_BYTES_LIMIT or start[:1] != b"\x80"):
        with one_line(f"its safetensors header is damaged, {AGAIN}"), safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    if start.startswith(b"\x80"):  # torch.save before 1.6
        return read_pickled(path, mapped=False), {}
    raise SrkdError(
        f"not a checkpoint, it starts with {start[:8]!r}: srkd reads .pt, .pth, .ckpt and .safetensors "
        "files, ncnn's .param with its .bin, TorchScript, .pt2 and .onnx"
    )
