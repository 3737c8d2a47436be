"""An effect as Magpie (`src/Magpie.Core/EffectCompiler.cpp`) reads it: textures, and the HLSL of each pass."""

from __future__ import annotations

import re

BUILT_IN = "cbuffer __CB2 : register(b0) { uint2 inputSize; };\nuint2 GetInputSize() { return inputSize; }\n"


def textures_of(effect: str) -> dict[str, tuple[int, int]]:
    """How many times the input each texture is across and down, by name."""
    sized = r"INPUT_WIDTH \* (\d+)\n//!HEIGHT INPUT_HEIGHT \* (\d+)\n(?://!FORMAT \w+\n)?Texture2D (\w+);"
    return {"INPUT": (1, 1)} | {name: (int(across), int(down)) for across, down, name in re.findall(sized, effect)}


def passes_of(effect: str) -> list[tuple[list[str], str, list[int], str]]:
    """What each pass reads and writes, the block of a group, and the whole text that Magpie compiles for it."""
    common, *blocks = re.split(r"//!PASS \d+\n", effect.partition("//!COMMON\n")[2])
    passes = []
    for number, text in enumerate(blocks, 1):
        keys = dict(re.findall(r"^//!(\w+) (.+)$", text, re.M))
        inputs, block = keys["IN"].split(", "), [int(side) for side in keys["BLOCK_SIZE"].split(", ")]
        slots = "".join(f"Texture2D<float4> {name} : register(t{slot});\n" for slot, name in enumerate(inputs))
        source = f"""{BUILT_IN}{slots}RWTexture2D<float4> {keys["OUT"]} : register(u0);
            {common}{text}[numthreads({keys["NUM_THREADS"]})]
            void main(uint3 tid : SV_GroupThreadID, uint3 gid : SV_GroupID) {{
                Pass{number}(gid.xy * uint2({keys["BLOCK_SIZE"]}), tid);
            }}"""
        passes.append((inputs, keys["OUT"], block, source))
    return passes
