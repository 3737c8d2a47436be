"""Placement of the images: on the GPU if they fit; otherwise in host memory, from which patches are copied."""

from __future__ import annotations

from dataclasses import replace

import torch

from compressor.base.cache_folder import format_bytes
from compressor.base.compute_device import ComputeDevice
from compressor.base.context import Note
from compressor.data.store import ImageStore, Plane

MEMORY_SHARE = 0.5
"""Share of a device's free memory that images may use; activations and gradients need the rest."""


def place_on_device(store: ImageStore, device: torch.device, note: Note) -> ImageStore:
    """Return the store on the device if it fits. For a CPU it is unchanged: the system keeps its file in memory."""
    if ComputeDevice(device).is_cpu or not fits_on_device(store.bytes, "the images", device, note):
        return store
    return store.to(device)


def fits_on_device(size: int, what: str, device: torch.device, note: Note) -> bool:
    """Return True if `size` bytes may be put on the device; a note reports the answer."""
    free_bytes = ComputeDevice(device).free_memory()
    if free_bytes is None or size <= MEMORY_SHARE * free_bytes:
        note(f"{what} ({format_bytes(size)}) are on {device}")
        return True
    note(
        f"{what} ({format_bytes(size)}) stay in the host's memory: {device} has {format_bytes(free_bytes)} free and "
        "training needs half of it; patches are copied batch by batch"
    )
    return False


def pack(plane: Plane, device: torch.device) -> Plane:
    """Return the plane's own images on `device`, without the rest of its file and without an intermediate copy."""
    sizes = 3 * plane.heights * plane.widths
    offsets = torch.cumsum(sizes, 0) - sizes
    flat = torch.empty(int(sizes.sum()), dtype=plane.flat.dtype, device=device)
    for index, (start, size) in enumerate(zip(offsets.tolist(), sizes.tolist(), strict=True)):
        flat[start : start + size] = plane.image(index).reshape(-1)
    return replace(plane, flat=flat, offsets=offsets)
