"""Who plays in the steps of a stage: students, teacher, and the methods' own modules and helpers."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import nn

from compressor.base.context import Note
from compressor.base.precision import Precision, autocast
from compressor.base.processes import Processes
from compressor.models.networks.base import ImageModel, Network, Spec
from compressor.models.students import StudentView
from compressor.training.stage import Stage, TrainsJointly
from compressor.training.state import State
from compressor.training.step import CompiledAtFirst, Runner, StepNetworks


@runtime_checkable
class HasHelpers(Protocol):
    """A method whose terms look through frozen networks: `step.helpers[name]`; neither trained nor saved."""

    def helpers(self, teacher: Network | None, student: Network) -> nn.ModuleDict: ...


def build_networks(
    stage: Stage, state: State, teacher: ImageModel | None, note: Note, processes: Processes
) -> StepNetworks:
    """Students and teacher, each in its precision, compiled where the stage's pace says so; modules and helpers."""
    device, pace = next(state.trained.parameters()).device, stage.pace

    def runner(model: ImageModel, precision: Precision, trains: bool) -> Runner:
        network = model.network if pace.compiled else None
        compiled = None if network is None else CompiledAtFirst(network, trains=trains, announce=note)
        return Runner(model, trains=trains, autocast=lambda: autocast(precision, device), compiled=compiled)

    def inside(spec: Spec) -> Runner:
        student = StudentView(state.trained, spec, state.segments)
        return Runner(student.skeleton, trains=True, autocast=lambda: autocast(pace.precision, device), forward=student)

    if state.role == "joint":
        own = state.trained.spec
        asked = [spec for one in stage.methods if isinstance(one, TrainsJointly) for spec in one.branches(own)]
        more = [spec for spec in dict.fromkeys(asked) if spec != state.student.spec]
        students = [inside(spec) for spec in (state.student.spec, *more)]
        teaches: Runner | None = runner(state.trained, pace.precision, True)
    else:
        students = [runner(state.trained, pace.precision, True)]
        teaching = state.teaching(teacher)
        teaches = runner(teaching, pace.teacher_precision, False) if teaching is not None else None
    own_teacher = None if teacher is None else teacher.network
    helpers = {
        method.name: method.helpers(own_teacher, state.student).to(device).eval().requires_grad_(False)
        for method in stage.methods
        if isinstance(method, HasHelpers)
    }
    return StepNetworks(students, teaches, state.modules, helpers, processes)
