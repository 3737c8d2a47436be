"""Runtimes for checkpoints in PyTorch: eager, or compiled (then the first image of each kind of shape is slow)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from compressor.base.choices import Layout
from compressor.base.compute_device import ComputeDevice
from compressor.base.errors import SrkdError, UsageError, reason_of
from compressor.base.precision import memory_format
from compressor.models.networks.base import Network, Spec
from compressor.runtimes.base import Runtime

PRECISIONS: Mapping[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class TorchRuntime(Runtime):
    """A copy of `network` in eval mode on `device`.

    Half precisions are autocast: convolutions run in 16 bit, the mean shift at both ends stays in fp32, because eight
    bits of mantissa at a range of 255 would cost half a grey level. On a CPU, and on a GPU in half precision, features
    are channels last: 1.05 to 1.8 times faster on every network tried, with results that differ by less than 1e-6.

    fp32 means fp32: TF32, which torch allows for convolutions by default, is off during a run.

    no_grad rather than inference_mode: it is as fast for convolutions, and callers may clamp the output in place.
    """

    name = "torch"

    def __init__(
        self,
        network: Network,
        *,
        label: str,
        device: str = "cpu",
        precision: str = "fp32",
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        if precision not in PRECISIONS:
            raise UsageError(f"precision {precision!r} is not one of {', '.join(PRECISIONS)} (runtime torch)")
        self.label, self.precision = label, precision
        self.metadata = dict(metadata or {})
        network = network.deployed()
        self.descriptor = network.descriptor
        self.spec: Spec = network.spec
        self._device = torch_device(device)
        self.device = str(self._device)
        is_last = self._device.type == "cpu" or (self._device.type == "cuda" and precision != "fp32")
        self.layout: Layout = "channels_last" if is_last else "contiguous"
        self._format = memory_format(self.layout)
        self.network = copy.deepcopy(network).to(self._device, torch.float32).eval().requires_grad_(False)
        self.network.to(memory_format=self._format)  # type: ignore[call-overload]
        self._forward = self._build_forward()

    def _run(self, lr: torch.Tensor) -> torch.Tensor:
        with torch.no_grad(), arithmetic(self._device, self.precision):
            images = lr.to(self._device, torch.float32).contiguous(memory_format=self._format)
            sr = self._forward(images).float().contiguous()
            ComputeDevice(self._device).synchronise()
            return sr.to(lr.device)

    def in_bf16(self) -> TorchRuntime:
        return type(self)(self.network, label=self.label, device=self.device, precision="bf16", metadata=self.metadata)

    def _build_forward(self) -> Callable[[torch.Tensor], torch.Tensor]:
        return self.network


def arithmetic(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Return the context in which a network computes on a device in a precision: fp32 is exact, without TF32."""
    if precision != "fp32":
        return torch.autocast(device.type, PRECISIONS[precision])
    return tf32_off() if device.type == "cuda" else nullcontext()


@contextmanager
def tf32_off() -> Iterator[None]:
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    # Torch 2.8 knows the old name alone; later ones refuse it in a program that has used the new one.
    is_new = hasattr(matmul, "fp32_precision")
    name, exact = ("fp32_precision", "ieee") if is_new else ("allow_tf32", False)
    before = [(part, getattr(part, name)) for part in (cudnn.conv if is_new else cudnn, matmul)]  # type: ignore[attr-defined]
    for part, _ in before:
        setattr(part, name, exact)
    try:
        yield
    finally:
        for part, value in before:
            setattr(part, name, value)


def torch_device(name: str) -> torch.device:
    """Return the torch device called `name`, with its index; one line if it does not exist."""
    named = ComputeDevice.named(name)
    if not named.is_here:
        raise UsageError(f"device {name!r}: torch sees {named.count} of its kind here; use --device cpu")
    return torch.device(named.device.type, named.device.index or 0) if named.has_own_memory else named.device


class TorchCompiledRuntime(TorchRuntime):
    """`TorchRuntime` with the network compiled. The first size is compiled statically, the next ones for any size."""

    name = "torch-compiled"

    def _build_forward(self) -> Callable[[torch.Tensor], torch.Tensor]:
        return torch.compile(self.network)

    def _run(self, lr: torch.Tensor) -> torch.Tensor:
        import torch._dynamo.exc  # imported here because it takes a second and loads sympy

        try:
            return super()._run(lr)
        except torch._dynamo.exc.TorchDynamoException as error:
            cause = error.__cause__ or getattr(error, "inner_exception", None) or error
            raise SrkdError(
                f"{self.label}: torch.compile failed on {tuple(lr.shape)}: {reason_of(cause, first=True)}; "
                "use --runtime torch"
            ) from error
