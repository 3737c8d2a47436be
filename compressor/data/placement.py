"""Where the images lie while a network trains: on the GPU where they fit, otherwise beside it."""

from __future__ import annotations

from collections.abc import Callable

import torch

from compressor.data.cache_folder import told
from compressor.data.store import ImageStore, Plane
from compressor.progress import Announce

SHARE = 0.5
"""Of a device's free memory, what images may take: activations and gradients need the rest."""


def free_memory(device: torch.device) -> int | None:
    """Bytes free on a device with memory of its own; None where it shares the host's."""
    return int(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else None


def placed(
    store: ImageStore,
    device: torch.device,
    announce: Announce,
    free: Callable[[torch.device], int | None] = free_memory,
) -> ImageStore:
    """The store on the device where it fits; on a CPU the store as it is, which the system keeps in memory."""
    if device.type == "cpu":
        return store
    return store.to(device) if has_room(store.bytes, "the images", device, announce, free) else store


def has_room(
    size: int,
    what: str,
    device: torch.device,
    announce: Announce,
    free: Callable[[torch.device], int | None] = free_memory,
) -> bool:
    """Whether so many bytes may lie on the device; says so."""
    room = free(device)
    if room is None or size <= SHARE * room:
        announce(f"{what} ({told(size)}) lie on {device}")
        return True
    announce(
        f"{what} ({told(size)}) stay in the host's memory: {device} has {told(room)} free and training "
        "needs half of it; patches are carried over batch by batch"
    )
    return False


def packed(plane: Plane, device: torch.device) -> Plane:
    """The plane's own images and nothing else of its file, on `device`; they never stand together on the way."""
    sizes = 3 * plane.heights * plane.widths
    offsets = torch.cumsum(sizes, 0) - sizes
    flat = torch.empty(int(sizes.sum()), dtype=plane.flat.dtype, device=device)
    for index, (start, size) in enumerate(zip(offsets.tolist(), sizes.tolist(), strict=True)):
        flat[start : start + size] = plane.image(index).reshape(-1)
    return Plane(flat, *(column.to(device) for column in (offsets, plane.heights, plane.widths)))


def carried(patches: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Patches on `device`. To CUDA from page-locked memory, so that the copy runs while the GPU computes."""
    if patches.device == device:
        return patches
    if device.type == "cuda" and patches.device.type == "cpu":
        patches = patches.pin_memory()
    return patches.to(device, non_blocking=True)
