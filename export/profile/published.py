"""Comparison of a published table with this machine: a preset's networks, untrained and profiled pair by pair."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from compressor.base.context import QUIET, Context
from compressor.base.errors import SrkdError, UsageError, nearest
from compressor.models.checkpoints.save import save_network
from compressor.models.networks.registry import build, spec_from_dict
from export.profile.presets import PRESETS
from export.profile.presets.published import PublishedNetwork, PublishedTable
from export.profile.report import ProfilePreset, ProfileReport, ProfileRow, PublishedFigures, profile_models
from export.profile.settings import ProfileSettings


def find_preset(name: str) -> PublishedTable:
    """Look up a preset; for an unknown name, raise UsageError with the nearest ones."""
    if name not in PRESETS:
        raise UsageError(f"no preset is called {name!r}: {nearest(name, PRESETS)}")
    return PRESETS[name]


def profile_preset(table: PublishedTable, settings: ProfileSettings, context: Context = QUIET) -> ProfileReport:
    """Profile each pair of the table separately, and return all rows with the published figures.

    A pair that fails is left out with its reason. Quality is not measured: the networks are not trained.
    """
    settings = replace(settings, quality=False)
    reports, omitted = [], list(table.omitted)
    with TemporaryDirectory(prefix="srkd-preset-") as folder:
        for pair in table.pairs:
            files = []
            for network in pair.networks:
                file = Path(folder) / f"{network.label}.safetensors"
                save_network(build(spec_from_dict(network.spec), seed=0), file)
                files.append(file)
            teacher, *students = files
            try:
                reports.append(profile_models(students, teacher=teacher, settings=settings, context=context))
            except UsageError:
                raise
            except SrkdError as error:
                omitted.append(f"{pair.teacher.label} and its students: {error}")
            for file in files:
                file.unlink()
    if not reports:
        raise SrkdError(f"nothing of {table.name} could be profiled: {'; '.join(omitted[len(table.omitted) :])}")
    networks = {network.label: network for pair in table.pairs for network in pair.networks}
    size = "{}x{}".format(*table.lr_size)
    if table.states_size and table.lr_size not in settings.lr_sizes:
        omitted.append(f"its size: the published figures are for LR {size}, these for others")
    first = reports[0]
    return replace(
        first,
        teacher=first.teacher if len(reports) == 1 else None,
        rows=tuple(_with_published(row, networks[row.model]) for report in reports for row in report.rows),
        costs=tuple(dict.fromkeys(cost for report in reports for cost in report.costs)),
        notes=tuple(dict.fromkeys(note for report in reports for note in report.notes)),
        about_int8=tuple(line for report in reports for line in report.about_int8),
        lost=tuple(row for report in reports for row in report.lost),
        matrix_rates=first.matrix_rates,
        conditions=tuple(conditions for report in reports for conditions in report.conditions),
        layers=tuple(layers for report in reports for layers in report.layers),
        preset=ProfilePreset(table.name, table.source, table.device, size, tuple(omitted)),
    )


def _with_published(row: ProfileRow, network: PublishedNetwork) -> ProfileRow:
    macs = None if network.gmacs is None else round(network.gmacs * 1e9)
    return replace(row, published=PublishedFigures(network.fps, network.speedup, macs, network.params_millions))
