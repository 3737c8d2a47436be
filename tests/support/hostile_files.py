"""Malicious checkpoints: code in pickles, false tensors, bombs, impossible headers, odd contents and odd files."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from compressor.models.checkpoints.save import save_network
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build
from tests.support import official

Attack = tuple[str, bytes]


def torch_bytes(content: object, **how: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, **how)
    return stream.getvalue()


def records_of(archive: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def zipped(records: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in records.items():
            archive.writestr(name, content)
    return stream.getvalue()


class Bases:
    """Good files to damage: torch's two formats, a deflated archive, a foreign safetensors file and our own."""

    def __init__(self, folder: Path) -> None:
        self.state = official.basicsr_edsr(2, 4, 1)
        self.zip = torch_bytes({"params": self.state, "epoch": 3})
        self.legacy = torch_bytes(self.state, _use_new_zipfile_serialization=False)
        self.deflated = zipped(records_of(self.zip), zipfile.ZIP_DEFLATED)
        own = folder / "own.safetensors"
        save_network(build(EDSRSpec(2, 4, 1), seed=0), own)
        self.own = own.read_bytes()
        self.carn = torch_bytes(official.carn_m((2,), 4, groups=2), _use_new_zipfile_serialization=False)

    @property
    def files(self) -> list[bytes]:
        return [self.zip, self.legacy, self.deflated, self.own, self.carn]


class Runs:
    """An object whose pickle calls `function` with `arguments`."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


def code_runners(sentinel: Path) -> Iterator[tuple[str, object]]:
    """Yield objects that create `sentinel` when an ordinary unpickler reads them."""
    import importlib
    import runpy
    import subprocess

    touch, program = f"touch {sentinel}", f"open({str(sentinel)!r}, 'w')"
    script = sentinel.with_suffix(".script.py")
    script.write_text(program)
    yield "os.system", Runs(os.system, touch)
    yield "subprocess", Runs(subprocess.check_call, ["touch", str(sentinel)])
    yield "eval", Runs(eval, program)
    yield "exec", Runs(exec, program)
    yield "open", Runs(open, str(sentinel), "w")
    yield "touch", Runs(Path.touch, sentinel)
    yield "runpy", Runs(runpy.run_path, str(script))
    yield "import", Runs(importlib.import_module, "antigravity")
    yield "getattr", Runs(getattr, Path, "touch")
    yield "torch.load", Runs(torch.load, str(sentinel))
    yield "hub", Runs(torch.hub.load, "a/b", "c")
    yield "module", torch.nn.Conv2d(1, 1, 1)
    yield "rebuilt", Runs(torch._tensor._rebuild_from_type_v2, os.system, torch.Tensor, (touch,), {})


def running_code(bases: Bases, sentinel: Path) -> Iterator[Attack]:
    for name, bomb in code_runners(sentinel):
        for place, content in (
            ("alone", bomb),
            ("beside", {**bases.state, "x": bomb}),
            ("epoch", {"params": bases.state, "epoch": bomb}),
            ("hidden", {"params": {**bases.state, "conv_last.bias": bomb}}),
        ):
            for legacy in (False, True):
                kind = "legacy" if legacy else "zip"
                yield f"{name} {place} {kind}", torch_bytes(content, _use_new_zipfile_serialization=not legacy)
        payload = pickle.dumps(bomb, 2)
        yield f"{name} as the magic number", payload + bases.legacy
        yield f"{name} after the magic number", pickle.dumps(0x1950A86A20F9469CFC6C, 2) + payload
        yield f"{name} as keys", bases.legacy.replace(b"]q\x00", payload[2:-1], 1)
    touch = f"touch {sentinel}".encode()
    old = {
        "INST": b"(S'" + touch + b"'\nios\nsystem\n.",
        "OBJ": b"(cos\nsystem\nS'" + touch + b"'\no.",
        "PERSID": b"Pos.system\n.",
        "EXT": b"\x82\x01.",
        "of a name with line breaks": b"\x80\x04\x8c\x0ctorch._utils\x8c\x0d_rebuild_a\n\rb\x93.",
        "GLOBAL": b"cos\nsystem\n(S'" + touch + b"'\ntR.",
        "STACK_GLOBAL": b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94\x93\x8c" + bytes([len(touch)]) + touch + b"\x85R.",
        "BUILD": b"ccollections\nOrderedDict\n)R}S'__class__'\ncos\nsystem\nsb.",
        "NEWOBJ_EX": b"\x80\x04cos\nsystem\n(S'" + touch + b"'\nt}\x92.",
    }
    for name, program in old.items():
        yield f"opcode {name} zip", zipped({"a/data.pkl": program})
        yield f"opcode {name} legacy", b"\x80\x02" + program


def tensor_pickle(size: tuple[int, ...], stride: tuple[int, ...], offset: int, count: int, values: int = 9) -> bytes:
    """Return an archive with one tensor `conv_first.weight` of any description over `values` stored floats."""
    records = records_of(torch_bytes({"conv_first.weight": torch.zeros(3, 3), "body.0.conv1.weight": torch.zeros(1)}))
    described = io.BytesIO()

    class Describer(pickle.Pickler):
        def persistent_id(self, thing: Any) -> Any:
            return ("storage", torch.FloatStorage, "0", "cpu", count) if thing == "the storage" else None

    tensor = Runs(torch._utils._rebuild_tensor_v2, "the storage", offset, size, stride, False, {})
    Describer(described, 2).dump({"conv_first.weight": tensor, "body.0.conv1.weight": tensor})
    prefix = next(iter(records)).split("/")[0]
    return zipped({f"{prefix}/data.pkl": described.getvalue(), f"{prefix}/data/0": bytes(4 * values)})


def lying_tensors() -> Iterator[Attack]:
    huge = 2**62
    for name, size, stride, offset, count in (
        ("expanded over one value", (10**6, 10**6, 3, 3), (0, 0, 0, 0), 0, 9),
        ("expanded to 10 GB", (2_500_000_000,), (0,), 0, 9),
        ("beyond its storage", (3, 3), (3, 1), 1, 9),
        ("storage of 10^12 values", (10**12,), (1,), 0, 10**12),
        ("storage of 2^62 values", (huge,), (1,), 0, huge),
        ("sizes that overflow", (huge, huge), (huge, huge), huge, 9),
        ("stride that overflows", (1, 1, 1, 9), (huge, 10**30, huge, 1), 0, 9),
        ("offset beyond 64 bits", (1,), (1,), 10**30, 9),
        ("negative size", (-1, -9), (1, 1), 0, 9),
        ("negative stride", (3, 3), (-3, 1), 8, 9),
        ("negative offset", (3, 3), (3, 1), -1, 9),
        ("negative count", (3, 3), (3, 1), 0, -9),
        ("a thousand axes", (1,) * 1000, (1,) * 1000, 0, 9),
        ("nothing, hugely", (0, huge, huge), (1, 1, 1), 0, 9),
        ("nothing at all", (0, 0, 0, 0), (1, 1, 1, 1), 0, 0),
        ("overlapping", (3, 3, 1, 1), (1, 1, 1, 1), 0, 9),
        ("float sizes", (3.0, 3), (3, 1), 0, 9),
        ("text sizes", ("3", 3), (3, 1), 0, 9),
        ("sizes of thousands of digits", (10**5000, 3), (3, 1), 0, 9),
        ("a storage of thousands of digits", (3, 3), (3, 1), 0, 10**5000),
        ("one stride too few", (3, 3), (1,), 0, 9),
    ):
        yield f"tensor: {name}", tensor_pickle(size, stride, offset, count)  # type: ignore[arg-type]
    wide = {"conv_first.weight": torch.zeros(60_000, 3, 3, 3), "body.0.conv1.weight": torch.zeros(4, 4, 3, 3)}
    wide |= {"upsample.0.weight": torch.zeros(240_000, 1, 1, 1)}
    yield "tensor: a head that asks for a network of 65 GB", torch_bytes(wide)
    shared = torch.zeros(256, 256, 3, 3)
    many: dict[str, torch.Tensor] = {
        "conv_first.weight": shared[:, :3],
        "conv_first.bias": shared[0, 0, 0, 0].expand(256),
    }
    many |= {f"body.{i}.conv{j}.weight": shared for i in range(1000) for j in (1, 2)}
    many |= {f"body.{i}.conv{j}.bias": shared.reshape(-1)[:256] for i in range(1000) for j in (1, 2)}
    many |= {"conv_after_body.weight": shared, "conv_after_body.bias": shared.reshape(-1)[:256]}
    many |= {"upsample.0.weight": torch.zeros(1024, 256, 3, 3), "upsample.0.bias": torch.zeros(1024)}
    many |= {"conv_last.weight": shared[:3], "conv_last.bias": shared[0, 0, 0]}
    yield "tensor: 5 GB of weights in one storage of 2 MB", torch_bytes(many)


def bombs(bases: Bases) -> Iterator[Attack]:
    zeros = bytes(300 * 2**20)
    yield "bomb: 300 MB data.pkl", zipped({"a/data.pkl": zeros}, zipfile.ZIP_DEFLATED)
    yield "bomb: 20 million lists", zipped({"a/data.pkl": b"\x80\x02" + b"]" * 20_000_000 + b"."}, zipfile.ZIP_DEFLATED)
    yield "bomb: 20 million marks", zipped({"a/data.pkl": b"\x80\x02" + b"(" * 20_000_000 + b"."}, zipfile.ZIP_DEFLATED)
    values = bytes(200 * 2**20)
    records = records_of(tensor_pickle((5 * 10**7,), (1,), 0, 5 * 10**7))
    records = {name: values if name.endswith("/0") else content for name, content in records.items()}
    yield "bomb: 200 MB of zeros in 200 kB", zipped(records, zipfile.ZIP_DEFLATED)
    del values
    records = records_of(bases.zip)
    for method, name in ((zipfile.ZIP_BZIP2, "bzip2"), (zipfile.ZIP_LZMA, "lzma")):
        yield f"archive packed by {name}", zipped(records, method)


def header_file(header: object, data: bytes = bytes(64), length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def bad_headers(bases: Bases) -> Iterator[Attack]:
    good = {"dtype": "F32", "shape": [4, 4], "data_offsets": [0, 64]}
    for length in (0, 2**40, 2**64 - 1, 17 * 2**20):
        yield f"safetensors: header of {length}", header_file({"a": good}, length=length)
    for name, header in (
        ("no object", [1, 2]),
        ("no JSON", b'{"a": '),
        ("deep JSON", b'{"a":' + b"[" * 200_000),
        ("not UTF-8", b'{"\xff\xfe": 1}'),
        ("entry is text", {"a": "b"}),
        ("unknown dtype", {"a": {**good, "dtype": "F3"}}),
        ("negative shape", {"a": {**good, "shape": [-4, -4]}}),
        ("huge shape", {"a": {**good, "shape": [2**40, 2**40]}}),
        ("float shape", {"a": {**good, "shape": [4.0, 4]}}),
        ("wide nothing", {"a": {**good, "shape": [0, 2**62], "data_offsets": [0, 0]}}),
        ("offsets beyond the end", {"a": {**good, "shape": [1000, 1000], "data_offsets": [0, 4_000_000]}}),
        ("offsets backwards", {"a": {**good, "data_offsets": [64, 0]}}),
        ("huge offsets", {"a": {**good, "data_offsets": [10**30, 10**30 + 64]}}),
        ("metadata of numbers", {"__metadata__": {"srkd.spec": 3}, "a": good}),
        ("no tensors", {"__metadata__": {}}),
        ("spec is no JSON", {"__metadata__": {"srkd.spec": "{"}, "a": good}),
        ("spec of another network", {"__metadata__": {"srkd.spec": '{"arch": "os"}'}, "a": good}),
        ("spec of a huge network", {"__metadata__": {"srkd.spec": '{"arch": "edsr", "width": 65536}'}, "a": good}),
        ("spec of a deep network", {"__metadata__": {"srkd.spec": '{"arch": "edsr", "depth": 1000000}'}, "a": good}),
        ("spec of long numbers", {"__metadata__": {"srkd.spec": '{"arch": "edsr", "width": ' + "9" * 9999 + "}"}}),
        ("names with line breaks", {"a\nb\r\n\x1b[2Jc": good}),
    ):
        yield f"safetensors: {name}", header_file(header)
    yield "safetensors: two tensors on the same bytes", header_file({"a": good, "b": good})
    yield "safetensors: truncated values", bases.own[:-1]
    yield (
        "safetensors: a thousand tensors on 60 MB",
        header_file(
            {str(i): {"dtype": "U8", "shape": [60 * 2**20], "data_offsets": [0, 60 * 2**20]} for i in range(1000)},
            bytes(60 * 2**20),
        ),
    )


def odd_contents(bases: Bases) -> Iterator[Attack]:
    state = bases.state
    weight = state["conv_first.weight"]
    for name, content in (
        ("empty dictionary", {}),
        ("tensor", weight),
        ("numbers as names", {3: weight, 4: weight}),
        ("a number of thousands of digits as a name", {10**5000: weight}),
        ("mixed names", {**state, 3: weight, None: weight}),
        ("nested wrappers", {"params": {"params": {"params": {"params": state}}}}),
        ("two unknown wrappers", {"a": state, "b": state}),
        ("integers", {k: v.to(torch.int64) for k, v in state.items()}),
        ("complex", {k: v.to(torch.complex64) for k, v in state.items()}),
        ("sparse", {k: v.to_sparse() for k, v in state.items()}),
        ("meta", {k: v.to("meta") for k, v in state.items()}),
        ("quantised", {k: torch.quantize_per_tensor(v, 0.1, 0, torch.qint8) for k, v in state.items()}),
        ("NaN", {k: v * float("nan") for k, v in state.items()}),
        ("0-dimensional", {k: v.sum() for k, v in state.items()}),
        ("flat", {k: v.reshape(-1) for k, v in state.items()}),
        ("transposed", {k: v.transpose(0, 1) if v.dim() == 4 else v for k, v in state.items()}),
        ("empty tensors", {k: v[:0] for k, v in state.items()}),
        ("long names", {k * 10_000: v for k, v in state.items()}),
        ("names with line breaks", {f"a\n{k}": v for k, v in state.items()}),
        ("wild block number", {**state, "body.99999999999999999999.conv1.weight": weight}),
        ("arabic block number", {**state, "body.٣.conv1.weight": weight, "upsample.².weight": weight}),
        ("upsampler without rows", {**state, "upsample.0.weight": torch.zeros(0, 4, 3, 3)}),
        ("body of nothing", {**state, "body.0.conv1.weight": torch.zeros(0)}),
    ):
        yield f"content: {name}", torch_bytes(content)
        if name not in ("meta",):
            yield f"content: {name}, legacy", torch_bytes(content, _use_new_zipfile_serialization=False)
    carn = official.carn_m((2,), 4, groups=2)
    for name, change in (
        ("no columns", {"b1.b1.body.0.weight": torch.zeros(4, 0, 3, 3)}),
        ("three columns", {"b1.b1.body.0.weight": torch.zeros(4, 3, 3, 3)}),
        ("mean of NaN", {"add_mean.shifter.bias": torch.full((3,), float("nan"))}),
        ("mean of infinity", {"add_mean.shifter.bias": torch.full((3,), float("inf"))}),
        ("mean of integers", {"add_mean.shifter.bias": torch.ones(3, dtype=torch.int32)}),
        ("flat mean", {"add_mean.shifter.weight": torch.zeros(9)}),
        ("no width", {"entry.weight": torch.zeros(0, 3, 3, 3)}),
    ):
        yield f"carn_m: {name}", torch_bytes({**carn, **change})


def odd_files(bases: Bases) -> Iterator[Attack]:
    for name, content in (
        ("empty", b""),
        ("one byte", b"\x80"),
        ("PNG", b"\x89PNG\r\n\x1a\n" + bytes(100)),
        ("HTML", b"<!DOCTYPE html><html>404</html>"),
        ("zip header", b"PK\x03\x04"),
        ("zip without records", zipped({})),
        ("zip of photos", zipped({"a.jpg": b"\xff\xd8"})),
        ("zip with a path upwards", zipped({"../../data.pkl": b"\x80\x02}."})),
        ("zip of a zip", zipped({"a.pth": bases.zip})),
        ("TorchScript", zipped({"a/data.pkl": b"\x80\x02}.", "a/constants.pkl": b"\x80\x02).", "a/code/x.py": b""})),
        ("big-endian", zipped({**records_of(bases.zip), "archive/byteorder": b"big"})),
        ("NUL bytes", bytes(4096)),
        ("JSON", b'{"arch": "edsr", "scale": 2, "width": 64}'),
        ("git-lfs pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"),
        ("pickle of numbers", pickle.dumps([1, 2, 3])),
        ("two archives", bases.zip + bases.zip),
        ("archive behind rubbish", b"PK\x03\x04" + bytes(50) + bases.zip),
    ):
        yield f"file: {name}", content


def always(bases: Bases, sentinel: Path) -> Iterator[Attack]:
    yield from running_code(bases, sentinel)
    yield from lying_tensors()
    yield from bombs(bases)
    yield from bad_headers(bases)
    yield from odd_contents(bases)
    yield from odd_files(bases)
