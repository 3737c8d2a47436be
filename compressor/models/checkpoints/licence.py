"""The licence of a network's weights, if a file states one, and whether it forbids commercial use."""

from __future__ import annotations

import re
from collections.abc import Mapping

KEY = "srkd.license"
"""The metadata key in every file of srkd; its value is the licence in the teacher's own words."""
FOREIGN_KEYS = (KEY, "license", "licence", "modelspec.license", "general.license")
"""Metadata keys of a licence in foreign safetensors and ONNX files."""
LONGEST = 200
HUB_LICENCES = frozenset([
    "apache-2.0", "mit", "bsd", "bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear", "isc", "unlicense", "cc0-1.0",
    "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0",
    "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0",
    "cc-by-nc-sa-4.0", "afl-3.0", "artistic-2.0", "bsl-1.0", "gpl", "gpl-2.0", "gpl-3.0", "agpl-3.0", "lgpl",
    "lgpl-2.1", "lgpl-3.0", "mpl-2.0", "ms-pl", "ncsa", "openrail", "zlib", "wtfpl",
])  # fmt: skip
"""Licence identifiers of model hubs; any other licence is written as `other`, with its own name."""

_WORDS = re.compile(
    r"(?<![a-z])nc(?![a-z])|non[ -]?commercial|not for commercial|no commercial|research[ -](use[ -])?only"
    r"|academic (use|purpose|research)|s-lab",
    re.IGNORECASE,
)


def read_licence(metadata: Mapping[str, str] | None) -> str | None:
    """Return the licence in a file's metadata as one printable line, or None."""
    entries = {str(key).lower(): value for key, value in (metadata or {}).items()}
    for key in FOREIGN_KEYS:
        value = entries.get(key)
        if isinstance(value, str):
            line = " ".join("".join(c if c.isprintable() else " " for c in value).split())[:LONGEST]
            if line:
                return line
    return None


def commercial_warning(licence: str | None) -> str | None:
    """Return a warning to show with a description of the weights, or None."""
    if licence is None or _WORDS.search(licence) is None:
        return None
    return f"the licence of these weights ({licence}) forbids commercial use"


def hub_licence(licence: str | None) -> dict[str, str]:
    """Return the licence fields of a model card: an identifier of the hubs, or `other` with the licence's own name."""
    if licence is None:
        return {}
    identifier = licence.lower().replace(" ", "-")
    if identifier in HUB_LICENCES:
        return {"license": identifier}
    return {"license": "other", "license_name": licence}
