"""FFmpeg's filter dnn_processing: the ONNX file for its ONNX backend.

Read in FFmpeg's libavfilter/dnn/dnn_backend_onnx.c (one float32 input N,C,H,W with a batch of 1 or any, values / 255,
no tiles), dnn_backend_openvino.c (a file of one size), and libavfilter/vf_dnn_processing.c (rgb24, gray8, grayf32, or
the luma of yuv420p and its kind).
"""

from __future__ import annotations

from export.hosts.job import HostFiles, HostJob


def write(job: HostJob) -> HostFiles:
    """Write `2x-MODEL.onnx`."""
    job.require_any_size("ONNX", why="dnn_processing gives frames of the film's size")
    files = job.export(["onnx"], job.name)
    pixels = "rgb24" if job.network.descriptor.channels == 3 else "yuv420p"
    names = "input=input:output=output"
    notes = (
        "the ONNX backend is in FFmpeg's master of 2026 and in no release of Debian's yet",
        "FFmpeg's OpenVINO backend takes a file of the film's size: srkd export MODEL --openvino --static 640x360, and "
        "dnn_backend=openvino:layout=nchw",
    )
    filters = f"format={pixels},dnn_processing=dnn_backend=onnx:model={job.name}.onnx:{names}"
    return HostFiles(
        files,
        place="the files anywhere",
        call=f'ffmpeg -i film.mkv -vf "{filters}" large.mkv',
        timed=files[0].path,
        notes=notes,
    )
