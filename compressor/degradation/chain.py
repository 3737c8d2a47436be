"""A degradation: a name and its steps, read from a name, a text such as jpeg=30..90,noise=0..10, or a YAML file.

The steps of an image draw their numbers by (seed, step, sample), so it depends on nothing else: not on the batch, the
number of processes, or where a run was interrupted. The end is the LR image in 8 bit.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from compressor.base.errors import SrkdError, UsageError, nearest
from compressor.base.files import read_text
from compressor.base.yaml_errors import Problem, YamlError, YamlSource, file_error
from compressor.base.yaml_text import parse_yaml
from compressor.degradation.names import METADATA, NAMED, NONE, is_degradation_file, names
from compressor.degradation.steps import STEPS, DegradationStep, Draws, LrTarget, Shrink

MOST_BYTES = 10**5
"""Most bytes of a file, which has a few lines a step."""
KEYS = ("title", "steps", "clean")


@dataclass(frozen=True)
class Degradation:
    """Steps that make an LR image of an original."""

    name: str
    title: str
    steps: tuple[DegradationStep, ...]
    clean: float = 0.0
    """The share of images of which only the size changes."""

    @torch.no_grad()
    def apply(self, image_01: Tensor, scale: int, draws: Draws) -> Tensor:
        """Return the LR image (3,h,w) in uint8 of an image (3,H,W) in [0,1]; at scale 1 of the LR image itself."""
        height, width = (side // scale for side in image_01.shape[-2:])
        target = LrTarget(height, width, scale)
        is_clean = float(draws.stage("clean").random()) < self.clean
        for number, step in enumerate(() if is_clean else self.steps):
            image_01 = step.apply(image_01, target, draws.stage(f"{number} {step.name}"))
        if tuple(image_01.shape[-2:]) != (height, width):
            image_01 = Shrink().apply(image_01, target, draws.stage("shrink"))
        return (image_01 * 255).round().clamp(0, 255).to(torch.uint8)

    def of_image(self, image_u8: Tensor, scale: int, name: str) -> Tensor:
        """Return the LR image in uint8 of an image (3,H,W) in uint8 that is scored: always the same for its name."""
        return self.apply(image_u8.float() / 255, scale, Draws.of_name(name))

    @property
    def label(self) -> str:
        """The name; for a file with a hash of its steps, as its contents may change."""
        if not is_degradation_file(self.name.partition(",clean=")[0]) and (self.name in names() or "=" in self.name):
            return self.name
        return f"{self.name} {hashlib.blake2b(json.dumps(self.to_json()).encode(), digest_size=4).hexdigest()}"

    def __hash__(self) -> int:
        return hash(json.dumps(self.to_json()))

    def to_json(self) -> dict[str, Any]:
        """The steps as a file has them, with all their values."""
        steps = [{step.name: step.model_dump(mode="json", exclude_none=True)} for step in self.steps]
        return {"name": self.name, "title": self.title, "steps": steps} | ({"clean": self.clean} if self.clean else {})

    @classmethod
    def of_header(cls, metadata: Mapping[str, str]) -> Degradation | None:
        """The degradation that a model was trained on, by its file's header; None for none, or an unreadable one."""
        text = metadata.get(METADATA)
        try:
            return None if text is None else cls.from_json(json.loads(text))
        except (ValueError, KeyError, TypeError, SrkdError):
            return None

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Degradation:
        known = {key: values[key] for key in KEYS if key in values}
        return _of_values(str(values["name"]), known, YamlSource("run.json", {}, {}))


def read_degradation(text: str) -> Degradation | None:
    """Return the degradation of a name, a file or steps in a line; None for none."""
    if text == NONE:
        return None
    share = re.fullmatch(r"(.+),clean=(0?\.\d+|0|1)", text)
    if share is not None and (found := read_degradation(share[1])) is not None:
        name, title = f"{found.name},clean={share[2]}", f"{found.title}; {share[2]} of the images clean"
        return replace(found, name=name, title=title, clean=float(share[2]))
    if text in names():
        return _read_file(NAMED / f"{text}.yaml", text)
    if is_degradation_file(text):
        return _read_file(Path(text), Path(text).name)
    if "=" in text:
        return _of_line(text)
    raise UsageError(
        f"{text!r} is no file that ends in .yaml, no steps such as jpeg=30..90,noise=0..10, and no name: "
        f"{nearest(text, (NONE, *names()))}"
    )


def _of_line(text: str) -> Degradation:
    """The degradation of a line NAME=LOW..HIGH,…: blur before the change of size, the others behind it."""
    known, given = {step.name: step for step in sorted(STEPS.values(), key=lambda step: step.order) if step.short}, {}
    for part in text.split(","):
        name, _, value = (word.strip() for word in part.partition("="))
        if name not in known:
            raise UsageError(f"{part.strip()!r}: the steps are {', '.join(known)}, each with =NUMBER or =LOW..HIGH")
        if name in given:
            raise UsageError(f"{name} stands twice in {text!r}")
        match = re.fullmatch(r"([0-9]*\.?[0-9]+)(?:\.\.([0-9]*\.?[0-9]+))?", value)
        if match is None:
            raise UsageError(f"{part.strip()!r}: write {name}=NUMBER or {name}=LOW..HIGH")
        low = float(match[1])
        key = str(known[name].short)
        try:
            given[name] = known[name].model_validate({key: (low, low if match[2] is None else float(match[2]))})
        except ValidationError as error:
            # The first mistake in the words of a file's.
            reason = YamlSource("", {}, {}).pydantic_problem(error.errors()[0], ()).expected
            raise UsageError(f"{part.strip()!r}: {reason}") from error
    steps = [*given.values(), Shrink()]
    return Degradation(text, text, tuple(sorted(steps, key=lambda step: step.order)))


def _read_file(path: Path, name: str) -> Degradation:
    try:
        text = read_text(path, MOST_BYTES)
    except OSError as error:
        raise UsageError(
            f"{path}: {error.strerror}; a degradation is a name, steps in a line or a YAML file"
        ) from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 text: {error.reason} at byte {error.start}") from error
    document = parse_yaml(text, str(path))
    return _of_values(name, document.values, YamlSource(str(path), document.lines, {}))


def _of_values(name: str, values: Mapping[str, Any], source: YamlSource) -> Degradation:
    """The degradation of a file's values; all mistakes are reported at once."""
    problems: list[Problem] = [
        source.problem((key,), None, f"unknown key: there are {', '.join(KEYS)}") for key in values if key not in KEYS
    ]
    entries = values.get("steps")
    if not isinstance(entries, Sequence) or isinstance(entries, str) or not entries:
        raise file_error(source.file, "expected a list of steps, such as steps: [jpeg: {quality: [30, 90]}]")
    steps = []
    for number, entry in enumerate(entries):
        entry = {entry: None} if isinstance(entry, str) else entry
        if not isinstance(entry, Mapping) or len(entry) != 1:
            problems.append(source.problem(("steps", number), None, "expected one step, such as jpeg: {quality: 50}"))
            continue
        ((kind, options),) = entry.items()
        if kind not in STEPS:
            expected = f"unknown step: {nearest(str(kind), STEPS)}"
            problems.append(source.problem(("steps", number, str(kind)), None, expected))
            continue
        try:
            steps.append(STEPS[kind].model_validate({} if options is None else options))
        except ValidationError as error:
            prefix, fields = ("steps", number, kind), STEPS[kind].model_fields
            problems += [source.pydantic_problem(detail, fields, prefix=prefix) for detail in error.errors()]
    clean = values.get("clean", 0.0)
    if not isinstance(clean, (int, float)) or not 0 <= clean <= 1:
        problems.append(source.problem(("clean",), None, "expected a share of the images, 0 to 1"))
    if problems:
        raise YamlError(problems)
    title = str(values.get("title", name))
    if not any(step.name in ("shrink", "finish") for step in steps):
        # Said here, as the place of the change of size matters.
        steps.append(Shrink())
    return Degradation(name, title, tuple(steps), float(clean))
