"""Apps on macOS and iOS: pictures of one size in and out of the neural engine, which runs one of a range of sizes only.

Read in coremltools' guide, "Image Input and Output" and "Flexible Input Shapes"; export/convert/coreml_program.py says
what is known of the engine.
"""

from __future__ import annotations

from export.formats.conversion import CannotConvert, FileOptions, needs_fixed_size
from export.hosts.job import STUDENTS, HostFiles, HostJob


def write(job: HostJob) -> HostFiles:
    """Write `4x-MODEL-256x256.fp16.mlpackage` and the like."""
    if needs_fixed_size(job.network):
        raise CannotConvert(f"{job.network.spec.arch}'s windows leave the neural engine: {STUDENTS} run there")
    files = job.export(["coreml-fp16"], job.name, options=FileOptions(lr_size=job.size))
    return HostFiles(
        files,
        place="the package into an Xcode project, which makes a class of it",
        call='let large = try model.prediction(from: MLDictionaryFeatureProvider(dictionary: ["input": '
        'MLFeatureValue(pixelBuffer: picture)])).featureValue(for: "output")!.imageBufferValue!',
        expect="what Xcode's performance report shows for your device, with the chip that runs each operation",
        notes=("nothing of this was run on a device", "--static 640x360 writes a package for pictures of that size"),
    )
