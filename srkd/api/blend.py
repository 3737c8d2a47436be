"""`srkd.blend` and `srkd blend`: a network of a strength between two that were trained from one start."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from compressor.base.context import Context
from compressor.base.errors import UsageError
from compressor.models.checkpoints.load import Loaded, load_checkpoint
from compressor.models.checkpoints.save import STRENGTH, save_network
from compressor.models.networks.base import Network
from compressor.models.students.blend import blend as blend_networks
from srkd.options.models import open_network, path_of_model
from srkd.options.shared import ModelOrPath
from srkd.options.values import as_tuple
from srkd.options.verbs import BlendOptions
from srkd.record.ends import FAITHFUL, TEXTURED


@dataclass(frozen=True)
class BlendedFile:
    """A written blend."""

    path: Path
    strength: float
    faithful: Path
    textured: Path


def blend(faithful: ModelOrPath, textured: ModelOrPath, strength: float) -> Network:
    """Return the network of a strength between two of one start: 0 is the first, 1 the second; -0.5 to 1.5.

    >>> network = srkd.blend("runs/small", "runs/small/checkpoints/best.safetensors", 0.6)
    """
    ends = [open_network(end).require_network("weights") for end in (faithful, textured)]
    return blend_networks(ends[0], ends[1], strength)


def run_blend(options: BlendOptions, context: Context) -> BlendedFile:
    """Write the network of a strength between the two ends of a run, or between two files."""
    paths = [path_of_model(model) for model in as_tuple(options.models)]
    if len(paths) == 1 and paths[0].is_dir():
        paths = [paths[0] / name for name in (FAITHFUL, TEXTURED)]
        if not all(path.is_file() for path in paths):
            raise UsageError(f"{paths[0].parent} has no {FAITHFUL} and {TEXTURED}: a run of perceptual keeps both")
    if len(paths) != 2:
        raise UsageError("a blend is of a run of perceptual, or of two files: srkd blend FAITHFUL TEXTURED")
    faithful, textured = (load_checkpoint(path) for path in paths)
    network = blend_networks(faithful.network, textured.network, options.strength)
    assert options.out is not None
    out = Path(options.out)
    save_network(network, out, metadata=_metadata(faithful, options.strength))
    return BlendedFile(out, options.strength, faithful.path, textured.path)


def _metadata(faithful: Loaded, strength: float) -> dict[str, str]:
    """The header of the first end, without scores, which are not the blend's."""
    own = {"srkd.format", "srkd.spec", "srkd.scale", "srkd.range", "srkd.scores"}
    kept = {name: text for name, text in faithful.header.items() if name.startswith("srkd.") and name not in own}
    return {**kept, STRENGTH: json.dumps(strength)}
