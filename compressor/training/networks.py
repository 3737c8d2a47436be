"""The networks of a stage's steps: students, teacher, and the methods' own modules and frozen helpers."""

from __future__ import annotations

import torch
from torch import nn

from compressor.base.choices import Precision
from compressor.base.context import Note
from compressor.base.precision import autocast
from compressor.base.processes import Processes
from compressor.models.networks.base import ImageModel, Spec
from compressor.models.students.students import StudentView
from compressor.training.speed import CompiledForward
from compressor.training.stage import Stage
from compressor.training.state import State
from compressor.training.step import Runner, StepNetworks


def build_networks(
    stage: Stage, state: State, teacher: ImageModel | None, note: Note, processes: Processes
) -> StepNetworks:
    """Return students, teacher, modules and helpers, each in its precision and compiled if the mode says so."""
    device, mode = next(state.trained_network.parameters()).device, stage.mode

    def runner(model: ImageModel, precision: Precision, trains: bool) -> Runner:
        network = model.network if mode.compiled else None
        compiled = None
        if network is not None:
            forward = CompiledForward(network, trains=trains, note=note)
            compiled = lambda lr: model.as_output(forward(lr))  # noqa: E731
        return Runner(model, trains=trains, autocast=lambda: autocast(precision, device), compiled=compiled)

    def frozen(module: nn.ModuleDict) -> nn.ModuleDict:
        layers = [layer for layer in module.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]
        for layer in layers if mode.precision == "bf16" else ():
            layer.to(torch.bfloat16)  # as autocast would at each pass, but once
        return mode.lay_out(module.to(device), frozen=True).eval().requires_grad_(False)

    def student_inside(spec: Spec) -> Runner:
        view = StudentView(state.trained_network, spec, state.segments)
        return Runner(view.skeleton, trains=True, autocast=lambda: autocast(mode.precision, device), forward=view)

    if state.role == "joint":
        whole = state.trained_network.spec
        branches = [spec for method in stage.methods for spec in method.branches(whole)]
        students = [student_inside(spec) for spec in dict.fromkeys((state.student.spec, *branches))]
        teacher_runner: Runner | None = runner(state.trained_network, mode.precision, True)
    else:
        students = [runner(state.trained_network, mode.precision, True)]
        model = state.choose_teacher(teacher)
        teacher_runner = None if model is None else runner(model, mode.teacher_precision, False)
    teacher_network = None if teacher is None else teacher.network
    helpers = {method.name: frozen(method.helpers(teacher_network, state.student)) for method in stage.methods}
    return StepNetworks(students, teacher_runner, state.modules, helpers, processes)
