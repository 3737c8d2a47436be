"""Count of the nodes of an int8 file that its runtime really computes with integers.

A file says where values may be bytes. If a runtime has no integer form of an operator, it computes in float, with
conversions before and after. So this module reads the graph that the runtime made of the file (`executed_nodes` of the
runtime's module, if it shows one). Nodes that only move values compute nothing and are not counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from compressor.base.errors import one_line
from compressor.runtimes.base import Runtime
from compressor.runtimes.table import RUNTIMES, ExecutedNode

MOST_NAMED = 5
"""Largest number of operators that a sentence names; the facts hold all of them."""


@dataclass(frozen=True)
class IntegerNodes:
    """Numbers of nodes: all that compute, those that compute with bytes, and those in float by operator."""

    nodes: int
    nodes_in_int8: int
    in_float: Mapping[str, int]
    conversions: int
    """Number of nodes that only convert between floats and bytes; `nodes` does not count them."""

    def __str__(self) -> str:
        """A summary such as `12 of 29 nodes compute in integers, PRelu 17 in float`."""
        words = f"{self.nodes_in_int8} of {self.nodes} nodes compute in integers"
        if not self.in_float:
            return words
        operators = [f"{kind} {count}" for kind, count in list(self.in_float.items())[:MOST_NAMED]]
        more = sum(list(self.in_float.values())[MOST_NAMED:])
        return f"{words}, {', '.join(operators)}{f' and {more} others' if more else ''} in float"


def count_integer_nodes(file: Runtime, path: Path) -> IntegerNodes | None:
    """Which nodes the runtime of an open file computes with integers; None if it does not show its graph."""
    read = getattr(RUNTIMES[file.name].load(), "executed_nodes", None)
    if read is None or file.device != "cpu":
        return None
    with one_line(f"{path}: {file.name} does not show its graph", first=True):
        return _count(read(path))


def _count(kinds: Iterator[ExecutedNode]) -> IntegerNodes:
    integers, conversions, floats = 0, 0, Counter[str]()
    for kind, operator in kinds:
        integers += kind == "int8"
        conversions += kind == "conversion"
        if kind == "float":
            floats[operator] += 1
    ranked = dict(sorted(floats.items(), key=lambda item: (-item[1], item[0])))
    return IntegerNodes(integers + floats.total(), integers, ranked, conversions)
