"""The options of `compress`: what the command line, `srkd.compress` and run.json say of a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from compressor.base.cache_folder import DEFAULT_LIMIT
from compressor.base.choices import Border, Init, Select
from compressor.base.errors import UsageError
from srkd.options import Option, Options
from srkd.parameters import BYTES, DEVICE, SETTING

PathOption = str | Path | None
INPUT_PATHS = ("teacher", "data", "lr", "val", "lr_only", "init_from", "phi_weights")


@dataclass(frozen=True)
class CompressOptions(Options):
    """One run, or a plan of runs. Paths of inputs become absolute, so that a run continues from any folder."""

    teacher: Annotated[PathOption, Option("Checkpoint of the teacher; none: the embedded EDSR.")] = None
    _: dataclasses.KW_ONLY
    recipe: Annotated[str, Option("A name of `srkd recipes ls`, or a file such as ./my.yaml.")] = "logits"
    data: Annotated[PathOption, Option("Folder of HR images, a set with HR/, or several sets.")] = None
    lr: Annotated[PathOption, Option("Folder of the LR images of --data; none: made bicubically.")] = None
    val: Annotated[PathOption, Option("Validation images; none: some of --data, or embedded ones.")] = None
    lr_border: Annotated[
        Border, Option("Border of the downscale that makes LR images; clamp as an older MATLAB did.")
    ] = "mirror"
    lr_only: Annotated[
        PathOption,
        Option("Folder of LR images without HR partners: the teacher's output is their only label.", metavar="DIR"),
    ] = None
    cache_size: Annotated[
        int | str,
        Option("Disk that decoded images may take between runs (docs/data.md); 0: nothing is kept.", type=BYTES),
    ] = DEFAULT_LIMIT
    width: Annotated[
        float | None,
        Option("Fraction of the teacher's channels that the student keeps.", minimum=0, maximum=1, above_minimum=True),
    ] = None
    depth: Annotated[
        float | None,
        Option("Fraction of the teacher's blocks that the student keeps.", minimum=0, maximum=1, above_minimum=True),
    ] = None
    student: Annotated[
        str | None, Option("The student's whole shape, such as edsr:width=48,depth=16,scale=4.", metavar="SPEC")
    ] = None
    init: Annotated[Init | None, Option("Weights cut from the teacher, or random ones.")] = None
    select: Annotated[Select | None, Option("Which channels are inherited: the first, or the strongest.")] = None
    init_from: Annotated[PathOption, Option("Start from this file's weights where name and shape agree.")] = None
    steps: Annotated[int | None, Option("Updates; milestones and warm-up are rescaled.", minimum=1)] = None
    seed: Annotated[int, Option("The same seed gives the same run.")] = 10
    with_baseline: Annotated[bool, Option("Train the same student on the same batches without distillation, too.")] = (
        False
    )
    seeds: Annotated[int, Option("Number of seeds to repeat the run with: mean and spread.", minimum=1)] = 1
    device: Annotated[str, Option("cpu, cuda, cuda:N or mps.", type=DEVICE)] = "cpu"
    scale: Annotated[int | None, Option("Scale to take from a multi-scale teacher file.", minimum=1, maximum=8)] = None
    arch_options: Annotated[
        Mapping[str, Any] | None,
        Option("What the teacher's file does not say.", flags=("--arch-option",), type=SETTING),
    ] = None
    settings: Annotated[
        Sequence[str],
        Option("Change the recipe: schedule.batch=8, kappa=0.5.", flags=("--set",), metavar="KEY=VALUE"),
    ] = ()
    teacher_cache: Annotated[
        bool, Option("Run the teacher once over whole images, keep its outputs in fp16, crop them.")
    ] = False
    phi_weights: Annotated[
        PathOption,
        Option("vgg19-dcbb9e9d.pth of torchvision, for recipes with the option phi.", metavar="FILE"),
    ] = None
    out: Annotated[PathOption, Option("Run folder to write; must not exist yet.", in_json=False)] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "arch_options", self.arch_options or {})
        for name in INPUT_PATHS:
            path = getattr(self, name)
            object.__setattr__(self, name, None if path is None else Path(path).resolve())
        from recipes.config.reading import is_recipe_file

        if is_recipe_file(self.recipe):
            object.__setattr__(self, "recipe", str(Path(self.recipe).resolve()))

    @property
    def run_folder(self) -> Path:
        """The folder that the run writes."""
        if self.out is None:
            raise UsageError("missing option '--out': the run folder to write")
        return Path(self.out)

    @property
    def is_plan(self) -> bool:
        """Baselines or several seeds: more than one run."""
        return self.with_baseline or self.seeds > 1


def path_of(value: PathOption) -> Path | None:
    """Return an optional path as a `Path`."""
    return None if value is None else Path(value)
