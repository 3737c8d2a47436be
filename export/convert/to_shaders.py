"""Shaders of players and emulators: mpv's user shaders, RetroArch's presets, and Magpie's effects.

mpv and Magpie have compute shaders. A network of one channel replaces mpv's texture LUMA; one of RGB replaces MAIN,
"the main image, after conversion to RGB but before upscaling". RetroArch has fragment shaders only, with one texture to
write: there a texel of a pass computes its own four features, and a last pass puts them together.

Sources: the section on `glsl-shaders` of mpv's manual; ArtCNN (https://github.com/Artoriuz/ArtCNN), whose shaders
choose half precision by the extension that is also used here; RetroArch's `gfx/video_shader_parse.h` and the ArtCNN of
libretro/slang-shaders; Magpie's page "MagpieFX" and its effects of version 4.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compressor.runtimes.libplacebo_runtime import format_shader
from export.convert.shader_passes import THREADS, Packing, shader_name, shader_passes, supported_chain
from export.formats.conversion import CannotConvert, Conversion
from export.formats.templates import render

PACKAGE = "export.convert"
MOST_PASSES = 64
"""Passes of a preset that RetroArch loads (`GFX_MAX_SHADERS`)."""


def convert(job: Conversion) -> Mapping[str, object]:
    """Write the shader, whose first lines hold the metadata."""
    chain = supported_chain(job)
    passes = list(shader_passes(chain, job))
    if job.format in ("slang", "magpie") and chain.channels == 1:
        raise CannotConvert(f"--{job.format} takes a network of three channels, as what it enlarges is RGB")
    if job.format == "slang":
        return _write_preset(job, passes)
    facts: dict[str, object] = {"passes": len(passes), "threads": "{}x{}".format(*THREADS)}
    if job.format == "magpie":
        head = render(PACKAGE, "magpie.hlsl", name=shader_name(job), passes=passes)
        text = head + "".join(render(PACKAGE, "magpie_pass.hlsl", **values) for values in passes)
    else:
        facts["hook"] = hook = "LUMA" if chain.channels == 1 else "MAIN"
        text = "\n".join(render(PACKAGE, "mpv.glsl", hook=hook, **values) for values in passes)
    job.path.write_text(format_shader(job.metadata, text), encoding="utf-8")
    return facts


def _write_preset(job: Conversion, passes: list[dict[str, Any]]) -> Mapping[str, object]:
    """Write the preset, and beside it a folder with a shader for each pass."""
    last, features = passes[-1], Packing(passes[-1]["conv"].out_channels)
    passes[-1] = last | {"is_last": False, "area": (features.across, features.down)}
    passes.append(last | {"number": len(passes) + 1, "inputs": features})
    if len(passes) > MOST_PASSES:
        raise CannotConvert(f"--slang takes up to {MOST_PASSES} passes, as RetroArch does, and these are {len(passes)}")
    folder = job.path.with_name(f"{job.path.stem}.slang")
    folder.mkdir()
    texts = [render(PACKAGE, "retroarch.slang", **values) for values in passes]
    for number, text in enumerate(texts, 1):
        (folder / f"{number}.slang").write_text(text, encoding="utf-8")
    preset = render(PACKAGE, "retroarch.slangp", folder=folder.name, passes=passes)
    job.path.write_text(format_shader(job.metadata, preset, texts), encoding="utf-8")
    return {"passes": len(passes)}
