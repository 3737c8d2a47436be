"""Pages: code in the documentation (fenced blocks, indented blocks, commands) and the heads of cards."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?:^ {4,}[^\n]*\n|^\n)+", re.MULTILINE)
COMMAND = re.compile(r"^(?:srkd|make|torchrun|python -m benchmarks)\b(?! *[:/]|\.)")


def head_of(card: Path) -> dict[str, Any]:
    """Return what hubs read: the YAML at the head of a card."""
    text = card.read_text(encoding="utf-8")
    assert text.startswith("---\n")
    head: dict[str, Any] = yaml.safe_load(text.split("---\n")[1])
    return head
