"""Apps on macOS and iOS 27 and newer: a network for Core AI, whose compiler chooses the chip and the precision there.

Read in coreai-torch's README and in coreai-core's coreai/authoring/asset.py: an asset is for a version of the system
from 27 on, and Xcode or the system compiles it for the device's chips.
"""

from __future__ import annotations

from export.hosts.job import HostFiles, HostJob


def write(job: HostJob) -> HostFiles:
    """Write `4x-MODEL.aimodel`."""
    job.require_any_size("Core AI", flag="--coreai")
    files = job.export(["coreai"], job.name)
    return HostFiles(
        files,
        place="the .aimodel into an Xcode project for macOS or iOS 27; the .json beside it is srkd's",
        call=f"main(input: float32 in [0,1], 1 x {job.network.descriptor.channels} x H x W) gives output, not clamped",
        expect="what Xcode's instruments show on your device: its times cannot be foretold from a CPU's",
        notes=("nothing of this was run on a device of Apple's",),
    )
