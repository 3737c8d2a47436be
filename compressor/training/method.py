"""The interface of a distillation method: weighted terms, and what it may ask of the loop. This imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from compressor.base.errors import SrkdError
from compressor.training.calibration import Blend, Calibrated, Weights, added_weights, scaled_weight

if TYPE_CHECKING:
    import torch
    from torch import nn

    from compressor.models.networks.axes import Segments
    from compressor.models.networks.base import Descriptor, Network, Spec
    from compressor.models.quantisation.description import Quantisation
    from compressor.models.students.blend import Blended, Patches
    from compressor.training.step import Step

TeacherNeeds = Literal["nothing", "outputs", "network"]
"""The teacher that a method needs: none, any model for its outputs, or one of srkd's networks."""
TEACHER_NEEDS: tuple[TeacherNeeds, ...] = get_args(TeacherNeeds)
"""All teacher needs, in ascending order."""

Kind = Literal["pixel", "output", "feature", "data", "contrast", "heads", "bands", "looks", "joint", "quantised"]
"""The kind of loss that a method adds to the pixel loss."""
KINDS: tuple[Kind, ...] = get_args(Kind)


class Method:
    """A method: it requests outputs and features from the step and returns named terms, without access to the loop.

    Every method has `weights` and `terms`, and is called by its class's name unless it has a `name`. Everything else is
    optional, and has here the value that holds for most methods.
    """

    if TYPE_CHECKING:

        @property
        def name(self) -> str: ...

        @property
        def weights(self) -> Weights: ...

    def __getattr__(self, member: str) -> str:
        # No property: a dataclass would take it for the default of a field `name`.
        if member != "name":
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {member!r}", name=member, obj=self)
        return type(self).__name__

    def terms(self, step: Step) -> Mapping[str, torch.Tensor]:
        """Return named, unweighted, differentiable losses."""
        raise NotImplementedError

    def modules(self, teacher: Network | None, student: Network) -> nn.ModuleDict:
        """Return projectors, heads, gates: trained with the student, never exported, never averaged.

        They are available as `step.modules[name]`. Frozen parameters among them are saved, but not trained.
        """
        from torch import nn

        return nn.ModuleDict()

    # Before training: does the method fit the recipe, the networks and the data?

    @property
    def teacher_needs(self) -> TeacherNeeds | None:
        """What the options need of the teacher; none: the largest need, which the catalogue has."""
        return None

    @property
    def kind(self) -> Kind:
        """The kind of loss that is added to the pixel loss, which decides the methods it goes with."""
        return "pixel"

    @property
    def gate(self) -> Literal["hard", "soft", "off"]:
        """The patches on which it learns from the teacher; all methods of a run have one gate."""
        return "off"

    @property
    def smallest_batch(self) -> int:
        """The fewest patches of a step, over all processes, for terms that compare them."""
        return 1

    def fit(self, teacher: Network | None, student: Network) -> Method:
        """Return the method with every option decided; refuse unsuitable networks in one line.

        `teacher` is None if there is none, or if it only gives outputs. A quantised student is quantised already.
        """
        return self

    def fit_sizes(self, teacher: Descriptor, lr_patch: int, scale: int) -> tuple[Method, str | None]:
        """Return the method for a teacher that accepts these sizes, and a note about anything switched off.

        It is for methods that run the teacher on images of other sizes than the batch's.
        """
        return self, None

    def fit_batch(self, batch: int) -> tuple[Method, str | None]:
        """Return the method with its weights for this batch, and a note if they are not the published ones."""
        return self, None

    def feature_pairs(self, teacher: Network | None, student: Network) -> Sequence[FeaturePair]:
        """Return the features that terms compare: they are checked and reported before training."""
        return ()

    @property
    def takes_outputs(self) -> bool:
        """Whether it needs only the teacher's output for the batch, so that a cache may provide it."""
        return False

    # For the stages of a run and their networks.

    @property
    def quantisation(self) -> Quantisation | None:
        """How the student is quantised before the first step."""
        return None

    def earlier_stages(self) -> Sequence[EarlierStage]:
        """Return the stages before its own."""
        return ()

    def later_stages(self) -> Sequence[LaterStage]:
        """Return the stages after its own."""
        return ()

    @property
    def stays(self) -> bool:
        """Whether its terms also count in the stages that other methods have after the main one."""
        return False

    @property
    def segments(self) -> Segments:
        """The cut of fusions' concatenations for a student inside the teacher: `each` map, or CSD's `contiguous`."""
        return "each"

    def branches(self, teacher: Spec) -> Sequence[Spec]:
        """Return further students inside the teacher, for a method of the kind `joint`: step.student(branch=1), …"""
        return ()

    def helpers(self, teacher: Network | None, student: Network) -> nn.ModuleDict:
        """Return frozen networks, `step.helpers[name]`, built at each start, neither trained nor saved."""
        from torch import nn

        return nn.ModuleDict()

    # In each step.

    @property
    def updates(self) -> int:
        """The optimiser's updates per step, `step.part`: the networks run anew for each, and gradients add up."""
        return 1

    @property
    def opponent_terms(self) -> Sequence[str]:
        """The terms that train only its own modules, such as a discriminator: they must not reach the student."""
        return ()

    def follow_average(self, modules: nn.ModuleDict, averaged: Network, done: int) -> None:
        """Change the method's `modules` after `done` steps of its stage: after each step that was not skipped, once the
        average is updated.
        """

    def finish(self, kept: Mapping[str, Network], last: Network, patches: Patches, clean: Patches) -> Blended | None:
        """Return the student as a blend of averaged ones: those of kept stages by name, and the last.

        `patches` are LR patches that no step saw, with the teacher's images of them; `clean` are such ones whose inputs
        are not degraded: the same if none are.
        """
        return None

    def own_rates(self, student: Network, modules: nn.ModuleDict) -> Sequence[OwnRate]:
        """Return parameters of the student, or of its own modules, that are trained at rates of their own."""
        return ()


PlainMethod = Method
"""The public name of the class that other packages derive from."""


def declares(method: Method | type[Method], member: str) -> bool:
    """Return True if a method, or its class, has an optional member of its own."""
    cls = method if isinstance(method, type) else type(method)
    return getattr(cls, member) is not getattr(Method, member)


@dataclass(frozen=True)
class FeaturePair:
    """A pair of features that a term compares, by their taps; `teacher` is None if the term only uses the student's."""

    term: str
    student: str
    teacher: str | None


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


@dataclass(frozen=True)
class LaterStage:
    """A stage after the main one, which gives it `share` of its steps: its rate falls along a cosine.

    It starts from the averaged student of the stage before, or with `from_main` of the main one, and its last student
    counts, not the one of the highest PSNR. One that is `kept` is written beside the run's student under the stage's
    name. `method(began, steps)` returns the method of a stage of `steps` that begins after `began` steps of the run.
    """

    name: str
    share: float
    rate: float
    method: Callable[[int, int], Method]
    from_main: bool = False
    kept: bool = False


@dataclass(frozen=True)
class OwnRate:
    """Parameters with a rate and a weight decay of their own; the rate halves when the stage's schedule halves."""

    parameters: Sequence[nn.Parameter]
    rate: float
    weight_decay: float = 0.0


def fit_methods(methods: Sequence[Method], teacher: Network | None, student: Network) -> tuple[Method, ...]:
    return tuple(method.fit(teacher, student) for method in methods)


def quantisation_of(methods: Sequence[Method]) -> Quantisation | None:
    """Return the student's quantisation by the methods, or None."""
    return next((method.quantisation for method in methods if method.quantisation is not None), None)


def term_weights(
    methods: Sequence[Method], weights: Mapping[str, float], blend: Blend | None
) -> dict[str, float | Calibrated]:
    """Return the weight of each term: that in `weights`, otherwise the methods' own or, with `blend`, their sum."""
    own: dict[str, float | Calibrated] = {}
    for method in methods:
        for name, weight in method.weights.items():
            if blend is None or name in weights:
                own[name] = weights.get(name, weight)
                continue
            factor = blend.get(method.name, 1.0) if isinstance(blend, Mapping) else blend
            weight = scaled_weight(weight, factor)
            total = added_weights(own[name], weight) if name in own else weight
            if total is None:
                raise SrkdError(
                    f"the weights of the term {name} cannot be added, as one of them is calibrated differently: give "
                    f"its weight, weights.{name}=NUMBER"
                )
            own[name] = total
    return own
