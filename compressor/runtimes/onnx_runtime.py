"""A runtime for ONNX files in ONNX Runtime, srkd's own and foreign ones: one image input, one image output."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
import torch

from compressor.base.child import USUAL_LIMITS, ResourceLimits
from compressor.base.context import QUIET, Context, Progress
from compressor.base.errors import SrkdError, one_line
from compressor.base.machine import installed_version
from compressor.models.networks.base import Descriptor
from compressor.models.quantisation.file_facts import read_quantised_file
from compressor.runtimes.file_runtime import (
    FileRuntime,
    ImageFormat,
    image_format,
    require_one_image,
)
from compressor.runtimes.onnx_file import emulate_half, model_facts, parse_onnx, read_facts, read_whole
from compressor.runtimes.onnx_nodes import executed_nodes as executed_nodes
from compressor.runtimes.onnx_providers import CPU, select_providers
from compressor.runtimes.probing import (
    PROBE_SIDES,
    keep_result,
    run_but,
    run_experiments,
    smallest_multiple,
    smallest_side,
)
from compressor.runtimes.table import DEFAULTS, OpenOptions

NUMPY_TYPES: dict[torch.dtype, Any] = {torch.float32: np.float32, torch.float16: np.float16, torch.uint8: np.uint8}
DTYPES: Mapping[str, torch.dtype] = MappingProxyType(
    {"tensor(float)": torch.float32, "tensor(float16)": torch.float16, "tensor(uint8)": torch.uint8}
)
"""Element types of images; uint8 images are N,H,W,C in 0..255, the others N,C,H,W in [0,1]."""

FLOAT_ON_GRIDS = ("session.disable_quant_qdq", "1")
"""The session entry with which int8 layers compute in float, on values that lie on their grids: TensorRT's
results on every CPU. CPUs without VNNI add two products of a byte and a signed byte in 16 bits, where they overflow."""


def read_metadata(path: Path) -> Mapping[str, str]:
    return read_facts(path)[1]


class OnnxRuntime(FileRuntime):
    """A session that is opened once, from the bytes of its file: `content`, or the current bytes at `path`.

    `OpenOptions.emulate_target` is for comparisons: otherwise ONNX Runtime on a CPU computes fp16 files in float32
    throughout, and int8 files for TensorRT with the CPU's own products. bf16, which it cannot compute there,
    is always emulated.
    """

    name = "onnxruntime"

    def __init__(
        self,
        path: Path,
        options: OpenOptions = DEFAULTS,
        context: Context = QUIET,
        probed: Mapping[str, Any] = MappingProxyType({}),
        content: bytes | None = None,
    ) -> None:
        super().__init__(path, options)
        content = read_whole(path) if content is None else content
        self.precision, self.metadata = model_facts(parse_onnx(content, path), path)
        self._providers = select_providers(options.device)
        on_cpu = options.device == "cpu"
        self.device = "cpu" if on_cpu else f"cuda:{self._providers[0][1]['device_id']}"
        self._gpu: torch.device | None = None  # the session's device if torch supports it: then images stay on the GPU
        if not on_cpu and torch.cuda.is_available():
            self._gpu = torch.device(self.device)
        self.emulated = on_cpu and (self.precision == "bf16" or (options.emulate_target and self.precision == "fp16"))
        file = read_quantised_file(self.metadata)
        is_of_another_chip = file is not None and file.flavour in ("tensorrt", "qnn-w8a8", "qnn-w8a16")
        import onnxruntime

        onnxruntime.set_default_logger_severity(4)  # a provider that fails to start would print to the terminal
        with one_line(f"{path} is not a model ONNX Runtime can open", first=True):
            self._session: Any = onnxruntime.InferenceSession(
                emulate_half(parse_onnx(content, path)).SerializeToString() if self.emulated else content,
                _quiet_options(self.threads, float_on_grids=on_cpu and options.emulate_target and is_of_another_chip),
                providers=self._providers,
                enable_fallback=0,  # it prints messages, and repeats the same attempt
            )
        if self._session.get_providers()[0] != self._providers[0][0]:
            raise SrkdError(f"{path}: {self._providers[0][0]} did not start on this machine; use --device cpu")
        self._input, self._output, self._image, self._output_dtype = _read_images(self._session, self.label)
        self._scale: int | None = None  # while it is None, the output's shape is unknown
        if probed:
            self.descriptor = Descriptor(channels=self._image.channels, **probed)
        else:
            self._take(self._image, self.metadata)
        self._scale = self.descriptor.scale

    def _run(self, lr: torch.Tensor) -> torch.Tensor:
        with one_line(f"{self.label}: ONNX Runtime failed on {tuple(lr.shape)}", first=True):
            return self._image.run(lr, self._run_batch)

    def _run_batch(self, images: torch.Tensor) -> torch.Tensor:
        if self._scale is None or self._gpu is None:
            (output,) = self._session.run([self._output], {self._input: images.cpu().numpy()})
            return torch.from_numpy(np.asarray(output))
        # In the GPU's memory, without a copy through the host.
        images = images.to(self._gpu).contiguous()
        rows = 1 if self._image.channels_last else 2
        shape = [size * self._scale if axis in (rows, rows + 1) else size for axis, size in enumerate(images.shape)]
        out = torch.empty(shape, dtype=self._output_dtype, device=self._gpu)
        binding, place = self._session.io_binding(), (self._gpu.type, self._gpu.index or 0)
        binding.bind_input(self._input, *place, NUMPY_TYPES[images.dtype], tuple(images.shape), images.data_ptr())
        binding.bind_output(self._output, *place, NUMPY_TYPES[out.dtype], tuple(shape), out.data_ptr())
        if self._gpu.type == "cuda":  # ONNX Runtime uses a stream of its own
            torch.cuda.current_stream(self._gpu).synchronize()
        self._session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        return out


def open_file(path: Path, options: OpenOptions = DEFAULTS, context: Context = QUIET) -> OnnxRuntime:
    """Open any file, after a trial of its bytes in a child process with limits."""
    content = read_whole(path)
    if not options.trusted:
        probed = try_content(content, path, USUAL_LIMITS.scaled(options.limits))
        return OnnxRuntime(path, options, context, probed, content)
    runtime = OnnxRuntime(path, options, context, content=content)
    keep_result(trial_key(content), {})
    return runtime


def try_content(content: bytes, path: Path, limits: ResourceLimits = USUAL_LIMITS) -> Mapping[str, Any]:
    """The facts of the bytes of `path`, from a run in a child process unless they are known already."""
    return run_experiments(
        f"{__name__}:try_in_child", {"shown": str(path)}, content, what=str(path), key=trial_key(content), limits=limits
    )


def trial_key(content: bytes) -> str:
    """A hash of a whole file and of ONNX Runtime's version."""
    return hashlib.sha256(f"onnx {installed_version('onnxruntime')}".encode() + content).hexdigest()


def try_in_child(progress: Progress, *, path: str, shown: str, crashed: list[str]) -> dict[str, Any]:
    """Open and run a file, in the child process; return scale, size multiple and smallest size of a foreign one."""
    with one_line(f"{shown} is not a model ONNX Runtime can open", first=True):
        runtime = OnnxRuntime(Path(shown), OpenOptions(threads=1), content=Path(path).read_bytes())
        image, channels, scale = runtime._image, runtime.descriptor.channels, runtime.descriptor.scale
        if runtime.spec is not None:
            width, height = image.fixed_size or (PROBE_SIDES[0], PROBE_SIDES[0])
            runtime.run(torch.full((1, channels, height, width), 0.5))
            return {}
        if image.fixed_size is not None or image.batch not in (None, 1):
            return {}
        run = run_but(runtime.run, crashed, progress)
        multiple = smallest_multiple(run, channels, scale)
        least = smallest_side(run, channels, scale, multiple, PROBE_SIDES[0])
        return {"scale": scale, "size_multiple": multiple, "min_size": least}


def cpu_session(
    model: onnx.ModelProto | Path, *, threads: int = 0, optimised: bool = True, float_on_grids: bool = False
) -> Any:
    """A plain session on the CPU. `threads` 0: as many as ONNX Runtime chooses; without `optimised` it computes
    node by node, as the model is written; `float_on_grids`: with `FLOAT_ON_GRIDS`."""
    import onnxruntime

    options = _quiet_options(threads, float_on_grids=float_on_grids)
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    content = str(model) if isinstance(model, Path) else model.SerializeToString()
    return onnxruntime.InferenceSession(content, options, providers=[CPU], enable_fallback=0)


def _quiet_options(threads: int, *, float_on_grids: bool) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    # Threads that keep spinning after a run would occupy cores and spoil the timing of the next program.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if float_on_grids:
        options.add_session_config_entry(*FLOAT_ON_GRIDS)
    return options


def _read_images(session: Any, label: str) -> tuple[str, str, ImageFormat, torch.dtype]:
    """The names of input and output, the format of the input images, and the element type of the output."""
    inputs, outputs = session.get_inputs(), session.get_outputs()
    require_one_image(label, len(inputs), len(outputs))
    source, output = inputs[0], outputs[0]
    dtype, output_dtype = DTYPES.get(source.type), DTYPES.get(output.type)
    if dtype is None or output_dtype is None or (torch.uint8 in (dtype, output_dtype) and dtype != output_dtype):
        raise SrkdError(
            f"{label} takes {source.type} and returns {output.type}: expected float32 or float16 in [0,1], or uint8"
        )
    sizes = [size if isinstance(size, int) else None for size in source.shape]
    image = image_format(label, sizes, dtype, channels_last=dtype == torch.uint8, shape=source.shape)
    return source.name, output.name, image, output_dtype
