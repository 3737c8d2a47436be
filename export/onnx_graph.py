"""The network as an ONNX graph by torch's exporter: nodes named by module, nothing of this machine in it."""

from __future__ import annotations

import ast
import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import onnx
import torch
import torch._dynamo.exc

from compressor.base.errors import SrkdError
from compressor.models.networks.base import Network

INPUT, OUTPUT = "lr", "sr"
NODE_SCOPES = "pkg.torch.onnx.name_scopes"
"""Node metadata of torch's exporter: the modules around an operation, then its own name, as a Python list."""


@dataclass(frozen=True)
class Graph:
    """Float32, `lr` to `sr`. Values are called as the operations of torch's program that they come from."""

    model: onnx.ModelProto
    nodes_before_onnxsim: int
    simplified: bool


def graph_of(network: Network, lr_size: tuple[int, int] | None, opset: int) -> Graph:
    """The exporter's graph or onnxsim's, whichever is smaller; for one size (width, height), or for any."""
    plain = _tidy(_model(trace(network, lr_size, opset), network))
    model, simplified = _smaller(plain, _simplified(plain))
    return Graph(model, len(plain.graph.node), simplified)


def trace(network: Network, lr_size: tuple[int, int] | None, opset: int) -> torch.onnx.ONNXProgram:
    """torch's program, decomposed, and the ONNX graph that was made of it."""
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
                opset_version=opset,
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
    return program


def _model(program: torch.onnx.ONNXProgram, network: Network) -> onnx.ModelProto:
    try:
        model: onnx.ModelProto = program.model_proto
    except (RuntimeError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise SrkdError(f"{network.spec.arch} does not fit into one ONNX graph: {reason[:300]}") from error
    return model


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
