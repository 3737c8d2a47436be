"""Upscayl, Real-ESRGAN-ncnn-vulkan and realesrgan-ncnn-py: ncnn networks under their names.

Read in upscayl/upscayl at common/check-model-scale.ts (the scale is 2 or 3 if the name has "x2", "2x", "x3" or "3x",
else 4), in upscayl-ncnn and Real-ESRGAN-ncnn-vulkan at src/main.cpp and src/realesrgan.cpp (blobs "data" and "output",
RGB in [0,1], `prepadding = 10`, three channels; what is enlarged is clipped to [0,1]) and at src/CMakeLists.txt (the
layers that their ncnn is built with), and in realesrgan-ncnn-py (`_load(param, bin, scale)`; its layers were tried).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import torch

from compressor.base.errors import SrkdError
from compressor.images.sample import sample_photo
from compressor.models.networks.base import Network
from compressor.models.networks.layers import MeanShift
from export.formats.conversion import CannotConvert
from export.hosts.job import STUDENTS, HostFiles, HostJob

SCALES = (2, 3, 4)
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
FOLDER = "models"
"""Upscayl wants the word in the path of custom models; the others look there."""
CALLS: Mapping[str, str] = {
    "upscayl": "in Upscayl: Settings > Add custom models, choose the folder models; then choose {name}",
    "realesrgan-ncnn-vulkan": "realesrgan-ncnn-vulkan -i input.png -o output.png -m models -n {name} -s {scale}",
    "realesrgan-ncnn-py": "python: r = Realesrgan(gpuid=0, model=-1); r._load(Path('models/{name}.param'), "
    "Path('models/{name}.bin'), {scale}); r.process_pil(image)",
}


def write(job: HostJob) -> HostFiles:
    """Write NAME.param and NAME.bin, called `4x-MODEL`, into a folder `models`, as Upscayl wants it called."""
    title = job.title
    if job.scale not in SCALES:
        raise CannotConvert(
            f"{title} runs scales 2, 3 and 4, and would run this x{job.scale} network as x4: "
            "--student compact-s:scale=2 runs there"
        )
    job.require_any_size("ncnn", why=f"{title} runs tiles of any size")
    try:  # grey networks give black pictures there
        network = in_few_layers(job.network if job.network.descriptor.channels == 3 else job.network.in_rgb())
    except SrkdError as error:
        raise CannotConvert(f"{title} takes RGB only: {error}: {STUDENTS} run there") from error
    files = job.export(["ncnn"], job.name, network=network, folder=job.folder / FOLDER)
    _require_layers(job, files[0].path)
    notes = []
    if network.descriptor.channels != job.network.descriptor.channels:
        notes.append("the network is for grey images: it enlarges red, green and blue one by one, at 9 times its MACs")
    radius = network.descriptor.receptive_radius
    if radius is None or radius > PADDING:
        seam = padding_seam(network)
        sees = "the whole image" if radius is None else f"{radius} pixels"
        notes.append(
            f"the network sees {sees} around a pixel and {title} shows it {PADDING} around a tile: along the tiles' "
            f"borders it is up to {255 * seam:.1f} grey levels off; Compact of up to 8 blocks is exact"
        )
    return HostFiles(
        files,
        place=f"the folder {FOLDER} with {job.name}.param and {job.name}.bin; Upscayl wants 'models' in its path"
        if job.host == "upscayl"
        else f"{job.name}.param and {job.name}.bin into the folder {FOLDER} of the program",
        call=CALLS[job.host].format(name=job.name, scale=job.scale),
        timed=files[0].path,
        notes=tuple(notes),
    )


def _require_layers(job: HostJob, param: Path | None) -> None:
    """Refuse a network, and remove its files, if the program's ncnn lacks one of its layers."""
    if param is None:
        return
    lines = param.read_text(encoding="utf-8").splitlines()[2:]
    missing = sorted({line.split()[0] for line in lines} - set(LAYERS[job.host].split()))
    if missing:
        for path in (param, param.with_suffix(".bin"), param.with_name(f"{param.name}.json")):
            path.unlink(missing_ok=True)
        raise CannotConvert(
            f"{job.title} is built without ncnn's {', '.join(missing)}, which {job.network.spec.arch} needs: "
            f"{STUDENTS} run there"
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
