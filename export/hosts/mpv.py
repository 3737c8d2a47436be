"""mpv, and players built on libplacebo: the network as a user shader, with sums in float32 and in fp16.

Read in mpv's manual, `glsl-shaders`, and in the shaders of ArtCNN; export/convert/to_glsl.py says how it is written.
"""

from __future__ import annotations

from export.hosts.job import HostFiles, HostJob

FOLDER = "~/.config/mpv/shaders (on Windows %APPDATA%\\mpv\\shaders; for jellyfin-mpv-shim shaders beside mpv.conf)"


def write(job: HostJob) -> HostFiles:
    """Write `2x-MODEL.glsl` and `2x-MODEL.fp16.glsl`."""
    files = job.export(["glsl", "glsl-fp16"], job.name)
    notes = ["the fp16 shader is the faster one where the GPU has fp16"]
    if job.network.descriptor.channels == 3:
        notes.append("it enlarges RGB; with --luma srkd writes one of the luma alone, which costs less")
    return HostFiles(
        files,
        place=f"{job.name}.glsl into {FOLDER}",
        call=f'mpv --glsl-shaders="~~/shaders/{job.name}.glsl" film.mkv',
        expect="what mpv's statistics show on your GPU (I, then 2): a GPU's times cannot be foretold from a CPU's",
        notes=tuple(notes),
    )
