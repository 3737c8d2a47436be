"""The parts of training, for a loop of one's own: images, batches, the step, networks that run once, losses, scores.

`srkd.compress` trains with the same parts. These names and their arguments are stable, as those of `srkd` are.

    DataChoice        which images to train and validate on; without any, the embedded photos
    ValidationFolder  a folder of validation images, for `DataChoice(val=...)`
    prepare_data      decode them
                      >>> data = prepare_data(DataChoice(Path("photos")), scale=4, lr_patch=24)
    Batches           batches by their number: the same seed gives the same patches
                      >>> batch = Batches.for_store(data.train, batch=16, lr_patch=24, seed=1).at(0)
    Batch             LR and HR patches in [0,1], NCHW
    Runner            a network that runs once for each input of a step, trained or frozen, in a precision
    StepNetworks      the runners of a step: students and a teacher, and modules of methods
    Step              a batch and its networks: `step.student()`, `step.teacher(taps=("body_end",))`, `step.hr`
                      >>> step = Step(0, 1, batch, networks)
    Method            the base class of methods: weights, terms, and what else they may have
    make_method       a method by name or file, with its options; its `terms(step)` are losses
                      >>> terms = make_method("logits", {"kappa": 0.5}).terms(step)
    FeaturePair       a pair of features that a term compares, for `feature_pairs` of a method
    Calibrated        the weight of a term as its share of another one, for `weights` of a method
    Losses            terms by name with their weights; `total` is their weighted sum
    Validation        scores on whole images, as `srkd evaluate` computes them
                      >>> Validation(data.validation, scale=4).score(student).psnr_y
    save              write the student; every verb takes the file
                      >>> save(student, "student.safetensors")
"""

from compressor.data.batches import Batch, Batches
from compressor.data.prepare import DataChoice, ValidationFolder, prepare_data
from compressor.training.calibration import Calibrated
from compressor.training.losses import Losses
from compressor.training.method import FeaturePair, Method
from compressor.training.step import Runner, Step, StepNetworks
from compressor.training.validation import Validation
from recipes.config.options import make_method
from srkd.api.networks import save

__all__ = [
    "Batch",
    "Batches",
    "Calibrated",
    "DataChoice",
    "FeaturePair",
    "Losses",
    "Method",
    "Runner",
    "Step",
    "StepNetworks",
    "Validation",
    "ValidationFolder",
    "make_method",
    "prepare_data",
    "save",
]
