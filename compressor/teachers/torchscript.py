"""TorchScript files: the operators that their programs may use, and their loading.

TorchScript is a programming language with operators that write files (aten::save) and map them (aten::from_file), and
loading a file runs the `__setstate__` of its classes. So not its text but the code that torch compiled from it, every
function of every class, is compared with a list of operators, in a restricted child process.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compressor.base.errors import SrkdError, one_line
from compressor.models.checkpoints.pickles import read_storages
from compressor.teachers.archives import open_bounded
from compressor.teachers.operators import COMPUTING

PRIM = """
CallFunction CallMethod Closure Constant ConstantChunk CreateObject DictConstruct DictIndex EnumName EnumValue
GetAttr If ListConstruct ListUnpack Loop ModuleContainerIndex NumToTensor RaiseException SetAttr TupleConstruct
TupleIndex TupleSlice TupleUnpack Uninitialized abs data device dtype index is_cuda is_nested isinstance itemsize
layout max min requires_grad type unchecked_cast unchecked_unwrap_optional
"""
OPERATORS = frozenset({f"aten::{name}" for name in COMPUTING} | {f"prim::{name}" for name in PRIM.split()})


def check_torchscript(content: bytes, path: Path) -> None:
    """Refuse a program with other operators than `OPERATORS`, in a restricted child: torch runs parts of it."""
    with open_bounded(content, path) as archive:
        _check_storages(archive, path)
    unit: Any = torch._C.CompilationUnit()
    import_module: Any = torch._C.import_ir_module_from_buffer
    with one_line(f"{path} is not a TorchScript file that this torch {torch.__version__} can open"):
        import_module(unit, content, torch.device("cpu"), {}, False)
    for function in unit.get_functions():
        for node in _nodes(function.graph):
            if node.kind() not in OPERATORS:
                raise SrkdError(
                    f"{path}: its function {function.qualified_name[-80:]} uses {node.kind()[:60]!r}, which is not an "
                    "operator of image networks: refused; export the network to ONNX, or without that operator"
                )


def _nodes(block: Any) -> Iterator[Any]:
    for node in block.nodes():
        yield node
        for inner in node.blocks():
            yield from _nodes(inner)


def _check_storages(archive: zipfile.ZipFile, path: Path) -> None:
    """Refuse records shorter than their pickle declares: torch would read beyond their end."""
    sizes = {member.filename: member.file_size for member in archive.infolist()}
    # A trace's examples (traced_inputs.pkl) are described, but neither stored nor read.
    for pickled in [name for name in sizes if name.endswith(("/data.pkl", "/constants.pkl")) and "/code/" not in name]:
        folder = pickled.removesuffix(".pkl")
        try:
            references = read_storages(BytesIO(archive.read(pickled)))
        except SrkdError as error:
            raise SrkdError(f"{path}: {error}") from error
        for ref in references:
            expected = (ref.start + ref.size) * (ref.dtype.itemsize if ref.dtype is not None else 1)
            if sizes.get(f"{folder}/{ref.key}", 0) < expected:
                raise SrkdError(
                    f"{path}: a damaged archive: its record {folder.rpartition('/')[2]}/{ref.key[:40]} is shorter than "
                    f"the {expected:,} bytes of its tensor: download or export it again"
                )


def load_torchscript(content: bytes, path: Path) -> nn.Module:
    """Return the TorchScript module in eval mode, on the CPU."""
    with one_line(f"{path} is not a TorchScript file that this torch {torch.__version__} can open"):
        module: nn.Module = torch.jit.load(BytesIO(content), map_location="cpu")  # type: ignore[no-untyped-call]
    return module.eval()
