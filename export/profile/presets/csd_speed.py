"""CSD's only published speed: EDSR with half the channels is 1.77 times as fast."""

from __future__ import annotations

from export.profile.presets.published import Pair, PublishedNetwork, PublishedTable

TABLE = PublishedTable(
    name="csd-speed",
    source="a summary of CSD: EDSR at half its width, x4, 1.77 times as fast with a quarter of the parameters",
    device="a device that is not named",
    lr_size=(128, 128),
    states_size=False,
    pairs=(
        Pair(
            PublishedNetwork("edsr-32x256", {"arch": "edsr", "width": 256, "depth": 32, "scale": 4, "res_scale": 0.1}),
            (
                PublishedNetwork(
                    "edsr-32x128",
                    {"arch": "edsr", "width": 128, "depth": 32, "scale": 4, "res_scale": 0.1},
                    speedup=1.77,
                ),
                PublishedNetwork(
                    "edsr-32x64", {"arch": "edsr", "width": 64, "depth": 32, "scale": 4, "res_scale": 0.1}
                ),
            ),
        ),
    ),
    omitted=(
        "frames per second: none are published, nor the size of the images",
        "a quarter of the width (edsr-32x64): its students are in CSD's tables, their speed is not",
        "self-ensembling: CSD's EDSR+ runs eight times for each image, teacher and student alike",
    ),
)
