"""`srkd inspect`: the contents of a model file."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import shorten
from typing import TYPE_CHECKING

from compressor.base.errors import UsageError
from compressor.models.checkpoints.licence import KEY as LICENCE
from compressor.models.checkpoints.licence import commercial_warning
from srkd.cli.verb import verb
from srkd.options.verbs import InspectOptions
from srkd.terminal.console import Console
from srkd.terminal.tables import Table

if TYPE_CHECKING:
    from srkd.api.inspection import Inspection

OWN_KEYS = ("srkd.spec", "srkd.cost", LICENCE)
"""Metadata keys that are shown as facts of the network."""
MOST_SHOWN = 200  # characters of another key; --json has all


def rows(inspection: Inspection) -> Sequence[object]:
    """The layers; refuse --csv without --layers."""
    if inspection.layers is None:
        raise UsageError("--csv prints the table of layers: add --layers")
    return inspection.layers


@verb(
    "inspect",
    InspectOptions,
    "srkd.api.inspection.run_inspect",
    examples=(
        "srkd inspect edsr.pt",
        "srkd inspect edsr.pt --check",
        "srkd inspect edsr.pt --layers --lr-size 320x180",
        "srkd inspect carn_m.pth --scale 3 --lr-size 320x180 --json",
    ),
    rows=rows,
)
def command(console: Console, inspection: Inspection) -> None:
    """Show the network in MODEL, its cost, and what srkd assumed.

    MODEL is a checkpoint (.pt, .pth, .safetensors), a run folder, TorchScript, .pt2, ONNX or another exported file.
    """
    spec = {key: value for key, value in sorted((inspection.spec or {}).items()) if key != "arch"}
    assumed = {item.field for item in inspection.assumed}
    quantised = _quantised_rows(inspection)
    hidden = (*OWN_KEYS, "srkd.quant") if quantised else OWN_KEYS
    rows = [
        ("file", f"{inspection.path}, {inspection.bytes / 1e6:.2f} MB"),
        ("sha256", inspection.sha256),
        (
            "network",
            f"{inspection.architecture} x{inspection.scale}, {inspection.dialect} dialect ({inspection.wrapping})",
        ),
        *(
            ("", f"{key} = {_format_value(value)}{' (assumed)' if key in assumed else ''}")
            for key, value in spec.items()
        ),
        ("params", _format_count(inspection.params)),
        *([] if inspection.licence is None else [("licence", inspection.licence)]),
        *quantised,
        (f"MACs at {inspection.lr_size}", _format_count(inspection.macs)),
        ("MAC+", _format_count(inspection.macs_plus)),
        *((key, shorten(value, MOST_SHOWN)) for key, value in inspection.metadata.items() if key not in hidden),
    ]
    console.facts(rows)
    for item in inspection.assumed:
        console.result(
            f"assumed: {item.field} = {_format_value(item.value)}: {item.why}; --arch-option {item.field}=... sets it"
        )
    warning = commercial_warning(inspection.licence)
    if warning is not None:
        console.warn(warning)
    for note in inspection.notes:
        console.result(f"note: {note}")
    for line in () if inspection.check is None else inspection.check.lines():
        console.result(line)
    if inspection.layers is not None:
        total = inspection.macs or 1
        lines = [
            (layer.name, layer.kind, f"{layer.params:,}", f"{layer.macs:,}", f"{layer.macs / total:.1%}")
            for layer in inspection.layers
        ]
        console.table(Table(["layer", "kind", "params", f"MACs at {inspection.lr_size}", "share"], lines))


def _quantised_rows(inspection: Inspection) -> list[tuple[str, str]]:
    """The rows on quantisation of an int8 file, of a file that rounds in float, or of a network."""
    file = inspection.int8
    if file is not None:
        weights = "" if file.weight_bits is None else f", weights of {file.weight_bits} bits"
        near = "" if file.psnr_to_source_db is None else f", {file.psnr_to_source_db:.1f} dB to the network's images"
        rows = [
            ("int8", f"for {file.flavour}{weights}"),
            ("calibration", file.source()),
            ("left in float", file.in_float),
            ("measured loss", "unknown" if file.loss() is None else f"{file.loss()}{near}"),
        ]
        return [(key, value) for key, value in rows if value is not None]
    from compressor.models.quantisation.file_facts import read_training

    size, training = inspection.quantisation, read_training(inspection.metadata)
    if size is None:
        return [] if training is None else [("trained quantised", f"{training.line()}; this file rounds in float")]
    compat = f", compat {size.compat}" if size.compat else ""
    packed = f"{size.bytes_at_bits / 1e6:.3f} MB, {size.quantised_weights:,} weights packed and the rest in fp32"
    return [
        ("quantised", f"{size.method}, {size.bits} bits, placement {size.placement}{compat}"),
        (f"weights at {size.bits} bits", f"{packed} (float: {size.bytes_as_float / 1e6:.3f} MB)"),
    ]


def _format_count(number: int | None) -> str:
    return "unknown" if number is None else f"{number:,}"


def _format_value(value: object) -> str:
    if isinstance(value, (tuple, list)):
        return ", ".join(_format_value(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
