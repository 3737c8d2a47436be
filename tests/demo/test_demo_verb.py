"""`srkd demo` run like a user: the addresses, TLS, Ctrl-C, and mistakes in one line."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

pytest.importorskip("uvicorn", reason="the extra demo is not installed: uvicorn")
pytest.importorskip("segno", reason="the extra demo is not installed: segno")

import demo.addresses
from compressor.base.errors import SrkdError
from demo.addresses import Address, draw_qr_code, list_addresses, listen, require_certificate
from srkd.cli.main import run
from tests.support.commands import ROOT, python
from tests.support.demo_app import write_app
from tests.support.demo_server import create_certificate, lines_until
from tests.support.onnx_files import enlarger

PAIR = ("student.onnx", "--teacher", "teacher.onnx")
SECURE = {"several threads", "WebGPU", "camera stream", "offline use", "install"}


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("desk")
    write_app(folder / "app", large=20_000_000)
    enlarger(folder / "student.onnx")
    enlarger(folder / "teacher.onnx")
    return folder


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return create_certificate(tmp_path_factory.mktemp("tls"), "ours", "DNS:localhost,IP:127.0.0.1")


@contextlib.contextmanager
def running(desk: Path, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Run the command in a process that receives Ctrl-C, even if the tests run in the background of a shell."""
    program = (
        "import signal, sys\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from srkd.cli.main import main\nmain(sys.argv[1:])\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, "demo", "--port", "0", "--app", "app", *map(str, arguments)],
        cwd=desk,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def interrupt(process: subprocess.Popen[str], seconds: float = 60.0) -> tuple[int, str]:
    """Send Ctrl-C and return the exit code and stderr."""
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=seconds)
    return process.returncode, err


@pytest.mark.ci
def test_it_serves_until_ctrl_c(desk: Path) -> None:
    with running(desk, *PAIR, "--json") as process:
        report = json.loads(lines_until(process, "}"))
        assert report["schema"] == "srkd.demo/1" and "cpu" in report["machine"]
        assert [(model["name"], model["role"]) for model in report["models"]] == [
            ("student", "student"),
            ("teacher", "teacher"),
        ]
        urls = [address["url"] for address in report["addresses"]]
        port = int(urls[0].rsplit(":", 1)[1].strip("/"))
        assert urls == [f"http://localhost:{port}/", f"http://127.0.0.1:{port}/"]
        assert all(address["refuses"] == [] and address["this_machine_only"] for address in report["addresses"])
        for url in urls:
            with urllib.request.urlopen(f"{url}{report['models'][0]['url']}", timeout=20) as answer:
                assert answer.read() == (desk / "student.onnx").read_bytes()
        # An open connection and one that does not read its answer do not delay the exit.
        with socket.create_connection(("127.0.0.1", port)), socket.create_connection(("127.0.0.1", port)) as stalled:
            stalled.sendall(b"GET /ort.wasm HTTP/1.1\r\nHost: x\r\n\r\n")
            stalled.recv(1)
            code, err = interrupt(process, seconds=29)
        assert (code, err.splitlines()[-1]) == (130, "srkd: interrupted") and "Traceback" not in err
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))


@pytest.mark.ci
def test_it_prints_what_each_address_allows(desk: Path) -> None:
    with running(desk, *PAIR, "--host", "0.0.0.0") as process:
        text = lines_until(process, "Ctrl-C ends it.")
        assert interrupt(process)[0] == 130
    assert "(this machine only)" in text and "student" in text
    if "every device that reaches this machine" in text:  # A machine without a network has no such address.
        assert "browsers refuse several threads, WebGPU, camera stream, offline use, install" in text
        assert "█" in text and "docs/use/demo.md" in text


@pytest.mark.ci
def test_https_end_to_end(desk: Path, certificate: tuple[Path, Path]) -> None:
    cert, key = certificate
    with running(desk, *PAIR, "--json", "--tls-cert", cert, "--tls-key", key) as process:
        report = json.loads(lines_until(process, "}"))
        url = report["addresses"][0]["url"]
        assert url.startswith("https://localhost:") and report["addresses"][0]["refuses"] == []
        trusting = ssl.create_default_context(cafile=str(cert))
        with urllib.request.urlopen(url, timeout=20, context=trusting) as answer:
            assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert interrupt(process)[0] == 130


@pytest.mark.ci
def test_errors_with_certificates_are_one_line(certificate: tuple[Path, Path], tmp_path: Path) -> None:
    cert, key = certificate
    _, other_key = create_certificate(tmp_path, "other", "DNS:localhost")
    (tmp_path / "noise.pem").write_text("no certificate")
    locked = tmp_path / "locked.key"
    command = ["openssl", "pkey", "-in", str(key), "-aes128", "-passout", "pass:x", "-out", str(locked)]
    subprocess.run(command, check=True, capture_output=True)
    require_certificate(cert, key)
    for pair in ((cert, other_key), (tmp_path / "noise.pem", key), (cert, tmp_path / "nowhere.key"), (cert, locked)):
        with pytest.raises(SrkdError, match=rf"--tls-cert {pair[0]} and --tls-key {pair[1]}"):
            require_certificate(*pair)


def addresses_of(host: str, *, https: bool = False) -> dict[str, Address]:
    with listen(host, 0) as listening:
        port = listening.getsockname()[1]
        found = list_addresses(host, listening, https=https)
    return {address.url.replace(str(port), "PORT"): address for address in found}


def test_plain_http_is_secure_on_this_machine_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo.addresses, "machine_addresses", lambda version: ["192.0.2.9", "198.51.100.4"])
    on_all = addresses_of("0.0.0.0")
    assert list(on_all) == ["http://localhost:PORT/", "http://192.0.2.9:PORT/", "http://198.51.100.4:PORT/"]
    local, other, _ = on_all.values()
    assert local.this_machine_only and local.refuses == ()
    assert not other.this_machine_only and set(other.refuses) == SECURE
    assert list(addresses_of("127.0.0.1")) == ["http://localhost:PORT/", "http://127.0.0.1:PORT/"]
    over_https = addresses_of("0.0.0.0", https=True)
    assert "https://192.0.2.9:PORT/" in over_https and all(each.refuses == () for each in over_https.values())


def test_the_qr_code_reads_as_the_address() -> None:
    url = "http://192.0.2.9:8000/"
    code = draw_qr_code(url, "utf-8")
    import segno

    matrix = [list(row) for row in segno.make(url, error="l", micro=False).matrix_iter(border=2)]
    dark = {" ": (1, 1), "▀": (0, 1), "▄": (1, 0), "█": (0, 0)}
    rows: list[list[int]] = []
    for line in code.splitlines():
        cells = [dark[character] for character in line]
        rows += [[top for top, _ in cells], [bottom for _, bottom in cells]]
    assert rows[: len(matrix)] == matrix
    assert draw_qr_code(url, "ascii") == "" and draw_qr_code(url, None) == ""


WITHOUT_THE_EXTRA = """
import importlib.util, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name in ("uvicorn", "segno") else find(name, *rest)
sys.modules |= {"uvicorn": None, "segno": None}
from srkd.cli.main import main
main(sys.argv[1:])
"""


@pytest.mark.ci
def test_without_the_extra_there_is_one_line_and_building_still_works(desk: Path, tmp_path: Path) -> None:
    outcome = python("-c", WITHOUT_THE_EXTRA, "demo", *PAIR, "--app", "app", cwd=desk)
    assert outcome.code == 1
    command = f"pip install 'srkd[demo]' torch=={metadata.version('torch')}"
    assert outcome.err == f"srkd: uvicorn, segno is not installed: {command}\n"
    built = python("-c", WITHOUT_THE_EXTRA, "demo", *PAIR, "--app", "app", "--build", tmp_path / "site", cwd=desk)
    assert built.code == 0, built.err
    assert (tmp_path / "site" / "api" / "models.json").is_file()


def test_errors_are_one_line(desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(desk)
    app = ("--app", "app")
    for arguments, code, words in (
        (["nowhere.onnx", *app], 1, "nowhere.onnx"),
        (["student.onnx", "--app", "."], 1, "holds no built app"),
        (["student.onnx", *app, "--host", "192.0.2.77"], 1, "cannot listen on 192.0.2.77"),
        (["student.onnx", *app, "--tls-cert", "cert.pem"], 2, "--tls-cert and --tls-key belong together"),
        (["student.onnx", *app, "--build", "app"], 2, "--build app"),
    ):
        assert run(["demo", *arguments]) == code
        output = capsys.readouterr()
        (line,) = output.err.splitlines()
        assert output.out == "" and line.startswith("srkd: ") and words in line


@pytest.mark.slow
def test_the_embedded_pair_is_exported_and_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_app(tmp_path / "app")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    with running(tmp_path, "--json") as process:
        report = json.loads(lines_until(process, "}"))
        assert [model["role"] for model in report["models"]] == ["student", "student", "teacher"]
        assert [model["precision"] for model in report["models"]] == ["fp32", "fp16", "fp32"]
        assert interrupt(process)[0] == 130
    assert list((tmp_path / "temporary").glob("srkd-demo-*")) == []
