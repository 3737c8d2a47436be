"""Students that must be the same in one process and in several: `torchrun distributed_fit.py OUT`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from compressor.base.context import Context
from compressor.base.errors import SrkdError
from compressor.base.processes import Processes, Rank, exit_process
from compressor.models.fitting.fit import fit
from compressor.models.networks.compact import CompactSpec
from compressor.models.networks.registry import architecture
from compressor.models.networks.span import SPANSpec
from compressor.training.distributed import open_processes
from tests.support.slices import lively, run

EDSR = architecture("edsr").small
PAIRS = {
    "rcan": (architecture("rcan").small, architecture("rcan").small.narrowed(0.5)),
    "swinir": (architecture("swinir").small, architecture("swinir").small.narrowed(0.5)),
    "compact of edsr": (EDSR, CompactSpec(EDSR.scale, width=12, depth=2)),
    "span of edsr": (EDSR, SPANSpec(EDSR.scale, width=12, depth=1)),
}
"""Teacher and student: gates; norms with heads; two of another kind, the last with offsets of one process's patches."""
COUNTS = (13, 1)
"""Numbers of patches: one that processes cannot share evenly, and one smaller than the number of processes."""


def measure(processes: Processes) -> dict[str, Any]:
    """Return the student's image and the processes' fingerprints, by network and number of patches."""
    results: dict[str, Any] = {}
    for name, (teacher_spec, spec) in PAIRS.items():
        teacher = lively(teacher_spec)
        for count in COUNTS:
            lr = torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(5))
            students = [fit(teacher, spec, lr, context=Context(processes=processes)) for _ in range(2)]
            prints = processes.gather_objects([student.fingerprint() for student in students])
            results[f"{name} {count}"] = {"image": run(students[0]).flatten().tolist(), "prints": prints}
    return results


def refusal(processes: Processes) -> str:
    """Return the error of a teacher that is not finite on the patches of the last process."""
    teacher, lr = lively(architecture("edsr").small), torch.rand(4, 3, 8, 8)
    lr[-1] = float("nan")
    try:
        fit(teacher, teacher.spec.narrowed(0.5), lr, context=Context(processes=processes))
    except SrkdError as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


if __name__ == "__main__":
    with open_processes(Rank.from_environment()) as group:
        results = {"students": measure(group), "refusals": group.gather_objects(refusal(group))}
        if group.is_leader:
            Path(sys.argv[1]).write_text(json.dumps(results))
    exit_process(0)
