"""ONNX by torch's exporter: input `lr`, output `sr`, float32 RGB in [0,1], batch, height and width free."""

from __future__ import annotations

import ast
import logging
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import onnx
import torch
import torch._dynamo.exc

from compressor.errors import SrkdError
from compressor.networks.base import Descriptor, Network
from compressor.runtimes.base import Runtime
from compressor.runtimes.onnx_runtime import OnnxRuntime
from export.conversion import Conversion

OPSET = 18
"""The lowest that torch's exporter writes for every network here; runtimes of 2023 read it."""

INPUT, OUTPUT = "lr", "sr"
NODE_SCOPES = "pkg.torch.onnx.name_scopes"
"""Node metadata of torch's exporter: the modules around an operation, then its own name, as a Python list."""


def convert(job: Conversion) -> Mapping[str, object]:
    """Write the network: the exporter's graph or onnxsim's, whichever is smaller."""
    plain = _tidy(_trace(job.network, job.choices.lr_size))
    model, simplified = _smaller(plain, _simplified(plain))
    _describe(model, job.network.descriptor, job.metadata)
    onnx.checker.check_model(model, full_check=True)
    job.path.write_bytes(model.SerializeToString(deterministic=True))
    return {
        "opset": model.opset_import[0].version,
        "nodes": len(model.graph.node),
        "nodes_before_onnxsim": len(plain.graph.node),
        "simplified": simplified,
    }


def open_runtime(path: Path) -> Runtime:
    return OnnxRuntime(path)


def _trace(network: Network, lr_size: tuple[int, int] | None) -> onnx.ModelProto:
    descriptor = network.descriptor
    step = descriptor.size_multiple
    side = -(-max(20, descriptor.min_size) // step) * step
    # A batch of one, or equal sides, would be taken for constants; where they shall be, they are given.
    batch, width, height = (2, side + 4 * step, side) if lr_size is None else (1, *lr_size)
    example = torch.rand(batch, descriptor.channels, height, width, generator=torch.Generator().manual_seed(0))
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                network,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                external_data=False,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: "n", 2: "h", 3: "w"},) if lr_size is None else None,
                verbose=False,
            )
    except (torch.onnx.errors.OnnxExporterError, torch._dynamo.exc.TorchDynamoException, RuntimeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise SrkdError(f"torch's exporter cannot convert {network.spec.arch}: {reason[:300]}") from error
    if program is None:
        raise SrkdError(f"torch's exporter gave nothing for {network.spec.arch}")
    return program.model_proto


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter tells of missing torchvision operators and of its own deprecated calls: nothing a user can use."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _tidy(model: onnx.ModelProto) -> onnx.ModelProto:
    """Name nodes by module, and drop what the exporter notes beside them: it holds paths of this machine."""
    graph = model.graph
    names: Counter[str] = Counter()
    for node in graph.node:
        name = _node_name(node)
        names[name] += 1
        # One operation of torch may become several nodes, and ONNX Runtime wants each to have a name of its own.
        node.name = name if names[name] == 1 else f"{name}#{names[name]}"
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*graph.input, *graph.output, *graph.value_info):
        del value.metadata_props[:]
    del graph.metadata_props[:]
    del model.metadata_props[:]
    return model


def _node_name(node: onnx.NodeProto) -> str:
    """`blocks.0.conv1/conv2d_2` for what torch's exporter calls node_conv2d_2."""
    scopes = next((prop.value for prop in node.metadata_props if prop.key == NODE_SCOPES), None)
    if scopes is None:
        return node.name
    names = [name for name in ast.literal_eval(scopes) if name]
    return "/".join(names[-2:]) if names else node.name


def _simplified(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """onnxsim's version, or None where it does not manage or does not vouch for it."""
    import onnxsim

    try:
        simpler, equal = onnxsim.simplify(model)
    except Exception:  # noqa: BLE001 - onnxsim raises whatever its C++ side throws; without it the graph is whole
        return None
    return _tidy(simpler) if equal else None


def _smaller(plain: onnx.ModelProto, simpler: onnx.ModelProto | None) -> tuple[onnx.ModelProto, bool]:
    """The one with fewer nodes, then fewer bytes: onnxsim can also make a graph larger."""

    def size(model: onnx.ModelProto) -> tuple[int, int]:
        return len(model.graph.node), model.ByteSize()

    if simpler is not None and size(simpler) < size(plain):
        return simpler, True
    return plain, False


def _describe(model: onnx.ModelProto, descriptor: Descriptor, metadata: Mapping[str, str]) -> None:
    kind = "RGB" if descriptor.channels == 3 else f"{descriptor.channels} channel"
    model.graph.input[0].doc_string = f"{kind} images, float32 in [0,1], N x {descriptor.channels} x H x W"
    model.graph.output[0].doc_string = f"the same {descriptor.scale} times larger; not clamped to [0,1]"
    for key, value in sorted(metadata.items()):
        model.metadata_props.add(key=key, value=value)
