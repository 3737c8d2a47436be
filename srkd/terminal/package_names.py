"""The top-level names of srkd's distribution, and conflicts with other packages on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from compressor.base.python_files import OWN_MODULES


def hidden_package() -> str | None:
    """A line about a file that hides one of srkd's packages from Python; None if all are found."""
    root = Path(__file__).resolve().parents[2]
    for name in OWN_MODULES:
        spec = find_spec(name)
        origin = None if spec is None or spec.origin is None else Path(spec.origin).resolve()
        if origin is None:
            return f"srkd's package {name!r} is missing: pip install --force-reinstall srkd"
        if origin != root / name / "__init__.py":
            return f"{origin} hides srkd's package {name!r}: rename it, or run `srkd` in another folder"
    return None


def name_collisions() -> Iterator[str]:
    """Yield a line for each name that another installed distribution also uses."""
    owners = metadata.packages_distributions()
    for name in OWN_MODULES:
        for other in sorted(set(owners.get(name, ())) - {"srkd"}):
            yield (
                f"{other} installs a package {name!r} too, so that each overwrites the other's files: "
                f"pip uninstall {other} && pip install --force-reinstall --no-deps srkd"
            )
