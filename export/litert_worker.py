"""LiteRT's converter in a process of its own: it prints, leaves JAX and its own settings behind, and may crash.

    python -m export.litert_worker ORDER.json

ORDER says where the weights are, where the file and the answer go, and the image size, if there is to be only one.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compressor.models.checkpoints.load import load_checkpoint
from compressor.models.networks.base import Network
from export.litert_graph import sizes_held, traced, with_operations_of_litert

FREE_EXAMPLE = (24, 20)
"""Width and height that a graph for any size is traced at."""


def main(order_path: Path) -> None:
    order = json.loads(order_path.read_text(encoding="utf-8"))
    answer: dict[str, object]
    try:
        answer = {"facts": convert(load_checkpoint(Path(order["weights"])).network, order)}
    except NeedsSize as held:
        answer = {"needs_size": str(held)}
    except Exception as error:  # noqa: BLE001 - whatever the converter raises is told by the parent in one line
        answer = {"error": f"{type(error).__name__}: {error}"}
    Path(order["answer"]).write_text(json.dumps(answer), encoding="utf-8")


class NeedsSize(Exception):
    """The graph holds an image size, and none was chosen."""


def convert(network: Network, order: dict[str, Any]) -> dict[str, object]:
    """Write the file, N,H,W,C in and out; facts for the report."""
    free = order["lr_size"] is None
    width, height = order["lr_size"] or FREE_EXAMPLE
    example = torch.rand(1, network.descriptor.channels, height, width, generator=torch.Generator().manual_seed(0))
    module = traced(network.eval(), example)
    held = sizes_held(module)
    if held and free:
        raise NeedsSize(", ".join(held[:4]))
    inside: nn.Module = with_operations_of_litert(module)
    if order["io"] == "uint8":
        inside, example = Bytes(inside), example.mul(255).to(torch.uint8)
    content = _converted(inside, example)
    return described(content, order, free=free)


class Bytes(nn.Module):
    """0..255 in and out, clamped and rounded inside."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, lr_u8: torch.Tensor) -> torch.Tensor:
        sr: torch.Tensor = self.network(lr_u8.to(torch.float32) / 255)
        return (sr * 255).clamp(0, 255).round().to(torch.uint8)


def _converted(module: nn.Module, example: torch.Tensor) -> bytes:
    import litert_torch

    _teach_operations()
    channels_last = litert_torch.to_channel_last_io(module, args=[0], outputs=[0])
    model = litert_torch.convert(channels_last, (example.permute(0, 2, 3, 1).contiguous(),))
    content: bytes = model.model_content()
    return content


def _teach_operations() -> None:
    """How the converter writes the operations of `litert_graph`."""
    from litert_converter.mlir import ir
    from litert_converter.mlir.dialects import stablehlo
    from litert_torch.backend.lowerings import lower, utils

    def written(context: Any, name: str, inputs: list[Any], attributes: dict[str, Any]) -> Any:
        return stablehlo.custom_call(
            result=utils.node_meta_to_ir_types(context.node),
            inputs=inputs,
            call_target_name=ir.StringAttr.get(name),
            has_side_effect=ir.BoolAttr.get(False),
            backend_config=ir.StringAttr.get(str(ir.DictAttr.get(attributes))),
        )

    def depth_to_space(context: Any, last: Any, block: int) -> Any:
        number = ir.IntegerAttr.get(ir.IntegerType.get_signless(32), block)
        return written(context, "tfl.depth_to_space", [last], {"block_size": number})

    def prelu(context: Any, last: Any, slope: Any) -> Any:
        return written(context, "tfl.prelu", [last, slope], {})

    def take(context: Any, last: Any, order: Any) -> Any:
        axis, none = (ir.IntegerAttr.get(ir.IntegerType.get_signless(32), number) for number in (3, 0))
        return written(context, "tfl.gather", [last, order], {"axis": axis, "batch_dims": none})

    lower(torch.ops.srkd.depth_to_space.default)(depth_to_space)
    lower(torch.ops.srkd.prelu.default)(prelu)
    lower(torch.ops.srkd.take.default)(take)


def described(content: bytes, order: dict[str, Any], *, free: bool) -> dict[str, object]:
    """Write the model with the `srkd.*` keys inside, and with free sizes declared where they are free."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    for key, value in sorted(order["metadata"].items()):
        buffer, entry = schema.BufferT(), schema.MetadataT()
        buffer.data = list(value.encode())
        entry.name, entry.buffer = key, len(model.buffers)
        model.buffers.append(buffer)
        model.metadata.append(entry)
    (graph,) = model.subgraphs
    for index, name in ((graph.inputs[0], "lr"), (graph.outputs[0], "sr")):
        tensor = graph.tensors[index]
        tensor.name = name
        if free:
            tensor.shapeSignature = [-1, -1, -1, int(tensor.shape[3])]
    model.description = "srkd"
    builder = flatbuffers.Builder(len(content) + 65536)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    Path(order["path"]).write_bytes(bytes(builder.Output()))
    return {"operations": len(graph.operators), "layout": "NHWC", "sizes": "any" if free else "one"}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
