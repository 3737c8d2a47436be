"""Engine files: srkd's header, then TensorRT's executable (the plan).

A plan cannot be read without TensorRT, and is valid for only one GPU, driver and version; on another it may crash. So
the header names them, and the checksum of the plan. A file without the header (trtexec's) is opened without checks.

    8 bytes  "srkd-trt"
    8 bytes  little-endian: offset of the plan, a multiple of 4096
    JSON, padded with spaces
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from compressor.base.errors import SrkdError, report_unreadable
from compressor.base.files import atomic_path
from compressor.runtimes.tensorrt.profiles import OptimizationProfile

MAGIC = b"srkd-trt"
ALIGNMENT = 4096
MAX_HEADER_BYTES = 1_000_000


@dataclass(frozen=True)
class Machine:
    """The TensorRT, the GPU and the driver that an engine is built for."""

    tensorrt: str
    gpu: str
    capability: str
    driver: str

    def differences(self, other: Machine) -> list[str]:
        """Return descriptions of the differences to `other`, the machine in use."""
        gpu, other_gpu = f"{self.gpu} ({self.capability})", f"{other.gpu} ({other.capability})"
        pairs = [
            ("TensorRT", self.tensorrt, other.tensorrt),
            ("GPU", gpu, other_gpu),
            ("driver", self.driver, other.driver),
        ]
        return [f"{name} {expected}, here {actual}" for name, expected, actual in pairs if expected != actual]


@dataclass(frozen=True)
class EngineHeader:
    machine: Machine
    precision: str
    profile: OptimizationProfile
    metadata: Mapping[str, str] = field(default_factory=dict)
    plan_sha256: str = ""
    schema: Literal["srkd.engine/2"] = "srkd.engine/2"


HEADER = TypeAdapter(EngineHeader)


def write_engine(path: Path, header: EngineHeader, plan: bytes) -> None:
    text = HEADER.dump_json(replace(header, plan_sha256=hashlib.sha256(plan).hexdigest()))
    start = -(-(16 + len(text)) // ALIGNMENT) * ALIGNMENT
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.write(MAGIC + start.to_bytes(8, "little") + text.ljust(start - 16))
        file.write(plan)


def read_engine(path: Path) -> tuple[EngineHeader | None, bytes]:
    """Return the header, None if srkd did not write the file, and the plan; one line if either is damaged."""
    with report_unreadable(path):
        content = path.read_bytes()
    if not content:
        raise SrkdError(f"{path} is empty: export it again")
    if not content.startswith(MAGIC):
        return None, content
    start = int.from_bytes(content[8:16], "little")
    if not 16 <= start <= min(len(content), MAX_HEADER_BYTES):
        raise SrkdError(f"{path} is damaged: its header ends at byte {start} of {len(content)}; export it again")
    plan = content[start:]
    try:
        header = HEADER.validate_json(content[16:start])
    except ValidationError as error:
        field, reason = ".".join(map(str, error.errors()[0]["loc"])), error.errors()[0]["msg"]
        raise SrkdError(f"{path}: its header cannot be used: {field}: {reason}; export it again") from error
    if header.plan_sha256 != hashlib.sha256(plan).hexdigest():
        raise SrkdError(f"{path} is damaged: what follows its header is not what was written; export it again")
    return header, plan
