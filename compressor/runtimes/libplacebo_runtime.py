"""A runtime for mpv's user shaders (.glsl): ffmpeg's filter libplacebo runs them, with pixels of 16 bits.

The fragment shaders of a RetroArch preset (.slangp) run there, too, each as a pass of one user shader. What a shader
stores between two passes and at its end, the player keeps in half precision. Values outside of [0,1] are clipped. The
metadata are comments at the beginning of the file, which players skip.
"""

from __future__ import annotations

import json
import re
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from compressor.base.context import QUIET, Context
from compressor.base.errors import SrkdError, report_unreadable
from compressor.base.metadata import srkd_keys
from compressor.runtimes.file_runtime import FileRuntime, build_descriptor, read_spec
from compressor.runtimes.shader_player import play
from compressor.runtimes.table import DEFAULTS, OpenOptions

HALF_TYPE = "float16_t"
"""A type that only shaders in half precision name."""

CHECKSUM = "// crc32 "
PASS = re.compile(r'^shader.+"([^/\\"]+\.slang/\d+\.slang)"\nscale_x.+"([\d.]+)"\nscale_y.+"([\d.]+)"$', re.M)
"""A pass in a preset: its file, and the factors of its width and height."""

PEAK = 65535
WIDEST_TEXTURE = 16384
"""Width and height in pixels of the largest texture of common GPUs."""

MOST_COPIES = 4
"""Copies of the picture beside each other in a texture, at most."""

PIXELS = {1: ("gray16le", 1), 3: ("rgba64le", 4)}
"""ffmpeg's name of the pixels by the network's channels, and their components; of 16-bit RGB Vulkan has this alone."""


def format_shader(metadata: Mapping[str, str], passes: str, others: Sequence[str] = ()) -> str:
    """The text of a shader file: its metadata and checksum as comments, and its passes.

    `others` are the files that a preset names, whose comments begin with # in place of //.
    """
    # `//!` begins a pass, in a comment too.
    lines = [f"// {key} {json.dumps(value)}".replace("//!", r"/\u002f!") for key, value in sorted(metadata.items())]
    header = "".join(f"{line}\n" for line in lines)
    text = f"{header}{CHECKSUM}{_crc32(header, passes, *others)}\n\n{passes}"
    return re.sub("^//", "#", text, flags=re.M) if others else text


def read_metadata(path: Path) -> Mapping[str, str]:
    return _read(path)[0]


def _read(path: Path) -> tuple[dict[str, str], str]:
    """The metadata and the shader for mpv; refuse a file that srkd has not written, or that was changed since."""
    with report_unreadable(path):
        text = path.read_bytes().decode("utf-8", errors="replace")
        preset = PASS.findall(text) if path.suffix == ".slangp" else []
        others = [(path.parent / name).read_bytes().decode("utf-8", errors="replace") for name, _, _ in preset]
    text = re.sub("^#", "//", text, flags=re.M) if preset else text
    header, found, rest = text.partition(CHECKSUM)
    checksum, _, passes = rest.partition("\n\n")
    if not found or not header.startswith("// srkd."):
        raise SrkdError(f"{path} was not written by `srkd export`: srkd runs no other shaders")
    if checksum != _crc32(header, passes, *others):
        raise SrkdError(f"{path} is damaged or was changed after its export: export it again")
    try:
        pairs = (line.removeprefix("// ").partition(" ") for line in header.splitlines())
        metadata = {key: str(value) for key, value in srkd_keys({k: json.loads(v) for k, _, v in pairs}).items()}
        return metadata, _user_shader(preset, others) if preset else text
    except (ValueError, RecursionError) as error:
        raise SrkdError(f"{path}: its metadata cannot be read: {error}") from error


def _user_shader(preset: Sequence[tuple[str, str, str]], passes: Sequence[str]) -> str:
    """The fragment shaders of a preset as passes for mpv, each with its own text between declarations and `main`."""
    texts, size, read = [], np.ones(2), "MAIN"
    for number, ((_, x, y), text) in enumerate(zip(preset, passes, strict=True), 1):
        size *= float(x), float(y)
        bound = "//!BIND MAIN\n" if read == "MAIN" else f"//!BIND MAIN\n//!BIND {read}\n"
        saved = f"//!SAVE pass_{number}\n//!COMPONENTS 4\n" if number < len(passes) else ""
        texts.append(
            f"//!HOOK MAIN\n{bound}{saved}//!WIDTH MAIN.w {size[0]} *\n//!HEIGHT MAIN.h {size[1]} *\n"
            f"#define Source {read}_raw\n#define Original MAIN_raw\n"
            f"{text[text.index('#define F ') : text.rindex('void main')]}vec4 hook() {{\n"
            f"return compute(ivec2(MAIN_pos * MAIN_size * vec2({size[0]}, {size[1]})), ivec2(MAIN_size));\n}}\n"
        )
        read = f"pass_{number}"
    return "\n".join(texts)


def _crc32(*texts: str) -> str:
    return f"{zlib.crc32(''.join(texts).encode()):08x}"


class LibplaceboRuntime(FileRuntime):
    """A shader. Each call of `run` starts ffmpeg, which compiles it, and enlarges the images as frames of a film."""

    name = "libplacebo"

    def __init__(self, path: Path, options: OpenOptions = DEFAULTS, context: Context = QUIET) -> None:
        super().__init__(path, options)
        self.metadata, text = _read(path)
        self._shader, self._seconds = text.encode(), options.call_seconds
        self.precision = "fp16" if HALF_TYPE in text else "fp32"
        self.spec = read_spec(self.metadata, self.label)
        if self.spec is None:
            raise SrkdError(f"{path} does not name its network: export it again")
        descriptor = build_descriptor(self.spec, None)
        longest = WIDEST_TEXTURE // max(MOST_COPIES, descriptor.scale)
        self.descriptor = replace(descriptor, max_size=(longest, longest))

    def _run(self, lr: torch.Tensor) -> torch.Tensor:
        images = lr.detach().to("cpu", torch.float32).clamp(0, 1).mul(PEAK).round().numpy().astype(np.uint16)
        count, channels, height, width = images.shape
        scale = self.descriptor.scale
        pixels, components = PIXELS[channels]
        frames = np.full((count, height, width, components), PEAK, np.dtype("<u2"))
        frames[..., :channels] = images.transpose(0, 2, 3, 1)
        with tempfile.TemporaryDirectory(prefix="srkd-") as folder:
            try:
                output = play(self._shader, frames.tobytes(), (width, height), pixels, scale, folder, self._seconds)
            except SrkdError as error:
                raise type(error)(f"{self.label}: {error}") from error
        shape = (count, height * scale, width * scale, components)
        if len(output) != 2 * np.prod(shape):
            raise SrkdError(f"{self.label}: ffmpeg returned {len(output)} bytes for {tuple(images.shape)}")
        enlarged = np.frombuffer(output, np.dtype("<u2")).reshape(shape)[..., :channels].transpose(0, 3, 1, 2)
        return torch.from_numpy(np.ascontiguousarray(enlarged, np.float32) / PEAK).to(lr.device)


open_file = LibplaceboRuntime
