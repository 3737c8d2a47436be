"""Every process trains a copy of the same state: they begin alike, and are held to stay so."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from compressor.checkpoints.save import tensor_bytes
from compressor.networks.base import Network
from compressor.training.checkpoint_file import pack, unpack
from compressor.training.processes import Processes
from compressor.training.stage import Stage
from compressor.training.state import State


def follow_leader(
    state: State, processes: Processes, stages: Sequence[Stage] = (), teacher: Network | None = None
) -> None:
    """Take the leading process's state: what was drawn is drawn once, and other machines need not see the run folder.

    Through `stages` a fresh state walks up to the stage the leader stands in.
    """
    if processes.alone:
        return
    packed = processes.from_leader(pack(state.parts()) if processes.leads else None)
    if not processes.leads:
        state.become(unpack(packed), stages, teacher)


def require_alike(state: State, processes: Processes) -> None:
    """Refuse to go on when what is trained is no longer the same everywhere."""
    if processes.alone:
        return
    hashed = hashlib.blake2b(digest_size=16)
    for group in state.optimiser.param_groups:
        for parameter in group["params"]:
            hashed.update(tensor_bytes(parameter))
    wrong = f"has other weights than rank 0 after step {state.done}: a fault of the machine or of the recipe"
    processes.agree(hashed.hexdigest(), wrong)
