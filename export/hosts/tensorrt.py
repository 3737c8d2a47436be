"""TensorRT 10 and 11: networks whose types stand in the file, and the command that builds an engine of one.

Read in NVIDIA's guide, "Migrating trtexec Usage from TensorRT 10.x to 11.x": 11 has no --fp16, --int8 and --best any
more, as every network is strongly typed; fp16 is that of the file, int8 that of its QuantizeLinear and DequantizeLinear
around zero. --stronglyTyped makes 10 do the same, and 11 takes it without effect.
"""

from __future__ import annotations

from export.convert.to_trt import build_command
from export.formats.conversion import CannotConvert, FileOptions
from export.formats.table import FORMATS
from export.hosts.job import HostFiles, HostJob
from export.writing.exporting import FileReport


def write(job: HostJob) -> HostFiles:
    """Write `4x-MODEL.fp16.onnx`, the same with fp16 images, int8, and an engine where one can be built."""
    job.require_any_size("ONNX", flag="--fp16")
    files: list[FileReport] = list(job.export(["fp16"], job.name))
    files += job.export(["fp16"], job.name, options=FileOptions(io="fp16"))
    notes = ["fp16io is the same with images in fp16, for programs that keep them on the GPU so"]
    try:
        files += job.export(["int8-trt"], job.name)
        notes.append("int8-trt is built by the same command; it is symmetric, so it needs no switch and no calibration")
    except CannotConvert as error:
        notes.append(f"without int8: {error}")
    if FORMATS["trt"].missing_requirement() is None:
        files += job.export(["trt"], job.name)
        notes.append("the engine belongs to the GPU, driver and TensorRT of the machine that wrote it")
    fp16 = files[0].path
    assert fp16 is not None
    return HostFiles(
        tuple(files),
        place="the files on the machine with the NVIDIA GPU, where the engine is to be built",
        call=build_command(fp16, "fp16", job.network),
        expect="the GPU compute time that trtexec prints; the sizes are those of --optShapes and at most --maxShapes",
        notes=tuple(notes),
    )
