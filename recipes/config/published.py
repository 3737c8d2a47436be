"""Options of methods that papers or their code set for a network; they are declared beside the network."""

from __future__ import annotations

from typing import Any

from compressor.base.yaml_errors import YamlError, YamlSource
from compressor.models.networks.base import Spec
from compressor.models.networks.registry import architecture, architectures
from recipes.catalogue import METHODS
from recipes.config.options import read_options


def published_options(method: str, spec: Spec) -> dict[str, Any]:
    """Return the options of a method that are published for a network, checked like those of a recipe."""
    prefix = f"{method}."
    settings = architecture(spec.arch).published_settings(spec)
    options = {name.removeprefix(prefix): value for name, value in settings.items() if name.startswith(prefix)}
    source = YamlSource(f"what {spec.arch} publishes for {method}", {}, {})
    values, problems = read_options(METHODS.find(method), options, (), source)
    if problems:
        raise YamlError(problems)
    return values


def networks_with(method: str) -> list[str]:
    return [
        network.name
        for network in architectures()
        if any(name.startswith(f"{method}.") for entry in network.published for name in entry.settings)
    ]
