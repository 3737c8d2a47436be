"""Upscayl, Real-ESRGAN-ncnn-vulkan and realesrgan-ncnn-py: NAME.param and NAME.bin, called `4x-MODEL`.

Read in upscayl/upscayl at common/check-model-scale.ts (the scale is 2 or 3 if the name has "x2", "2x", "x3" or "3x",
else 4), in upscayl-ncnn and Real-ESRGAN-ncnn-vulkan at src/main.cpp and src/realesrgan.cpp (blobs "data" and "output",
RGB in [0,1], `prepadding = 10`, three channels; what is enlarged is clipped to [0,1]) and at src/CMakeLists.txt (the
layers that their ncnn is built with), and in realesrgan-ncnn-py (`_load(param, bin, scale)`; its layers were tried).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from compressor.base.errors import SrkdError
from compressor.images.sample import sample_photo
from compressor.models.networks.base import Network
from compressor.models.networks.layers import MeanShift
from export.formats.conversion import CannotConvert
from export.hosts.table import Host
from export.hosts.writing import STUDENTS, HostJob

PADDING = 10
"""LR pixels around each tile, fixed in these programs."""
TILE = 32
"""Side of the tile whose seam is measured; theirs are larger, but only what lies along the border differs."""
FEW_LAYERS = (
    "BinaryOp Cast Concat Convolution Crop Eltwise Flatten GELU InnerProduct Input Interp PReLU Packing Padding "
    "PixelShuffle ReLU Split"
)
"""Layers of Real-ESRGAN-ncnn-vulkan and realesrgan-ncnn-py; a file with another one gives no picture."""
LAYERS: Mapping[str, str] = {
    "realesrgan-ncnn-vulkan": FEW_LAYERS,
    "realesrgan-ncnn-py": FEW_LAYERS,
    "upscayl": f"{FEW_LAYERS} Clip ConvolutionDepthWise Deconvolution LayerNorm MemoryData Permute Pooling Reduction "
    "Reorg Reshape Sigmoid Slice Swish",
}


def adapt(job: HostJob) -> Network:
    """The network in RGB, as grey networks give black pictures there, and in few kinds of layers."""
    try:
        return in_few_layers(job.network if job.network.descriptor.channels == 3 else job.network.in_rgb())
    except SrkdError as error:
        raise CannotConvert(f"{job.host.title} takes RGB only: {error}: {STUDENTS} run there") from error


def refusals(host: Host, path: Path) -> Iterator[str]:
    kinds = {line.split()[0] for line in path.read_text(encoding="utf-8").splitlines()[2:]}
    if missing := sorted(kinds - set(LAYERS[host.name].split())):
        yield f"it is built without ncnn's {', '.join(missing)}"


def remarks(job: HostJob, network: Network) -> Iterator[str]:
    if network.descriptor.channels != job.network.descriptor.channels:
        yield "the network is for grey images: it enlarges red, green and blue one by one, at 9 times its MACs"
    radius = network.descriptor.receptive_radius
    if radius is None or radius > PADDING:
        sees = "the whole image" if radius is None else f"{radius} pixels"
        yield (
            f"the network sees {sees} around a pixel and {job.host.title} shows it {PADDING} around a tile: along "
            f"the tiles' borders it is up to {255 * padding_seam(network):.1f} grey levels off; Compact of up to 8 "
            "blocks is exact"
        )


def in_few_layers(network: Network) -> Network:
    """Return the same function in fewer kinds of layers: means as convolutions; no clip, which the programs do."""
    changed = copy.deepcopy(network.unclipped())
    for shift in changed.modules():
        if isinstance(shift, MeanShift):
            shift.become_convolution()
    return changed


def padding_seam(network: Network, *, padding: int = PADDING) -> float:
    """Return the largest difference in [0,1] between a tile with its padding and the same place of the whole photo."""
    around = 2 * TILE
    photo, scale = sample_photo(TILE + 2 * around, TILE + 2 * around), network.descriptor.scale
    first, last = around - padding, around + TILE + padding
    with torch.no_grad():
        whole = network(photo).clamp(0, 1)[..., around * scale : (around + TILE) * scale, :]
        tile = network(photo[..., first:last, first:last]).clamp(0, 1)
    inside = slice(padding * scale, (padding + TILE) * scale)
    difference = whole[..., around * scale : (around + TILE) * scale] - tile[..., inside, inside]
    return float(difference.abs().max())
