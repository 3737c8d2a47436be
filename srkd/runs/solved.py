"""Students that were solved for, kept in the cache folder: runs of one teacher, shape and seed solve for it once."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch

from compressor.base.cache_folder import CacheFolder
from compressor.base.context import Context, no_note
from compressor.base.machine import machine_facts
from compressor.models.checkpoints.load import load_checkpoint
from compressor.models.checkpoints.save import save_network
from compressor.models.fitting.fit import fit
from compressor.models.networks.base import ImageModel, Network, Spec
from compressor.models.networks.registry import build
from srkd.version import __version__

STUDENT = "student.safetensors"
FIT = 1
"""Part of the key: raise it when a fit gives other bytes."""
HEADER_BYTES = 2**16
"""More than the header of such a file takes."""


def solve(
    teacher: ImageModel, spec: Spec, patches: torch.Tensor, cache: CacheFolder, context: Context
) -> tuple[Network, bool]:
    """The fitted student, the same on all processes, and whether it was kept from a run before."""
    group, key = context.processes, _key(teacher, spec, patches, context)
    kept = group.run_on_all(
        lambda: (cache.find(key, _read, context.note),) if group.is_leader and cache.limit else None
    )
    (found,) = group.broadcast(kept or (None,))
    if found is not None:
        return found, True
    if not group.is_single or not cache.limit:
        student = fit(teacher, spec, patches, context=context)
        if group.is_leader and cache.limit:
            cache.make(key, _read, lambda folder: save_network(student, folder / STUDENT), _bytes_of(student), no_note)
        return student, False
    solved: list[Network] = []

    def write(folder: Path) -> None:
        solved.append(fit(teacher, spec, patches, context=context))
        save_network(solved[0], folder / STUDENT)

    with torch.device("meta"):
        room = _bytes_of(build(spec))
    # Another process that needs the same student waits for it.
    made = cache.make(key, _read, write, room, context.note)
    if solved or made is None:
        return (solved or [fit(teacher, spec, patches, context=context)])[0], False
    return made, True


def _key(teacher: ImageModel, spec: Spec, patches: torch.Tensor, context: Context) -> str:
    """A name from all that decides the bytes of a fitted student."""
    facts = machine_facts()
    decides = {
        "teacher": teacher.fingerprint(),
        "student": spec.to_dict(),
        "patches": hashlib.sha256(patches.numpy().tobytes()).hexdigest(),
        "place": [str(teacher.device), facts["cpu"], facts["gpu"], facts["torch"], torch.get_num_threads()],
        "processes": context.processes.rank.world_size,
        "srkd": [__version__, FIT],
    }
    return f"solved-{hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:32]}"


def _read(folder: Path) -> Network:
    return load_checkpoint(folder / STUDENT).network


def _bytes_of(network: Network) -> int:
    sizes: list[int] = [tensor.nbytes for tensor in network.state_dict().values()]
    return sum(sizes) + HEADER_BYTES
