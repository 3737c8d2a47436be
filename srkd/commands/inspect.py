"""`srkd inspect`: what a file holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from srkd.console import Console
from srkd.parameters import SETTING, SIZE
from srkd.verb import verb

if TYPE_CHECKING:
    from compressor.models.cost import LayerCost
    from srkd.inspection import Inspection

EPILOG = """Examples:

\b
  srkd inspect edsr.pt
  srkd inspect edsr.pt --arch-option res_scale=0.1
  srkd inspect edsr.pt --check
  srkd inspect edsr.pt --layers --lr-size 320x180
  srkd inspect carn_m.pth --scale 3 --lr-size 320x180 --json
"""


@verb("inspect", epilog=EPILOG)
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--scale", type=click.IntRange(1, 8), help="Which scale of a multi-scale file.")
@click.option(
    "--arch-option", "arch_options", type=SETTING, multiple=True, help="What the file does not say: res_scale=0.1."
)
@click.option(
    "--lr-size", type=SIZE, default="256x256", show_default=True, help="The LR image that MACs are counted for."
)
@click.option("--layers", is_flag=True, help="What each layer costs.")
@click.option("--check", is_flag=True, help="Run it on an embedded photo: is its range, res_scale and mean right?")
def command(console: Console, *, model: Path, arch_options: tuple[tuple[str, Any], ...], **options: Any) -> None:
    """Tell the network in MODEL, its cost, and what was assumed.

    MODEL is a checkpoint (.pt, .pth, .safetensors), a run folder or an exported file.
    """
    from srkd.inspection import inspect_file

    found = inspect_file(model, arch_options=dict(arch_options), **options)
    if console.wants_json:
        console.emit("inspect", found)
    else:
        show(console, found)


def show(console: Console, found: Inspection) -> None:
    """A line a fact."""
    spec = {} if found.spec is None else {key: value for key, value in found.spec.items() if key != "arch"}
    assumed = {item.field for item in found.assumed}
    rows = [
        ("file", f"{found.path}, {found.bytes / 1e6:.2f} MB"),
        ("sha256", found.sha256),
        ("network", f"{found.architecture} x{found.scale}, {found.dialect} dialect ({found.wrapping})"),
        *(("", f"{key} = {_value(value)}{' (assumed)' if key in assumed else ''}") for key, value in spec.items()),
        ("params", _count(found.params)),
        (f"MACs at {found.lr_size}", _count(found.macs)),
        ("MAC+", _count(found.macs_plus)),
        *((key, value) for key, value in found.metadata.items() if key != "srkd.spec"),
    ]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        console.result(f"{name:<{width}}  {value}".rstrip())
    for item in found.assumed:
        console.result(
            f"assumed: {item.field} = {_value(item.value)}: {item.why}; --arch-option {item.field}=... sets it"
        )
    for note in found.notes:
        console.result(f"note: {note}")
    for line in () if found.check is None else found.check.lines():
        console.result(line)
    if found.layers is not None:
        headings = ["layer", "kind", "params", f"MACs at {found.lr_size}", "share"]
        console.table(headings, [_row(layer, found.macs or 1) for layer in found.layers])


def _row(layer: LayerCost, total: int) -> tuple[str, ...]:
    return (layer.name, layer.kind, f"{layer.params:,}", f"{layer.macs:,}", f"{layer.macs / total:.1%}")


def _count(number: int | None) -> str:
    return "unknown" if number is None else f"{number:,}"


def _value(value: object) -> str:
    if isinstance(value, (tuple, list)):
        return ", ".join(_value(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
