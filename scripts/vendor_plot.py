"""Generation of srkd/reports/assets/plot: Observable Plot with its parts of d3, as one minified script.

It needs npm and the registry; nothing else for srkd's reports does. The versions are pinned here, and VENDORED.md lists
the packages and the hash of the result.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parent))
import build_demo

FOLDER = build_demo.ROOT / "srkd" / "reporting" / "assets" / "plot"
PINS = {"@observablehq/plot": "0.6.17", "esbuild": "0.28.2"}
ENTRY = 'export {plot, line, dot, text, ruleX, ruleY} from "@observablehq/plot";\n'
NOTE = """# What is vendored here

`plot.min.js` draws the charts of `srkd report`: SVG, which is sharp on paper and takes the colours of the page.
`python scripts/vendor_plot.py` writes it from npm's packages, bundled and minified by esbuild {esbuild}; a checkout
without node uses the file as it is.

sha256 of `plot.min.js`: `{sha256}`, {bytes:,} bytes

| package | version | licence | source |
|---|---|---|---|
{rows}
"""


def npm(folder: Path, *arguments: str) -> str:
    command = [*build_demo.npm_command(), *arguments]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise build_demo.BuildError(
            f"npm {arguments[0]} failed: {(result.stderr or result.stdout).strip().splitlines()[-1]}"
        )
    return result.stdout


def main() -> None:
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "package.json").write_text(json.dumps({"private": True, "dependencies": PINS}))
        npm(folder, "install", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
        (folder / "entry.js").write_text(ENTRY)
        bundle = folder / "plot.min.js"
        options = ["--bundle", "--minify", "--format=iife", "--global-name=Plot", "--target=es2020"]
        npm(
            folder,
            "exec",
            "--",
            "esbuild",
            "entry.js",
            *options,
            "--legal-comments=none",
            f"--metafile={folder / 'meta.json'}",
            f"--outfile={bundle}",
        )
        packages = packages_of(folder, json.loads((folder / "meta.json").read_text()))
        FOLDER.mkdir(parents=True, exist_ok=True)
        licences = licences_of(folder, packages)
        # The licences require their notice in every copy, and each report is one.
        script = f"/*!\n{licences}*/\n{bundle.read_text(encoding='utf-8')}".encode()
        (FOLDER / "plot.min.js").write_bytes(script)
        (FOLDER / "LICENSE.txt").write_text(licences, encoding="utf-8")
        rows = "\n".join(row_of(folder, name) for name in packages)
        sha256 = hashlib.sha256(script).hexdigest()
        text = NOTE.format(esbuild=PINS["esbuild"], sha256=sha256, bytes=len(script), rows=rows)
        (FOLDER / "VENDORED.md").write_text(text)
    print(f"{FOLDER}: {len(packages)} packages, sha256 {sha256}")


def packages_of(folder: Path, meta: dict[str, dict[str, dict[str, object]]]) -> list[str]:
    """Return the packages whose code is in the bundle."""
    names = set()
    (output,) = meta["outputs"].values()
    inputs = output["inputs"]
    assert isinstance(inputs, dict)
    for path, facts in inputs.items():
        parts = Path(path).parts
        if "node_modules" in parts and facts["bytesInOutput"]:
            after = parts[parts.index("node_modules") + 1 :]
            names.add("/".join(after[: 2 if after[0].startswith("@") else 1]))
    return sorted(names)


def row_of(folder: Path, name: str) -> str:
    facts = json.loads((folder / "node_modules" / name / "package.json").read_text())
    version = facts["version"]
    return f"| {name} | {version} | {facts['license']} | https://www.npmjs.com/package/{name}/v/{version} |"


def licences_of(folder: Path, names: list[str]) -> str:
    """Return the licence texts, each once, below the names of its packages."""
    owners: dict[str, list[str]] = {}
    for name in names:
        files = sorted((folder / "node_modules" / name).glob("LICEN[CS]E*"))
        if not files:
            raise build_demo.BuildError(f"{name} has no licence file: look for its licence before it is bundled")
        owners.setdefault(files[0].read_text(encoding="utf-8").strip(), []).append(name)
    return "\n".join(f"{', '.join(some)}\n\n{text}\n" for text, some in owners.items())


if __name__ == "__main__":
    try:
        main()
    except build_demo.BuildError as error:
        print(f"vendor_plot: {error}", file=sys.stderr)
        sys.exit(1)
