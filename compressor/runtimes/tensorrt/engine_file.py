"""Engine files: a header of ours, then what TensorRT wrote.

TensorRT's part says nothing that can be read without TensorRT, and is good for one GPU, driver and version only; what
was built for another may crash. So the header names them, and the checksum of what follows. A file without our header
(trtexec's) is taken as it is.

    8 bytes  "srkd-trt"
    8 bytes  little-endian: where TensorRT's part begins, a multiple of 4096
    JSON, padded with spaces
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compressor.base.errors import SrkdError, UsageError
from compressor.base.files import atomic_path
from compressor.runtimes.tensorrt.shapes import Shapes

MAGIC = b"srkd-trt"
SCHEMA = "srkd.engine/1"
ALIGNMENT = 4096
LONGEST_HEADER = 1_000_000


@dataclass(frozen=True)
class Machine:
    """What an engine is built for, and by."""

    tensorrt: str
    gpu: str
    capability: str
    driver: str

    def differences(self, other: Machine) -> list[str]:
        """What of `self` is otherwise in `other`, in words."""
        gpu, other_gpu = f"{self.gpu} ({self.capability})", f"{other.gpu} ({other.capability})"
        pairs = [("TensorRT", self.tensorrt, other.tensorrt), ("GPU", gpu, other_gpu)]
        pairs.append(("driver", self.driver, other.driver))
        return [f"{name} {mine}, here {theirs}" for name, mine, theirs in pairs if mine != theirs]


@dataclass(frozen=True)
class EngineFacts:
    """The header. `onnx` is the name of the file it was built from, which lies beside it."""

    machine: Machine
    precision: str
    shapes: Shapes
    onnx: str
    onnx_sha256: str
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class EngineFile:
    """`facts` None: a file without our header."""

    path: Path
    facts: EngineFacts | None
    plan: bytes


def write_engine(path: Path, facts: EngineFacts, plan: bytes) -> None:
    header = {
        "schema": SCHEMA,
        **vars(facts.machine),
        "precision": facts.precision,
        "shapes": facts.shapes.to_dict(),
        "onnx": facts.onnx,
        "onnx_sha256": facts.onnx_sha256,
        "plan_bytes": len(plan),
        "plan_sha256": hashlib.sha256(plan).hexdigest(),
        "metadata": dict(sorted(facts.metadata.items())),
    }
    text = json.dumps(header).encode()
    begins = -(-(16 + len(text)) // ALIGNMENT) * ALIGNMENT
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.write(MAGIC + begins.to_bytes(8, "little") + text.ljust(begins - 16))
        file.write(plan)


def read_engine(path: Path) -> EngineFile:
    """The file, checked; one line where it is cut off, changed or no engine."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SrkdError(f"{path}: {error.strerror or error}") from error
    if not content:
        raise SrkdError(f"{path} is empty: export it again")
    if not content.startswith(MAGIC):
        return EngineFile(path, None, content)
    begins = int.from_bytes(content[8:16], "little")
    if not 16 <= begins <= min(len(content), LONGEST_HEADER):
        raise SrkdError(f"{path} is damaged: its header ends at byte {begins} of {len(content)}; export it again")
    plan = content[begins:]
    try:
        told = json.loads(content[16:begins])
        facts = _facts(told)
        whole = (len(plan), hashlib.sha256(plan).hexdigest()) == (told["plan_bytes"], told["plan_sha256"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, UsageError) as error:
        said = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise SrkdError(f"{path}: its header cannot be used: {said[:200]}; export it again") from error
    if not whole:
        raise SrkdError(f"{path} is damaged: what follows its header is not what was written; export it again")
    return EngineFile(path, facts, plan)


def _facts(told: Mapping[str, Any]) -> EngineFacts:
    if told["schema"] != SCHEMA:
        raise ValueError(f"schema {told['schema']!r} is not {SCHEMA!r}")
    names = [str(told[name]) for name in ("tensorrt", "gpu", "capability", "driver", "precision", "onnx")]
    if Path(names[5]).name != names[5]:
        raise ValueError(f"onnx {names[5]!r} is no plain file name")
    metadata = {str(key): str(value) for key, value in told["metadata"].items() if str(key).startswith("srkd.")}
    shapes = Shapes.from_dict(told["shapes"])
    return EngineFacts(Machine(*names[:4]), names[4], shapes, names[5], str(told["onnx_sha256"]), metadata)


def sha256_of(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            digest = hashlib.sha256()
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise SrkdError(f"{path}: {error.strerror or error}") from error
    return digest.hexdigest()
