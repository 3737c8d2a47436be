"""What a report shows of runs and of methods side by side, as the values of its templates."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import TypeAlias

from markupsafe import Markup

from compressor.base.machine import count_threads
from compressor.images.scores import GOAL_WORDS, LANCZOS
from compressor.inference.metric_table import METRICS, worse_measures
from compressor.models.checkpoints.licence import commercial_warning
from export.formats.templates import environment_of
from srkd.record.measurements import ProfileFile
from srkd.record.scores import score_table
from srkd.reports.charts import against_macs, against_time, curve_figures, point_figures
from srkd.reports.comparison import Comparison
from srkd.reports.contents import Contents
from srkd.reports.pictures import MAP_LEVELS, MEASURES, Pictures
from srkd.reports.reproduction import deciding_facts, given_options
from srkd.terminal.tables import Table, is_numeric
from srkd.version import __version__

MOST_IMAGES_NAMED = 6


@dataclass(frozen=True)
class Section:
    """One run of a report: its contents, speed and pictures, with a line for each missing part."""

    contents: Contents
    speed: ProfileFile | None
    pictures: Pictures
    missing: tuple[str, ...] = ()


Tile: TypeAlias = tuple[str, str, str]
"""A large figure, its label, and a line below that says what was measured."""


def report_page(sections: Sequence[Section], comparison: Comparison | None) -> str:
    runs, title, shown = [_show_run(section) for section in sections], f"{len(sections)} runs side by side", None
    if comparison is None:
        title = f"{sections[0].contents.name}: what was gained"
    else:
        by_work = point_figures([against_macs(comparison.scores, comparison.goal)])
        curves = curve_figures([rows for section in sections for rows in section.contents.metrics])
        table = comparison.table(comparison.goal)
        shown = {"scores": table, "lines": comparison.lines(), "charts": [*by_work, *curves]}
    return _render(title=title, comparison=shown, runs=runs, map_levels=MAP_LEVELS)


def _show_run(section: Section) -> dict[str, object]:
    contents, speed = section.contents, section.speed
    file = contents.file
    licence = None if file.teacher is None else file.teacher.licence
    warning = commercial_warning(licence)
    by_time = None if speed is None else against_time(contents, speed)
    facts = [*given_options(file.options), *deciding_facts(contents.path, file)]
    facts.append(("teacher's licence", licence or "not declared in its file"))
    result, measures = file.result, [METRICS[name] for name in MEASURES]
    return {
        "contents": contents,
        "what": _what(contents),
        "notices": [*_notices(contents, section.pictures, warning), *section.missing],
        "tiles": (_size_tile(contents), _speed_tile(speed), _loss_tile(contents)),
        "scores": _scores(contents),
        "gains": () if result is None or result.trials is None else [gain.line() for gain in result.trials.gains],
        # The page already shows the warnings above.
        "remarks": () if result is None else [x for x in result.flags if x not in (warning, result.below_bicubic)],
        "speed": speed,
        "cost_charts": point_figures([by_time, against_macs(contents.scores, contents.goal)]),
        "pictures": section.pictures,
        "measures": measures,
        "best": ", ".join(f"{measure.title} {measure.best}" for measure in measures),
        "curves": curve_figures(contents.metrics),
        "facts": facts,
    }


def _what(contents: Contents) -> str:
    """Recipe, student and length of a run: `Logits KD: edsr x4, width 24, depth 16, 2,000 steps`."""
    result, student = contents.file.result, contents.file.student
    title, fields = contents.file.preset.title, student.model_extra or {}
    shape = [f"{key} {fields[key]}" for key in ("width", "depth") if isinstance(fields.get(key), int)]
    sizes = [f"{student.arch} x{student.scale}", *shape]
    steps = max((rows.last_step for rows in contents.metrics), default=0) if result is None else result.steps
    return f"{title}: {', '.join(sizes)}, {steps:,} steps"


def _notices(contents: Contents, pictures: Pictures, warning: str | None) -> list[str]:
    """The lines that a reader must not miss."""
    unfinished = contents.unfinished_line("RUN")
    lines = [] if unfinished is None else [unfinished]
    if warning is not None:
        lines.append(f"{warning[0].upper()}{warning[1:]}.")
    result = contents.file.result
    below = None if result is None else result.below_bicubic
    lines += [] if below is None else [f"{below[0].upper()}{below[1:]}."]
    for name in ("control", LANCZOS) if contents.goal == "teacher" else ():
        if name in pictures.to_teacher:
            worse = worse_measures(pictures.to_teacher["student"], pictures.to_teacher[name])
            if worse:
                lines.append(f"The student is worse than {name} by {', '.join(METRICS[key].title for key in worse)}.")
    return lines


# Tiles: how much smaller and faster the student is, and its loss of quality.


def _size_tile(contents: Contents) -> Tile:
    student, teacher = contents.score("student"), contents.score("teacher")
    params = None if student is None else student.params
    if student is None or not params:
        return ("–", "smaller", "the size of the student is not known yet")
    if teacher is None or not teacher.params:
        return ("–", "smaller", f"{params:,} parameters; the teacher's are not known")
    macs = ""
    if student.macs and teacher.macs:
        macs = f"; {student.macs / 1e9:.2f} GMAC against {teacher.macs / 1e9:.2f} at LR 256x256"
    below = f"{params:,} parameters against {teacher.params:,}{macs}"
    return (f"{teacher.params / params:.1f}×", "smaller", below)


def _speed_tile(speed: ProfileFile | None) -> Tile:
    main = None if speed is None else speed.main
    if speed is None or main is None or main.speedup is None:
        return ("–", "faster", "not measured" if main is None else "the teacher was not timed")
    where = f"in {main.conditions}"
    if speed.processor:
        where += f", {speed.processor}"
    if main.verdict == "no measurable difference":
        return ("0", "measurable gain in speed", where)
    if main.speedup < 1:
        return (f"{1 / main.speedup:.2f}×", "slower", where)
    fastest, best = speed.fastest, ""
    if fastest is not None and fastest is not main and fastest.over_eager and fastest.over_eager > main.speedup:
        best = f"; {fastest.over_eager:.2f}× over the teacher in torch at best, in {fastest.conditions}"
    return (f"{main.speedup:.2f}×", "faster", where + best)


def _loss_tile(contents: Contents) -> Tile:
    """The quality by the run's goal: nearness to the teacher, or what is lost of the teacher's to the originals."""
    goal, score, teacher = contents.goal, contents.score("student"), contents.score("teacher")
    student = None if score is None else score.by(goal)
    if score is None or student is None:
        return ("–", "lost", "no score of the student yet")
    others = [
        f"{other.name} {spread.mean:.3f} dB"
        for other in (teacher, contents.score("bicubic"))
        if other is not None and (spread := other.by(goal)) is not None
    ]
    protocol = [] if contents.protocol is None else [contents.protocol.replace(",", ", ")]
    below = "; ".join([f"Y-PSNR {student} dB", *others, *protocol])
    gained = score.over(teacher, "original")
    if goal == "teacher" or gained is None:
        return (f"{student.mean:.2f} dB", GOAL_WORDS[goal], below)
    return (f"{abs(gained):.2f} dB", f"{'lost' if gained <= 0 else 'gained'}, {GOAL_WORDS[goal]}", below)


def _scores(contents: Contents) -> Table:
    images = contents.file.data.validation
    names = ", ".join(images) if len(images) <= MOST_IMAGES_NAMED else f"{len(images)} images"
    caption = f"Y-PSNR on the validation images ({names or 'unknown'})"
    if contents.protocol:
        caption += f", {contents.protocol}"
    return score_table(contents.scores, contents.goal, caption)


def _render(**values: object) -> str:
    """The page of the template, which escapes all text: no name in a run folder can be markup. Style and script are
    inside; it fetches nothing and runs only this script.
    """
    own_files = [files("srkd.reports") / "templates" / name for name in ("report.css", "report.js")]
    style, script = (Markup(file.read_text(encoding="utf-8")) for file in own_files)  # noqa: S704
    script_hash = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    own = {"style": style, "script": script, "script_hash": script_hash}
    environment = environment_of("srkd.reports")
    environment.tests["numeric"] = is_numeric
    environment.filters["data_url"] = lambda content, kind: f"data:{kind};base64,{base64.b64encode(content).decode()}"
    environment.filters |= {"figure": _figure, "threads": count_threads}
    return environment.get_template("page.html").render(values, **own, version=__version__)


def _figure(value: float | None, text: str, unit: float = 1.0) -> str:
    """A number of a table in a format such as "%.1f"; unknown ones are a dash."""
    return "–" if value is None else text % (value / unit)
