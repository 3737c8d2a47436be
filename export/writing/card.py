"""The model card beside exported files, `student.md` beside `student.onnx`, in the form that model hubs read.

Its head is YAML: licence, base model, tags, and the scores with their protocol as a model index. A card that srkd did
not write is never overwritten.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from compressor.base.choices import Goal
from compressor.base.errors import SrkdError
from compressor.base.files import read_text, write_text
from compressor.degradation.chain import Degradation
from compressor.images.scores import GOAL_WORDS, both_goals, goal_of, without_network
from compressor.models.checkpoints.licence import commercial_warning, hub_licence
from compressor.models.checkpoints.save import STRENGTH
from compressor.models.networks.base import Network
from compressor.models.networks.cost import cost
from export.formats.templates import render

MARK = "<!-- srkd export wrote this card, and writes it anew. Without this line it is left alone. -->"
README_MARK = "Written by srkd export."
"""In a README that is no card, and in scripts and pages that people edit."""
MOST_BYTES = 10**6
UNKNOWN = "unknown protocol"
NO_RESULTS = dict.fromkeys(("precision", "bytes", "parity", "quality", "verdict"))


@dataclass(frozen=True)
class CardFacts:
    """Facts of a model card that are not in the network: its name for people, origin, licence and scores."""

    name: str
    metadata: Mapping[str, str]
    """The `srkd.*` keys of the exported checkpoint."""
    sha256: str
    licence: str | None
    teacher: str | None = None
    """The name of the teacher's file."""
    base_model: str | None = None
    """The teacher's repository on the hub, OWNER/NAME."""
    teacher_psnr_y: float | None = None
    """To the originals."""
    teacher_params: int | None = None
    validation: tuple[str, ...] = ()
    """Names of the images of the scores: of the first set."""
    code: tuple[tuple[str, str], ...] = ()
    """Names and versions of what trained the network, with the hashes of its source."""


def write_card(path: Path, network: Network, facts: CardFacts, record: Mapping[str, Any]) -> bool:
    """Write the card of a network's files; False if a card that srkd did not write is there."""
    if not may_write(path):
        return False
    write_text(path, card_text(network, facts, record))
    return True


def may_write(path: Path) -> bool:
    """Whether nothing is there, or a card or README that srkd wrote."""
    try:
        return not path.exists() or any(mark in read_text(path, MOST_BYTES) for mark in (MARK, README_MARK))
    except (SrkdError, UnicodeDecodeError):
        return False


def card_text(network: Network, facts: CardFacts, record: Mapping[str, Any] | None = None) -> str:
    """Return the card of a network; `record` holds its files, as `write_record` returns them."""
    spec, metadata = network.spec, facts.metadata
    goals = both_goals(goal_of(metadata))
    scores = _scores(facts, spec.scale)
    shape = [spec.arch, *(f"{key} {getattr(spec, key)}" for key in ("width", "depth") if hasattr(spec, key))]
    return render(
        "export.writing",
        "card.md",
        head=yaml.safe_dump(_head(network, facts, goals, scores), sort_keys=False, allow_unicode=True, width=1000),
        mark=MARK,
        facts=facts,
        spec=spec,
        shape=", ".join(shape),
        counts=cost(spec),
        channels=network.descriptor.channels,
        warning=commercial_warning(facts.licence),
        recipe=metadata.get("srkd.recipe"),
        strength=metadata.get(STRENGTH),
        degradation=Degradation.of_header(metadata),
        protocol=metadata.get("srkd.protocol", UNKNOWN),
        goal=goals[0],
        goals=[goal for goal in goals if any(row[goal] is not None for row in scores.values())],
        scores={name: row for name, row in scores.items() if any(value is not None for value in row.values())},
        words=GOAL_WORDS,
        files={name: NO_RESULTS | entry for name, entry in (record or {}).items()},
    )


def header_score(header: Mapping[str, str], row: str, goal: Goal) -> float | None:
    """The Y-PSNR of a row ("validation" is the network's) that a checkpoint's header has; None if it has none."""
    key = "psnr_y_teacher" if goal == "teacher" else "psnr_y"
    try:
        return float(json.loads(header.get("srkd.scores", "{}"))[f"{row}_{key}"])
    except (ValueError, LookupError, TypeError, RecursionError):
        return None


def _scores(facts: CardFacts, scale: int) -> dict[str, dict[Goal, float | None]]:
    """The Y-PSNR on the validation images, by row and what it is measured to; the network's own row is the first."""
    plain = without_network(scale)
    return {
        "this network": {goal: header_score(facts.metadata, "validation", goal) for goal in GOAL_WORDS},
        "teacher": {"original": facts.teacher_psnr_y, "teacher": None},
        plain: {goal: header_score(facts.metadata, plain, goal) for goal in GOAL_WORDS},
    }


def _head(
    network: Network, facts: CardFacts, goals: Sequence[Goal], scores: Mapping[str, Mapping[Goal, float | None]]
) -> dict[str, Any]:
    """What hubs read: licence, base model, tags, and the scores, first what the network is judged by."""
    spec, protocol = network.spec, facts.metadata.get("srkd.protocol", UNKNOWN)
    head: dict[str, Any] = hub_licence(facts.licence)
    if facts.base_model is not None:
        is_same = network.quantisation is not None and facts.teacher_params == cost(spec).params
        head |= {"base_model": facts.base_model, "base_model_relation": "quantized" if is_same else "finetune"}
    does = "image-restoration" if spec.scale == 1 else "super-resolution"
    learned = ["knowledge-distillation" if facts.teacher else None, facts.metadata.get("srkd.recipe")]
    tags = [does, f"x{spec.scale}", spec.arch, *learned]
    head |= {"pipeline_tag": "image-to-image", "library_name": "srkd", "tags": [tag for tag in tags if tag]}
    metrics = [
        {"type": "psnr", "name": f"Y-PSNR in dB {GOAL_WORDS[goal]}, {protocol}", "value": round(psnr, 3)}
        for goal in goals
        if (psnr := scores["this network"][goal]) is not None
    ]
    if metrics:
        names = facts.validation
        images = f" ({', '.join(names) if len(names) <= 6 else f'{len(names)} images'})" if names else ""
        result = {
            "task": {"type": "image-to-image", "name": f"{does.capitalize()} x{spec.scale}"},
            "dataset": {"type": "validation", "name": f"validation images{images}"},
            "metrics": metrics,
        }
        head["model-index"] = [{"name": facts.name, "results": [result]}]
    return head
