"""VapourSynth with vs-mlrt: ONNX files by the names that its users know, and a script that runs.

Read in AmusementClub/vs-mlrt at vsort/vs_onnxruntime.cpp (checkNodesAndNetwork: one input and one output of four axes,
N,C,H,W, fp32 or fp16, 1 or 3 channels, a whole scale) and common/onnx_utils.cpp (`specifyShape` writes 1 and the tile's
size over the batch and H, W), and in scripts/vsmlrt.py (TensorRT's shapes are of an input called "input").
Names follow those of traiNNer and AnimeJaNai: 2x_MODEL_1x3xHxW_fp32_op18.onnx.
"""

from __future__ import annotations

from compressor.base.files import atomic_path
from export.formats.conversion import FileOptions
from export.hosts.job import HostFiles, HostJob
from export.writing.exporting import FileReport

HEAD = '''"""Enlarge a film {scale} times: vspipe -a film=film.mkv -c y4m {script} - | ffmpeg -i - large.mkv

vspipe works in the folder of this script: give a film that lies elsewhere with its whole path.

Needs VapourSynth with vs-mlrt and a source plugin: pip install vapoursynth vapoursynth-mlrt-ort vapoursynth-bestsource,
then once: vapoursynth config
"""

from pathlib import Path

import vapoursynth as vs

# vspipe works in this folder, and __file__ is from where it was called; a script that imports this one is elsewhere.
NAME = "{model}"
MODEL = next(path.resolve() for path in (Path(__file__).with_name(NAME), Path(NAME)) if path.exists())


'''
COLOUR = '''
def enlarge(clip: vs.VideoNode) -> vs.VideoNode:
    """Return the clip {scale} times as large, as RGBS. On an NVIDIA GPU: provider="CUDA", or core.trt.Model."""
    return vs.core.ort.Model([clip.resize.Bicubic(format=vs.RGBS)], network_path=str(MODEL), provider="CPU")


if "film" in globals():
    source = vs.core.bs.VideoSource(film)  # noqa: F821
    matrix = source.get_frame(0).props.get("_Matrix", 2)
    if matrix == 2:  # not told: BT.709 for large pictures, BT.601 for small ones
        matrix = 1 if source.height > 576 else 6
        source = source.std.SetFrameProps(_Matrix=matrix)
    enlarge(source).resize.Bicubic(format=vs.YUV420P8, matrix=matrix or 1).set_output()
'''
LUMA = '''
def enlarge(clip: vs.VideoNode) -> vs.VideoNode:
    """Return the clip's luma {scale} times as large, as GRAYS. The network takes it as films store it, 16 to 235."""
    luma = clip.resize.Bicubic(format=vs.GRAYS).std.Expr("x 219 * 16 + 255 /")
    large = vs.core.ort.Model([luma], network_path=str(MODEL), provider="CPU")
    return large.std.Expr("x 255 * 16 - 219 /")


if "film" in globals():
    source = vs.core.bs.VideoSource(film)  # noqa: F821
    luma = enlarge(source).resize.Bicubic(format=vs.GRAY8, range_s="limited")
    colours = source.resize.Bicubic({scale} * source.width, {scale} * source.height, format=vs.YUV420P8)
    vs.core.std.ShufflePlanes([luma, colours, colours], [0, 1, 2], vs.YUV).set_output()
'''


def write(job: HostJob) -> HostFiles:
    """Write the network in fp32 and in fp16 with fp16 images, and `MODEL.vpy`."""
    job.require_any_size("ONNX", why="vs-mlrt cuts clips into tiles of any size")
    channels, scale = job.network.descriptor.channels, job.scale
    files: list[FileReport] = []
    for format_name, precision, options in (
        ("onnx", "fp32", FileOptions()),
        ("fp16", "strong_fp16", FileOptions(io="fp16")),
    ):
        name = f"{scale}x_{job.model}_1x{channels}xHxW_{precision}_op18"
        files += job.export([format_name], name, options=options, suffix=".onnx")
    script = job.folder / f"{scale}x_{job.model}.vpy"
    model = files[0].path or script
    text = HEAD + (COLOUR if channels == 3 else LUMA)
    with atomic_path(script) as temporary:
        temporary.write_text(text.format(scale=scale, script=script.name, model=model.name), encoding="utf-8")
    radius = job.network.descriptor.receptive_radius
    notes = ["vspipe looks for a film in the script's folder: give one that lies elsewhere with its whole path"]
    notes += ["fp16 takes and gives fp16 images (RGBH): for vs-mlrt's TensorRT and CUDA backends"]
    if radius is not None:
        notes.append(f"with tiles, overlap={radius} or more makes their borders exact")
    return HostFiles(
        tuple(files),
        place="this folder anywhere; for vsmlrt.py into its models folder",
        call=f"vspipe -a film=film.mkv -c y4m {script.name} - | ffmpeg -i - large.mkv",
        also=(script,),
        timed=files[0].path,
        notes=tuple(notes),
    )
