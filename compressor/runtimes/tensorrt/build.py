"""From an ONNX file to what TensorRT runs. This takes minutes and may crash: `apart.py` calls it in another process."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressor.base.context import Progress
from compressor.base.errors import SrkdError, UsageError
from compressor.base.files import atomic_path
from compressor.runtimes.tensorrt.library import Said, has_precision_flags, logger
from compressor.runtimes.tensorrt.onnx_facts import OnnxFacts, onnx_facts
from compressor.runtimes.tensorrt.shapes import Shapes

FLAGS_10: dict[str, tuple[str, ...]] = {
    "fp32": (),
    "tf32": (),
    "fp16": ("FP16",),
    "bf16": ("BF16",),
    "int8": ("INT8",),
}
"""Precision → what a builder of TensorRT 10.x must be allowed. From 11.0 on the ONNX file alone decides."""

WEIGHTS = {"fp32": "fp32", "tf32": "fp32", "fp16": "fp16", "bf16": "bf16", "int8": "int8"}
"""Precision → that of the ONNX file it is built from. TF32 is a way to multiply float32."""


@dataclass(frozen=True)
class BuildJob:
    """`timing_cache` is read if it is there, and written; the next build with it skips what was measured already."""

    onnx: str
    plan: str
    precision: str
    shapes: dict[str, list[int]]
    timing_cache: str
    workspace_bytes: int | None = None


def build(trt: Any, job: BuildJob, progress: Progress) -> dict[str, object]:
    """Write the plan to `job.plan` and give facts about it."""
    facts = onnx_facts(Path(job.onnx))
    require_precision(job.precision, facts, Path(job.onnx))
    said = Said()
    log = logger(trt, said)
    builder = trt.Builder(log)
    network = builder.create_network(network_flags(trt))
    _parse(trt, network, log, job)
    config = builder.create_builder_config()
    set_precision(trt, config, job.precision)
    if job.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, job.workspace_bytes)
    _set_profile(builder, config, facts, Shapes.from_dict(job.shapes))
    kept = use_timing_cache(config, Path(job.timing_cache))
    monitor = progress_monitor(trt, progress)
    config.progress_monitor = monitor
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise SrkdError(f"TensorRT cannot build {Path(job.onnx).name}: {said.reason()}")
    with atomic_path(Path(job.plan)) as temporary:
        temporary.write_bytes(bytes(plan))
    keep_timing_cache(config, Path(job.timing_cache))
    return {
        "tensorrt": str(trt.__version__),
        "typed_by": "builder flags" if has_precision_flags(trt) else "the ONNX file",
        "timing_cache": "used" if kept else "new",
    }


def require_precision(precision: str, facts: OnnxFacts, onnx: Path) -> None:
    """An engine of one precision from a file of another would be called what it is not."""
    if precision not in WEIGHTS:
        raise UsageError(f"precision {precision!r} is not one of {', '.join(WEIGHTS)}")
    if facts.precision != WEIGHTS[precision]:
        raise SrkdError(f"{onnx} holds {facts.precision}: an engine in {precision} is built from {WEIGHTS[precision]}")


def network_flags(trt: Any) -> int:
    return 0 if has_precision_flags(trt) else 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


def set_precision(trt: Any, config: Any, precision: str) -> None:
    """TensorRT allows TF32 unless told otherwise; fp32 means fp32."""
    if precision == "fp32":
        config.clear_flag(trt.BuilderFlag.TF32)
    else:
        config.set_flag(trt.BuilderFlag.TF32)
    if has_precision_flags(trt):
        for name in FLAGS_10[precision]:
            config.set_flag(getattr(trt.BuilderFlag, name))


def use_timing_cache(config: Any, path: Path) -> bool:
    """Attach what earlier builds measured; False where there was nothing of use, and it begins empty."""
    kept = b""
    with suppress(OSError):
        kept = path.read_bytes()
    cache = config.create_timing_cache(kept) if kept else None
    if cache is not None and config.set_timing_cache(cache, False):
        return True
    config.set_timing_cache(config.create_timing_cache(b""), False)
    return False


def keep_timing_cache(config: Any, path: Path) -> None:
    cache = config.get_timing_cache()
    if cache is None:
        return
    # The engine is there; that the next build takes as long as this one is no reason to fail.
    with suppress(SrkdError), atomic_path(path) as temporary:
        temporary.write_bytes(bytes(cache.serialize()))


def progress_monitor(trt: Any, progress: Progress) -> Any:
    """TensorRT's phases as they begin and end; those within another one are not told."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if not parent_phase:
                self.steps[phase_name] = num_steps
                progress(phase_name, 0, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            if phase_name in self.steps:
                progress(phase_name, min(step + 1, self.steps[phase_name]), self.steps[phase_name])
            return True

        def phase_finish(self, phase_name: str) -> None:
            steps = self.steps.pop(phase_name, None)
            if steps is not None:
                progress(phase_name, steps, steps)

    return Monitor()


def _parse(trt: Any, network: Any, log: Any, job: BuildJob) -> None:
    parser = trt.OnnxParser(network, log)
    if parser.parse(Path(job.onnx).read_bytes(), job.onnx):
        return
    told = "it gave no reason"
    if parser.num_errors:
        error = parser.get_error(0)
        told = f"{error.desc()} (node {error.node_name()!r}, {error.node_operator()})"
    raise SrkdError(f"TensorRT cannot read {Path(job.onnx).name}: {told[:300]}")


def _set_profile(builder: Any, config: Any, facts: OnnxFacts, shapes: Shapes) -> None:
    for given, shape in ((facts.shape, shapes.smallest), (facts.shape, shapes.largest)):
        if any(side is not None and side != wanted for side, wanted in zip(given, shape, strict=True)):
            raise SrkdError(f"the ONNX file takes {list(given)}, the engine was to take {list(shape)}")
    profile = builder.create_optimization_profile()
    profile.set_shape(facts.input, shapes.smallest, shapes.tuned, shapes.largest)
    if config.add_optimization_profile(profile) < 0:
        raise SrkdError(f"TensorRT does not take the sizes {shapes.told()}")
