"""A conversion to int8: what its ranges and its loss are measured on, and the facts of the file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from compressor.degradation.chain import Degradation
from compressor.models.networks.base import Descriptor, Network
from compressor.models.students.spread import spread_streams
from export.formats.conversion import Conversion
from export.int8.calibration import CalibrationPatches, calibration_patches
from export.proof.quality import QualityDrop, QualityPhotos


@dataclass(frozen=True)
class Int8Task:
    """`network` is quantised, the calibration measures its ranges, and the photos the file's loss against
    `job.network`. `descriptor` is the file's."""

    job: Conversion
    network: Network
    descriptor: Descriptor
    calibration: CalibrationPatches
    photos: QualityPhotos

    @classmethod
    def of(cls, job: Conversion, network: Network | None = None) -> Int8Task:
        """The task of a job; `network`: the job's without its quantisers, if it has any."""
        network, options, size = network or job.network, job.options.int8, job.options.lr_size
        descriptor = replace(network.descriptor, fixed_size=size)
        calibration = calibration_patches(descriptor, options.calibrate, Degradation.of_header(job.metadata))
        photos = QualityPhotos.of(job.network, options, size, context=job.context)
        return cls(job, network, descriptor, calibration, photos)

    @cached_property
    def spread(self) -> Network:
        """The network with the best basis of each linear stream for int8."""
        return spread_streams(self.network, self.calibration.patches)


def describe_file(
    flavour: str, bits: tuple[int, int], calibration: str, quality: QualityDrop, **more: object
) -> dict[str, object]:
    """The facts of a file for its metadata (`srkd.quant`) and the report; `bits` are those of weights and values."""
    widths = {"precision": "int8", "flavour": flavour, "bits": bits[1], "weight_bits": bits[0]}
    return {**widths, "calibration": calibration, **more, **quality.facts()}
