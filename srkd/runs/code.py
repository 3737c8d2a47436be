"""The code that a run trains with: recorded when it starts, compared when it continues."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from compressor.base.context import Note, no_note
from compressor.base.entry_points import OWN_MODULES, installed_packages, top_module
from compressor.base.errors import SrkdError
from compressor.base.python_files import checking_files, file_sources, imported_files
from compressor.base.sources import class_sources
from compressor.models.networks.base import Network
from compressor.models.networks.registry import NETWORKS
from compressor.training.calibration import Calibrated, Weights
from compressor.training.method import Method
from recipes.catalogue import METHODS
from recipes.config.by_class import FIXED
from srkd.record.code import CalibratedWeight, CodeFacts, Difference, UsedCode, UsedMethod, differences, listed
from srkd.record.reading import LARGEST_NUMBER
from srkd.record.run_file import RunFile
from srkd.runs.config import RunNetworks
from srkd.version import __version__


def used_code(networks: RunNetworks) -> CodeFacts:
    """The entry `code` of run.json for a run that starts now."""
    stages = networks.stages()
    methods = [_used_method(method, stage.name, stage.term_weights) for stage in stages for method in stage.methods]
    student = _used_network(networks.student)
    teacher = None if networks.teacher is None or networks.teacher.network is None else networks.teacher.network
    of_teacher = None if teacher is None else _used_network(teacher)
    packages: dict[str, str | None] = {"srkd": __version__, "torch": str(torch.__version__)}
    for code in (*methods, student, *(() if of_teacher is None else (of_teacher,))):
        for package in (code.package, *(_package(module) for module in code.sources)):
            version = None if package is None or package in packages else _version(package)
            if package is not None and version is not None:
                packages[package] = version
    return CodeFacts(packages=packages, methods=tuple(methods), student=student, teacher=of_teacher)


def _used_network(network: Network) -> UsedCode:
    name, cls = network.architecture, type(network)
    return UsedCode(name=name, package=NETWORKS.find(name).package, sources=dict(class_sources(cls)))


def _used_method(method: Method, stage: str, weights: Weights) -> UsedMethod:
    """A method of a stage in which the terms have these weights."""
    entry = METHODS.get(method.name)
    cls: type[Any] = type(method)
    fields = dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ()
    file = imported_files().get(cls.__module__)
    package = entry.package if entry is not None else _package(cls.__module__) or top_module(cls.__module__)
    package = package if file is None else file.name
    return UsedMethod(
        name=method.name,
        package=package,
        sources=dict(class_sources(type(method))),
        stage=stage,
        options={
            field.name: _plain(getattr(method, field.name))
            for field in fields
            if field.init and field.name not in FIXED
        },
        weights={term: _weight(method, term, weights[term]) for term in method.weights},
    )


def _weight(method: Method, term: str, weight: float | Calibrated) -> float | CalibratedWeight:
    if isinstance(weight, Calibrated):
        return CalibratedWeight(**dataclasses.asdict(weight))
    try:
        number = float(weight)
    except (TypeError, ValueError):
        number = math.nan
    if not abs(number) <= LARGEST_NUMBER:
        raise SrkdError(f"method {method.name}: the weight of its term {term} is {weight!r}: expected a finite number")
    return number


def _plain(value: object) -> Any:
    """An option's value in types of JSON, the same in every process; other objects are named by their type."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, (int, float)):
        return value if abs(value) <= LARGEST_NUMBER else str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted((_plain(item) for item in value), key=str)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return f"{type(value).__module__}.{type(value).__qualname__}"


@cache
def _package(module: str) -> str | None:
    """The distribution of a module, if it is srkd or adds to it."""
    top = top_module(module)
    return "srkd" if top in OWN_MODULES else installed_packages().get(top)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def checking_recorded(codes: Sequence[CodeFacts], where: str, *, accepted: bool) -> AbstractContextManager[None]:
    """Let a continued run import only files that a user named if their source is one with which it trained before."""
    recorded = {source for code in codes for method in code.methods for source in method.sources.items()}
    before = dict(recorded)

    def check(path: Path) -> None:
        changed = [
            Difference(what=f"source of {path}: {file}", before=before.get(file), now=sha256)
            for file, sha256 in file_sources(path).items()
            if (file, sha256) not in recorded
        ]
        if changed and not accepted:
            accept_or_refuse(changed, where, no_note, accepted=False)

    return checking_files(check)


def require_same_code(began: RunFile, now: CodeFacts, where: str, note: Note, *, accepted: bool) -> None:
    """Refuse to continue a run with other code than it began with, unless that is accepted."""
    before = began.code
    if before is None:
        note(
            f"run.json does not say with which code the run trained (srkd {began.srkd_version or 'unknown'} wrote it): "
            "whether its methods and networks have changed cannot be seen"
        )
        return
    for name in dict.fromkeys([*before.unreadable(), *now.unreadable()]):
        note(f"the source of {name} cannot be read: whether it has changed cannot be seen")
    versions = differences(before.versions, now.versions)
    changed = now.changes_from(before)
    if changed:
        accept_or_refuse((*changed, *versions), where, note, accepted=accepted)
    elif versions:
        note(f"continuing with the same source of methods and networks, and another {listed(versions)}")


def accept_or_refuse(changed: Sequence[Difference], where: str, note: Note, *, accepted: bool) -> None:
    """Note changed code that is accepted; refuse one that is not."""
    if not accepted:
        raise SrkdError(
            f"{where}: the code is not what it was when the run began: {listed(changed)}; put it back, or go on "
            "with --accept-changed-code"
        )
    note(f"going on with changed code: {listed(changed)}")
