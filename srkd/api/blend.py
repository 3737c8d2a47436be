"""`srkd.blend` and `srkd blend`: a network of a strength between two that were trained from one start."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from compressor.base.context import Context
from compressor.base.errors import UsageError
from compressor.inference.open import model_file
from compressor.models.networks.base import Network
from compressor.models.students import blend as blends
from srkd.options.models import open_network, path_of_model
from srkd.options.shared import ModelOrPath
from srkd.options.values import as_tuple
from srkd.options.verbs import BlendOptions


@dataclass(frozen=True)
class BlendedFile:
    """A written blend."""

    path: Path
    strength: float


def blend(faithful: ModelOrPath, textured: ModelOrPath, strength: float) -> Network:
    """Return the network of a strength between two of one start, such as a run's faithful.safetensors and its
    textured.safetensors: 0 is the first, 1 the second; -0.5 to 1.5.

    >>> srkd.blend("runs/small", "runs/small/checkpoints/best.safetensors", 0.6)
    """
    ends = [open_network(end).require_network("weights") for end in (faithful, textured)]
    return blends.blend(ends[0], ends[1], strength)


def run_blend(options: BlendOptions, context: Context) -> BlendedFile:
    """Write the network of a strength between the two ends of a run, or between two files."""
    paths = tuple(path_of_model(model) for model in as_tuple(options.models))
    if len(paths) == 1:
        paths = blends.ends_of(model_file(paths[0]))
    if len(paths) != 2:
        raise UsageError("a blend is of a run of perceptual, or of two files: srkd blend FAITHFUL TEXTURED")
    out = Path(options.out)
    if out.suffix != ".safetensors":
        raise UsageError(f"-o {out}: a blend is a .safetensors file; srkd export RUN --strength makes others")
    if out.resolve() in {model_file(path).resolve() for path in paths}:
        raise UsageError(f"-o {out} is one of the two ends: give another name")
    blends.write_blend(blends.load_blend((paths[0], paths[1]), options.strength), out)
    return BlendedFile(out, options.strength)
