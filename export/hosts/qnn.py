"""Qualcomm's NPUs (HTP) through QNN: ONNX of one size with every node quantised, values in 8 and in 16 bits.

Read in onnxruntime/onnxruntime-qnn at QNN-ExecutionProvider.md (no dynamic shapes; the
operators; uint8 and uint16 values, quantisation to sixteen bits in the domain com.microsoft below opset 21) and in
ONNX Runtime at onnxruntime/python/tools/quantization/execution_providers/qnn/quant_config.py (stored operands are
quantised as values are).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx

from export.formats.conversion import CannotConvert, FileOptions
from export.hosts.job import STUDENTS, HostFiles, HostJob
from export.int8.quantise.plan import BOUNDS, FUSED
from export.writing.exporting import FileReport

FORMATS = ("qnn-w8a8", "qnn-w8a16")
OPERATORS = frozenset(
    {
        "Add",
        "AveragePool",
        "Clip",
        "Concat",
        "Conv",
        "DepthToSpace",
        "Div",
        "Flatten",
        "Gelu",
        "GlobalAveragePool",
        "LeakyRelu",
        "Max",
        "MaxPool",
        "Min",
        "Mul",
        "PRelu",
        "Pad",
        "ReduceMean",
        "Relu",
        "Reshape",
        "Resize",
        "Sigmoid",
        "Slice",
        "SpaceToDepth",
        "Split",
        "Sqrt",
        "Squeeze",
        "Sub",
        "Tanh",
        "Transpose",
        "Unsqueeze",
    }
)
"""The operators of srkd's networks among those of the list."""
PAIR = frozenset({"QuantizeLinear", "DequantizeLinear"})
FLOAT = onnx.TensorProto.FLOAT


def write(job: HostJob) -> HostFiles:
    """Write `4x-MODEL-256x256.qnn-w8a8.onnx` and `.qnn-w8a16.onnx`; one that loses too much is left out."""
    files: list[FileReport] = []
    notes: list[str] = []
    for name in FORMATS:
        try:
            (file,) = job.export([name], job.name, options=FileOptions(lr_size=job.size))
            assert file.path is not None
            _require_whole(job, file.path)
            files.append(file)
            quality = file.quality
            notes.append(f"{name} loses {0.0 if quality is None else quality.drop:.3f} dB of Y-PSNR on photos")
        except CannotConvert as error:
            notes.append(f"without {name}: {error}")
    if not files:
        raise CannotConvert("; ".join(notes))
    path = files[-1].path
    assert path is not None
    return HostFiles(
        tuple(files),
        place="the files beside an app with onnxruntime and onnxruntime-qnn; images are float RGB in [0,1], N,C,H,W",
        call=f'options.add_provider_for_devices(qnn, {{"backend_path": get_qnn_htp_path()}}); '
        f'InferenceSession("{path.name}", options)',
        expect="what ONNX Runtime measures on the phone: an NPU's times cannot be foretold from a CPU's",
        notes=(*notes, "w8a16 is the one to take where 8 bits lose too much", "another size: --static WxH"),
    )


def _require_whole(job: HostJob, path: Path) -> None:
    """Refuse a file, and remove it, if a part of it would not run on the NPU."""
    reasons = list(qnn_refusals(onnx.load_model(str(path))))
    if reasons:
        path.unlink()
        raise CannotConvert(f"QNN does not run {job.network.spec.arch} as a whole: {reasons[0]}: {STUDENTS} do")


def qnn_refusals(model: onnx.ModelProto) -> Iterator[str]:
    """Yield in one line each what of a model QNN's NPU would leave to the CPU, or compute in float."""
    for value in (*model.graph.input, *model.graph.output):
        if any(not dim.dim_value for dim in value.type.tensor_type.shape.dim):
            yield f"the image {value.name} has no fixed size"
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    makers = {name: node.op_type for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        if node.op_type in PAIR:
            continue
        if node.op_type not in OPERATORS:
            yield f"it has no {node.op_type}"
        operands = node.input[:1] if node.op_type in BOUNDS else node.input
        loose = [
            name
            for name in operands
            if name and makers.get(name) != "DequantizeLinear" and kinds.get(name, FLOAT) == FLOAT
        ]
        if loose and not (node.op_type in FUSED and makers.get(loose[0]) not in PAIR):
            yield f"{node.name} ({node.op_type}) reads {loose[0]}, which is not quantised"
