"""ONNX Runtime's execution providers. Importing this module imports no torch."""

from __future__ import annotations

from compressor.base.errors import UsageError

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
GPU_COMMAND = "pip uninstall -y onnxruntime && pip install onnxruntime-gpu"
"""The command that installs the CUDA provider: another build of the same package."""


def has_cuda() -> bool:
    import onnxruntime

    return CUDA in onnxruntime.get_available_providers()


def select_providers(device: str) -> list[tuple[str, dict[str, str]]]:
    """Return the providers of a session, with their options, for `cpu`, `cuda` or `cuda:N`."""
    if device == "cpu":
        return [(CPU, {})]
    kind, _, index = device.partition(":")
    if kind != "cuda" or not (index or "0").isdecimal():
        raise UsageError(f"device {device!r}: ONNX Runtime runs on cpu and cuda here")
    if not has_cuda():
        raise UsageError(f"device {device!r}: this ONNX Runtime has no {CUDA}: {GPU_COMMAND}; or use --device cpu")
    # fp32 means fp32: TF32 is on by default in this provider.
    return [(CUDA, {"device_id": index or "0", "use_tf32": "0"}), (CPU, {})]
