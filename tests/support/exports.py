"""One file of an export, for the tests of formats."""

from __future__ import annotations

from pathlib import Path

from compressor.base.context import QUIET, Context
from compressor.models.networks.base import Network
from export.formats.conversion import FileOptions
from export.writing.exporting import FileReport, Source, export_model

SOURCE = Source("small", "ab" * 32, {"srkd.recipe": "logits", "srkd.scores": '{"Set5 <Y>": "30 & more"}'})


def export_file(
    network: Network, name: str, folder: Path, options: FileOptions | None = None, context: Context = QUIET
) -> FileReport:
    """Export to one format and return what became of its file."""
    (file,) = export_model(network, SOURCE, [name], folder, context, options=options).files
    return file
