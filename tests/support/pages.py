"""Code on the pages of the documentation: fenced blocks, indented blocks and commands."""

from __future__ import annotations

import re

FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?:^ {4,}[^\n]*\n|^\n)+", re.MULTILINE)
COMMAND = re.compile(r"^(?:srkd|make|torchrun|python -m benchmarks)\b(?! *[:/]|\.)")
