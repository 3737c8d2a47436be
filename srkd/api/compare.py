"""`srkd compare`: a comparison of the methods of run folders."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from compressor.base.context import Context
from compressor.base.errors import UsageError
from compressor.images.sets import find_sets
from srkd.options.function import public
from srkd.options.option import declarations
from srkd.options.shared import ScoringOptions, path_of
from srkd.options.values import run_folders
from srkd.options.verbs import CompareOptions
from srkd.reports.comparing import compare_contents
from srkd.reports.comparison import Comparison, SetScores
from srkd.reports.contents import Contents, read_contents
from srkd.reports.methods import Trained
from srkd.reports.set_scores import Scoring


def run_compare(options: CompareOptions, context: Context) -> Comparison:
    """Compare the methods of run folders: mean and spread of the runs' Y-PSNR over seeds.

    For a plan, all of its runs are compared. Runs of another scale, protocol or other images are refused. With `data`
    all students are also scored on benchmark sets, as `evaluate` does; evaluations.json in the run folders keeps these
    scores, so that a second call computes none.

        >>> print(srkd.compare("runs/small").methods[0].name)
        >>> best = srkd.compare("runs/small", data="photos").methods[0]
        >>> print(best.name, best.sets["photos"]["psnr_y"].mean)
    """
    folders = run_folders(options.runs)
    data = path_of(options.data)
    of_sets = {row.name for row in declarations(ScoringOptions)} | {"device"}
    for row in declarations(CompareOptions) if data is None else ():
        if row.name in of_sets and getattr(options, row.name) != row.default:
            raise UsageError(f"{row.flag}: it is about the sets of --data, which is not given")
    runs = [read_contents(folder) for folder in folders]
    return compare_contents(runs, None if data is None else partial(_score, data, options, context))


compare = public(CompareOptions, CompareOptions, run_compare, "compare")


def _score(
    data: Path, options: CompareOptions, context: Context, runs: Sequence[Trained], first: Contents
) -> SetScores:
    sets = find_sets(data, scale=first.file.student.scale, lr=path_of(options.lr_images))
    return Scoring(runs, sets, first.file.student.scale, first.goal, options, context).scores()
