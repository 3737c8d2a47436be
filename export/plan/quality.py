"""The quality of a shape before any training: that of a student fitted to the teacher on a few patches."""

from __future__ import annotations

import time

import torch

from compressor.base.context import QUIET, Context
from compressor.base.errors import SrkdError
from compressor.images.metrics import to_u8
from compressor.images.scores import Scores
from compressor.images.sets import embedded_photos
from compressor.models.fitting.fit import fit
from compressor.models.fitting.patches import embedded_patches, texture_of
from compressor.models.networks.base import ImageModel, Network
from compressor.models.networks.cost import cost
from compressor.models.students.students import parse_student
from export.formats.proof_inputs import middle_of_photo
from export.plan.search import CandidateShape
from export.proof.quality import psnr_of

PATCHES, FEWEST = 16, 4
"""Most and fewest patches: at most a quarter of those of `--init fit`, which suffice to compare shapes in a quarter of
the time; fewer if the teacher would need more than WORK multiply-accumulates for them."""
WORK = 5e11
SECONDS = 45.0
"""Time after which no further shape is fitted."""
SIDE = 96
"""Side in LR pixels of the crop that is scored, the middle of each validation photo."""


class FittedQuality:
    """Mean Y-PSNR in dB of candidates' fitted students, on the middles of the validation photos: to the originals, and
    to the teacher's images.
    """

    def __init__(self, teacher: ImageModel, *, most: int = 4, context: Context = QUIET) -> None:
        self.teacher, self.most, self.context = teacher, most, context
        self.scores: dict[str, Scores | None] = {}
        self.seconds = 0.0
        patches = embedded_patches(teacher.descriptor.scale, teacher.descriptor.channels)
        count = PATCHES
        if teacher.network is not None:
            macs = cost(teacher.network, (patches.shape[-1], patches.shape[-2])).macs
            count = min(PATCHES, max(FEWEST, int(WORK // macs)))
        self.patches = patches[texture_of(patches).argsort(descending=True)[: 2 * count : 2]]
        middles = (
            middle_of_photo(path, teacher.descriptor, None, (SIDE, SIDE)) for path in embedded_photos("val").values()
        )
        with torch.no_grad():
            self.photos = [(*middle, to_u8(teacher(middle[0]))) for middle in middles if middle is not None]

    def __call__(self, candidate: CandidateShape) -> Scores | None:
        """The scores; None for a shape that cannot be fitted, or after `most` shapes or SECONDS."""
        if not candidate.fits:
            return None
        if candidate.student not in self.scores:
            if len(self.scores) >= self.most or self.seconds > SECONDS:
                return None
            self.context.progress("fit finalists", len(self.scores), self.most)
            began = time.monotonic()
            self.scores[candidate.student] = self._score(candidate)
            self.seconds += time.monotonic() - began
        return self.scores[candidate.student]

    def _score(self, candidate: CandidateShape) -> Scores | None:
        try:
            student = fit(self.teacher, parse_student(candidate.student), self.patches)
        except SrkdError as error:
            self.context.note(f"{candidate.name} is not fitted: {error}")
            return None
        return self.score(student)

    def score(self, network: Network) -> Scores:
        to_original = to_teacher = 0.0
        with torch.no_grad():
            for lr, hr, teacher_u8 in self.photos:
                sr_u8, scale = to_u8(network(lr)), network.descriptor.scale
                to_original += psnr_of(sr_u8, hr, scale)
                to_teacher += psnr_of(sr_u8, teacher_u8, scale)
        count = len(self.photos)
        return Scores(psnr_y=to_original / count, psnr_y_teacher=to_teacher / count)
