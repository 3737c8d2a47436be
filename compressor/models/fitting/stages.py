"""Stage-by-stage execution of both networks: only the features between two stages are stored, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import torch

from compressor.models.fitting.feature_store import FeatureStore
from compressor.models.fitting.shares import ShareBatch
from compressor.models.fitting.watching import features_at, watched
from compressor.models.networks.base import Network, Tap
from compressor.models.networks.linear_plan import LinearLayer, LinearPlan

Role: TypeAlias = Literal["teacher", "student"]


@dataclass(frozen=True)
class FitStage:
    """A part of both networks (the stem, consecutive modules, or the end) and the student's layers in it."""

    kind: Literal["stem", "body", "end"]
    layers: tuple[LinearLayer, ...]
    modules: Mapping[Role, tuple[str, ...]] = field(default_factory=dict)


def stages(plan: LinearPlan, of_teacher: Callable[[str], Sequence[str]]) -> Iterator[FitStage]:
    """Yield a student's stages as they run; `of_teacher` names the teacher's modules that one of its body replaces."""
    inside = {
        layer.name: stage for stage in plan.stages for layer in plan.layers if f"{layer.name}.".startswith(f"{stage}.")
    }
    first = next((index for index, layer in enumerate(plan.layers) if layer.name in inside), 0)
    yield FitStage("stem", plan.layers[:first])
    for stage in plan.stages:
        own = tuple(layer for layer in plan.layers if inside.get(layer.name) == stage)
        yield FitStage("body", own, {"teacher": tuple(of_teacher(stage)), "student": (stage,)})
    yield FitStage("end", tuple(layer for layer in plan.layers[first:] if layer.name not in inside))


class StageWalk:
    """A network run stage by stage; the input features of the next stage are in the store."""

    def __init__(self, network: Network, role: Role, store: FeatureStore) -> None:
        self.role: Role = role
        self.network, self.store = network, store

    def features(self, stage: FitStage, batch: ShareBatch, calls: Mapping[Tap, int]) -> dict[Tap, list[torch.Tensor]]:
        """Return features within a stage, `calls` of each tap, and stop there."""
        return features_at(self.network, calls, lambda: self._run(stage, batch))

    def advance(self, stage: FitStage, batch: ShareBatch, taps: Iterable[Tap] = ()) -> dict[Tap, list[torch.Tensor]]:
        """Run a stage, store its output for the next one, and return features within it."""
        features: dict[Tap, list[torch.Tensor]] = {tap: [] for tap in taps}
        # Copy: the network may change them in place.
        with watched(self.network, taps, lambda tap, feature: features[tap].append(feature.clone())):
            feature = self._run(stage, batch)
        if stage.kind == "stem":
            self.store[self.role, "shallow", batch.first] = feature
        if stage.kind != "end":
            self.store[self.role, "feature", batch.first] = feature
        return features

    def _run(self, stage: FitStage, batch: ShareBatch) -> torch.Tensor:
        if stage.kind == "stem":
            return self.network.stem(batch.lr)
        feature = self.store[self.role, "feature", batch.first]
        if stage.kind == "end":
            return self.network.finish(feature, self.store[self.role, "shallow", batch.first], batch.lr)
        for name in stage.modules[self.role]:
            feature = self.network.get_submodule(name)(feature)
        return feature
