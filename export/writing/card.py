"""The model card beside exported files, `student.md` beside `student.onnx`, in the form that model hubs read.

Its head is YAML: licence, base model, tags, and the scores with their protocol as a model index. A card that srkd did
not write is never overwritten.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from compressor.base.choices import Goal
from compressor.base.files import atomic_path, read_text
from compressor.degradation.chain import Degradation
from compressor.images.scores import GOAL_WORDS, both_goals, without_network
from compressor.models.checkpoints.licence import commercial_warning, hub_licence
from compressor.models.networks.base import Network
from compressor.models.networks.cost import cost
from compressor.models.networks.image_cost import COMPARED_SIZE
from export.writing.record import read_record

MARK = "<!-- srkd export wrote this card, and writes it anew. Without this line it is left alone. -->"
MOST_BYTES = 10**6
KEYS: Mapping[Goal, str] = {"original": "psnr_y", "teacher": "psnr_y_teacher"}
"""The ends of the names of scores in a checkpoint's header."""


@dataclass(frozen=True)
class CardFacts:
    """Facts of a model card that are not in the network: its name, origin, licence and scores."""

    name: str
    metadata: Mapping[str, str]
    """The `srkd.*` keys of the exported checkpoint."""
    sha256: str
    licence: str | None
    teacher: str | None = None
    """The name of the teacher's file."""
    teacher_psnr_y: float | None = None
    """To the originals."""
    teacher_params: int | None = None
    validation: tuple[str, ...] = ()
    """Names of the images of the scores: of the first set."""
    code: tuple[tuple[str, str], ...] = ()
    """Names and versions of what trained the network, with the hashes of its source."""


def write_card(folder: Path, network: Network, facts: CardFacts) -> Path | None:
    """Write the card of a network's files and return its path; None if a card that srkd did not write is there."""
    path = folder / f"{facts.name}.md"
    if path.exists() and not _is_own(path):
        return None
    with atomic_path(path) as temporary:
        temporary.write_text(card_text(network, facts, read_record(folder)), encoding="utf-8")
    return path


def _is_own(path: Path) -> bool:
    try:
        return path.is_file() and MARK in read_text(path, MOST_BYTES)
    except UnicodeDecodeError:
        return False


def card_text(network: Network, facts: CardFacts, record: Mapping[str, Any] | None = None) -> str:
    """Return the card of a network; `record` holds the files that it lists, as `read_record` returns them."""
    head = yaml.safe_dump(_head(network, facts), sort_keys=False, allow_unicode=True, width=1000)
    return f"---\n{head}---\n\n{MARK}\n\n" + "\n".join(_body(network, facts, record or {})) + "\n"


def _head(network: Network, facts: CardFacts) -> dict[str, Any]:
    spec = network.spec
    head: dict[str, Any] = hub_licence(facts.licence)
    if facts.teacher is not None:
        head["base_model"] = _repository_name(Path(facts.teacher).stem)
        is_same = network.quantisation is not None and facts.teacher_params == cost(network.spec).params
        head["base_model_relation"] = "quantized" if is_same else "finetune"
    head["pipeline_tag"] = "image-to-image"
    head["library_name"] = "srkd"
    tags = [
        "image-restoration" if spec.scale == 1 else "super-resolution",
        f"x{spec.scale}",
        spec.arch,
        "knowledge-distillation",
        facts.metadata.get("srkd.recipe"),
    ]
    head["tags"] = [tag for tag in tags if tag]
    results = _results(network, facts)
    if results:
        head["model-index"] = [{"name": facts.name, "results": results}]
    return head


def _repository_name(name: str) -> str:
    """Return a teacher's name as hubs accept the name of a base model.

    Its rules stand in huggingface_hub/utils/_validators.py, validate_repo_id: at most 96 letters, digits, `-`, `_` and
    `.`, none of these at the ends, no `--` and no `..`.
    """
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", name.removesuffix(".git"))
    return re.sub(r"(-|\.){2,}", r"\1", name)[:96].strip("-._") or "teacher"


def _scores(facts: CardFacts) -> dict[str, float]:
    try:
        scores = json.loads(facts.metadata.get("srkd.scores", "{}"))
        return {str(name): float(value) for name, value in scores.items()}
    except (ValueError, TypeError, AttributeError, RecursionError):
        return {}


def _goals(facts: CardFacts) -> tuple[Goal, Goal]:
    """First what the network is judged by."""
    return both_goals("teacher" if facts.metadata.get("srkd.goal") == "teacher" else "original")


def _results(network: Network, facts: CardFacts) -> list[dict[str, Any]]:
    """The scores on the validation images, first what the network is judged by; the metric's name says how."""
    scores = _scores(facts)
    values: list[tuple[Goal, float | None]] = [(goal, scores.get(f"validation_{KEYS[goal]}")) for goal in _goals(facts)]
    known: list[tuple[Goal, float]] = [(goal, psnr) for goal, psnr in values if psnr is not None]
    if not known:
        return []
    protocol, scale = facts.metadata.get("srkd.protocol", "unknown protocol"), network.spec.scale
    images = (
        ", ".join(facts.validation) if 0 < len(facts.validation) <= 6 else f"{len(facts.validation) or 'some'} images"
    )
    return [
        {
            "task": {
                "type": "image-to-image",
                "name": f"{'Restoration' if scale == 1 else 'Super-resolution'} x{scale}",
            },
            "dataset": {"type": "validation", "name": f"validation images of the run ({images})"},
            "metrics": [
                {"type": "psnr", "name": f"Y-PSNR in dB {GOAL_WORDS[goal]}, {protocol}", "value": round(psnr, 3)}
                for goal, psnr in known
            ],
        }
    ]


def _plain(text: str) -> str:
    """Return text from a file on one line, with Markdown's markup escaped."""
    return "".join("\\" + c if c in "\\`*_{}[]<>#|!&" else c for c in " ".join(text.split()))


def _body(network: Network, facts: CardFacts, record: Mapping[str, Any]) -> list[str]:
    spec, counts = network.spec, cost(network.spec)
    size = "{}x{}".format(*COMPARED_SIZE)
    sizes = [f"{key} {value}" for key in ("width", "depth") if (value := getattr(spec, key, None)) is not None]
    lines = [f"# {_plain(facts.name)}", ""]
    warning = commercial_warning(facts.licence)
    if warning is not None:
        lines += [f"> **{_plain(warning[0].upper() + warning[1:])}.**", ""]
    images = "RGB in [0,1]" if network.descriptor.channels == 3 else "One channel, luma or grey in [0,1]"
    does = "gives pictures back at their own size" if spec.scale == 1 else f"enlarges pictures {spec.scale} times"
    teacher = "" if facts.teacher is None else f" of {_plain(facts.teacher)}"
    recipe, degradation = facts.metadata.get("srkd.recipe"), Degradation.of_header(facts.metadata)
    training = f" It is a student{teacher}, trained by srkd with recipe {_plain(recipe)}." if recipe else ""
    lines += [
        f"A network that {does}: {', '.join([spec.arch, *sizes])}. {counts.params:,} "
        f"parameters, {counts.macs / 1e9:.2f} GMAC for an LR image of {size}.{training}",
        "",
        f"{images}, N,C,H,W, in and out; LiteRT's files N,H,W,C; files with `uint8` in their names bytes, N,H,W,C; "
        "with `fp16io` float16.",
        *([] if degradation is None else [f"It was trained on degraded images: {_plain(degradation.title)}."]),
        "",
        "## Quality",
        "",
        *_quality(facts, spec.scale),
        "",
        *(["## Files", "", *_files(record, facts), ""] if record else []),
        "## Origin",
        "",
        f"- sha256 of the checkpoint: `{facts.sha256 or 'unknown'}`",
        f"- licence of the teacher: {_plain(facts.licence) if facts.licence else 'not declared in its file'}",
    ]
    source = facts.metadata.get("srkd.source_sha256")
    if source:
        lines.append(f"- sha256 of the teacher: `{_plain(source)}`")
    return [*lines, *(f"- {_plain(name)}: {_plain(text)}" for name, text in facts.code)]


def _quality(facts: CardFacts, scale: int) -> list[str]:
    scores, plain = _scores(facts), without_network(scale)
    rows: dict[str, dict[Goal, float | None]] = {
        "this network": {goal: scores.get(f"validation_{key}") for goal, key in KEYS.items()},
        "teacher": {"original": facts.teacher_psnr_y},
        plain: {goal: scores.get(f"{plain}_{key}") for goal, key in KEYS.items()},
    }
    shown: list[Goal] = [goal for goal in _goals(facts) if any(row.get(goal) is not None for row in rows.values())]
    if not shown:
        return ["The checkpoint does not say what it scored."]
    protocol = facts.metadata.get("srkd.protocol", "unknown protocol")
    lines = [
        f"Y-PSNR on the validation images of the run, {_plain(protocol)}. The network was made to be near "
        f"{'the original images' if _goals(facts)[0] == 'original' else 'the images of its teacher'}:",
        "",
        f"| network | {' | '.join(f'dB {GOAL_WORDS[goal]}' for goal in shown)} |",
        "|---|" + "---|" * len(shown),
    ]
    for name, row in rows.items():
        figures = [row.get(goal) for goal in shown]
        if any(figure is not None for figure in figures):
            lines.append(f"| {name} | {' | '.join('–' if psnr is None else f'{psnr:.3f}' for psnr in figures)} |")
    return lines


def _files(record: Mapping[str, Any], facts: CardFacts) -> list[str]:
    """A Markdown table of this checkpoint's files in a folder's record, with the results of their exports."""
    lines = [
        "| file | precision | MB | largest difference | change of Y-PSNR in int8 | verdict |",
        "|---|---|---|---|---|---|",
    ]
    for name, entry in record.items():
        if facts.sha256 and entry.get("source_sha256") != facts.sha256:
            continue
        parity, quality, size = entry.get("parity"), entry.get("quality"), entry.get("bytes")
        cells = [
            _plain(name),
            _plain(str(entry.get("precision"))),
            f"{size / 1e6:.2f}" if isinstance(size, int) else "–",
            f"{parity['max_abs']:.1e}" if parity else "–",
            f"{-quality['drop']:+.3f} dB on {quality['photos']} photos" if quality else "–",
            _plain(str(entry.get("verdict"))),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines
