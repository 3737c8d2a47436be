"""ONNX files in ONNX Runtime, ours and foreign ones: one image input, one image output."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from compressor.errors import SrkdError, UsageError
from compressor.networks.base import Descriptor, Spec
from compressor.networks.registry import build, spec_from_dict
from compressor.runtimes.base import require_input, require_output

if TYPE_CHECKING:
    import onnx

PROVIDERS: Mapping[str, tuple[str, Mapping[str, str]]] = MappingProxyType(
    {"cpu": ("CPUExecutionProvider", {}), "cuda": ("CUDAExecutionProvider", {"use_tf32": "0"})}
)
"""Device → ONNX Runtime's provider, and what makes its fp32 be fp32."""

PROBE_SIDES = (8, 64)
"""Pixels a side of the images by which a scale is found out: the first is quick, some models refuse it."""


class OnnxRuntime:
    """A session that is opened once. `threads` None: as many as torch uses, so that both are compared alike."""

    name = "onnxruntime"
    layout = "runtime"

    def __init__(
        self, path: Path, *, label: str | None = None, device: str = "cpu", threads: int | None = None
    ) -> None:
        self.label = label or path.stem
        self.threads = threads or torch.get_num_threads()
        facts = _read_facts(path)
        self.precision, self.metadata = facts.precision, facts.metadata
        self._provider, self._options, self.device = _provider(device)
        self._session = self._open(path)
        self._input, fixed = _image_input(self._session, self.label)
        self._output = self._session.get_outputs()[0].name
        self._one_at_a_time = self._session.get_inputs()[0].shape[0] == 1
        self.spec: Spec | None = _spec(self.metadata, self.label)
        self.descriptor = self._describe(*fixed)

    def run(self, lr: torch.Tensor) -> torch.Tensor:
        require_input(lr, self.descriptor, self.label)
        sr = self._run(lr)
        require_output(lr, sr, self.descriptor, self.label)
        return sr

    def _run(self, lr: torch.Tensor) -> torch.Tensor:
        fed = np.ascontiguousarray(lr.detach().to("cpu", torch.float32).numpy())
        # A file with a fixed batch, which is one, takes several images one after the other.
        batches = np.split(fed, len(fed)) if self._one_at_a_time and len(fed) > 1 else [fed]
        with _one_line(f"{self.label}: ONNX Runtime failed on {tuple(lr.shape)}"):
            outputs = [self._session.run([self._output], {self._input: batch})[0] for batch in batches]
        sr = outputs[0] if len(outputs) == 1 else np.concatenate(outputs)
        return torch.from_numpy(np.asarray(sr, dtype=np.float32)).to(lr.device)

    def _open(self, path: Path) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = self.threads
        # Threads that keep spinning after a run would take the cores of whoever runs next, and spoil their timing.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        with _one_line(f"{path} is not a model ONNX Runtime can open"):
            session = onnxruntime.InferenceSession(
                str(path),
                options,
                providers=[self._provider],
                provider_options=[dict(self._options)],
                enable_fallback=0,  # it prints, and tries the same again
            )
        if session.get_providers()[0] != self._provider:
            raise SrkdError(f"{path}: {self._provider} did not start on this machine; use --device cpu")
        return session

    def _describe(self, channels: int, height: int | None, width: int | None) -> Descriptor:
        """From the spec of our own files; for foreign ones the scale is found by running a small image."""
        fixed = (width, height) if height is not None and width is not None else None
        if self.spec is not None:
            with torch.device("meta"):
                described = replace(build(self.spec).descriptor, fixed_size=fixed)
            if described.channels == channels:
                return described
            raise SrkdError(f"{self.label} takes {channels} channels, but its srkd.spec says {described.channels}")
        probe, out = self._probed(channels, height, width)
        scale = out.shape[-1] // probe.shape[-1] if out.dim() == 4 else 0
        descriptor = Descriptor(scale=scale, channels=channels, fixed_size=fixed)
        if scale < 1:
            raise SrkdError(
                f"{self.label} gives shape {tuple(out.shape)} for {tuple(probe.shape)}: not an enlarged image"
            )
        require_output(probe, out, descriptor, self.label)
        return descriptor

    def _probed(self, channels: int, height: int | None, width: int | None) -> tuple[torch.Tensor, torch.Tensor]:
        """A small grey image that the model takes, and what it gives."""
        fixed = self._session.get_inputs()[0].shape[0]
        batch = fixed if isinstance(fixed, int) else 1
        for side in PROBE_SIDES[:-1]:
            small = torch.full((batch, channels, height or side, width or side), 0.5)
            try:
                return small, self._run(small)
            except SrkdError:
                continue
        large = torch.full((batch, channels, height or PROBE_SIDES[-1], width or PROBE_SIDES[-1]), 0.5)
        return large, self._run(large)


def providers_here() -> dict[str, str]:
    """Device → provider, for those that this installation of ONNX Runtime offers."""
    import onnxruntime

    offered = onnxruntime.get_available_providers()
    return {device: name for device, (name, _) in PROVIDERS.items() if name in offered}


def _provider(device: str) -> tuple[str, dict[str, str], str]:
    kind, _, index = device.partition(":")
    if kind not in PROVIDERS or (index and not index.isdigit()):
        raise UsageError(f"device {device!r}: ONNX Runtime runs on {', '.join(PROVIDERS)} here")
    if kind not in providers_here():
        raise SrkdError(
            f"device {device!r}: this ONNX Runtime has no {PROVIDERS[kind][0]}; "
            "pip install onnxruntime-gpu in place of onnxruntime, or use --device cpu"
        )
    name, options = PROVIDERS[kind]
    if kind == "cpu":
        return name, dict(options), "cpu"
    return name, {**options, "device_id": index or "0"}, f"{kind}:{index or 0}"


@dataclass(frozen=True)
class _Facts:
    """What the file says that the session does not."""

    precision: str
    metadata: Mapping[str, str]


def _read_facts(path: Path) -> _Facts:
    """Weights kept outside the file are not read; what is no ONNX ends here, in one line."""
    import onnx

    if not path.is_file():
        raise SrkdError(f"{path}: no such file")
    with _one_line(f"{path} is not an ONNX file"):
        model = onnx.load_model(str(path), load_external_data=False)
        metadata = {prop.key: prop.value for prop in model.metadata_props if prop.key.startswith("srkd.")}
        facts = _Facts(_precision(model), metadata)
    if not model.graph.node:
        raise SrkdError(f"{path} is not an ONNX file: it holds no nodes")
    return facts


def _precision(model: onnx.ModelProto) -> str:
    """What most weights are stored in."""
    import onnx

    names: dict[int, str] = {onnx.TensorProto.FLOAT16: "fp16", onnx.TensorProto.BFLOAT16: "bf16"}
    names |= {onnx.TensorProto.INT8: "int8", onnx.TensorProto.UINT8: "int8"}
    sizes: Counter[str] = Counter()
    for tensor in model.graph.initializer:
        if len(tensor.dims) > 1:
            sizes[names.get(tensor.data_type, "fp32")] += int(np.prod(tensor.dims, dtype=np.float64))
    return sizes.most_common(1)[0][0] if sizes else "fp32"


def _image_input(session: Any, label: str) -> tuple[str, tuple[int, int | None, int | None]]:
    """Name of the only input, its channels, and its height and width where they are fixed."""
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or len(outputs) != 1:
        raise SrkdError(
            f"{label} has {len(inputs)} inputs and {len(outputs)} outputs: a super-resolution model has one each"
        )
    given, taken = inputs[0], outputs[0]
    if given.type != "tensor(float)" or taken.type != "tensor(float)":
        raise SrkdError(f"{label} takes {given.type} and gives {taken.type}: only float32 in [0,1] is understood")
    shape = given.shape
    if len(shape) != 4 or shape[1] not in (1, 3):
        raise SrkdError(f"{label} takes {given.name} of shape {shape}: expected (N, 3, H, W) or (N, 1, H, W)")
    height, width = (size if isinstance(size, int) else None for size in shape[2:])
    return given.name, (shape[1], height, width)


def _spec(metadata: Mapping[str, str], label: str) -> Spec | None:
    if "srkd.spec" not in metadata:
        return None
    try:
        return spec_from_dict(json.loads(metadata["srkd.spec"]))
    except (ValueError, RecursionError, UsageError) as error:
        raise SrkdError(f"{label}: its srkd.spec cannot be used: {error}") from error


@contextmanager
def _one_line(what: str) -> Iterator[None]:
    """protobuf and ONNX Runtime raise types of their own, some of them only Exception."""
    try:
        yield
    except SrkdError:
        raise
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise SrkdError(f"{what}: {reason[:300]}") from error
