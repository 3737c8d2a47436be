"""LiteRT's .tflite for phones: N,H,W,C in and out; for any size if the network's graph does not fix one."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compressor.base.child import run_in_child
from compressor.base.context import Progress
from compressor.base.errors import SrkdError
from compressor.base.machine import installed_version
from compressor.models.checkpoints.load import load_checkpoint
from compressor.models.checkpoints.save import save_network
from export.convert.litert_file import declare_images, pack_model, read_model, set_metadata
from export.convert.litert_graph import trace_network, use_litert_operations
from export.formats.conversion import Conversion, example_size, require_size


def convert(job: Conversion) -> Mapping[str, object]:
    """Convert in a child process: the converter prints, loads JAX, changes global settings and may crash."""
    require_size(job, "LiteRT")
    with tempfile.TemporaryDirectory(prefix="srkd-") as folder:
        weights = Path(folder) / "weights.safetensors"
        save_network(job.network, weights)
        facts = run_in_child(
            "export.convert.to_litert:convert_checkpoint",
            {
                "weights": str(weights),
                "path": str(job.path),
                "lr_size": job.options.lr_size,
                "io": job.options.io,
                "metadata": dict(job.metadata),
            },
            what=f"LiteRT's converter on {job.network.spec.arch}",
        )
    return {"litert_torch": installed_version("litert-torch"), **facts}


def convert_checkpoint(
    progress: Progress,
    *,
    weights: str,
    path: str,
    lr_size: tuple[int, int] | None,
    io: str,
    metadata: Mapping[str, str],
) -> dict[str, object]:
    """Write the file with the `srkd.*` keys inside, and return its facts for the report; runs in a child process."""
    network = load_checkpoint(Path(weights)).network.eval()
    width, height = lr_size or example_size(network)
    example = torch.rand(1, network.descriptor.channels, height, width, generator=torch.Generator().manual_seed(0))
    try:
        module: nn.Module = use_litert_operations(trace_network(network, example))
        if io == "uint8":
            module, example = BytesModule(module), example.mul(255).to(torch.uint8)
        import litert_torch

        _register_operations()
        channels_last = litert_torch.to_channel_last_io(module, args=[0], outputs=[0])
        converted = litert_torch.convert(channels_last, (example.permute(0, 2, 3, 1).contiguous(),))
        model = read_model(converted.model_content())
        set_metadata(model, metadata)
        declare_images(model, free=lr_size is None)
        Path(path).write_bytes(pack_model(model))
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise SrkdError(f"LiteRT's converter cannot convert {network.spec.arch}: {reason[:300]}") from error
    sizes = "any" if lr_size is None else "one"
    return {"operations": len(model.subgraphs[0].operators), "layout": "NHWC", "sizes": sizes}


class BytesModule(nn.Module):
    """A network for images in 0..255, with clamping and rounding inside."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, lr_u8: torch.Tensor) -> torch.Tensor:
        sr: torch.Tensor = self.network(lr_u8.to(torch.float32) / 255)
        return (sr * 255).clamp(0, 255).round().to(torch.uint8)


def _register_operations() -> None:
    """Register the converter's lowerings of the operations of `litert_graph`."""
    from litert_converter.mlir import ir
    from litert_converter.mlir.dialects import stablehlo
    from litert_torch.backend.lowerings import lower, utils

    def custom_call(context: Any, name: str, inputs: list[Any], attributes: dict[str, Any]) -> Any:
        return stablehlo.custom_call(
            result=utils.node_meta_to_ir_types(context.node),
            inputs=inputs,
            call_target_name=ir.StringAttr.get(name),
            has_side_effect=ir.BoolAttr.get(False),
            backend_config=ir.StringAttr.get(str(ir.DictAttr.get(attributes))),
        )

    def depth_to_space(context: Any, last: Any, block: int) -> Any:
        number = ir.IntegerAttr.get(ir.IntegerType.get_signless(32), block)
        return custom_call(context, "tfl.depth_to_space", [last], {"block_size": number})

    def prelu(context: Any, last: Any, slope: Any) -> Any:
        return custom_call(context, "tfl.prelu", [last, slope], {})

    def take(context: Any, last: Any, order: Any) -> Any:
        axis, none = (ir.IntegerAttr.get(ir.IntegerType.get_signless(32), number) for number in (3, 0))
        return custom_call(context, "tfl.gather", [last, order], {"axis": axis, "batch_dims": none})

    lower(torch.ops.srkd.depth_to_space.default)(depth_to_space)
    lower(torch.ops.srkd.prelu.default)(prelu)
    lower(torch.ops.srkd.take.default)(take)
