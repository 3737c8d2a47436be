"""Self-test of TensorRT on the user's GPU: a tiny network is built, run, compared and timed in each precision.

TensorRT on a GPU is not available where srkd is developed; users can paste the report into an issue.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from compressor.base.context import Progress, no_progress
from compressor.base.errors import SrkdError
from compressor.models.networks.base import Network
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build
from compressor.runtimes.base import Runtime
from compressor.runtimes.onnx_runtime import OnnxRuntime
from compressor.runtimes.table import RUNTIMES
from compressor.runtimes.tensorrt.device import Device, open_device
from compressor.runtimes.tensorrt.engine_file import Machine
from compressor.runtimes.tensorrt.engines import build_engine, current_machine, engine_name
from compressor.runtimes.tensorrt.installation import import_tensorrt
from compressor.runtimes.tensorrt.profiles import dynamic_profile
from compressor.runtimes.tensorrt_runtime import TensorRTRuntime
from compressor.runtimes.torch_runtime import TorchRuntime
from export.convert.to_trt import SOURCES
from export.formats.conversion import Conversion
from export.formats.proof_inputs import proof_inputs
from export.formats.table import BF16, FORMATS, FP32, HALF, Bounds
from export.proof.verify import Parity, verify
from export.timing.turns import time_calls
from export.writing.exporting import Source, export_metadata

SPEC = EDSRSpec(width=16, depth=2, scale=2)
SIZES = ((96, 64), (192, 128))
RUNS = 50

BOUNDS: Mapping[str, Bounds] = {"fp32": FP32, "tf32": HALF, "fp16": HALF, "bf16": BF16, "int8": BF16}
"""Bounds of each precision against its reference: for int8 ONNX Runtime on the same quantised file, else torch."""


@dataclass(frozen=True)
class PrecisionTrial:
    """Result of one precision. `milliseconds` is the median time of an image; `graph`: a CUDA graph was used."""

    precision: str
    passed: bool
    parity: Parity | None
    build_seconds: float | None
    milliseconds: float | None
    graph: bool
    typed_by: str | None
    reason: str | None


@dataclass(frozen=True)
class TrtReport:
    """The result of the self-test. `obstacle` says in one line why nothing could be tested."""

    obstacle: str | None
    machine: Machine | None
    binding: str | None
    trials: tuple[PrecisionTrial, ...]

    @property
    def ok(self) -> bool:
        """True if every precision passed."""
        return self.obstacle is None and all(trial.passed for trial in self.trials)


def self_test(progress: Progress = no_progress) -> TrtReport:
    """Test each precision; one that fails does not stop the others."""
    obstacle = RUNTIMES["tensorrt"].missing_requirement()
    if obstacle is not None:
        return TrtReport(obstacle, None, None, ())
    try:
        device = open_device()
        machine = current_machine(import_tensorrt(), device)
    except SrkdError as error:
        return TrtReport(str(error), None, None, ())
    network = build(SPEC, seed=0).eval()
    trials = []
    with tempfile.TemporaryDirectory(prefix="srkd-doctor-") as folder:
        for done, precision in enumerate(BOUNDS):
            progress("self-test", done, len(BOUNDS))
            trials.append(_try_precision(precision, network, Path(folder), machine, device))
    progress("self-test", len(BOUNDS), len(BOUNDS))
    return TrtReport(None, machine, device.library, tuple(trials))


def _try_precision(precision: str, network: Network, folder: Path, machine: Machine, device: Device) -> PrecisionTrial:
    try:
        onnx, reference = _reference(precision, network, folder)
        path = folder / engine_name(onnx.name, precision, machine)
        model = network.descriptor
        profile = dynamic_profile(model.channels, model.min_size, model.size_multiple, SIZES)
        start = time.perf_counter()
        facts = build_engine(onnx, path, precision, profile, import_tensorrt(), device)
        seconds = time.perf_counter() - start
        runtime = TensorRTRuntime(path)
    except SrkdError as error:
        return PrecisionTrial(precision, False, None, None, None, False, None, str(error))
    typed_by = str(facts["typed_by"])
    try:
        inputs = proof_inputs(network.descriptor)
        proof = verify(runtime, reference, inputs, BOUNDS[precision])
        milliseconds = statistics.median(time_calls(lambda: runtime.run(inputs[0].lr), RUNS))
    except SrkdError as error:
        return PrecisionTrial(precision, False, None, seconds, None, False, typed_by, str(error))
    finally:
        graph = runtime.session.uses_graph
        runtime.close()
    return PrecisionTrial(
        precision, proof.reason is None, proof.parity, seconds, milliseconds, graph, typed_by, proof.reason
    )


def _reference(precision: str, network: Network, folder: Path) -> tuple[Path, Runtime]:
    """The ONNX file for that precision, and the runtime with which the engine is compared."""
    source = FORMATS[SOURCES[precision]]
    onnx = folder / f"tiny{source.suffix}"
    metadata = export_metadata(network, Source("tiny"))
    source.load().convert(Conversion(network, onnx, metadata, precision=source.precision, format=source.name))
    return onnx, OnnxRuntime(onnx) if precision == "int8" else TorchRuntime(network, label="the network")
