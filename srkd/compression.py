"""`srkd compress`: from a teacher and a recipe to a run folder that holds the student."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from compressor.assets import embedded_teacher
from compressor.checkpoints.load import Loaded, load_checkpoint
from compressor.checkpoints.save import save_network
from compressor.cost import Cost, cost
from compressor.data.batches import Batches
from compressor.data.embedded import embedded_pairs
from compressor.data.store import Border, ImageStore, build_store
from compressor.errors import UsageError
from compressor.imagesets import ImagePair, find_sets
from compressor.machine import facts
from compressor.metrics import Protocol
from compressor.networks.base import Network
from compressor.networks.registry import build
from compressor.progress import Progress, silent
from compressor.students import build_student, parse_student
from compressor.training.events import Reference, RunEvents
from compressor.training.loop import train
from compressor.training.run_folder import RunFolder
from compressor.training.state import State
from compressor.training.validation import ValidationImage, mean_psnr_y, validation_images
from recipes.preset import Preset, load_preset

Announce = Callable[[str], None]


@dataclass(frozen=True)
class Quality:
    """Y-PSNR in dB on the validation images, and cost at 256×256 LR pixels."""

    psnr_y: float
    cost: Cost | None


@dataclass(frozen=True)
class CompressReport:
    """What a run came to."""

    run: Path
    student_path: Path
    recipe: str
    steps: int
    seconds: float
    protocol: str
    images_used: int
    images_skipped: tuple[tuple[str, str], ...]
    student: Quality
    teacher: Quality | None
    bicubic: Quality


@dataclass(frozen=True)
class Data:
    """Training images, validation images, and where they came from."""

    train: ImageStore
    validation: tuple[ValidationImage, ...]
    origin: str


def compress(
    teacher: str | Path | None = None,
    *,
    recipe: str = "logits",
    out: str | Path,
    data: str | Path | None = None,
    lr: str | Path | None = None,
    val: str | Path | None = None,
    lr_border: Border = "mirror",
    width: float | None = None,
    depth: float | None = None,
    student: str | None = None,
    init: str | None = None,
    steps: int | None = None,
    seed: int = 10,
    device: str = "cpu",
    scale: int | None = None,
    arch_options: dict[str, Any] | None = None,
    settings: Sequence[str] = (),
    progress: Progress = silent,
    announce: Announce = lambda line: None,
) -> CompressReport:
    """Train a student of `teacher` by `recipe`; no teacher means the embedded one, no data the embedded photos."""
    started = time.monotonic()
    preset = load_preset(recipe, settings)
    if steps is not None:
        preset = preset.with_steps(_at_least_one("steps", steps))
    methods = preset.build_methods()
    wanted = teacher is not None or any(method.needs_teacher for method in methods) or student is None
    loaded = _teacher(teacher, scale, arch_options, announce) if wanted else None
    pupil = _student(loaded, preset, width, depth, student, init, seed)
    where = torch.device(device)
    images = _data(data, lr, val, pupil.spec.scale, preset.schedule.lr_patch, lr_border, progress, announce)
    folder = RunFolder(Path(out))
    run = _Run(folder, preset, recipe, loaded, pupil.to(where), images, where, seed)
    try:
        return run.go(progress, announce, started)
    finally:
        folder.close()


@dataclass(frozen=True)
class _Run:
    """Everything decided before the first step."""

    folder: RunFolder
    preset: Preset
    recipe: str
    loaded: Loaded | None
    student: Network
    data: Data
    device: torch.device
    seed: int

    def go(self, progress: Progress, announce: Announce, started: float) -> CompressReport:
        schedule = self.preset.schedule
        stage = self.preset.stage(self.preset.build_methods())
        teacher = self._frozen_teacher() if any(method.needs_teacher for method in stage.methods) else None
        reference = self._reference()
        facts_of_run = self._facts(stage.validate_every)
        self.folder.write_facts(facts_of_run)
        state = State.fresh(self.student.to(memory_format=torch.channels_last), teacher, stage)
        events = RunEvents(
            self.folder,
            steps=schedule.steps,
            validate_every=stage.validate_every,
            images=self.data.validation,
            reference=reference,
            progress=progress,
            announce=announce,
        )
        store = self.data.train.to(self.device)
        batches = Batches.over(store, batch=schedule.batch, lr_patch=schedule.lr_patch, seed=self.seed)
        train(stage, state, batches, teacher, events, seed=self.seed)
        report = self._report(state, reference, started)
        self.folder.write_facts({**facts_of_run, "result": _plain(report)})
        return report

    def _frozen_teacher(self) -> Network | None:
        if self.loaded is None:
            return None
        teacher = self.loaded.network.requires_grad_(False).eval().to(self.device)
        return teacher.to(memory_format=torch.channels_last)

    def _reference(self) -> Reference:
        images, scale = self.data.validation, self.student.spec.scale
        teacher = None if self.loaded is None else mean_psnr_y(self.loaded.network.to(self.device), images, scale)
        return Reference(mean_psnr_y(None, images, scale), teacher)

    def _facts(self, validate_every: int) -> dict[str, Any]:
        teacher = self.loaded
        return {
            "schema": "srkd.compress/1",
            "machine": facts(),
            "recipe": self.recipe,
            "preset": self.preset.model_dump(mode="json"),
            "seed": self.seed,
            "validate_every": validate_every,
            "student": self.student.spec.to_dict(),
            "teacher": None if teacher is None else {"path": str(teacher.path), "sha256": teacher.sha256},
            "data": {
                "origin": self.data.origin,
                "used": len(self.data.train),
                "skipped": {str(s.path): s.reason for s in self.data.train.skipped},
                "validation": [image.name for image in self.data.validation],
            },
        }

    def _report(self, state: State, reference: Reference, started: float) -> CompressReport:
        """Write the averaged student, and say what it came to."""
        scale = self.student.spec.scale
        protocol = str(Protocol(border=scale))
        psnr = mean_psnr_y(state.ema.network, self.data.validation, scale)
        path = self.folder.path / "student.safetensors"
        metadata = {
            "srkd.recipe": self.recipe,
            "srkd.source_sha256": "" if self.loaded is None else self.loaded.sha256,
            "srkd.protocol": protocol,
            "srkd.scores": f'{{"validation_psnr_y": {psnr:.4f}}}',
        }
        save_network(state.ema.network.to("cpu"), path, metadata=metadata)
        teacher = None
        if self.loaded is not None and reference.teacher is not None:
            teacher = Quality(reference.teacher, cost(self.loaded.network.spec))
        return CompressReport(
            run=self.folder.path,
            student_path=path,
            recipe=self.recipe,
            steps=state.done,
            seconds=time.monotonic() - started,
            protocol=protocol,
            images_used=len(self.data.train),
            images_skipped=tuple((str(s.path), s.reason) for s in self.data.train.skipped),
            student=Quality(psnr, cost(self.student.spec)),
            teacher=teacher,
            bicubic=Quality(reference.bicubic, None),
        )


def _teacher(
    path: str | Path | None, scale: int | None, arch_options: dict[str, Any] | None, announce: Announce
) -> Loaded:
    if path is None:
        path = embedded_teacher()
        announce("no --teacher: using the embedded teacher")
    loaded = load_checkpoint(Path(path), scale=scale, arch_options=arch_options)
    for assumption in loaded.assumed:
        announce(f"teacher: {assumption.field}={assumption.value} assumed ({assumption.why})")
    return loaded


def _student(
    loaded: Loaded | None,
    preset: Preset,
    width: float | None,
    depth: float | None,
    student: str | None,
    init: str | None,
    seed: int,
) -> Network:
    """The student by spec, or cut from the teacher by width and depth; the command line goes before the preset."""
    if student is not None:
        if width is not None or depth is not None or init == "inherit":
            raise UsageError("--student gives the whole shape: leave out --width, --depth and --init inherit")
        spec = parse_student(student)
        if loaded is not None and spec.scale != loaded.network.spec.scale:
            raise UsageError(f"the student is for x{spec.scale}, the teacher for x{loaded.network.spec.scale}")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return build(spec)
    if loaded is None:
        raise UsageError("a student without --student is cut from a teacher: add --teacher FILE or --student SPEC")
    rule = preset.student
    chosen = rule.init if init is None else init
    if chosen not in ("inherit", "random"):
        raise UsageError(f"--init {chosen!r} is neither 'inherit' nor 'random'")
    return build_student(
        loaded.network,
        width=rule.width if width is None else width,
        depth=rule.depth if depth is None else depth,
        init="inherit" if chosen == "inherit" else "random",
        seed=seed,
    )


HELD_OUT_FROM = 20
"""From this many images on, a twentieth (ten at most) is kept apart for validation; below it, embedded photos serve."""


def _data(
    data: str | Path | None,
    lr: str | Path | None,
    val: str | Path | None,
    scale: int,
    lr_patch: int,
    border: Border,
    progress: Progress,
    announce: Announce,
) -> Data:
    if data is None:
        announce("no --data: training on the embedded photos, which show that everything works, not what it can reach")
        train_pairs, held_out = embedded_pairs("train"), embedded_pairs("val")
        origin = "embedded photos"
    else:
        sets = find_sets(Path(data), scale=scale, lr=None if lr is None else Path(lr))
        pairs = tuple(pair for found in sets for pair in found.pairs)
        train_pairs, held_out = _split(pairs) if val is None else (pairs, ())
        origin = ", ".join(found.name for found in sets)
    if val is not None:
        held_out = tuple(pair for found in find_sets(Path(val), scale=scale) for pair in found.pairs)
    store = build_store(train_pairs, scale=scale, lr_patch=lr_patch, border=border, progress=progress)
    if store.skipped:
        first = store.skipped[0]
        announce(f"{len(store.skipped)} images left out; the first: {first.path}: {first.reason} (all in run.json)")
    validation = build_store(held_out, scale=scale, lr_patch=4, border=border)
    return Data(store, validation_images(validation), origin)


def _split(pairs: tuple[ImagePair, ...]) -> tuple[tuple[ImagePair, ...], tuple[ImagePair, ...]]:
    """Training and validation: every k-th image is held out, or the embedded photos serve when images are few."""
    if len(pairs) < HELD_OUT_FROM:
        return pairs, embedded_pairs("val")
    stride = max(20, -(-len(pairs) // 10))
    held_out = pairs[stride // 2 :: stride]
    return tuple(pair for pair in pairs if pair not in held_out), held_out


def _at_least_one(name: str, value: int) -> int:
    if value < 1:
        raise UsageError(f"--{name} {value} is below 1")
    return value


def _plain(report: CompressReport) -> dict[str, Any]:
    """The report as JSON values."""
    fields = dataclasses.asdict(report)
    return {name: str(value) if isinstance(value, Path) else value for name, value in fields.items()}
