"""`srkd students`: the students that come with srkd."""

from __future__ import annotations

from typing import TYPE_CHECKING

from srkd.cli.verb import verb
from srkd.options.verbs import StudentsOptions
from srkd.terminal.console import Console, cell
from srkd.terminal.tables import Table

if TYPE_CHECKING:
    from srkd.api.students import StudentList


@verb(
    "students",
    StudentsOptions,
    "srkd.api.students.run_students",
    examples=("srkd students", "srkd students --threads 1", "srkd upscale general-x2 picture.jpg"),
    rows=lambda listed: listed.students,
)
def command(console: Console, listed: StudentList) -> None:
    """List the students that come with srkd: what they follow, how well, how fast.

    A name is a MODEL of every verb. Distance and sharpness are to the teacher's images of degraded Set14. The time is
    that of a film's frames by `srkd upscale`, which computes small single pictures in fp32. The cards, with more
    figures and the licences, are at docs/students.md.
    """
    size = "{}x{}".format(*listed.lr_size)
    columns = ["MODEL", "teacher", "scale", "params", "dB to it (Lanczos)", "sharpness", f"ms at {size}", "licence"]
    lines = []
    for row in listed.students:
        facts = row.facts
        near = cell(facts.psnr_y_teacher, "{:.1f}") + cell(facts.lanczos_psnr_y_teacher, " ({:.1f})")
        time = cell(row.ms, "{:.1f}") + (f" {row.runtime} {row.precision}" if row.runtime else "")
        follows = facts.teacher, f"x{facts.scale}", f"{facts.params:,}", near
        lines.append([facts.name, *follows, cell(facts.sharpness, "{:.2f}"), time, facts.licence])
    console.table(Table(columns, lines, "students of srkd"))
    for row in listed.students:
        console.result(f"{row.facts.name}, {row.facts.hours:.1f} hours of one thread: {row.facts.command}")
