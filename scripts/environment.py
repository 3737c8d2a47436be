"""Create or update the environment that `make` works in. Needs only Python's standard library.

An active environment that has torch is used: missing packages are added, its torch is not changed.
Otherwise `.venv` is created from constraints.txt, with the CPU build of torch.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "constraints.txt"
STAMP = ".srkd-environment"


def interpreter(environment: Path) -> Path:
    """Return the path of an environment's Python, on Windows or elsewhere."""
    return environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def active_with_torch() -> Path | None:
    """Return the activated virtual or conda environment, if torch is installed in it."""
    for variable in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        value = os.environ.get(variable)
        if not value or Path(value).resolve() == ROOT / ".venv":
            continue
        python = interpreter(Path(value))
        probe = "import importlib.util as u, sys; sys.exit(u.find_spec('torch') is None)"
        if python.exists() and subprocess.run([str(python), "-c", probe], check=False).returncode == 0:
            return Path(value)
    return None


def is_from_this_python(environment: Path) -> bool:
    """Return False if another version of Python created the environment, which is then created anew."""
    config = environment / "pyvenv.cfg"
    return config.exists() and f"version = {sys.version.split()[0]}" in config.read_text()


def fingerprint() -> str:
    """Return a hash that changes when the environment must be updated."""
    parts = [str(ROOT), sys.version]
    parts += [(ROOT / name).read_text() for name in ("pyproject.toml", "constraints.txt", "scripts/environment.py")]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def pip(python: Path, *arguments: str, quiet_failure: bool = False) -> bool:
    """Run pip install in the environment; return True if it succeeded."""
    command = [str(python), "-m", "pip", "install", "-qq", "--disable-pip-version-check", *arguments]
    stderr = subprocess.DEVNULL if quiet_failure else None
    # An editable install uses the demo's app in the working tree, where `make app` builds it.
    variables = {**os.environ, "SRKD_WITHOUT_APP": "1"}
    return subprocess.run(command, cwd=ROOT, check=False, stderr=stderr, env=variables).returncode == 0


def pinned_torch() -> str:
    """Return the torch requirement of constraints.txt."""
    return next(line.strip() for line in CONSTRAINTS.read_text().splitlines() if line.startswith("torch=="))


def install_torch(python: Path) -> None:
    """Install the CPU build of torch from TORCH_INDEX or the package index, else the default build of the index."""
    torch, index = pinned_torch(), os.environ.get("TORCH_INDEX", "")
    attempts = [[f"{torch}+cpu"], [torch]] if sys.platform == "linux" else [[torch]]
    if index:
        attempts.insert(0, [torch, "--index-url", index])
    for position, requirement in enumerate(attempts):
        last = position == len(attempts) - 1
        if last and sys.platform == "linux":
            say("the package index has no CPU build of torch: installing the default one (gigabytes if it has CUDA);")
            say("set TORCH_INDEX to PyTorch's CPU wheel index to avoid it")
        if pip(python, "-c", str(CONSTRAINTS), *requirement, quiet_failure=not last):
            return
    stop(f"cannot install {torch}: see pip's message above (`make clean` starts over)")


def install(environment: Path, *, is_active: bool) -> None:
    """Update the environment to pyproject.toml and constraints.txt."""
    python = interpreter(environment)
    if not is_active:
        if not python.exists() or not is_from_this_python(environment):
            say(f"creating {environment.name} with Python {sys.version.split()[0]} (once; downloads about 400 MB)")
            try:
                venv.create(environment, with_pip=True, clear=True)
            except (subprocess.CalledProcessError, OSError) as error:
                stop(f"cannot create {environment}: {error} (on Debian and Ubuntu: apt install python3-venv)")
        install_torch(python)
        pinned = ["-c", str(CONSTRAINTS)]
        success = pip(python, *pinned, "hatchling") and pip(python, *pinned, "--no-build-isolation", "-e", ".[dev]")
    else:
        version = "import importlib.metadata as m; print(m.version('torch'))"
        torch = subprocess.run([str(python), "-c", version], check=True, capture_output=True, text=True).stdout.strip()
        say(f"using the active environment {environment} and its torch {torch}")
        success = pip(python, f"torch=={torch}", "-e", ".[dev]")
    if not success:
        stop("pip could not install srkd: see its message above (`make clean` starts over)")


def say(message: str) -> None:
    print(f"environment: {message}", file=sys.stderr, flush=True)


def stop(message: str) -> None:
    say(message)
    sys.exit(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--where", action="store_true", help="print the environment's folder and change nothing")
    options = parser.parse_args()
    if sys.version_info < (3, 10):  # noqa: UP036 - the user's Python may be older
        stop(
            f"srkd needs Python 3.10 or newer and this is {sys.version.split()[0]}: "
            "choose another one, as in `make PYTHON=python3.12 test`"
        )
    active = active_with_torch()
    environment = active or ROOT / ".venv"
    if options.where:
        print(environment)
        return
    stamp = environment / STAMP
    if stamp.exists() and stamp.read_text() == fingerprint() and interpreter(environment).exists():
        return
    install(environment, is_active=active is not None)
    stamp.write_text(fingerprint())


if __name__ == "__main__":
    main()
