"""A self-test for the GPU of whoever runs it: a tiny network in each precision, built, run, compared, timed.

What TensorRT does on a GPU cannot be tried where srkd is made; this makes a report that can be pasted into an issue.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from compressor.base.context import Progress, no_progress
from compressor.base.errors import SrkdError
from compressor.models.networks.base import Network
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build
from compressor.runtimes.base import Runtime
from compressor.runtimes.onnx_runtime import OnnxRuntime
from compressor.runtimes.tensorrt.cuda import Cuda, open_cuda
from compressor.runtimes.tensorrt.driver import trt_missing
from compressor.runtimes.tensorrt.engine_file import Machine
from compressor.runtimes.tensorrt.engines import build_engine, engine_name, machine_here
from compressor.runtimes.tensorrt.library import tensorrt
from compressor.runtimes.tensorrt.shapes import dynamic_shapes
from compressor.runtimes.tensorrt_runtime import TensorRTRuntime
from compressor.runtimes.torch_runtime import TorchRuntime
from export.bounds import BF16, FP32, HALF, Bounds
from export.conversion import Conversion
from export.formats import FORMATS
from export.metadata import Source, export_metadata
from export.qdq import quantized
from export.to_trt import SOURCES
from export.verify import Parity, ProofInput, proof_inputs, verify

SPEC = EDSRSpec(width=16, depth=2, scale=2)
SIZES = ((96, 64), (192, 128))
RUNS = 50

BOUNDS: Mapping[str, Bounds] = {"fp32": FP32, "tf32": HALF, "fp16": HALF, "bf16": BF16, "int8": BF16}
"""How far each precision may be from its reference: for int8 ONNX Runtime on the same quantized file, else torch."""


@dataclass(frozen=True)
class Trial:
    """One precision. `milliseconds` is the median of an image of 96x64 to 192x128, `graph` whether by a CUDA graph."""

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
    """`obstacle`: why nothing could be tried, in one line."""

    obstacle: str | None
    machine: Machine | None
    binding: str | None
    trials: tuple[Trial, ...]

    @property
    def ok(self) -> bool:
        return self.obstacle is None and all(trial.passed for trial in self.trials)


def self_test(progress: Progress = no_progress) -> TrtReport:
    """Try each precision; one that fails does not stop the others."""
    obstacle = trt_missing()
    if obstacle is not None:
        return TrtReport(obstacle, None, None, ())
    try:
        cuda = open_cuda()
        machine = machine_here(tensorrt(), cuda)
    except SrkdError as error:
        return TrtReport(str(error), None, None, ())
    network = build(SPEC, seed=0).eval()
    trials = []
    with tempfile.TemporaryDirectory(prefix="srkd-doctor-") as folder:
        for done, precision in enumerate(BOUNDS):
            progress("self-test", done, len(BOUNDS))
            trials.append(_trial(precision, network, Path(folder), machine, cuda))
    progress("self-test", len(BOUNDS), len(BOUNDS))
    return TrtReport(None, machine, cuda.binding, tuple(trials))


def _trial(precision: str, network: Network, folder: Path, machine: Machine, cuda: Cuda) -> Trial:
    try:
        onnx, reference = _reference(precision, network, folder)
        path = folder / engine_name(onnx.name, precision, machine)
        model = network.descriptor
        shapes = dynamic_shapes(model.channels, model.min_size, model.size_multiple, SIZES)
        started = time.perf_counter()
        facts = build_engine(onnx, path, precision, shapes, tensorrt(), cuda)
        seconds = time.perf_counter() - started
        runtime = TensorRTRuntime(path)
    except SrkdError as error:
        return Trial(precision, False, None, None, None, False, None, str(error))
    typed_by = str(facts["typed_by"])
    try:
        inputs = proof_inputs(network.descriptor)
        proof = verify(runtime, reference, inputs, BOUNDS[precision])
        milliseconds = _milliseconds(runtime, inputs[0])
    except SrkdError as error:
        return Trial(precision, False, None, seconds, None, False, typed_by, str(error))
    finally:
        graph = runtime.session.graph
        runtime.close()
    return Trial(precision, proof.reason is None, proof.parity, seconds, milliseconds, graph, typed_by, proof.reason)


def _reference(precision: str, network: Network, folder: Path) -> tuple[Path, Runtime]:
    """The ONNX file in that precision, and what the engine is compared with."""
    source = FORMATS[SOURCES.get(precision, "onnx")]
    onnx = folder / f"tiny{source.suffix}"
    metadata = export_metadata(network, Source("tiny"))
    source.load().convert(Conversion(network, onnx, metadata, precision=source.precision))
    if precision != "int8":
        return onnx, TorchRuntime(network, label="the network")
    bytes_file = folder / "tiny.int8.onnx"
    quantized(onnx, bytes_file, [given.lr for given in proof_inputs(network.descriptor) if given.photo])
    return bytes_file, OnnxRuntime(bytes_file)


def _milliseconds(runtime: TensorRTRuntime, given: ProofInput) -> float:
    def once(run: Callable[[torch.Tensor], torch.Tensor]) -> float:
        started = time.perf_counter()
        run(given.lr)
        return (time.perf_counter() - started) * 1e3

    for _ in range(3):
        once(runtime.run)
    return statistics.median(once(runtime.run) for _ in range(RUNS))
