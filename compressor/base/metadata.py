"""Metadata of model files, in which srkd's own keys begin with `srkd.`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")


def srkd_keys(metadata: Mapping[str, T]) -> dict[str, T]:
    """Return srkd's own entries of a file's metadata, sorted by key."""
    return {key: metadata[key] for key in sorted(metadata) if key.startswith("srkd.")}
