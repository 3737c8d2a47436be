"""torch.export programs (.pt2): rebuilt from their pure data, and only then passed to torch.

`torch.export.load` unpickles records without restriction if the archive's configuration says so, and example inputs
always; it evaluates size expressions and looks up operators by name (torch/export/pt2_archive/_package.py,
torch/_export/serde/serialize.py). So a new archive is written from an allow-list of records: raw tensors described by
the configuration, and a program whose operators and expressions are torch's own. It contains no pickle.
"""

from __future__ import annotations

import inspect
import json
import re
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compressor.base.errors import SrkdError, one_line
from compressor.models.networks.base import Descriptor
from compressor.runtimes.probing import Attempts, find_scale, probe
from compressor.teachers.archives import open_bounded, read_text
from compressor.teachers.foreign import ForeignFacts, ModuleProgram, run_module
from compressor.teachers.operators import COMPUTING_EXPORTED

MARKS = ("archive_format", "archive_version", "byteorder", ".data/version", "version", ".format_version")
"""Records that describe the archive format."""
LEFT_OUT = re.compile(r"extra/.*|data/sample_inputs/[\w.-]+\.pt|\.data/[\w-]+|\.storage_alignment")
"""Records that are left out: other packed files, and example inputs, which torch would unpickle."""
TENSOR_FILES = {"weights": re.compile(r"weight_\d+"), "constants": re.compile(r"tensor_\d+")}
HIGHER_ORDER = ("cond", "while_loop", "wrap_with_autocast", "wrap_with_set_grad_enabled")
"""Operators that run a graph of the same file."""
NUMBERS = re.compile(
    r"_operator\.(eq|ne|le|ge|lt|gt|neg|pos|mul|add|sub|floordiv|mod|pow|truediv|and_|or_|lshift|rshift|getitem)"
    r"|math\.(trunc|ceil|floor|sqrt)|torch\.(sym_\w+|_sym_sqrt|_check\w*)"
)
"""Functions that compute sizes."""
TREE_TYPES = (None, "builtins.tuple", "builtins.list", "builtins.dict")
"""Container types of inputs and outputs; torch would import any other class."""
EXPORT_VALUE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 2, 7: 4, 8: 8, 9: 4, 10: 8, 11: 16, 12: 1, 13: 2}
"""Bytes per value by the number of its type in torch/_export/serde/schema.py, ScalarType."""
EXPORT_WORDS = re.compile(
    r"Symbol|Integer|Rational|Float|Mul|Add|Pow|Max|Min|Mod|PythonMod|FloorDiv|CleanDiv|CeilDiv|CeilToInt|FloorToInt"
    r"|ModularIndexing|ToFloat|IntTrueDiv|FloatTrueDiv|TruncToInt|Where|Eq|Ne|Lt|Le|Gt|Ge|And|Or|Not|Equality|Unequality"
    r"|StrictLessThan|LessThan|StrictGreaterThan|GreaterThan|BooleanTrue|BooleanFalse|Identity|positive|integer|real"
    r"|nonnegative|True|False|true|false|oo|int_oo|IntInfinity|NegativeIntInfinity|[suz]\d+"
)
"""Names in size expressions: symbols, and functions of sympy and torch.utils._sympy."""


def rebuild_archive(content: bytes, path: Path) -> bytes:
    """Return the program as a new archive without a pickle; one line for a file with anything else in it."""
    with open_bounded(content, path) as archive:
        members = {member.filename.partition("/")[2]: member for member in archive.infolist()}
        root = archive.namelist()[0].partition("/")[0]
        models = [name for name in members if re.fullmatch(r"models/[\w.-]+\.json", name)]
        if len(models) != 1:
            raise SrkdError(f"{path}: it holds {len(models)} programs: a teacher is one")
        model = models[0].removeprefix("models/").removesuffix(".json")
        configs = {f"data/{kind}/{model}_{kind}_config.json": kind for kind in TENSOR_FILES}
        records = {name: archive.read(members[name]) for name in (*MARKS, *models) if name in members}
        _check_program(records[models[0]].decode("utf-8", errors="replace"), path)
        for name, kind in configs.items():
            if name not in members:
                raise SrkdError(f"{path}: it lacks {name}: export it again")
            text = read_text(archive, members[name], path)
            records[name] = text.encode()
            for file in _tensor_files(text, kind, {key: member.file_size for key, member in members.items()}, path):
                records[file] = archive.read(members[file])
        unknown = [name for name in members if name not in records and not LEFT_OUT.fullmatch(name)]
        if unknown:
            raise SrkdError(f"{path}: it holds {unknown[0][:80]!r}, which a torch.export program does not: refused")
    rebuilt = BytesIO()
    with zipfile.ZipFile(rebuilt, "w") as target:
        for name, record in {**records, f"data/sample_inputs/{model}.pt": b""}.items():
            # Without a timestamp: the same program gives the same bytes, which are tried only once.
            target.writestr(zipfile.ZipInfo(f"{root}/{name}"), record)
    return rebuilt.getvalue()


def _tensor_files(text: str, kind: str, sizes: dict[str, int], path: Path) -> set[str]:
    """Return the records of the tensors in a configuration: raw values, with enough bytes for each tensor."""
    files = set()
    try:
        for name, entry in json.loads(text)["config"].items():
            if entry["use_pickle"] is not False or not TENSOR_FILES[kind].fullmatch(entry["path_name"]):
                raise SrkdError(
                    f"{path}: opening its {str(name)[:60]} would run code ({entry['path_name'][:40]}): refused"
                )
            meta, file = entry["tensor_meta"], f"data/{kind}/{entry['path_name']}"
            shape, strides = ([size["as_int"] for size in meta[key]] for key in ("sizes", "strides"))
            last = meta["storage_offset"]["as_int"] + sum(
                (n - 1) * step for n, step in zip(shape, strides, strict=True)
            )
            expected = 0 if 0 in shape else (last + 1) * EXPORT_VALUE_BYTES[meta["dtype"]]
            if min([0, *shape, *strides]) < 0 or sizes.get(file, -1) < expected:
                raise SrkdError(f"{path}: the values of {str(name)[:60]} are not all there: export it again")
            files.add(file)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise SrkdError(f"{path}: its list of tensors is damaged ({error!r:.80}): export it again") from error
    return files


def _check_program(text: str, path: Path) -> None:
    """Refuse a program with operators not in torch's list, non-arithmetic expressions, or foreign container classes."""
    try:
        program = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SrkdError(f"{path}: its program is damaged ({str(error)[:80]}): export it again") from error
    for key, value in _entries(program):
        if key in ("target", "as_operator") and isinstance(value, str) and not _computes(value):
            raise SrkdError(f"{path}: its program calls {value[:80]!r}, which is not an operator of torch: refused")
        if key == "expr_str" and isinstance(value, str):
            words = re.findall(r"[^\W\d]\w*", value)
            unknown = [word for word in words if not EXPORT_WORDS.fullmatch(word)]
            if unknown or "__" in value:
                raise SrkdError(f"{path}: its sizes are computed by {value[:80]!r}, which is not arithmetic: refused")
        if key in ("in_spec", "out_spec") and isinstance(value, str):
            with one_line(f"{path}: its program is damaged ({key}): export it again"):
                is_plain = _is_plain_tree(value)
            if not is_plain:
                raise SrkdError(
                    f"{path}: its inputs or outputs are of classes of others ({value[:80]!r}), which are not imported: "
                    "refused; export a module that takes a tensor and returns a tensor"
                )


def _computes(target: str) -> bool:
    """Return True for an operator that only computes on tensors or sizes."""
    match = re.fullmatch(r"torch\.ops\.(aten|higher_order)\.(\w+)(\.\w+)?", target)
    if match is None:
        return NUMBERS.fullmatch(target) is not None
    return match[2] in (HIGHER_ORDER if match[1] == "higher_order" else COMPUTING_EXPORTED)


def _is_plain_tree(text: str) -> bool:
    """Return True for a description of nested tuples, lists and dictionaries with text keys."""
    version, *queue = json.loads(text)
    while queue:
        node = queue.pop()
        context = None if node["context"] is None else json.loads(node["context"])
        is_plain = context is None or (isinstance(context, list) and all(isinstance(name, str) for name in context))
        if node["type"] not in TREE_TYPES or not is_plain:
            return False
        queue += node["children_spec"]
    return bool(version == 1)


def _entries(value: object) -> Iterator[tuple[str, object]]:
    """Yield every key and value of nested JSON, without recursion."""
    queue = [value]
    while queue:
        item = queue.pop()
        if isinstance(item, dict):
            yield from item.items()
            queue.extend(item.values())
        elif isinstance(item, list):
            queue.extend(item)


def load_program(content: bytes, path: Path) -> Any:
    """Open an archive that was rebuilt from checked parts; `path` is only for the error."""
    with one_line(f"{path} is not a torch.export program that this torch {torch.__version__} can open"):
        return torch.export.load(BytesIO(content))


def describe_program(program: Any, label: str, attempts: Attempts) -> ForeignFacts:
    """Return the facts of a program with one image input and one image output."""
    inputs = program.graph_signature.user_inputs
    nodes = [node for node in program.graph.nodes if node.op == "placeholder" and node.name in inputs]
    shapes: list[tuple[object, ...]] = [tuple(getattr(node.meta.get("val"), "shape", ())) for node in nodes]
    if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][1] not in (1, 3):
        raise SrkdError(f"{label} takes {[tuple(map(str, shape)) for shape in shapes]}: expected one (N, 3, H, W)")
    # None: a size that may vary.
    batch, channels, height, width = (size if isinstance(size, int) else None for size in shapes[0])
    assert channels is not None  # an int: it is 1 or 3
    module = _callable(program)

    def run(images: torch.Tensor) -> torch.Tensor:
        return run_module(module, images, label)

    if height is None or width is None:
        descriptor = probe(run, channels, label, attempts)
    else:
        with one_line(f"{label} is not a super-resolution model"):
            scale = find_scale(run, (batch or 1, channels, height, width))
        descriptor = Descriptor(scale=scale, channels=channels, fixed_size=(width, height))
    params = sum(tensor.numel() for _, tensor in program.named_parameters())
    return ForeignFacts("torch.export", "unknown", descriptor, params, batch)


class ExportedProgram(ModuleProgram):
    """A torch.export program. Its graph contains devices, so a pass over the graph moves it."""

    def __init__(self, program: Any, facts: ForeignFacts, label: str) -> None:
        super().__init__(_callable(program), facts, label)
        self._program = program

    def move_to(self, device: torch.device) -> torch.device:
        from torch.export.passes import move_to_device_pass

        with one_line(f"{self.label} cannot go to {device}"):
            self._program = move_to_device_pass(self._program, str(device))
            self.module = _callable(self._program)
        return device


def _callable(program: Any) -> nn.Module:
    """Return the program as a module, without the guards that newer versions store as Python text and would run."""
    checks = "check_guards" in inspect.signature(program.module).parameters
    module: nn.Module = program.module(check_guards=False) if checks else program.module()
    return module
