"""A run of ONNX Runtime on tensors where they lie, without a copy to the host and back.

ONNX files in ONNX Runtime, ours and foreign ones: one image input, one image output.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from compressor.base.errors import SrkdError, one_line
from compressor.models.networks.base import Descriptor, Spec
from compressor.models.networks.registry import build
from compressor.runtimes.base import require_input, require_output
from compressor.runtimes.metadata import spec_in
from compressor.runtimes.onnx_file import read_facts
from compressor.runtimes.onnx_providers import CPU, Choice, choose

NUMPY_TYPES: dict[torch.dtype, Any] = {torch.float32: np.float32, torch.float16: np.float16, torch.uint8: np.uint8}


def run_bound(
    session: Any, given: str, fed: torch.Tensor, taken: str, shape: tuple[int, ...], dtype: torch.dtype
) -> torch.Tensor:
    """`fed`, as the input `given`, through a session on its device: the output `taken`, of that shape and type, is made
    there too.

    ONNX Runtime works on a stream of its own: torch's is waited for before, ONNX Runtime's after.
    """
    fed = fed.detach().contiguous()
    out = torch.empty(shape, dtype=dtype, device=fed.device)
    if fed.device.type == "cuda":
        torch.cuda.current_stream(fed.device).synchronize()
    binding = session.io_binding()
    kind, index = fed.device.type, fed.device.index or 0
    binding.bind_input(given, kind, index, NUMPY_TYPES[fed.dtype], tuple(fed.shape), fed.data_ptr())
    binding.bind_output(taken, kind, index, NUMPY_TYPES[dtype], shape, out.data_ptr())
    session.run_with_iobinding(binding)
    binding.synchronize_outputs()
    return out


ELEMENTS: Mapping[str, torch.dtype] = MappingProxyType(
    {"tensor(float)": torch.float32, "tensor(float16)": torch.float16, "tensor(uint8)": torch.uint8}
)
"""What images may be made of; uint8 are N,H,W,C in 0..255, the others N,C,H,W in [0,1]."""

PROBE_SIDES = (8, 64)
"""Pixels a side of the images by which a scale is found out: the first is quick, some models refuse it."""


class OnnxRuntime:
    """A session that is opened once. `threads` None: as many as torch uses, so that both are compared alike.

    `rounded`: half precision as hardware computes it, each result rounded, for proofs; on a CPU ONNX Runtime otherwise
    computes fp16 files in float32 from end to end. bf16, which it does not compute at all there, always runs so.
    """

    name = "onnxruntime"
    layout = "runtime"

    def __init__(
        self,
        path: Path,
        *,
        label: str | None = None,
        device: str = "cpu",
        threads: int | None = None,
        rounded: bool = False,
    ) -> None:
        self.label = label or path.stem
        self.threads = threads or torch.get_num_threads()
        facts = read_facts(path)
        self.precision, self.metadata = facts.precision, facts.metadata
        self._choice = choose(device, self.precision, self.threads)
        self.device = self._choice.device
        self._place = _gpu_of_torch(self._choice)
        on_cpu = self._choice.providers[0] == CPU
        self.rounded = on_cpu and (self.precision == "bf16" or (rounded and self.precision == "fp16"))
        self._session = self._open(path)
        self._image = _image(self._session, self.label)
        self.spec: Spec | None = spec_in(self.metadata, self.label)
        self.descriptor = self._describe()

    def run(self, lr: torch.Tensor) -> torch.Tensor:
        require_input(lr, self.descriptor, self.label)
        sr = self._run(lr, self.descriptor.scale)
        require_output(lr, sr, self.descriptor, self.label)
        return sr

    def _run(self, lr: torch.Tensor, scale: int | None) -> torch.Tensor:
        """`scale` None: not known yet."""
        image = self._image
        # A file with a fixed batch, which is one, takes several images one after the other.
        batches = [one[None] for one in lr] if image.batch == 1 and len(lr) > 1 else [lr]
        with one_line(f"{self.label}: ONNX Runtime failed on {tuple(lr.shape)}", first=True):
            outputs = [image.given_back(self._one(image.fed(batch), scale)) for batch in batches]
        return (outputs[0] if len(outputs) == 1 else torch.cat(outputs)).to(lr.device)

    def _one(self, fed: torch.Tensor, scale: int | None) -> torch.Tensor:
        if scale is not None and self._place is not None:
            image, placed = self._image, fed.to(self._place)
            return run_bound(
                self._session, image.given, placed, image.taken, image.enlarged(fed, scale), image.taken_element
            )
        (output,) = self._session.run([self._image.taken], {self._image.given: fed.cpu().numpy()})
        return torch.from_numpy(np.asarray(output))

    def _open(self, path: Path) -> Any:
        import onnxruntime

        onnxruntime.set_default_logger_severity(4)  # a provider that does not start would write to the terminal
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = self.threads
        # Threads that keep spinning after a run would take the cores of whoever runs next, and spoil their timing.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        with one_line(f"{path} is not a model ONNX Runtime can open", first=True):
            session = onnxruntime.InferenceSession(
                _rounded(path) if self.rounded else str(path),
                options,
                providers=list(self._choice.providers),
                provider_options=[dict(options) for options in self._choice.options],
                enable_fallback=0,  # it prints, and tries the same again
            )
        if session.get_providers()[0] != self._choice.providers[0]:
            raise SrkdError(f"{path}: {self._choice.providers[0]} did not start on this machine; use --device cpu")
        return session

    def _describe(self) -> Descriptor:
        """From the spec of our own files; for foreign ones the scale is found by running a small image."""
        image = self._image
        if self.spec is not None:
            with torch.device("meta"):
                described = replace(build(self.spec).descriptor, fixed_size=image.fixed_size)
            if described.channels == image.channels:
                return described
            raise SrkdError(
                f"{self.label} takes {image.channels} channels, but its srkd.spec says {described.channels}"
            )
        probe, out = self._probed()
        scale = out.shape[-1] // probe.shape[-1] if out.dim() == 4 else 0
        descriptor = Descriptor(scale=scale, channels=image.channels, fixed_size=image.fixed_size)
        if scale < 1:
            raise SrkdError(
                f"{self.label} gives shape {tuple(out.shape)} for {tuple(probe.shape)}: not an enlarged image"
            )
        require_output(probe, out, descriptor, self.label)
        return descriptor

    def _probed(self) -> tuple[torch.Tensor, torch.Tensor]:
        """A small grey image that the model takes, and what it gives."""
        image = self._image

        def grey(side: int) -> torch.Tensor:
            return torch.full((image.batch or 1, image.channels, image.height or side, image.width or side), 0.5)

        for side in PROBE_SIDES[:-1]:
            try:
                return grey(side), self._run(grey(side), None)
            except SrkdError:
                continue
        large = grey(PROBE_SIDES[-1])
        return large, self._run(large, None)


def _gpu_of_torch(choice: Choice) -> torch.device | None:
    """Where images need not travel through the host: the session's GPU, where torch sees it too."""
    if choice.memory != "cuda" or not torch.cuda.is_available():
        return None
    return torch.device("cuda", int(choice.device.rpartition(":")[2]))


def _rounded(path: Path) -> bytes:
    import onnx

    from compressor.runtimes.onnx_file import rounded

    # Serialised as one: weights in a second file are read here.
    whole: bytes = rounded(onnx.load_model(str(path))).SerializeToString()
    return whole


@dataclass(frozen=True)
class _Image:
    """Names of input and output, and what an image is there. Batch, height and width where they are fixed."""

    given: str
    taken: str
    element: torch.dtype
    taken_element: torch.dtype
    channels: int
    batch: int | None
    height: int | None
    width: int | None

    @property
    def fixed_size(self) -> tuple[int, int] | None:
        return None if self.height is None or self.width is None else (self.width, self.height)

    def fed(self, lr: torch.Tensor) -> torch.Tensor:
        """N,C,H,W in [0,1] as the file wants it."""
        lr = lr.detach()
        if self.element != torch.uint8:
            return lr.to(self.element).contiguous()
        return lr.float().clamp(0, 1).mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()

    def given_back(self, sr: torch.Tensor) -> torch.Tensor:
        """The way back. What is no image stays as it is: the caller sees the shape."""
        if self.element != torch.uint8 or sr.dim() != 4:
            return sr.float()
        return sr.permute(0, 3, 1, 2).float().div(255)

    def enlarged(self, fed: torch.Tensor, scale: int) -> tuple[int, ...]:
        """The shape of what comes for `fed`."""
        if self.element == torch.uint8:
            n, h, w, c = fed.shape
            return n, h * scale, w * scale, c
        n, c, h, w = fed.shape
        return n, c, h * scale, w * scale


def _image(session: Any, label: str) -> _Image:
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or len(outputs) != 1:
        raise SrkdError(
            f"{label} has {len(inputs)} inputs and {len(outputs)} outputs: a super-resolution model has one each"
        )
    given, taken = inputs[0], outputs[0]
    element, taken_element = ELEMENTS.get(given.type), ELEMENTS.get(taken.type)
    if (
        element is None
        or taken_element is None
        or (torch.uint8 in (element, taken_element) and given.type != taken.type)
    ):
        raise SrkdError(
            f"{label} takes {given.type} and gives {taken.type}: float32 or float16 in [0,1], or uint8, is understood"
        )
    last = element == torch.uint8
    shape = given.shape
    if len(shape) != 4 or shape[3 if last else 1] not in (1, 3):
        wanted = "(N, H, W, 3) or (N, H, W, 1)" if last else "(N, 3, H, W) or (N, 1, H, W)"
        raise SrkdError(f"{label} takes {given.name} of shape {shape}: expected {wanted}")
    sizes = [size if isinstance(size, int) else None for size in shape]
    height, width = sizes[1:3] if last else sizes[2:4]
    return _Image(given.name, taken.name, element, taken_element, shape[3 if last else 1], sizes[0], height, width)
