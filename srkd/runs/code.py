"""The code that a run trains with: recorded when it starts, compared when it continues."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path

import torch

from compressor.base.child import ROOT
from compressor.base.context import Note
from compressor.base.errors import SrkdError
from compressor.base.files import file_sha256
from compressor.base.python_files import imported_files, sources_of
from compressor.models.networks.registry import NETWORKS
from recipes.catalogue import METHODS
from srkd.record.code import CodeFacts, differences, file_changes, listed
from srkd.runs.opened import OpenRun
from srkd.version import __version__


def used_code(run: OpenRun) -> CodeFacts:
    teacher = None if run.teacher is None else run.teacher.network
    used = [network for network in (run.student.network, teacher) if network is not None]
    methods = [method for stage in run.stages() for method in stage.methods]
    packages = [NETWORKS.find(network.architecture).package for network in used]
    packages += [METHODS[method.name].package for method in methods if method.name in METHODS]
    files = dict.fromkeys(imported_files().get(type(each).__module__) for each in (*used, *methods))
    return CodeFacts(
        packages={
            "srkd": own_version(),
            "torch": str(torch.__version__),
            **{package: metadata.version(package) for package in packages if package != "srkd"},
        },
        files={path: sha256 for file in files if file is not None for path, sha256 in sources_of(file).items()},
    )


@cache
def own_version() -> str:
    """The version of srkd; of a checkout also its commit, with `-dirty` if files differ from it."""
    if not (ROOT / ".git").exists():
        return __version__
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    except (OSError, subprocess.CalledProcessError):  # no git here, or a checkout of another user
        return __version__
    return f"{__version__} (git {done.stdout.strip()})"


def require_same_files(recorded: Sequence[CodeFacts], where: str) -> None:
    """Refuse to continue with a file of the user that is not one with which the runs trained, before it is imported."""
    known = {source for code in recorded for source in code.files.items()}
    before = dict(known)
    now = {path: file_sha256(Path(path)) for path in before if Path(path).is_file()}
    changed = {path: before[path] for path in before if (path, now.get(path)) not in known}
    _require_unchanged(changed, {path: now[path] for path in changed if path in now}, where)


def require_same_code(before: CodeFacts, now: CodeFacts, where: str, note: Note, *, accepted: bool) -> None:
    """Refuse to continue a run with other files of the user, unless that is accepted; note other versions."""
    if not accepted:
        _require_unchanged(before.files, now.files, where)
    for line in (file_changes(before.files, now.files), differences(before.versions, now.versions)):
        if line:
            note(f"continuing with another {listed(line)}")


def _require_unchanged(before: Mapping[str, str], now: Mapping[str, str], where: str) -> None:
    if changed := file_changes(before, now):
        raise SrkdError(
            f"{where}: the code is not what it was when the run began: {listed(changed)}; put it back, or go on "
            "with --accept-changed-code"
        )
