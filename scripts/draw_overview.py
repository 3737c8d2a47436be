"""Drawing of docs/images/overview.svg, an overview of srkd: teacher, student, formats, measurements.

Run it after a change. Needs only Python's standard library.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape

DOCS = Path(__file__).resolve().parent.parent / "docs"
PICTURE = DOCS / "images" / "overview.svg"
RESULT = DOCS / "results" / "quickstart.json"

WIDTH, HEIGHT = 960, 310
INK, MUTED, PAPER = "#17292b", "#56696b", "#ffffff"
TEACHER, STUDENT, NEUTRAL = "#c9ddd9", "#5fd4bd", "#eef3f2"
SANS = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"
MONO = "ui-monospace, SFMono-Regular, Menlo, Consolas, monospace"

FORMATS = ("ONNX", "TensorRT", "OpenVINO", "ncnn", "LiteRT", "ExecuTorch", "Core ML", "Core AI", "libplacebo")


def figures(network: str) -> tuple[str, str, str]:
    """Return size, cost and score of a network of `make quickstart`."""
    rows = json.loads(RESULT.read_text(encoding="utf-8"))["tables"]["scores"]["rows"]
    row = next(row for row in rows if row["network"] == network)
    return f"{row['params']:,} parameters", f"{row['gmacs']:.2f} GMAC", f"{row['psnr_y_db']:.3f} dB"


def text(x: float, y: float, content: str, size: int = 13, color: str = INK, style: str = "") -> str:
    """Return one centred line of text."""
    attributes = f'x="{x:g}" y="{y:g}" text-anchor="middle" font-size="{size}" fill="{color}"{style}'
    return f"<text {attributes}>{escape(content)}</text>"


def command(x: float, y: float, content: str) -> str:
    return text(x, y, content, 12, MUTED, f' font-family="{MONO}"')


def card(x: float, y: float, width: float, height: float, color: str, title: str, lines: Sequence[str]) -> list[str]:
    """Return a box with a title and lines below it."""
    middle = x + width / 2
    return [
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="10" fill="{color}"/>',
        text(middle, y + 28, title, 17, style=' font-weight="600"'),
        *(text(middle, y + 54 + 20 * index, line) for index, line in enumerate(lines)),
    ]


def arrow(x1: float, y1: float, x2: float, y2: float) -> str:
    ends = f'x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}"'
    return f'<line {ends} stroke="{MUTED}" stroke-width="2" marker-end="url(#head)"/>'


def draw() -> str:
    """Return the picture as SVG."""
    parts = [
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="10" fill="{PAPER}"/>',
        *card(20, 24, 170, 152, TEACHER, "Teacher", ("large and slow", *figures("teacher"))),
        *(arrow(196, 100, 322, 100), text(259, 86, "distil", 14), command(259, 124, "srkd compress")),
        *card(330, 36, 160, 128, STUDENT, "Student", figures("logits")),
        *(arrow(496, 100, 602, 100), text(549, 86, "export", 14), command(549, 124, "srkd export")),
        *card(610, 14, 130, 226, NEUTRAL, "Formats", FORMATS),
        *(arrow(746, 100, 802, 100), text(774, 86, "measure", 14)),
        *card(810, 36, 130, 128, NEUTRAL, "Figures", ("PSNR and SSIM", "ms and FPS", "memory")),
        *(command(875, 188, "srkd profile"), command(875, 206, "srkd evaluate")),
        *card(176, 224, 166, 66, NEUTRAL, "Your photos", ("any folder of images",)),
        arrow(259, 218, 259, 140),
        text(640, 250, "Each exported file is compared with its network before it is kept.", color=MUTED),
        text(640, 270, "Teacher and student are timed in turns; bicubic is scored beside them.", color=MUTED),
    ]
    label = "A teacher is distilled into a student with your photos, exported to nine formats and measured."
    size = f'viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
    head = f'<path d="M0 0L6 3L0 6Z" fill="{MUTED}"/>'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="{SANS}" role="img" aria-label="{label}">',
            f'<defs><marker id="head" markerWidth="8" markerHeight="8" refX="6" refY="3" orient="auto">{head}',
            "</marker></defs>",
            *parts,
            "</svg>\n",
        ]
    )


if __name__ == "__main__":
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    PICTURE.write_text(draw(), encoding="utf-8")
