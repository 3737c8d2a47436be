"""DUKD, table 1: three teachers and their students at x4, frames per second on a V100."""

from __future__ import annotations

from export.profile.presets.published import Pair, PublishedNetwork, PublishedTable

TABLE = PublishedTable(
    name="dukd-table1",
    source="DUKD, table 1: x4, LR 256x256",
    device="NVIDIA V100",
    lr_size=(256, 256),
    pairs=(
        Pair(
            PublishedNetwork(
                "edsr-32x256",
                {"arch": "edsr", "width": 256, "depth": 32, "scale": 4, "res_scale": 0.1},
                fps=3.233,
                gmacs=3293.35,
                params_millions=43.09,
            ),
            (
                PublishedNetwork(
                    "edsr-32x64",
                    {"arch": "edsr", "width": 64, "depth": 32, "scale": 4},
                    fps=33.958,
                    speedup=33.958 / 3.233,
                    gmacs=207.28,
                    params_millions=2.70,
                ),
            ),
        ),
        Pair(
            PublishedNetwork(
                "rcan-10x20",
                {"arch": "rcan", "width": 64, "groups": 10, "depth": 20, "scale": 4},
                fps=6.162,
                gmacs=1044.03,
                params_millions=15.59,
            ),
            (
                PublishedNetwork(
                    "rcan-10x6",
                    {"arch": "rcan", "width": 64, "groups": 10, "depth": 6, "scale": 4},
                    fps=12.337,
                    speedup=12.337 / 6.162,
                    gmacs=366.98,
                    params_millions=5.17,
                ),
            ),
        ),
        Pair(
            PublishedNetwork(
                "swinir-180",
                {"arch": "swinir", "width": 180, "depths": [6] * 6, "heads": [6] * 6, "scale": 4},
                fps=0.459,
                gmacs=861.27,
                params_millions=11.90,
            ),
            (
                PublishedNetwork(
                    "swinir-60",
                    {"arch": "swinir", "width": 60, "depths": [6] * 4, "heads": [6] * 4, "scale": 4},
                    fps=0.874,
                    speedup=0.874 / 0.459,
                    gmacs=121.48,
                    params_millions=1.24,
                ),
            ),
        ),
    ),
    omitted=(
        "MACs: the table's also count 1 operation for each element that is pooled and 5 for each of a LayerNorm, as "
        "srkd's MAC+ does",
        "PSNR: it is of trained networks (DUKD's table 2), and these are not trained",
    ),
)
