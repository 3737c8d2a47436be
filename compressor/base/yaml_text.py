"""The YAML of recipes and degradations: the core types of YAML 1.2 (1e-4 is a number, `no` is text), with the line of
each key.

Anchors, tags and duplicate keys are refused: a file states each value once, and every editor reads it in the same
way. PyYAML composes the tree and marks the lines.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import yaml

from compressor.base.yaml_errors import KeyPath, file_error

CORE = "tag:yaml.org,2002:"


class _Loader(yaml.SafeLoader):
    """A loader that only composes the tree; `_value` converts it to values."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem="aliases (*name) are not supported", problem_mark=event.start_mark)
        return super().compose_node(parent, index)


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("null", r"~|null|", ["~", "n", ""]),
    ("bool", r"true|false|True|False", list("tfTF")),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan", list("-+.0123456789")),
):
    _Loader.add_implicit_resolver(CORE + _tag, re.compile(f"^(?:{_pattern})$"), _first)


@dataclass(frozen=True)
class Document:
    """The values of a file, and the line of each path."""

    values: dict[str, Any]
    lines: dict[KeyPath, int]


def parse_yaml(text: str, file: str) -> Document:
    """Return the mapping in a file's text, or raise one line that names `file`."""
    lines: dict[KeyPath, int] = {}
    try:
        tree = yaml.compose(text, _Loader)
        values = None if tree is None else _value(tree, (), lines)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = None if mark is None else mark.line + 1
        raise file_error(file, f"not YAML: {getattr(error, 'problem', None) or error}", line) from error
    except RecursionError as error:
        raise file_error(file, "nested too deeply") from error
    if not isinstance(values, dict):
        raise file_error(file, "expected keys and values, such as title: My recipe")
    return Document(values, lines)


def parse_value(text: str) -> Any:
    """Return the value on the right side of `--set key=value`; text that is not YAML stays text."""
    try:
        tree = yaml.compose(text, _Loader)
        return None if tree is None else _value(tree, (), {})
    except (yaml.YAMLError, RecursionError):
        return text


def _value(node: yaml.Node, path: KeyPath, lines: dict[KeyPath, int]) -> Any:
    """Return the value of a node; `lines` receives the line of every path below it."""
    lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, (*path, index), lines) for index, item in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode):
        return _scalar(node)
    values: dict[str, Any] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise yaml.MarkedYAMLError(problem="a key must be a plain word", problem_mark=key.start_mark)
        name = str(key.value)
        if name in values:
            raise yaml.MarkedYAMLError(problem=f"the key {name} appears twice", problem_mark=key.start_mark)
        key_path = (*path, name)
        lines[key_path] = key.start_mark.line + 1
        values[name] = _value(value, key_path, lines)
    return values


def _scalar(node: yaml.Node) -> Any:
    kind, text = node.tag.removeprefix(CORE), str(node.value)
    if kind == "str":
        return text
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if kind == "int":
        try:
            return int(text)
        except ValueError as error:  # Python reads no integers of over 4,300 digits
            raise yaml.MarkedYAMLError(problem="the number is too long", problem_mark=node.start_mark) from error
    if kind == "float":
        number = float(text.replace(".inf", "inf").replace(".nan", "nan"))
        # 2e4 is a whole number, as in JSON schema.
        return int(number) if math.isfinite(number) and number.is_integer() else number
    raise yaml.MarkedYAMLError(problem=f"the tag {node.tag[:60]} is not supported", problem_mark=node.start_mark)
