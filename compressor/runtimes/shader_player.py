"""ffmpeg with its filter libplacebo, which runs mpv's user shaders on a Vulkan device of this machine, or on its CPU.

Importing this module imports no torch.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from functools import cache

from compressor.base.errors import SrkdError, TookTooLong

TIMEOUT_SECONDS = 1800
VULKAN = ("-init_hw_device", "vulkan=vk", "-filter_hw_device", "vk")
PACKAGES = "Debian's packages are ffmpeg, libvulkan1 and mesa-vulkan-drivers"


@cache
def player_missing() -> str | None:
    """Return one line if no user shader can run here; None if one can."""
    if shutil.which("ffmpeg") is None:
        return f"ffmpeg, which runs mpv's shaders, is not installed ({PACKAGES})"
    if not re.search(rb"\blibplacebo\b", _call("-filters")[1]):
        return f"this ffmpeg was built without its filter libplacebo, which runs mpv's shaders ({PACKAGES})"
    code, _, errors = _call(*VULKAN, "-f", "lavfi", "-i", "nullsrc=s=16x16", "-frames:v", "1", "-f", "null", "-")
    if code:
        return f"ffmpeg finds no Vulkan driver, on which mpv's shaders run ({PACKAGES}): {_last_line(errors)}"
    return None


def play(
    shader: bytes,
    frames: bytes,
    size: tuple[int, int],
    pixels: str,
    scale: int,
    folder: str,
    seconds: float | None = None,
) -> bytes:
    """Return the frames (raw pixels of 16 bits) that a shader makes of `frames`, enlarged by `scale`.

    `size` is (width, height), `pixels` ffmpeg's name of their format. `folder` is a temporary one for the shader:
    named in ffmpeg's own language of filters, a path would have to be quoted.
    """
    with open(f"{folder}/shader.glsl", "wb") as file:
        file.write(shader)
    width, height = size
    filters = (
        f"hwupload,libplacebo=w={scale * width}:h={scale * height}:custom_shader_path=shader.glsl:dithering=none,"
        f"hwdownload,format={pixels}"
    )
    raw = ("-f", "rawvideo", "-pix_fmt", pixels)
    enlarging = (*raw, "-s", f"{width}x{height}", "-i", "pipe:0", "-vf", filters, *raw, "pipe:1")
    code, enlarged, errors = _call(*VULKAN, *enlarging, frames=frames, folder=folder, seconds=seconds)
    # A shader that cannot be compiled is left out, with a line at the level of errors and exit code 0.
    if code or errors.strip():
        raise SrkdError(f"ffmpeg's libplacebo does not run the shader: {_last_line(errors)}")
    return enlarged


def _call(
    *arguments: str, frames: bytes = b"", folder: str | None = None, seconds: float | None = None
) -> tuple[int, bytes, bytes]:
    seconds = seconds or TIMEOUT_SECONDS
    try:
        done = subprocess.run(  # noqa: S603 - the user's own ffmpeg
            ["ffmpeg", "-hide_banner", "-v", "error", *arguments],  # noqa: S607
            input=frames,
            cwd=folder,
            capture_output=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise TookTooLong(f"ffmpeg's libplacebo had no image after {seconds:g} s") from error
    except OSError as error:
        raise SrkdError(f"ffmpeg cannot be run: {error}") from error
    return done.returncode, done.stdout, done.stderr


def _last_line(errors: bytes) -> str:
    lines = [line.strip() for line in errors.decode(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it says nothing"
