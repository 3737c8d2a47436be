"""The report as one HTML file. Every text of a run folder passes through `html.element`, which escapes it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from string import Template
from typing import Any

from compressor.base.machine import count_threads
from compressor.models.checkpoints.licence import commercial_warning
from srkd.reports import charts
from srkd.reports.contents import Contents, ExportedFile, Score
from srkd.reports.html import Html, data_address, element, join, json_script, raw, table
from srkd.reports.pictures import MAP_LEVELS, Crop
from srkd.reports.speed import SpeedTable

ORDER = ("teacher", "student", "bicubic", "original")
"""The layers of the comparator, in the order of its lists."""


@dataclass(frozen=True)
class Section:
    """One run of a report: its contents, speed and crops, with a line for each missing part."""

    contents: Contents
    speed: SpeedTable | None
    crops: tuple[Crop, ...]
    missing: tuple[str, ...] = ()


def write_page(title: str, parts: Sequence[Html], drawn: Sequence[dict[str, Any]], *, about: str) -> str:
    """Return the page: the template with style, scripts and charts inside."""
    scripts = [_asset("plot/plot.min.js"), _asset("report.js")]
    hashes = " ".join(f"'sha256-{_sha256(script)}'" for script in scripts)
    # The page fetches nothing and runs only these two scripts: a name can never become code.
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {hashes}; base-uri 'none'"
    return Template(_asset("page.html")).substitute(
        title=join(title),
        policy=join(policy),
        style=raw("style", _asset("report.css")),
        body=join(*parts),
        about=join(about),
        charts=json_script("charts", list(drawn)),
        scripts=join(*(raw("script", script) for script in scripts)),
    )


@cache
def _asset(name: str) -> str:
    return (files("srkd.reports") / "assets" / name).read_text(encoding="utf-8")


def _sha256(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")


class Drawn:
    """The charts of a page in order."""

    def __init__(self) -> None:
        self.charts: list[dict[str, Any]] = []

    def place(self, chart: dict[str, Any] | None) -> Html | None:
        """Return the element in which the page's script draws a chart, with a table of its figures below."""
        if chart is None:
            return None
        number = len(self.charts)
        self.charts.append(chart)
        return element(
            "figure",
            element("figcaption", chart["title"], id=f"chart-{number}-title"),
            element("div", class_="chart", data_chart=number),
            element("details", element("summary", "Figures"), _figures(chart)),
        )


def _figures(chart: dict[str, Any]) -> Html:
    """Return a table of a chart's figures; of long curves the first, the last and some between."""
    if chart["kind"] == "points":
        rows = [
            [f"{point['role']}: {point['name']}", _number(point["x"]), f"{point['y']:.3f}"] for point in chart["points"]
        ]
        rows += [[level["name"], "–", f"{level['y']:.3f}"] for level in chart["levels"]]
        return table(["network", chart["x"], chart["y"]], rows, caption=chart["title"])
    rows = []
    for series in chart["series"]:
        points = series["points"]
        stride = max(1, -(-len(points) // 12))
        some = list(dict.fromkeys([*points[::stride], points[-1]]))
        rows += [[series["name"], f"{x:,.0f}", _number(y)] for x, y in some]
    return table(["curve", "step", "value"], rows, caption=chart["title"])


def _number(value: float) -> str:
    return f"{value:,.3f}" if 0.01 <= abs(value) < 1e6 else f"{value:.3g}"


# The parts of a run.


def run_parts(section: Section, drawn: Drawn, *, number: int = 1, alone: bool = True) -> Html:
    """Return all parts of one run; `alone` is False if the page has several runs."""
    contents = section.contents
    what = contents.title or contents.recipe
    network = f"{what}: {contents.network or 'a student'}, {contents.steps or 0:,} steps"
    heading = element("h1", contents.name, class_=None if alone else "next")
    warning = commercial_warning(contents.teacher_licence)
    return element(
        "section",
        heading,
        element("p", network, class_="what"),
        None if contents.unfinished is None else _notice(contents.unfinished),
        None if warning is None else _notice(f"{warning[0].upper()}{warning[1:]}."),
        *(_notice(line) for line in _below_bicubic(contents)),
        _headline(section),
        _part("Quality", _scores(contents), *(element("p", line) for line in contents.gains), _remarks(contents)),
        _speed_part(section, drawn),
        _comparator(section, number),
        _part("Curves", *(drawn.place(chart) for chart in charts.curves(contents.metrics)))
        if contents.metrics
        else None,
        _files(contents),
        _reproduction(contents),
        class_="run",
    )


def _part(title: str, *children: Html | None) -> Html:
    return element("section", element("h2", title), *children)


def _notice(text: str) -> Html:
    return element("p", text, class_="notice", role="note")


def _below_bicubic(contents: Contents) -> list[str]:
    student, bicubic = contents.student, contents.score("bicubic")
    if student is None or bicubic is None or student.psnr_y is None or bicubic.psnr_y is None:
        return []
    below = student.psnr_y < bicubic.psnr_y
    return ["The student is below bicubic: enlarging without a network is better."] if below else []


def _tile(value: str, label: str, below: str) -> Html:
    parts = element("span", value, class_="value"), element("span", label, class_="label"), element("span", below)
    return element("li", *parts)


def _headline(section: Section) -> Html:
    """Return tiles that show how much smaller and faster the student is, and its loss of quality."""
    contents = section.contents
    tiles = [_size_tile(contents), _speed_tile(section), _loss_tile(contents)]
    return element("ul", *tiles, class_="headline", aria_label="In short")


def _size_tile(contents: Contents) -> Html:
    student, teacher = contents.student, contents.score("teacher")
    params = None if student is None else student.params
    if student is None or not params:
        return _tile("–", "smaller", "the size of the student is not known yet")
    if teacher is None or not teacher.params:
        return _tile("–", "smaller", f"{params:,} parameters; the teacher's are not known")
    macs = ""
    if student.macs and teacher.macs:
        macs = f"; {student.macs / 1e9:.2f} GMAC against {teacher.macs / 1e9:.2f} at LR 256x256"
    below = f"{params:,} parameters against {teacher.params:,}{macs}"
    return _tile(f"{teacher.params / params:.1f}×", "smaller", below)


def _speed_tile(section: Section) -> Html:
    main = None if section.speed is None else section.speed.main
    if section.speed is None or main is None or main.speedup is None:
        return _tile("–", "faster", "not measured")
    where = f"in {main.conditions}"
    if section.speed.processor:
        where += f", {section.speed.processor}"
    if main.verdict == "no measurable difference":
        return _tile("0", "measurable gain in speed", where)
    if main.speedup < 1:
        return _tile(f"{1 / main.speedup:.2f}×", "slower", where)
    fastest, best = section.speed.fastest, ""
    if fastest is not None and fastest is not main and fastest.over_eager and fastest.over_eager > main.speedup:
        best = f"; {fastest.over_eager:.2f}× over the teacher in torch at best, in {fastest.conditions}"
    return _tile(f"{main.speedup:.2f}×", "faster", where + best)


def _loss_tile(contents: Contents) -> Html:
    student, teacher, bicubic = (contents.score(role) for role in ("student", "teacher", "bicubic"))
    if student is None or student.psnr_y is None:
        return _tile("–", "lost", "no score of the student yet")
    protocol = f"; {contents.protocol.replace(',', ', ')}" if contents.protocol else ""
    over = "" if bicubic is None or bicubic.psnr_y is None else f", bicubic {bicubic.psnr_y:.3f} dB"
    if teacher is None or teacher.psnr_y is None:
        gain = student.psnr_y - (bicubic.psnr_y if bicubic is not None and bicubic.psnr_y is not None else 0.0)
        return _tile(f"{gain:+.2f} dB", "over bicubic", f"{student.spread} dB{over}; no teacher was scored{protocol}")
    lost = teacher.psnr_y - student.psnr_y
    label = "lost" if lost >= 0 else "gained"
    below = f"Y-PSNR {student.spread} dB against {teacher.psnr_y:.3f} dB{over}{protocol}"
    return _tile(f"{abs(lost):.2f} dB", label, below)


def _scores(contents: Contents) -> Html:
    bicubic = contents.score("bicubic")
    base = None if bicubic is None else bicubic.psnr_y
    names = ", ".join(contents.validation) if len(contents.validation) <= 6 else f"{len(contents.validation)} images"
    caption = f"Y-PSNR on the validation images ({names or 'unknown'})"
    if contents.protocol:
        caption += f", {contents.protocol}"
    return score_table(contents.scores, base, caption)


def score_table(scores: Sequence[Score], bicubic: float | None, caption: str) -> Html:
    """Return the table of networks by cost and quality."""
    rows: list[list[str | Html]] = [
        [
            score.name,
            "–" if score.params is None else f"{score.params:,}",
            "–" if score.macs is None else f"{score.macs / 1e9:.2f}",
            score.spread,
            "–"
            if score.psnr_y is None or bicubic is None or score.role == "bicubic"
            else f"{score.psnr_y - bicubic:+.3f}",
            f"{score.seeds}",
        ]
        for score in scores
    ]
    columns = ["network", "parameters", "GMAC at LR 256x256", "Y-PSNR in dB", "over bicubic", "seeds"]
    return table(columns, rows, caption=caption)


def _remarks(contents: Contents) -> Html | None:
    # The page already shows this warning above.
    warning = commercial_warning(contents.teacher_licence)
    if not contents.remarks or contents.remarks == (warning,):
        return None
    return element("ul", *(element("li", line) for line in contents.remarks if line != warning))


def _speed_part(section: Section, drawn: Drawn) -> Html:
    contents, speed = section.contents, section.speed
    by_work = charts.against_macs(contents.scores)
    work = None if by_work is None else drawn.place(charts.scatter(by_work))
    if speed is None:
        lines = [element("p", line) for line in section.missing] or [element("p", "The speed was not measured.")]
        return _part("Speed", *lines, work)
    rows: list[list[str | Html]] = [
        [
            "teacher" if row.is_teacher else "student",
            f"{row.runtime} {row.precision}",
            f"{row.ms:.1f}",
            "–" if row.fps is None else f"{row.fps:.1f}",
            "–" if row.speedup is None else f"{row.speedup:.2f}× {row.verdict or ''}".strip(),
            "–" if row.over_eager is None else f"{row.over_eager:.2f}×",
            f"{row.device}, {count_threads(row.threads)}",
            f"{row.lr_size}, batch {row.batch}",
        ]
        for row in speed.timings
    ]
    columns = [
        "network",
        "runtime",
        "ms",
        "FPS",
        "over teacher, same runtime",
        "over teacher in torch",
        "device",
        "LR size",
    ]
    by_time = charts.against_time(contents, speed)
    return _part(
        "Speed",
        table(columns, rows, caption=f"Median time, measured in turns on {speed.processor or 'an unknown processor'}"),
        *(element("p", note) for note in (*speed.notes, *section.missing)),
        None if by_time is None else drawn.place(charts.scatter(by_time)),
        work,
    )


# Pictures.


def _comparator(section: Section, number: int) -> Html | None:
    if not section.crops:
        return None
    crops, names = section.crops, [name for name in ORDER if name in section.crops[0].pictures]
    compared = crops[0].compared
    explanation = (
        f"Squares of the validation photos, chosen by number: where {compared[0]} and {compared[1]} differ most in "
        "luminance, and the one with at least the median of detail where they differ least."
    )
    return _part(
        "Pictures",
        element("p", explanation),
        _stage(number, names, crops),
        *(_crop(crop, index, names, number) for index, crop in enumerate(crops)),
        element(
            "p",
            f"Maps of differences: |{compared[0]} − {compared[1]}| in luminance, from 0 (black) to {MAP_LEVELS} grey "
            "levels of 255 or more (light yellow).",
        ),
        element("div", class_="scale", role="img", aria_label=f"scale from 0 to {MAP_LEVELS} grey levels"),
    )


def _stage(number: int, names: Sequence[str], crops: Sequence[Crop]) -> Html:
    """Return the comparator: two layers with a slider over them. It is hidden without the script."""
    left, right = (names[0], names[1]) if len(names) > 1 else (names[0], names[0])

    def choice(side: str, chosen: str) -> Html:
        options = [element("option", name, value=name, selected=name == chosen) for name in names]
        return element("label", f"{side} ", element("select", *options, data_side=side.lower()))

    captions = [element("option", _caption(crop), value=index) for index, crop in enumerate(crops)]
    first = f"left of the slider {left}, right of it {right}"
    slider = element(
        "input",
        type="range",
        min=0,
        max=100,
        value=50,
        step=1,
        aria_label=f"Divider between the two pictures: {first}",
        aria_valuetext="50 % of the left picture",
    )
    return element(
        "div",
        element(
            "div",
            element("label", "Crop ", element("select", *captions, data_crop="")),
            choice("Left", left),
            choice("Right", right),
            class_="choices",
        ),
        element(
            "div",
            element("img", alt="", class_="under", draggable="false"),
            element("img", alt="", class_="over", draggable="false"),
            element("span", class_="name left"),
            element("span", class_="name right"),
            element("span", class_="divider", aria_hidden="true"),
            slider,
            class_="stage",
        ),
        element("p", class_="scores", aria_live="polite"),
        class_="comparator",
        data_run=number,
        hidden=True,
    )


def _caption(crop: Crop) -> str:
    apart = "equal" if crop.apart_db is None else f"{crop.apart_db:.1f} dB apart"
    return f"{crop.photo}: {crop.choice} different, {apart}"


def _crop(crop: Crop, index: int, names: Sequence[str], number: int) -> Html:
    """Return one crop by every network with its score, and the map of differences."""
    figures = [
        element(
            "figure",
            element(
                "img",
                src=data_address(crop.pictures[name], "image/webp"),
                alt=f"{crop.photo} by {name}" if name != "original" else f"{crop.photo}, original",
                width=crop.side,
                height=crop.side,
                data_layer=name,
            ),
            element("figcaption", element("b", name), _score(crop, name)),
        )
        for name in names
    ]
    figures.append(
        element(
            "figure",
            element(
                "img",
                src=data_address(crop.difference, "image/png"),
                alt=f"map of the differences between {crop.compared[0]} and {crop.compared[1]}",
                width=crop.side,
                height=crop.side,
            ),
            element("figcaption", element("b", "difference")),
        )
    )
    where = f"{_caption(crop)}; {crop.side}x{crop.side} pixels at {crop.left}, {crop.top}"
    return element(
        "section",
        element("h3", where),
        element("div", *figures, class_="row"),
        class_="crop",
        data_run=number,
        data_index=index,
    )


def _score(crop: Crop, name: str) -> str:
    score = crop.psnr_y.get(name)
    return "" if score is None else f" {score:.2f} dB"


# Files and reproduction.


def _files(contents: Contents) -> Html:
    if not contents.files:
        return _part(
            "Formats", element("p", f"No exported files: srkd export runs/{contents.name} --onnx writes some.")
        )
    rows: list[list[str | Html]] = [
        [
            file.name,
            ", ".join(dict.fromkeys([file.format, file.precision])),
            "–" if file.bytes is None else f"{file.bytes / 1e6:.2f}",
            "–" if file.largest_difference is None else f"{file.largest_difference:.1e}",
            _distance(file),
            "–" if file.drop_db is None else f"{-file.drop_db:+.3f} dB on {file.photos} photos",
            _verdict(file),
        ]
        for file in contents.files
    ]
    columns = ["file", "format", "MB", "largest difference", "PSNR to the network", "int8: change of Y-PSNR", "verdict"]
    speeds = [
        element("p", f"{file.name}: {file.speed}; that machine: {file.processor or 'unknown'}")
        for file in contents.files
        if file.speed is not None
    ]
    return _part("Formats", table(columns, rows, caption="Each file was compared with the network"), *speeds)


def _distance(file: ExportedFile) -> str:
    if file.largest_difference is None:
        return "–"
    return "equal" if file.psnr_to_network is None else f"{file.psnr_to_network:.1f} dB"


def _verdict(file: ExportedFile) -> str:
    parts = [file.verdict or "unknown", *(text for text in (file.reason, file.state) if text is not None)]
    return "; ".join(parts)


def _reproduction(contents: Contents) -> Html:
    how = contents.reproduction
    licence = contents.teacher_licence or "not stated in its file"
    facts = [*how.facts, ("teacher's licence", licence)]
    command = None
    if how.command is not None:
        note = "Folders are left out: files and folders are called by their own names." if how.shortened else None
        code = element("pre", element("code", how.command), tabindex=0, role="group", aria_label="command")
        command = join(code, None if note is None else element("p", note))
    rows: list[list[str | Html]] = [[name, value] for name, value in facts]
    return _part(
        "How to reproduce", command, table(["what", "value"], rows, caption="What decides the result", kind="facts")
    )
