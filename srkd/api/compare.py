"""`srkd compare`: a comparison of the methods of run folders."""

from __future__ import annotations

from pathlib import Path

from compressor.base.context import Context
from compressor.base.files import atomic_path
from srkd.options.function import public
from srkd.options.models import as_tuple
from srkd.options.shared import path_of
from srkd.options.values import require_html
from srkd.options.verbs import CompareOptions
from srkd.reports.comparison import Comparison, compare_contents
from srkd.reports.contents import read_contents
from srkd.reports.page import comparison_page


def run_compare(options: CompareOptions, context: Context) -> Comparison:
    """Compare the methods of run folders: mean and spread of the runs' Y-PSNR over seeds.

    For a plan, all of its runs are compared. Runs of another scale, protocol or other images are refused.

        >>> print(srkd.compare("runs/small").methods[0].name)
    """
    folders = [Path(run) for run in as_tuple(options.runs)]
    html = path_of(options.html)
    if html is not None:
        require_html(html, "--html")
    runs = [read_contents(folder) for folder in folders]
    comparison = compare_contents(runs)
    if html is not None:
        with atomic_path(html) as temporary:
            temporary.write_text(comparison_page(comparison, runs), encoding="utf-8")
        context.note(f"wrote {html}")
    return comparison


compare = public(CompareOptions, CompareOptions, run_compare, "compare")
