"""Every measurement behind the docs.

python -m benchmarks ls                  questions, their commands and how long they take
python -m benchmarks NAME [ARGUMENTS]    ask one; --help of it says what it takes
python -m benchmarks all [--small]       ask all, one after the other; what was answered is not asked again
python -m benchmarks docs                write the results into the README; the site's pages take them from docs/results
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.evidence import (
    FOLDER_VARIABLE,
    ROOT,
    Benchmark,
    benchmark_of,
    benchmarks,
    module_names,
    results_folder,
)
from benchmarks.pages import README, filled
from benchmarks.parts import Part, answer_all
from compressor.base.files import atomic_path
from compressor.images.sets import list_images

FOLDERS = {
    "sets": "with Set5, Set14, B100 and Urban100-20, HR/ and LRbicX4/ in each",
    "photos": "of photographs to train and calibrate on",
    "checkpoints": "of published checkpoints",
    "clones": "of repositories of methods' authors (benchmarks/clones.py)",
}
"""Folders that replace `{name}` in the arguments of benchmarks, with their help."""


def main(words: Sequence[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(__doc__)
        return 0 if words else 2
    name, *rest = words
    if name in VERBS:
        return VERBS[name](rest)
    if name not in module_names() or benchmark_of(name) is None:
        near = difflib.get_close_matches(name, [*benchmarks(), *VERBS], 1)
        hint = f"did you mean {near[0]}?" if near else "`python -m benchmarks ls` lists them"
        print(f"benchmarks: no benchmark is called {name!r}: {hint}", file=sys.stderr)
        return 2
    sys.argv = [f"benchmarks {name}", *rest]
    code: int | None = importlib.import_module(f"benchmarks.{name}").main()
    return code or 0


def list_questions(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser("benchmarks ls", description="Print questions, commands and durations.")
    parser.parse_args(words)
    for name, benchmark in benchmarks().items():
        command = " ".join(["python -m benchmarks", name, *benchmark.arguments]).replace(f"{ROOT}/", "")
        state = "measured" if (results_folder() / f"{name}.json").is_file() else "not run yet"
        print(f"{name}: {benchmark.question}\n    {command}\n    about {duration(benchmark.minutes)}; {state}")
    return 0


def duration(minutes: float) -> str:
    return f"{minutes:g} minutes" if minutes < 90 else f"{minutes / 60:.1f} hours"


def write_docs(words: Sequence[str]) -> int:
    description = "Write the results that the README shows into it; the site makes its pages from docs/results itself."
    argparse.ArgumentParser("benchmarks docs", description=description).parse_args(words)
    new = filled(README.read_text(encoding="utf-8"), results_folder())
    with atomic_path(README) as temporary:
        temporary.write_text(new, encoding="utf-8")
    return 0


def ask_all(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser("benchmarks all", description="Ask every question; repeat it to go on.")
    parser.add_argument("--small", action="store_true", help="small forms: do the commands work?")
    for name, what in FOLDERS.items():
        parser.add_argument(f"--{name}", type=Path, metavar="DIR", help=f"folder {what}")
    parser.add_argument("--only", help="names separated by commas")
    parser.add_argument("--out", type=Path, help="folder of what was answered (default: runs/evidence, -small)")
    options = parser.parse_args(words)
    all_benchmarks = benchmarks()
    names = list(all_benchmarks) if options.only is None else options.only.split(",")
    if unknown := [name for name in names if name not in all_benchmarks]:
        parser.error(f"--only {unknown[0]}: the benchmarks are {', '.join(all_benchmarks)}")
    folders = {name: getattr(options, name) for name in FOLDERS}
    for name, path in folders.items():
        if path is not None and not path.is_dir():
            parser.error(f"--{name} {path}: is no folder")
    out = options.out or Path("runs", "evidence-small" if options.small else "evidence")
    if options.small and options.sets is not None:
        folders["sets"] = sample_of(options.sets, out / "sets")
    parts = [part_of(name, all_benchmarks[name], folders, small=options.small) for name in names]
    ready = [part for part in parts if not part.needs]
    print(f"{len(ready)} questions, about {duration(sum(part.minutes for part in ready))} on two threads", flush=True)
    return answer_all(parts, out, {FOLDER_VARIABLE: str((out / "results").resolve())} if options.small else {})


SMALL_IMAGES = 2
"""Images of each set in a small form: most of its time would be the scores of a hundred."""


def sample_of(sets: Path, folder: Path) -> Path:
    """Copy the first images of each set with their LR images; return the folder of these sets."""
    for images in sorted(path for path in sets.glob("*/*") if path.is_dir()):
        target = folder / images.relative_to(sets)
        target.mkdir(parents=True, exist_ok=True)
        for image in list_images(images)[:SMALL_IMAGES]:
            shutil.copyfile(image, target / image.name)
    return folder


SMALL_MINUTES = 1.1
"""A question in its small form: 39 of them took 42 minutes on two threads, beside another training."""


def part_of(name: str, benchmark: Benchmark, folders: Mapping[str, Path | None], *, small: bool) -> Part:
    """Return the command of a question with its folders; `needs` names missing folders."""
    arguments = benchmark.small if small else benchmark.arguments
    names = [folder for word in arguments for folder in re.findall(r"{(\w+)}", word)]
    missing = [f"--{folder}" for folder in names if folders[folder] is None]
    texts = {folder: "" if path is None else str(path.resolve()) for folder, path in folders.items()}
    command = ("benchmarks", name, *(word.format(**texts) for word in arguments))
    minutes = min(SMALL_MINUTES, benchmark.minutes) if small else benchmark.minutes
    return Part(name, benchmark.question, minutes, command, needs=" and ".join(dict.fromkeys(missing)))


VERBS = {"ls": list_questions, "docs": write_docs, "all": ask_all}

if __name__ == "__main__":
    try:
        code = main(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:  # of `ls | head`; Python would complain once more when it flushes
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code)
