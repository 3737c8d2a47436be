"""The licence of a network's weights, where a file says one, and whether it forbids commercial use."""

from __future__ import annotations

import re
from collections.abc import Mapping

KEY = "srkd.license"
"""The metadata key in every file of srkd; the value is the teacher's own words."""
FOREIGN_KEYS = (KEY, "license", "licence", "modelspec.license", "general.license")
"""Keys under which files of others have it, in safetensors headers and in ONNX metadata."""
LONGEST = 200

_WORDS = re.compile(
    r"(?<![a-z])nc(?![a-z])|non[ -]?commercial|not for commercial|no commercial|research[ -](use[ -])?only|academic",
    re.I,
)


def read_licence(metadata: Mapping[str, str] | None) -> str | None:
    """Return the licence that a file's metadata states, as one printable line; None where it states none."""
    found = {str(key).lower(): value for key, value in (metadata or {}).items()}
    for key in FOREIGN_KEYS:
        value = found.get(key)
        if isinstance(value, str):
            line = " ".join("".join(c if c.isprintable() else " " for c in value).split())[:LONGEST]
            if line:
                return line
    return None


def forbids_commercial_use(licence: str | None) -> bool:
    """True for licences such as CC-BY-NC-4.0 that allow no commercial use."""
    return licence is not None and _WORDS.search(licence) is not None


def commercial_warning(licence: str | None) -> str | None:
    """Return a line to say wherever the student is described; None where nothing is known to forbid its use."""
    if not forbids_commercial_use(licence):
        return None
    return f"the teacher's licence ({licence}) forbids commercial use, and the student is made from it"
