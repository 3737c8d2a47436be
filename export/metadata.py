"""What an exported file says about itself: the same `srkd.*` keys as in a safetensors header."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from compressor.models.checkpoints.save import metadata_of
from compressor.models.networks.base import Network

INHERITED = ("srkd.recipe", "srkd.protocol", "srkd.scores")
"""What stays true of the same weights in another file."""


@dataclass(frozen=True)
class Source:
    """The file that is exported: what its exports are called, its hash, its header's `srkd.*` keys, where it is."""

    stem: str
    sha256: str = ""
    header: Mapping[str, str] = field(default_factory=dict)
    path: Path | None = None


def export_metadata(network: Network, source: Source) -> dict[str, str]:
    """Keys and values, all text. `srkd.source_sha256` is the hash of the checkpoint the file was made from."""
    metadata = metadata_of(network.spec)
    metadata |= {key: source.header[key] for key in INHERITED if source.header.get(key)}
    if source.sha256:
        metadata["srkd.source_sha256"] = source.sha256
    return metadata
