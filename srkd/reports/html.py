"""HTML from elements. Text becomes HTML only by escaping, so that no file name can be markup."""

from __future__ import annotations

import base64
import html
import json

LONGEST_NUMBER = 24
"""Largest number of characters of a cell without line breaks."""
VOID = frozenset({"img", "input", "meta", "br", "hr"})


class Html(str):
    """Text that is already HTML. Only this module creates it."""

    __slots__ = ()


def element(name: str, *children: str | None, **attributes: str | bool | int | None) -> Html:
    """Return an element; children that are not `Html` are escaped, None is left out.

    Underscores of attributes become dashes, one at the end is dropped (`class_`); True is an attribute without a value.
    """
    parts = [name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.rstrip("_").replace("_", "-")
        parts.append(key if value is True else f'{key}="{html.escape(str(value))}"')
    start = f"<{' '.join(parts)}>"
    return Html(start if name in VOID else f"{start}{join(*children)}</{name}>")


def join(*children: str | None) -> Html:
    """Return the children joined; those that are text are escaped."""
    escaped = (child if isinstance(child, Html) else html.escape(child) for child in children if child is not None)
    return Html("".join(escaped))


def raw(name: str, text: str, **attributes: str) -> Html:
    """Return an element with srkd's own style or script, unescaped; refuse text that would end the element."""
    if f"</{name}" in text.lower():
        raise ValueError(f"the text of <{name}> would end it")
    start = element(name, **attributes).removesuffix(f"</{name}>")
    return Html(f"{start}{text}</{name}>")


def json_script(identifier: str, value: object) -> Html:
    """Return values as JSON for a script; `<`, `>` and `&` are escaped so that no text can end the element."""
    text = json.dumps(value, allow_nan=False, ensure_ascii=True)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return raw("script", text, type="application/json", id=identifier)


def data_address(content: bytes, kind: str) -> str:
    """Return the data URL of a picture that is embedded in the page."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def table(
    headings: list[str], rows: list[list[str | Html]], *, caption: str | None = None, kind: str | None = None
) -> Html:
    """Return a table whose first cells name their rows; cells that begin with a number are right-aligned."""
    head = element("tr", *(element("th", heading, scope="col") for heading in headings))
    body = [
        element(
            "tr",
            element("th", row[0], scope="row"),
            *(element("td", cell, class_="number" if _is_number(cell) else None) for cell in row[1:]),
        )
        for row in rows
    ]
    title = None if caption is None else element("caption", caption)
    # A table wider than the screen scrolls separately, also by keyboard.
    return element(
        "div",
        element("table", title, element("thead", head), element("tbody", *body), class_=kind),
        class_="scroll",
        role="group",
        aria_label=caption or headings[0] or "table",
        tabindex=0,
    )


def _is_number(cell: str) -> bool:
    return len(cell) <= LONGEST_NUMBER and (cell[:1].isdigit() or cell[:1] in {"+", "-"})
