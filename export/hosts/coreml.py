"""Apps on macOS and iOS: pictures in and out of the neural engine, one package for each size.

Read in coremltools' guide, "Image Input and Output" and "Flexible Input Shapes"; export/convert/coreml_program.py says
what is known of the engine.
"""

from __future__ import annotations

from export.formats.conversion import CannotConvert, FileOptions, needs_fixed_size
from export.hosts.job import STUDENTS, HostFiles, HostJob
from export.writing.exporting import FileReport

SIZES = ((256, 256), (640, 360))
"""A tile, and a frame of a small film. Of a range of sizes the engine would run one only."""


def write(job: HostJob) -> HostFiles:
    """Write `4x-MODEL-256x256.fp16.mlpackage` and the like."""
    if needs_fixed_size(job.network):
        raise CannotConvert(f"{job.network.spec.arch}'s windows leave the neural engine: {STUDENTS} run there")
    name = f"{job.scale}x-{job.model}"
    files: list[FileReport] = []
    for size in SIZES:
        files += job.export(["coreml-fp16"], name, options=FileOptions(lr_size=size))
    return HostFiles(
        tuple(files),
        place="the packages into an Xcode project, which makes a class of each",
        call='let large = try model.prediction(from: MLDictionaryFeatureProvider(dictionary: ["input": '
        'MLFeatureValue(pixelBuffer: picture)])).featureValue(for: "output")!.imageBufferValue!',
        expect="what Xcode's performance report shows for your device, with the chip that runs each operation",
        notes=(
            "nothing of this was run on a device",
            "another size: srkd export MODEL --coreml-fp16 --static 1280x720",
        ),
    )
