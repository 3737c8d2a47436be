"""Which φ a run looks through: found at its start, said in its first line, kept by run.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from compressor.base.context import Note, Progress, no_progress
from compressor.base.errors import SrkdError
from compressor.base.processes import Processes
from compressor.teachers.teacher import Teacher
from compressor.training.method import Method
from recipes.config.reading import load_preset
from recipes.looking import UsesPerceptualNet, bind_phi, find_phi
from recipes.phi import Resolved
from srkd.request import Request, path_of

EMBEDDED = "the embedded teacher"


def choose_phi(
    request: Request, announce: Note, *, download: bool = True, progress: Progress = no_progress
) -> Resolved | None:
    """Said aloud; None where the recipe's methods look through none."""
    methods = load_preset(request.recipe, request.settings).build_methods()
    found = find_phi(methods, path_of(request.phi_weights), download=download, progress=progress)
    if found is not None and request.teacher is None:
        found = found.owned_by(EMBEDDED)
    if found is not None:
        announce(f"phi: {found.how}")
    return found


def choose_phi_once(request: Request, group: Processes, progress: Progress, announce: Note) -> Resolved | None:
    """The leading process looks, and downloads; the others take its word, and read the file where it lies."""
    found = group.run_on_all(lambda: choose_phi(request, announce, progress=progress) if group.leads else None)
    # A choice in a tuple: None would stand for a process that does not lead.
    return group.from_leader((found,))[0]


def through_the_embedded(methods: Sequence[Method], teacher: Teacher | None, announce: Note) -> tuple[Method, ...]:
    """Told where the teacher that was given has no blocks to look through, and the method can do without them."""
    found = phi_of(methods)
    if found is None or found.kind != "teacher" or teacher is None or teacher.network is not None:
        return tuple(methods)
    announce(f"phi: {EMBEDDED}'s first blocks, as the {teacher.backend} teacher gives outputs only")
    return bind_phi(methods, found.owned_by(EMBEDDED))


def phi_of(methods: Sequence[Method]) -> Resolved | None:
    """What these methods were given."""
    return next((method.resolved for method in methods if isinstance(method, UsesPerceptualNet)), None)


def phi_in(facts: Mapping[str, Any]) -> Resolved | None:
    """What a run began with: continued, it looks through the same, whatever has become of the cache since."""
    told = facts.get("phi")
    try:
        return None if told is None else Resolved(**{**told, "path": told["path"] and Path(told["path"])})
    except (KeyError, TypeError) as error:
        raise SrkdError(f"run.json does not say what the run looks through ({error})") from error
