"""The demo's server: its answers and refusals, and which folders it takes for an app."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="the extra demo is not installed: starlette")
pytest.importorskip("uvicorn", reason="the extra demo is not installed: uvicorn")

from starlette.types import Message

from compressor.base.errors import SrkdError
from demo import files
from demo.addresses import listen
from demo.server import file_app
from tests.support.demo_app import HASHED_SCRIPT, SCRIPT, Answer, write_app

Ask = Callable[..., Answer]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_app(tmp_path_factory.mktemp("app") / "dist")


@pytest.fixture(scope="module")
def ask(folder: Path) -> Ask:
    """Return a function that puts one request to the app as uvicorn does."""
    app = file_app(files.read_app(folder))

    def ask(path: str, method: str = "GET", headers: Mapping[str, str] | None = None, scheme: str = "http") -> Answer:
        lines = {"host": "localhost:8000", **{key.lower(): value for key, value in (headers or {}).items()}}
        scope = {
            "type": "http",
            "method": method,
            "scheme": scheme,
            "path": path,
            "query_string": b"",
            "headers": [(key.encode(), value.encode()) for key, value in lines.items()],
        }
        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)

        async def receive() -> Message:
            raise AssertionError("the app read a body")

        # Nothing in the app waits, so it needs no event loop: after tests with Playwright one runs in this thread.
        with pytest.raises(StopIteration):
            app(scope, receive, send).__await__().__next__()
        answer = {key.decode(): value.decode("latin-1") for key, value in sent[0]["headers"]}
        return Answer(sent[0]["status"], answer, b"".join(message.get("body", b"") for message in sent[1:]))

    return ask


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/index.html", "text/html; charset=utf-8"),
        ("/sw.js", "text/javascript; charset=utf-8"),
        ("/manifest.webmanifest", "application/manifest+json"),
        ("/icons/one.svg", "image/svg+xml"),
        ("/ort.wasm", "application/wasm"),
    ],
)
def test_a_file_has_its_type_and_the_headers_of_isolation(ask: Ask, folder: Path, path: str, kind: str) -> None:
    answer = ask(path)
    assert (answer.status, answer.headers["content-type"]) == (200, kind)
    assert answer.body == (folder / (path.strip("/") or "index.html")).read_bytes()
    assert int(answer.headers["content-length"]) == len(answer.body)
    assert {name: answer.headers[name.lower()] for name in files.HEADERS} == dict(files.HEADERS)


@pytest.mark.parametrize(
    ("host", "scheme", "secure"),
    [
        ("localhost:8000", "http", True),
        ("[::1]:8000", "http", True),
        ("127.0.0.1", "http", True),
        ("192.0.2.9:8000", "http", False),
        ("[::1", "http", False),
        ("192.0.2.9:8000", "https", True),
    ],
)
def test_an_insecure_address_does_not_get_headers_that_browsers_complain_about(
    ask: Ask, host: str, scheme: str, secure: bool
) -> None:
    answer = ask("/", headers={"Host": host}, scheme=scheme)
    assert ("cross-origin-opener-policy" in answer.headers) == secure
    assert answer.headers["cross-origin-embedder-policy"] == "require-corp"


def test_the_policy_evaluates_no_script_and_reaches_no_other_host() -> None:
    policy = files.CONTENT_SECURITY_POLICY
    assert policy.startswith("default-src 'none'")
    for unwanted in ("'unsafe-eval'", "'unsafe-inline'", "http", "*"):
        assert unwanted not in policy


def test_caching_headers(ask: Ask) -> None:
    page, script = ask("/"), ask(f"/{HASHED_SCRIPT}")
    assert page.headers["cache-control"] == "no-cache"
    assert script.headers["cache-control"] == "public, max-age=31536000, immutable"
    tag = page.headers["etag"]
    for condition in (tag, f"W/{tag}", f'"other", {tag}'):
        again = ask("/", headers={"If-None-Match": condition})
        assert (again.status, again.body, again.headers["etag"]) == (304, b"", tag)
    assert ask("/", headers={"If-None-Match": '"other"'}).status == 200


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [("gzip, deflate, br", "br"), ("gzip", "gzip"), ("gzip;q=0.5", "gzip"), ("identity", None), ("", None)],
)
def test_compressed_forms(ask: Ask, folder: Path, accepted: str, encoding: str | None) -> None:
    answer = ask(f"/{HASHED_SCRIPT}", headers={"Accept-Encoding": accepted})
    suffix = {"br": ".br", "gzip": ".gz", None: ""}[encoding]
    assert answer.body == (folder / f"{HASHED_SCRIPT}{suffix}").read_bytes()
    assert answer.headers.get("content-encoding") == encoding
    assert answer.headers["content-type"] == "text/javascript; charset=utf-8"
    assert answer.headers["vary"] == "Accept-Encoding"
    tags = {ask(f"/{HASHED_SCRIPT}", headers={"Accept-Encoding": name}).headers["etag"] for name in ("br", "x")}
    assert len(tags) == 2
    assert ask(f"/{HASHED_SCRIPT}.gz").status == 404


@pytest.mark.parametrize(
    "path",
    ["/../secret.txt", "//etc/passwd", "/etc/passwd", "/icons", "/icons/", "/./index.html", "../secret.txt", "*"],
)
def test_nothing_outside_the_table_exists(ask: Ask, path: str) -> None:
    answer = ask(path)
    assert (answer.status, answer.body) == (404, b"Not Found\n")
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_nothing_is_taken(ask: Ask, method: str) -> None:
    """No body is read, whatever is sent: photos stay on the device."""
    answer = ask("/index.html", method)
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")


def test_links_and_special_files_are_refused_at_the_start(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.txt").write_text("nobody is meant to read this")
    for name, make in {
        "to-file": lambda link: link.symlink_to(outside / "secret.txt"),
        "to-folder": lambda link: link.symlink_to(outside, target_is_directory=True),
        "to-nothing": lambda link: link.symlink_to(tmp_path / "nothing"),
        "pipe": os.mkfifo,
    }.items():
        app = write_app(tmp_path / name)
        make(app / "icons" / "strange")
        with pytest.raises(SrkdError, match=r"icons/strange.*(symbolic link|regular file)"):
            files.read_app(app)


def test_a_folder_that_is_no_app_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SrkdError, match=r"test_a_folder_that_is_no_app.*index\.html"):
        files.read_app(tmp_path)


def test_a_name_with_a_hash_may_be_kept_for_good_and_a_date_may_not() -> None:
    for name in (HASHED_SCRIPT, "models/student-1a2b3c4d5e6f.onnx", "a.0123456789ab.mjs"):
        assert files.build_asset(name, SCRIPT).immutable, name
    for name in ("photo-20261120.png", "assets/my-pictures.png", "sw.js", "cafe.js"):
        assert not files.build_asset(name, SCRIPT).immutable, name


def test_an_address_that_cannot_be_used_is_an_error_in_one_line() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        for host, number in (("127.0.0.1", port), ("no.such.host.invalid", 0), ("192.0.2.77", 0)):
            with pytest.raises(SrkdError, match=rf"{host} port {number}: .*--port .*--host"):
                listen(host, number)
