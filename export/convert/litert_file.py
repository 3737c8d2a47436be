"""Functions that read, change and write the objects of a .tflite file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from export.formats.conversion import INPUT, OUTPUT


def read_model(content: bytes) -> Any:
    """The model of a file with its tensors' values inside; in the file, large ones may lie behind the tables."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    for buffer in model.buffers:
        if buffer.offset > 1:
            buffer.data = np.frombuffer(content, np.uint8, buffer.size, buffer.offset)
            buffer.offset = buffer.size = 0
    return model


def pack_model(model: Any) -> bytes:
    import flatbuffers

    builder = flatbuffers.Builder(65536)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def set_metadata(model: Any, metadata: Mapping[str, str]) -> None:
    """Write metadata keys into the model; keys of the same names are replaced."""
    from ai_edge_litert import schema_py_generated as schema

    model.metadata = [entry for entry in model.metadata or [] if text_of(entry.name) not in metadata]
    for key, value in sorted(metadata.items()):
        buffer, entry = schema.BufferT(), schema.MetadataT()
        buffer.data = list(value.encode())
        entry.name, entry.buffer = key, len(model.buffers)
        model.buffers.append(buffer)
        model.metadata.append(entry)


def declare_images(model: Any, *, free: bool) -> None:
    """Name the input and the output; if `free`, declare that they may have any size."""
    (graph,) = model.subgraphs
    for index, name in ((graph.inputs[0], INPUT), (graph.outputs[0], OUTPUT)):
        tensor = graph.tensors[index]
        tensor.name = name
        if free:
            tensor.shapeSignature = [-1, -1, -1, int(tensor.shape[3])]
    model.description = "srkd"


def kind_of(model: Any, operator: Any) -> str:
    """The name of an operation, such as CONV_2D."""
    from ai_edge_litert import schema_py_generated as schema

    kinds = {number: name for name, number in vars(schema.BuiltinOperator).items() if isinstance(number, int)}
    return str(kinds[_code_of(model.operatorCodes[operator.opcodeIndex])])


def set_kind(model: Any, operator: Any, kind: str) -> None:
    """Change an operator to another kind; the caller sets its options."""
    from ai_edge_litert import schema_py_generated as schema

    number = getattr(schema.BuiltinOperator, kind)
    codes = [_code_of(code) for code in model.operatorCodes]
    if number not in codes:
        code = schema.OperatorCodeT()
        code.builtinCode, code.deprecatedBuiltinCode, code.version = number, min(number, 127), 1
        model.operatorCodes.append(code)
        codes.append(number)
    operator.opcodeIndex = codes.index(number)


def text_of(name: str | bytes) -> str:
    """A name as text: a model that was read from a file has bytes, names that were set since are text."""
    return name.decode() if isinstance(name, bytes) else name


def name_of(graph: Any, operator: Any) -> str:
    """The name of an operation: that of its first result."""
    return text_of(graph.tensors[operator.outputs[0]].name)


def makers_of(graph: Any) -> dict[int, Any]:
    """The operations by the indices of their results."""
    return {int(output): operator for operator in graph.operators for output in operator.outputs}


def is_constant(model: Any, tensor: Any) -> bool:
    """Whether a tensor's values are stored in the file."""
    data = model.buffers[tensor.buffer].data
    return data is not None and len(data) > 0


def _code_of(code: Any) -> int:
    """The number of an operation; files from before there were 127 of them store it in the deprecated field."""
    return max(int(code.builtinCode), int(code.deprecatedBuiltinCode))
