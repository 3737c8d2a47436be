"""The demo's server: its answers, its headers and its refusals."""

from __future__ import annotations

import http.client
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="the extra demo is not installed: starlette")
pytest.importorskip("uvicorn", reason="the extra demo is not installed: uvicorn")


from compressor.base.errors import SrkdError
from demo import files
from demo.addresses import listen
from tests.support.demo_app import HASHED_SCRIPT, write_app
from tests.support.demo_server import running

NOWHERE = """
/../secret.txt /icons/../../secret.txt /%2e%2e/secret.txt /..%2fsecret.txt /..%5csecret.txt /secret.txt /icons
/%252e%252e%252fsecret.txt /%c0%ae%c0%ae/secret.txt /index.html%00 /%2fetc%2fpasswd //etc/passwd file:///etc/passwd
/link.txt
"""
Ask = Callable[..., tuple[http.client.HTTPResponse, bytes]]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    (folder / "secret.txt").write_text("nobody is meant to read this")
    files.write_site(write_app(folder / "app"), {}, folder / "site")
    (folder / "site" / "link.txt").symlink_to(folder / "secret.txt")
    return folder / "site"


@pytest.fixture(scope="module")
def ask(site: Path) -> Iterator[Ask]:
    """A function that puts one request to the server and returns the answer and its body."""
    with running(site, {"192.168.0.7", "fd00::7", "phone.lan"}) as port:

        def ask(path: str, method: str = "GET", **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            lines = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, headers={**lines, "Connection": "close"})
            answer = connection.getresponse()
            return answer, answer.read()

        yield ask


def test_a_file_has_its_type_and_the_headers_of_isolation(ask: Ask, site: Path) -> None:
    for path, kind in {
        "/": "text/html; charset=utf-8",
        "/sw.js": "text/javascript; charset=utf-8",
        "/manifest.webmanifest": "application/manifest+json",
        "/icons/one.svg": "image/svg+xml",
        "/ort.wasm": "application/wasm",
    }.items():
        answer, body = ask(path)
        assert (answer.status, answer.headers["Content-Type"]) == (200, kind)
        assert body == (site / (path.strip("/") or "index.html")).read_bytes()
        assert {name: answer.headers[name] for name in files.HEADERS} == dict(files.HEADERS)


def test_only_its_own_names_are_answered(ask: Ask) -> None:
    """A page whose name leads here (DNS rebinding) must not read the models."""
    here, named = ("localhost", "127.0.0.2", "[::1]", "a.localhost"), ("192.168.0.7", "[fd00::7]", "PHONE.lan")
    for host in here + named:
        for name in (host, f"{host}:8000"):
            assert ask("/", Host=name)[0].status == 200, name
    for name in ("evil.example", "evil.example:80", "localhost.evil.example", "192.168.0.8", "[fd00::7", "", "a@b"):
        answer, body = ask("/", Host=name)
        assert (answer.status, answer.headers["X-Content-Type-Options"]) == (421, "nosniff"), name
        assert b"--host NAME" in body


def test_the_policy_evaluates_no_script_and_reaches_no_other_host() -> None:
    policy = files.CONTENT_SECURITY_POLICY
    assert policy.startswith("default-src 'none'")
    for unwanted in ("'unsafe-eval'", "'unsafe-inline'", "http", "*"):
        assert unwanted not in policy


def test_a_name_with_a_hash_is_kept_for_good_and_others_are_asked_for(ask: Ask) -> None:
    (page, _), (script, _) = ask("/"), ask(f"/{HASHED_SCRIPT}")
    assert page.headers["Cache-Control"] == "no-cache"
    assert script.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    again, body = ask("/", If_None_Match=page.headers["ETag"])
    assert (again.status, body) == (304, b"")
    for name in ("photo-20261120.png", "assets/my-pictures.png", "cafe.js"):
        assert files.cache_control(name) == "no-cache", name
    assert "immutable" in files.cache_control("models/student-1a2b3c4d5e6f.onnx")


def test_nothing_outside_the_folder_exists_and_nothing_is_taken(ask: Ask) -> None:
    for path in NOWHERE.split():
        answer, body = ask(path)
        assert answer.status in (400, 404) and b"nobody" not in body, path
        assert answer.status == 400 or answer.headers["X-Content-Type-Options"] == "nosniff"
    for method in ("POST", "PUT", "DELETE"):
        answer, _ = ask("/index.html", method)
        assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")


def test_an_address_that_cannot_be_used_is_an_error_in_one_line() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        for host, number in (("127.0.0.1", port), ("no.such.host.invalid", 0), ("192.0.2.77", 0)):
            with pytest.raises(SrkdError, match=rf"{host} port {number}: .*--port .*--host"):
                listen(host, number)
