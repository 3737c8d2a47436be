"""`srkd convert`: writing a network as a checkpoint of another code base."""

from __future__ import annotations

from typing import TYPE_CHECKING

from srkd.cli.verb import verb
from srkd.options.verbs import ConvertOptions
from srkd.terminal.console import Console

if TYPE_CHECKING:
    from compressor.models.checkpoints.convert import Converted


@verb(
    "convert",
    ConvertOptions,
    "srkd.api.convert.run_convert",
    examples=("srkd convert runs/first --to basicsr -o student.pth", "srkd convert edsr_baseline_x4.pt --to srkd"),
)
def command(console: Console, converted: Converted) -> None:
    """Write MODEL as a checkpoint of another code base.

    Values do not change. srkd prints the values that the code base keeps in option files (res_scale, the range).
    """
    console.result(f"wrote {converted.path}, {converted.bytes / 1e6:.2f} MB, {converted.to} ({converted.wrapping})")
    for name, value in converted.needs.items():
        text = "/".join(f"{number:g}" for number in value) if isinstance(value, tuple) else value
        console.result(f"not in the file: {name}={text}; set it in the option file, or --arch-option {name}={text}")
    for note in converted.notes:
        console.result(f"note: {note}")
