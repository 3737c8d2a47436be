"""`srkd plan`: search for the largest student that meets a target."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from compressor.base.machine import count_threads
from srkd.cli.verb import verb
from srkd.options.compress import PlanOptions
from srkd.terminal.console import Console, Records, cell

if TYPE_CHECKING:
    from srkd.runs.planning import PlanFiles, PlanGuess, PlanReport

GUESSES_SHOWN = 20
"""About this many rough times are printed, evenly from the slowest to the fastest."""


@verb(
    "plan",
    PlanOptions,
    examples=(
        "srkd plan --teacher edsr.pt --target-fps 30 --lr-size 320x180",
        "srkd plan --teacher edsr.pt --target-ms 20 --target-mb 0.5 --precision int8 --threads 2 -o plan.png",
        "srkd plan --teacher edsr.pt --target-fps 30 --emit phone",
        "srkd plan --teacher edsr.pt --measured phone/measured.json",
        "srkd plan --teacher edsr.pt --target-ms 1 --lr-size 128x128 --device galaxy-s25-npu",
    ),
    csv=True,
)
def command(console: Console, options: PlanOptions) -> None:
    """Find the largest student that meets a target on this machine.

    srkd exports shapes of the teacher's kind, of Compact and of plain untrained and times them in the runtime. It
    measures the best ones again before it chooses. With --emit another device measures. For a device that you do not
    have, --device galaxy-s25-npu is a rough guide from published figures: nothing is measured.
    """
    from srkd.runs.planning import PlanGuess, PlanReport, run_plan

    with console.context() as context:
        result = run_plan(options, context)
    if isinstance(result, PlanReport):
        console.report("plan", result, show, records)
    elif isinstance(result, PlanGuess):
        console.report("plan", result, show_guess, guess_records)
    else:
        console.report("plan", result, show_files, file_records)


def records(report: PlanReport) -> Records:
    """A row of values for each shape that was measured."""
    return [
        {
            "kind": row.kind,
            "width": row.width,
            "depth": row.depth,
            "params": row.params,
            "macs": row.macs,
            "megabytes": row.megabytes,
            "ms": row.ms,
            "ms_low": None if row.ms_interval is None else row.ms_interval[0],
            "ms_high": None if row.ms_interval is None else row.ms_interval[1],
            "fps": row.fps,
            "psnr_y_db": row.psnr_y,
            "psnr_y_teacher_db": row.psnr_y_teacher,
            "goal": report.goal,
            "verdict": row.verdict,
            "why": row.why,
            "student": row.student,
        }
        for row in report.rows
    ]


def show(console: Console, report: PlanReport) -> None:
    """Print the shapes with their reasons, the chosen one, and the command that trains it."""
    from compressor.images.scores import GOAL_WORDS

    lines = [
        [
            row.name,
            f"{row.params:,}",
            f"{row.macs / 1e9:.3g}",
            cell(row.megabytes, "{:.2f}"),
            "-" if row.ms_interval is None else f"{row.ms:.1f} [{row.ms_interval[0]:.1f}, {row.ms_interval[1]:.1f}]",
            cell(row.fps, "{:.1f}"),
            "unknown" if (fitted := row.scores.by(report.goal)) is None else f"{fitted:.2f}",
            f"{row.verdict}: {row.why}",
        ]
        for row in report.rows
    ]
    threads = "" if report.threads is None else f", {count_threads(report.threads)}"
    console.table(
        ["shape", "params", "GMAC", "MB", "ms", "FPS", f"fitted dB {GOAL_WORDS[report.goal]}", "verdict"],
        lines,
        title=f"{report.targets} at LR {report.lr_size} in {report.runtime} {report.precision}, {report.device}"
        f"{threads}, {report.measured_on}; {len(report.rows)} of {report.candidates} shapes in {report.seconds:.0f} s",
    )
    chosen = report.chosen
    console.result(f"chosen: {chosen.name}, {chosen.params:,} parameters, {chosen.ms:.1f} ms: {chosen.why}")
    for note in report.notes:
        console.warn(note)
    if report.picture is not None:
        console.say(f"wrote {report.picture}")
    teacher = "" if report.teacher_path is None else f"--teacher {report.teacher_path} "
    console.say(f"next: srkd compress {teacher}--student {chosen.student}")


def guess_records(guessed: PlanGuess) -> Records:
    """A row of values for each shape; no column of it is a measurement."""
    return [
        {
            "kind": row.kind,
            "width": row.width,
            "depth": row.depth,
            "params": row.params,
            "macs": row.macs,
            "rough_ms": None if row.rough_ms is None else row.rough_ms.ms,
            "rough_ms_low": None if row.rough_ms is None else row.rough_ms.low,
            "rough_ms_high": None if row.rough_ms is None else row.rough_ms.high,
            "guess": row.guess,
            "why": row.why,
            "mark": guessed.mark,
            "source": guessed.source,
            "student": row.student,
        }
        for row in guessed.rows
    ]


def show_guess(console: Console, guessed: PlanGuess) -> None:
    """Print the rough times under their mark and source, and how to measure."""
    likely = next((row for row in guessed.rows if row.student == guessed.largest_likely), None)
    known = [row for row in guessed.rows if row.rough_ms is not None]
    shown = {id(row) for row in known[:: math.ceil(len(known) / GUESSES_SHOWN) or 1]} | {id(likely)}
    lines = [
        [
            row.name,
            f"{row.params:,}",
            f"{row.macs / 1e9:.3g}",
            "-" if row.rough_ms is None else f"about {row.rough_ms.low:.2g} to {row.rough_ms.high:.2g}",
            row.guess,
        ]
        for row in known
        if id(row) in shown
    ]
    title = f"{guessed.mark}; {guessed.targets} at LR {guessed.lr_size} on {guessed.device_title}, {guessed.precision}"
    console.table(["shape", "params", "GMAC", "ms (rough guide)", "guess"], lines, title=title)
    console.say(f"{len(lines)} of {len(known)} shapes with a guess are shown; --csv and --json have all")
    console.say(f"source: {guessed.source}")
    silent = {row.why for row in guessed.rows if row.rough_ms is None}
    for why in sorted(silent):
        count = sum(row.why == why for row in guessed.rows)
        console.say(f"{count} of {guessed.candidates} shapes: {why}")
    if likely is None:
        console.result(f"no shape is likely to meet the target ({guessed.mark})")
    else:
        console.result(f"largest that is likely to meet the target: {likely.name} ({guessed.mark})")
    console.say("next: measure on such a device: srkd plan --emit DIR, without --device")


def file_records(files: PlanFiles) -> Records:
    """A row for each file to be timed, and for each that could not be written."""
    reasons = dict.fromkeys(files.files) | dict(files.failed)
    return [{"folder": str(files.folder), "name": name, "failed": why} for name, why in reasons.items()]


def show_files(console: Console, files: PlanFiles) -> None:
    """Print the written files, and the next steps."""
    of_onnx = any(name.endswith(".onnx") for name in files.files)
    console.result(f"wrote {files.shapes} shapes and plan.json to {files.folder}")
    console.say(f"next, on an Android phone: python {files.folder}/run_adb.py --program {files.phone_program}")
    if of_onnx:
        console.say(f"or copy {files.folder} to the device, and run python run.py there (onnxruntime and numpy)")
        console.say(f"or in a browser, on a phone too: srkd demo {files.folder} --host 0.0.0.0")
        console.say("files for LiteRT: --runtime litert --emit DIR")
    console.say(f"then: srkd plan --measured {files.folder}/measured.json")
