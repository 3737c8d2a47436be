"""`srkd demo` run like a user: the addresses, TLS, Ctrl-C, and mistakes in one line."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("h11", reason="the extra demo is not installed: h11")
pytest.importorskip("segno", reason="the extra demo is not installed: segno")

import demo.addresses
from compressor.base.errors import SrkdError
from demo.addresses import (
    Address,
    Certificate,
    bind_sockets,
    draw_qr_code,
    list_addresses,
    phone_address,
    read_certificate,
)
from srkd.cli.main import run
from tests.support.commands import ROOT, python
from tests.support.demo_process import received, served, write_app
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
    folder = tmp_path_factory.mktemp("tls")
    return create_certificate(
        folder, "ours", "DNS:localhost,DNS:demo.example,DNS:*.lan.example,IP:127.0.0.1,IP:192.0.2.9"
    )


def create_certificate(folder: Path, stem: str, names: str, days: int = 2) -> tuple[Path, Path]:
    """Create a certificate with openssl, like a user."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    key, certificate = folder / f"{stem}.key", folder / f"{stem}.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(key), "-out", str(certificate), "-days", str(days), "-subj", "/CN=demo"]
    subprocess.run([*command, "-addext", f"subjectAltName={names}"], check=True, capture_output=True)
    return certificate, key


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


def lines_until(process: subprocess.Popen[str], last: str) -> str:
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.rstrip("\n") == last:
            break
    return "".join(lines)


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
            code, err = interrupt(process, seconds=29)  # A stalled reader is dropped after 30 s anyway.
        assert (code, err.splitlines()[-1]) == (130, "srkd: interrupted")
        assert "Traceback" not in err
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))


@pytest.mark.ci
def test_it_prints_what_each_address_allows(desk: Path) -> None:
    with running(desk, *PAIR, "--host", "0.0.0.0") as process:
        text = lines_until(process, "Ctrl-C ends it.")
        assert interrupt(process)[0] == 130
    assert "(this machine only)" in text and "student" in text
    if "every device that reaches this machine" in text:  # A machine without a network has no such address.
        assert "browsers refuse: several threads, WebGPU, camera stream, offline use, install" in text
        assert "█" in text and "adb reverse tcp:" in text and "--tls-cert CERT --tls-key KEY" in text
        assert "srkd demo --build DIR" in text


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
def test_a_tls_port_survives_plain_http_and_silence(desk: Path, certificate: tuple[Path, Path]) -> None:
    with served(desk / "app", certificate, request_seconds=1.0) as server:
        silent = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(5)]
        with socket.create_connection(("127.0.0.1", server.port)) as plain:
            plain.settimeout(20)
            plain.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            with contextlib.suppress(ConnectionError):
                assert b"200" not in plain.recv(1000)
        answer = server.ask("/ort.wasm")
        assert (answer.status, len(answer.body)) == (200, (desk / "app" / "ort.wasm").stat().st_size)
        for connection in silent:
            connection.settimeout(20)
            assert received(connection) == b""
            connection.close()


def addresses_of(host: str, certificate: Certificate | None = None) -> dict[str, Address]:
    sockets = bind_sockets(host, 0)
    port = sockets[0].getsockname()[1]
    try:
        return {address.url.replace(str(port), "PORT"): address for address in list_addresses(sockets, certificate)}
    finally:
        for opened in sockets:
            opened.close()


@pytest.fixture
def two_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo.addresses, "machine_addresses", lambda version: ["192.0.2.9", "198.51.100.4"])


@pytest.mark.usefixtures("two_networks")
def test_plain_http_is_secure_on_this_machine_only() -> None:
    on_all = addresses_of("0.0.0.0")
    assert list(on_all) == ["http://localhost:PORT/", "http://192.0.2.9:PORT/", "http://198.51.100.4:PORT/"]
    local, other, _ = on_all.values()
    assert local.secure and local.this_machine_only and set(local.allows) >= SECURE and local.refuses == ()
    assert not other.secure and not other.this_machine_only and set(other.refuses) == SECURE
    assert not set(other.allows) & SECURE and "plain http" in other.why
    phone = phone_address(list(on_all.values()))
    assert phone is other
    assert list(addresses_of("127.0.0.1")) == ["http://localhost:PORT/", "http://127.0.0.1:PORT/"]
    assert phone_address(list(addresses_of("127.0.0.1").values())) is None


@pytest.mark.ci
@pytest.mark.usefixtures("two_networks")
def test_https_allows_everything_where_the_certificate_is_valid(certificate: tuple[Path, Path]) -> None:
    cert = read_certificate(*certificate)
    assert cert.flaw is None and {"localhost", "demo.example", "*.lan.example", "127.0.0.1"} <= set(cert.names)
    assert cert.covers("phone.lan.example") and not cert.covers("a.b.lan.example") and not cert.covers("lan.example")
    by_url = addresses_of("0.0.0.0", cert)
    assert set(by_url) == {
        f"https://{host}:PORT/" for host in ("localhost", "demo.example", "192.0.2.9", "198.51.100.4")
    }
    for host in ("localhost", "demo.example", "192.0.2.9"):
        assert by_url[f"https://{host}:PORT/"].refuses == ()
    other = by_url["https://198.51.100.4:PORT/"]
    assert set(other.refuses) == {"offline use", "install"} and "the certificate is for other names" in other.why
    phone = phone_address(list(by_url.values()))
    assert phone is not None and phone.refuses == ()


@pytest.mark.ci
def test_errors_with_certificates_are_one_line(desk: Path, certificate: tuple[Path, Path], tmp_path: Path) -> None:
    cert, key = certificate
    _, other_key = create_certificate(tmp_path, "other", "DNS:localhost")
    (tmp_path / "noise.pem").write_text("no certificate")
    locked = tmp_path / "locked.key"
    command = ["openssl", "pkey", "-in", str(key), "-aes128", "-passout", "pass:x", "-out", str(locked)]
    subprocess.run(command, check=True, capture_output=True)
    for pair, message in {
        (cert, other_key): "KEY_VALUES_MISMATCH",
        (tmp_path / "noise.pem", key): "are not a PEM certificate and its key",
        (cert, tmp_path / "nowhere.key"): "no such file",
        (cert, locked): "the key has a password",
    }.items():
        with pytest.raises(SrkdError, match=message):
            read_certificate(*pair)


@pytest.mark.ci
def test_an_expired_certificate_is_reported(tmp_path: Path) -> None:
    _, key = create_certificate(tmp_path, "expired", "DNS:localhost")
    settings = (
        "[ca]\ndefault_ca=us\n[us]\ndatabase=index\nserial=serial\nnew_certs_dir=.\ndefault_md=sha256\n"
        "policy=any\nx509_extensions=names\n[any]\ncommonName=supplied\n[names]\nsubjectAltName=DNS:localhost\n"
    )
    (tmp_path / "ca.cnf").write_text(settings)
    (tmp_path / "index").touch()
    (tmp_path / "serial").write_text("01\n")
    request = ["openssl", "req", "-new", "-key", key.name, "-subj", "/CN=demo", "-out", "request.pem"]
    sign = ["openssl", "ca", "-batch", "-selfsign", "-config", "ca.cnf", "-keyfile", key.name, "-in", "request.pem"]
    sign += ["-startdate", "20200101000000Z", "-enddate", "20200102000000Z", "-out", "late.pem", "-notext"]
    for command in (request, sign):
        subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)
    cert = read_certificate(tmp_path / "late.pem", key)
    assert cert.flaw == "certificate has expired"
    first = next(iter(addresses_of("127.0.0.1", cert).values()))
    assert set(first.refuses) == {"offline use", "install"} and "certificate has expired" in first.why


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


def blocked(modules: Sequence[str]) -> str:
    """Return a program that runs srkd as if certain modules were not installed."""
    return (
        "import importlib.util as u, sys\nfind = u.find_spec\n"
        f"u.find_spec = lambda name, *rest: None if name.split('.')[0] in {list(modules)} else find(name, *rest)\n"
        "class Blocked:\n    def find_spec(self, name, *rest):\n"
        f"        if name.split('.')[0] in {list(modules)}: raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Blocked())\nfrom srkd.cli.main import main\nmain(sys.argv[1:])\n"
    )


@pytest.mark.ci
def test_without_the_extra_there_is_one_line_and_building_still_works(desk: Path, tmp_path: Path) -> None:
    program = blocked(["h11", "segno"])
    outcome = python("-c", program, "demo", *PAIR, "--app", "app", cwd=desk)
    assert outcome.code == 1
    command = f"pip install 'srkd[demo]' torch=={metadata.version('torch')}"
    assert outcome.err == f"srkd: h11, segno is not installed: {command}\n"
    built = python("-c", program, "demo", *PAIR, "--app", "app", "--build", tmp_path / "site", cwd=desk)
    assert built.code == 0, built.err
    assert (tmp_path / "site" / "api" / "models.json").is_file()


def test_building_reports_what_was_written(
    desk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(desk)
    folder = tmp_path / "site"
    assert run(["demo", *PAIR, "--app", "app", "--build", str(folder), "--json"]) == 0
    report: dict[str, Any] = json.loads(capfd.readouterr().out)
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert report["folder"] == str(folder) and report["bytes"] > 20_000_000
    assert {path.name for path in files} >= {"index.html", "models.json", "_headers", ".nojekyll"}
    assert report["models"] == json.loads((folder / "api" / "models.json").read_text())["models"]


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (["nowhere.onnx"], 1, "nowhere.onnx"),
        (["student.onnx", "--app", "."], 1, "holds no built app"),
        (["student.onnx", "--host", "192.0.2.77"], 1, "this machine has no such address"),
        (["student.onnx", "--port", "70000"], 2, "70000"),
        (["student.onnx", "--tls-cert", "cert.pem"], 2, "--tls-cert and --tls-key belong together"),
        (["student.onnx", "--build", "app"], 2, "--build"),
    ],
)
def test_errors_are_one_line(
    desk: Path,
    arguments: list[str],
    code: int,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(desk)
    assert run(["demo", "--app", "app", *arguments]) == code
    output = capsys.readouterr()
    lines = output.err.splitlines()
    assert (output.out, len(lines)) == ("", 1), output.err
    assert line in lines[0] and lines[0].startswith("srkd: ")


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
