"""The interface of a distillation method: a name, weighted terms, and modules that are trained with the student.

`Method` has the four members that every method has; every protocol after it is an optional member. Each says who asks
for it, and what holds for a method without it. Importing this file does not import torch.

`PlainMethod` is the base class of methods without modules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, get_args, runtime_checkable

if TYPE_CHECKING:
    import torch
    from torch import nn

    from compressor.data.batches import View
    from compressor.models.networks.axes import Segments
    from compressor.models.networks.base import Descriptor, Network, Spec
    from compressor.models.quantisation.description import Quantisation
    from compressor.training.calibration import Weights
    from compressor.training.step import Step


class Method(Protocol):
    """A method: it requests outputs and features from the step and returns named terms, without access to the loop."""

    @property
    def name(self) -> str: ...

    @property
    def weights(self) -> Weights: ...

    def modules(self, teacher: Network | None, student: Network) -> nn.ModuleDict:
        """Return projectors, heads, gates: trained with the student, never exported, never averaged.

        They are available as `step.modules[name]`. Frozen parameters among them are saved, but not trained.
        """
        ...

    def terms(self, step: Step) -> Mapping[str, torch.Tensor]:
        """Return named, unweighted, differentiable losses."""
        ...


class PlainMethod:
    """A base class for methods without modules of their own, called by the class's name unless they have one."""

    if TYPE_CHECKING:
        name: str

    def __getattr__(self, member: str) -> str:
        # No property: a dataclass would take it for the default of a field `name`.
        if member != "name":
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {member!r}", name=member, obj=self)
        return type(self).__name__

    def modules(self, teacher: Network | None, student: Network) -> nn.ModuleDict:
        """Return the modules that are trained with the student and not exported: none."""
        from torch import nn

        return nn.ModuleDict()


# Asked before training: does the method fit the recipe, the networks and the data?

TeacherNeeds = Literal["nothing", "outputs", "network"]
"""The teacher that a method needs: none, any model for its outputs, or one of srkd's networks."""
TEACHER_NEEDS: tuple[TeacherNeeds, ...] = get_args(TeacherNeeds)
"""All teacher needs, in ascending order."""


@runtime_checkable
class ChoosesTeacherNeeds(Protocol):
    """A method whose options decide what it needs of the teacher; its catalogue entry states the largest need.

    Asked by the catalogue of recipes (`teacher_needs`). Without it: what the entry says.
    """

    @property
    def teacher_needs(self) -> TeacherNeeds: ...


Kind = Literal["pixel", "output", "feature", "data", "contrast", "heads", "bands", "looks", "joint", "quantised"]
"""The kind of loss that a method adds to the pixel loss."""
KINDS: tuple[Kind, ...] = get_args(Kind)


@runtime_checkable
class AddsToPixelLoss(Protocol):
    """A method that adds a loss to the pixel loss; its kind decides which methods it goes with.

    Asked by the check of a recipe's combination (`recipes.composition`). Without it: `pixel`, which goes with all.
    """

    @property
    def kind(self) -> Kind: ...


def kind_of(method: Method) -> Kind:
    """Return the kind of loss that the method adds to the pixel loss."""
    return method.kind if isinstance(method, AddsToPixelLoss) else "pixel"


@runtime_checkable
class GatesPatches(Protocol):
    """A method that may learn from the teacher on some patches only: `hard`, `soft` or `off`.

    Asked by the check of a recipe's combination: all methods of a run have one gate. Without it: `off`.
    """

    @property
    def gate(self) -> Literal["hard", "soft", "off"]: ...


@runtime_checkable
class NeedsBatch(Protocol):
    """A method whose terms compare the patches of a step and need at least this many, over all processes.

    Asked by the reader of recipes, which refuses a smaller batch. Without it: any batch.
    """

    @property
    def smallest_batch(self) -> int: ...


@runtime_checkable
class FitsNetworks(Protocol):
    """A method that checks the networks it works with, or has options that depend on them.

    Asked before anything is written (`fit_methods`). Without it: any networks, and the options as they are.
    """

    def fit(self, teacher: Network | None, student: Network) -> Method:
        """Return the method with every option decided; refuse unsuitable networks in one line.

        `teacher` is None if there is none, or if it only gives outputs. A quantised student is quantised already.
        """
        ...


def fit_methods(methods: Sequence[Method], teacher: Network | None, student: Network) -> tuple[Method, ...]:
    """Return the methods fitted to the networks of a run."""
    return tuple(method.fit(teacher, student) if isinstance(method, FitsNetworks) else method for method in methods)


@runtime_checkable
class FeedsOtherSizes(Protocol):
    """A method that runs the teacher on images of other sizes than the batch's.

    Asked by the configuration of a run, before the first image is read. Without it: the batch's size alone.
    """

    def fit_sizes(self, teacher: Descriptor, lr_patch: int, scale: int) -> tuple[Method, str | None]:
        """Return the method for a teacher that accepts these sizes, and a note about anything switched off.

        An explicit option that the teacher cannot serve is refused.
        """
        ...


@runtime_checkable
class FitsBatch(Protocol):
    """A method whose default weights depend on the number of patches of a step, over all processes.

    Asked by the configuration of a run. Without it: the weights as they are.
    """

    def fit_batch(self, batch: int) -> tuple[Method, str | None]:
        """Return the method with its weights for this batch, and a note if they are not the published ones."""
        ...


@dataclass(frozen=True)
class FeaturePair:
    """A pair of features that a term compares, by their taps; `teacher` is None if the term only uses the student's."""

    term: str
    student: str
    teacher: str | None


@runtime_checkable
class ComparesFeatures(Protocol):
    """A method whose terms use features, by taps.

    Asked before training: the pairs are checked and reported (`recipes.terms.features`). Without it: no features.
    """

    def feature_pairs(self, teacher: Network | None, student: Network) -> Sequence[FeaturePair]: ...


@runtime_checkable
class HasTeacherViews(Protocol):
    """A method that needs only the teacher's output for some inputs, so that a cache may provide it.

    Asked by the configuration of a run, for the cache of teacher outputs (`teacher_views`). Without it: no cache.
    """

    @property
    def teacher_views(self) -> Sequence[View]: ...


def teacher_views(methods: Iterable[object]) -> tuple[View, ...]:
    """Return the views of which the methods need outputs, each once."""
    views: list[View] = [
        view for method in methods if isinstance(method, HasTeacherViews) for view in method.teacher_views
    ]
    return tuple(dict.fromkeys(views))


# Asked for the stages of a run and their networks.


@runtime_checkable
class QuantisesStudent(Protocol):
    """A method that trains a quantised student: the float one is quantised before the first step.

    Asked by the configuration of a run (`quantisation_of`). Without it: a float student.
    """

    @property
    def quantisation(self) -> Quantisation: ...


def quantisation_of(methods: Sequence[Method]) -> Quantisation | None:
    """Return the student's quantisation by the methods, or None."""
    return next((method.quantisation for method in methods if isinstance(method, QuantisesStudent)), None)


@dataclass(frozen=True)
class EarlierStage:
    """A stage before the main one: `share` of its steps, at most `most`, at a constant rate, validated at its end.

    Without a rate of its own it uses the main stage's. With `tunes_teacher` it trains a copy of the teacher for the
    later stages.
    """

    name: str
    method: Method
    share: float
    rate: float | None = None
    tunes_teacher: bool = False
    most: int | None = None


@runtime_checkable
class HasEarlierStages(Protocol):
    """A method that needs stages before its own, each with a method.

    Asked for the stages of a run (`training.stage.with_other_stages`). Without it: its own stage alone.
    """

    def earlier_stages(self) -> Sequence[EarlierStage]: ...


@dataclass(frozen=True)
class LaterStage:
    """A stage after the main one, which gives it `share` of its steps: its rate falls along a cosine.

    It starts from the averaged student, and its last student counts, not the one of the highest PSNR.
    `method(began, steps)` returns the method of a stage of `steps` that begins after `began` steps of the run.
    """

    name: str
    share: float
    rate: float
    method: Callable[[int, int], Method]


@runtime_checkable
class HasLaterStages(Protocol):
    """A method that needs stages after its own, each with a method.

    Asked for the stages of a run (`training.stage.with_other_stages`). Without it: its own stage is the last.
    """

    def later_stages(self) -> Sequence[LaterStage]: ...


@runtime_checkable
class StaysInLaterStages(Protocol):
    """A method whose terms also count in the stages that other methods have after the main one.

    Asked for the stages of a run (`training.stage.with_other_stages`). Without it: in its own stage alone.
    """

    @property
    def stays(self) -> bool: ...


@runtime_checkable
class TrainsJointly(Protocol):
    """A method that trains a copy of the teacher with the students inside it, on slices of its weights.

    Asked by the stage for the network it trains, and by `training.networks` for the students. Without it: the student.
    """

    @property
    def segments(self) -> Segments:
        """The cut of fusions' concatenations for a student inside the teacher: `each` map, or CSD's `contiguous`."""
        ...

    def branches(self, teacher: Spec) -> Sequence[Spec]:
        """Return further students that are trained with the student: step.student(branch=1) and so on."""
        ...


@runtime_checkable
class HasHelpers(Protocol):
    """A method whose terms use frozen networks, `step.helpers[name]`, built at each start, neither trained nor saved.

    Asked by `training.networks`. Without it: none.
    """

    def helpers(self, teacher: Network | None, student: Network) -> nn.ModuleDict: ...


# Asked in each step.


@runtime_checkable
class SeveralUpdates(Protocol):
    """A method with several updates per step: the optimiser moves after each, and the networks run anew for each.

    Gradients are cleared only before the first. `step.part` is the index of the update. Asked by the stage
    (`updates_of`). Without it: one update.
    """

    @property
    def updates(self) -> int: ...


def updates_of(method: Method) -> int:
    """Return the number of optimiser updates in a step of the method."""
    return method.updates if isinstance(method, SeveralUpdates) else 1


@runtime_checkable
class TrainsOpponent(Protocol):
    """A method with terms that train only its own modules, such as a discriminator.

    Asked by the loop at the first step of a stage: these terms must not reach the student, and all others must.
    Without it: every term reaches the student.
    """

    @property
    def opponent_terms(self) -> Sequence[str]: ...


@dataclass(frozen=True)
class AfterAverage:
    """What a method that follows the average has to say, and the student to which training goes back, if it must."""

    messages: Sequence[str] = ()
    back_to: Network | None = None


@runtime_checkable
class FollowsAverage(Protocol):
    """A method that follows the averaged student: its modules hold an earlier one, or it watches over training.

    Asked by the loop after each step that was not skipped, once the average is updated. Without it: nothing is done.
    """

    def follow_average(self, modules: nn.ModuleDict, averaged: Network, done: int) -> AfterAverage | None:
        """Change the method's `modules` after `done` steps of its stage; they are saved, and never exported."""
        ...


@dataclass(frozen=True)
class OwnRate:
    """Parameters of the trained network, or of a method's modules, with a rate and a weight decay of their own.

    The rate is scaled with the stage's schedule: it halves when that halves.
    """

    parameters: Sequence[nn.Parameter]
    rate: float
    weight_decay: float = 0.0


@runtime_checkable
class SetsOwnRates(Protocol):
    """A method that trains some parameters of the student, or of its own modules, at rates of their own.

    Asked by the state of training for its optimiser. Without it: the stage's rate for all.
    """

    def own_rates(self, student: Network, modules: nn.ModuleDict) -> Sequence[OwnRate]: ...
