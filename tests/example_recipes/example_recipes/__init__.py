"""Adds the method and the recipe `charbonnier` to srkd. It imports no torch, so that `srkd recipes ls` stays quick."""

from srkd import Contribution, MethodEntry

CONTRIBUTION = Contribution(
    methods={"charbonnier": MethodEntry("example_recipes.charbonnier:Charbonnier", needs="nothing")},
    presets="example_recipes",
)
