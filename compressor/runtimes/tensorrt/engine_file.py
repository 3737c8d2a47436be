"""Engine files: srkd's header, then TensorRT's executable (the plan).

A plan cannot be read without TensorRT, and is valid for only one GPU, driver and version; on another it may crash. So
the header names them, and the checksum of the plan. A file without the header (trtexec's) is opened without checks.

    8 bytes  "srkd-trt"
    8 bytes  little-endian: offset of the plan, a multiple of 4096
    JSON, padded with spaces
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from compressor.base.errors import SrkdError, UsageError, report_unreadable
from compressor.base.files import atomic_path
from compressor.base.metadata import srkd_keys
from compressor.runtimes.tensorrt.profiles import OptimizationProfile

MAGIC = b"srkd-trt"
SCHEMA = "srkd.engine/1"
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
    """The header of an engine file. `onnx` is the name of its source file, which is beside it."""

    machine: Machine
    precision: str
    profile: OptimizationProfile
    onnx: str
    onnx_sha256: str
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class EngineFile:
    """An engine file in memory. `header` is None for a file not written by srkd."""

    path: Path
    header: EngineHeader | None
    plan: bytes


def write_engine(path: Path, header: EngineHeader, plan: bytes) -> None:
    text = json.dumps(
        {
            "schema": SCHEMA,
            **asdict(header.machine),
            "precision": header.precision,
            "shapes": header.profile.to_dict(),
            "onnx": header.onnx,
            "onnx_sha256": header.onnx_sha256,
            "plan_bytes": len(plan),
            "plan_sha256": hashlib.sha256(plan).hexdigest(),
            "metadata": dict(sorted(header.metadata.items())),
        }
    ).encode()
    start = -(-(16 + len(text)) // ALIGNMENT) * ALIGNMENT
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.write(MAGIC + start.to_bytes(8, "little") + text.ljust(start - 16))
        file.write(plan)


def read_engine(path: Path) -> EngineFile:
    """Return the checked file; one line if it is truncated, changed or not an engine."""
    with report_unreadable(path):
        content = path.read_bytes()
    if not content:
        raise SrkdError(f"{path} is empty: export it again")
    if not content.startswith(MAGIC):
        return EngineFile(path, None, content)
    start = int.from_bytes(content[8:16], "little")
    if not 16 <= start <= min(len(content), MAX_HEADER_BYTES):
        raise SrkdError(f"{path} is damaged: its header ends at byte {start} of {len(content)}; export it again")
    plan = content[start:]
    try:
        values = json.loads(content[16:start])
        header = _parse_header(values)
        is_whole = (len(plan), hashlib.sha256(plan).hexdigest()) == (values["plan_bytes"], values["plan_sha256"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, UsageError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise SrkdError(f"{path}: its header cannot be used: {reason[:200]}; export it again") from error
    if not is_whole:
        raise SrkdError(f"{path} is damaged: what follows its header is not what was written; export it again")
    return EngineFile(path, header, plan)


def _parse_header(values: Mapping[str, Any]) -> EngineHeader:
    if values["schema"] != SCHEMA:
        raise ValueError(f"schema {values['schema']!r} is not {SCHEMA!r}")
    onnx = str(values["onnx"])
    if Path(onnx).name != onnx:
        raise ValueError(f"onnx {onnx!r} is not a plain file name")
    machine = Machine(*(str(values[name]) for name in ("tensorrt", "gpu", "capability", "driver")))
    metadata = {key: str(value) for key, value in srkd_keys(values["metadata"]).items()}
    profile = OptimizationProfile.from_dict(values["shapes"])
    return EngineHeader(machine, str(values["precision"]), profile, onnx, str(values["onnx_sha256"]), metadata)
