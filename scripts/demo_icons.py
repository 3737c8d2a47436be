"""Drawing of the app's icons: a disc that is coarse on the left and fine on the right. Needs Pillow; run manually."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw

FOLDER = Path(__file__).resolve().parent.parent / "demo" / "app" / "icons"
GROUND, FINE, COARSE = "#0d1314", "#5fd4bd", "#2f8d7e"
CELLS = 8
SUPERSAMPLING = 4
ICONS = {
    "icon-192.png": (192, 0.36),
    "icon-512.png": (512, 0.36),
    "icon-maskable-512.png": (512, 0.30),
    "icon-180.png": (180, 0.36),
}
"""Side in pixels and radius of the disc as a share of it, by file; a launcher may crop a maskable icon."""


def is_covered(row: int, column: int, radius: float) -> bool:
    """Return True if the centre of a cell of the coarse half is in the disc."""
    x, y = (column + 0.5) / CELLS - 0.5, (row + 0.5) / CELLS - 0.5
    return x * x + y * y <= (radius * 1.04) ** 2


def draw(side: int, radius: float) -> Image.Image:
    large = side * SUPERSAMPLING
    image = Image.new("RGB", (large, large), GROUND)
    canvas = ImageDraw.Draw(image)
    middle, extent = large / 2, large * radius
    canvas.pieslice((middle - extent, middle - extent, middle + extent, middle + extent), -90, 90, fill=FINE)
    cell = large * radius * 2 / CELLS
    for row in range(CELLS):
        for column in range(CELLS // 2):
            if is_covered(row, column, 0.5):
                left, top = middle - extent + column * cell, middle - extent + row * cell
                canvas.rectangle((left, top, left + cell - 1, top + cell - 1), fill=COARSE)
    return image.resize((side, side), Image.Resampling.LANCZOS)


def draw_svg() -> str:
    radius, side = 0.36, 64
    extent, cell = side * radius, side * radius * 2 / CELLS
    squares = "".join(
        f'<rect x="{side / 2 - extent + c * cell:.2f}" y="{side / 2 - extent + r * cell:.2f}" '
        f'width="{cell:.2f}" height="{cell:.2f}"/>'
        for r in range(CELLS)
        for c in range(CELLS // 2)
        if is_covered(r, c, 0.5)
    )
    top, bottom = side / 2 - extent, side / 2 + extent
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {side} {side}">'
        f'<rect width="{side}" height="{side}" fill="{GROUND}"/>'
        f'<g fill="{COARSE}" shape-rendering="crispEdges">{squares}</g>'
        f'<path d="M32 {top:.2f}A{extent:.2f} {extent:.2f} 0 0 1 32 {bottom:.2f}Z" fill="{FINE}"/></svg>\n'
    )


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, (side, radius) in ICONS.items():
        draw(side, radius).quantize(32).save(FOLDER / name, optimize=True)
    (FOLDER / "icon.svg").write_text(draw_svg())


if __name__ == "__main__":
    main()
