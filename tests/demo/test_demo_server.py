"""The demo's server: its answers and refusals, slow clients, and the absence of leaks."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import hashlib
import os
import re
import selectors
import socket
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

pytest.importorskip("h11", reason="the extra demo is not installed: h11")

from compressor.base.errors import SrkdError, UsageError
from demo import files
from demo.addresses import bind_sockets
from demo.server import FileServer, ServerLimits
from tests.support.demo_process import HASHED_SCRIPT, SCRIPT, Served, received, served, write_app

SECRET = b"nobody is meant to read this"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    outer = tmp_path_factory.mktemp("outer")
    (outer / "secret.txt").write_bytes(SECRET)
    return write_app(outer / "dist", large=20_000_000)


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Served]:
    with served(folder) as running:
        yield running


def until(condition: Callable[[], bool], seconds: float = 15.0) -> bool:
    """Poll until a condition holds; return False if it does not in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return condition()


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
def test_a_file_has_its_type_and_the_headers_of_isolation(server: Served, folder: Path, path: str, kind: str) -> None:
    answer = server.ask(path)
    assert (answer.status, answer.headers["content-type"]) == (200, kind)
    assert answer.body == (folder / (path.strip("/") or "index.html")).read_bytes()
    assert {name: answer.headers[name.lower()] for name in files.HEADERS} == dict(files.HEADERS)
    assert "server" not in answer.headers


@pytest.mark.parametrize(
    ("host", "secure"),
    [("localhost:8000", True), ("[::1]:8000", True), ("127.0.0.1", True), ("192.0.2.9:8000", False), ("[::1", False)],
)
def test_an_insecure_address_does_not_get_headers_that_browsers_complain_about(
    server: Served, host: str, secure: bool
) -> None:
    answer = server.ask("/", headers={"Host": host})
    assert ("cross-origin-opener-policy" in answer.headers) == secure
    assert answer.headers["cross-origin-embedder-policy"] == "require-corp"


def test_the_policy_evaluates_no_script_and_reaches_no_other_host() -> None:
    policy = files.CONTENT_SECURITY_POLICY
    assert policy.startswith("default-src 'none'")
    for unwanted in ("'unsafe-eval'", "'unsafe-inline'", "http", "*"):
        assert unwanted not in policy


def test_head_is_get_without_the_body(server: Served) -> None:
    whole, head = server.ask("/ort.wasm"), server.ask("/ort.wasm", "HEAD")
    assert (head.status, head.body) == (200, b"")
    assert {**head.headers, "date": ""} == {**whole.headers, "date": ""}
    assert int(head.headers["content-length"]) == len(whole.body)


def test_caching_headers(server: Served) -> None:
    page, script = server.ask("/"), server.ask(f"/{HASHED_SCRIPT}")
    assert page.headers["cache-control"] == "no-cache"
    assert script.headers["cache-control"] == "public, max-age=31536000, immutable"
    tag = page.headers["etag"]
    for condition in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = server.ask("/", headers={"If-None-Match": condition})
        assert (again.status, again.body, again.headers["etag"]) == (304, b"", tag)
    assert server.ask("/", headers={"If-None-Match": '"other"'}).status == 200


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [("gzip, deflate, br", "br"), ("gzip", "gzip"), ("br;q=0, gzip;q=0.5", "gzip"), ("*", "br"), ("identity", None)],
)
def test_compressed_forms(server: Served, folder: Path, accepted: str, encoding: str | None) -> None:
    answer = server.ask(f"/{HASHED_SCRIPT}", headers={"Accept-Encoding": accepted})
    suffix = {"br": ".br", "gzip": ".gz", None: ""}[encoding]
    assert answer.body == (folder / f"{HASHED_SCRIPT}{suffix}").read_bytes()
    assert answer.headers.get("content-encoding") == encoding
    assert answer.headers["content-type"] == "text/javascript; charset=utf-8"
    assert answer.headers["vary"] == "Accept-Encoding"
    tags = {server.ask(f"/{HASHED_SCRIPT}", headers={"Accept-Encoding": name}).headers["etag"] for name in ("br", "x")}
    assert len(tags) == 2
    assert server.ask(f"/{HASHED_SCRIPT}.gz").status == 404


NOWHERE = r"""
/../secret.txt /icons/../../secret.txt /icons/../index.html /%2e%2e/secret.txt /..%2fsecret.txt /%2e%2e%2fsecret.txt
/%252e%252e%252fsecret.txt /..%5csecret.txt /..\secret.txt /%c0%ae%c0%ae/secret.txt /secret.txt%00.html /index.html%00
//secret.txt /./index.html /etc/passwd //etc/passwd /%2fetc%2fpasswd /icons /icons/ /index.html/ ../secret.txt
file:///etc/passwd http://localhost/../secret.txt
"""


def test_nothing_outside_the_table_is_served(server: Served) -> None:
    for path in NOWHERE.split():
        answer = server.raw(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        assert answer.split(b" ", 2)[1] in (b"404", b"400"), (path, answer[:200])
        assert SECRET not in answer and b"root:" not in answer and b"<!doctype" not in answer, path


def test_links_and_special_files_are_refused_at_the_start(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.txt").write_bytes(SECRET)
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


def test_a_link_that_comes_later_leads_nowhere(tmp_path: Path) -> None:
    app = write_app(tmp_path / "dist")
    (tmp_path / "secret.txt").write_bytes(SECRET)
    with served(app) as running:
        (app / "sw.js").unlink()
        (app / "sw.js").symlink_to(tmp_path / "secret.txt")
        (app / "new.txt").symlink_to(tmp_path / "secret.txt")
        (app / "ort.wasm").write_bytes(b"")
        assert running.ask("/sw.js").body == b"self.skipWaiting();"
        assert running.ask("/new.txt").status == 404
        assert len(running.ask("/ort.wasm").body) == 256


def test_a_folder_that_is_no_app_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SrkdError, match=r"test_a_folder_that_is_no_app.*index\.html"):
        files.read_app(tmp_path)
    app = write_app(tmp_path / "dist")
    with monkeypatch.context() as patched:
        patched.setattr(files, "MAX_FILES", 3)
        with pytest.raises(SrkdError, match=r"dist.*\b3 files"):
            files.read_app(app)
    monkeypatch.setattr(files, "MAX_BYTES", 60)
    with pytest.raises(SrkdError, match=r"app-0123456789abcdef\.js\.gz.*0 MB"):
        files.read_app(app)


def test_other_methods(server: Served) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"):
        answer = server.ask("/index.html", method)
        assert answer.status == 405 and answer.headers["x-content-type-options"] == "nosniff", method
        assert set(answer.headers["allow"].replace(",", " ").split()) == {"GET", "HEAD"}, method


@pytest.mark.parametrize("protocol", [b"websocket", b"h2c"])
def test_another_protocol_is_not_spoken(server: Served, protocol: bytes) -> None:
    request = b"GET /sw.js HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: " + protocol + b"\r\n\r\n"
    assert server.raw(request + LAST).count(b"HTTP/1.1 200 OK") == 2


@pytest.mark.parametrize("framing", [b"Content-Length: 1000000000", b"Transfer-Encoding: chunked"])
@pytest.mark.parametrize("method", [b"GET", b"POST"])
def test_bodies_are_not_read(server: Served, method: bytes, framing: bytes) -> None:
    answer = server.raw(method + b" / HTTP/1.1\r\nHost: x\r\n" + framing + b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"\r\nconnection: close\r\n" in answer.lower()


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: a\r\n" * 20_000 + b"\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET  / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200) + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    ],
)
def test_oversized_and_broken_requests(server: Served, request_bytes: bytes) -> None:
    answer = server.raw(request_bytes)
    # A connection reset while the client is still sending may lose the answer.
    assert answer == b"" or answer.split(b" ")[1] in (b"400", b"413", b"431"), answer[:200]
    assert server.ask("/").status == 200


def test_requests_one_after_the_other_on_one_connection(server: Served) -> None:
    answer = server.raw(REQUEST.replace(b"/ ", b"/sw.js ") * 3 + LAST)
    assert answer.count(b"HTTP/1.1 200 OK") == 4 and answer.count(b"self.skipWaiting();") == 3


REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
LAST = REQUEST.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
SLOW = [(0.5, bytes([byte])) for byte in b"GET / HTTP/1.1\r\nX-Slow: " + b"a" * 200]


T = TypeVar("T")


class JumpingSelector(selectors.DefaultSelector):
    """A selector that advances the clock to the next timer instead of waiting, for loops without real sockets."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        if not events and timeout is None:
            raise AssertionError("nothing is scheduled any more, and the test still waits")
        if not events:
            self.seconds += timeout or 0.0
        return events


class VirtualClockLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumping = JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.seconds


def run_in_virtual_time(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine like asyncio.run, on a clock that starts at 0 and jumps to the next timer: timeouts are exact.

    It runs in a separate thread: after tests with Playwright, whose loop never ends, this thread has a running loop.
    """

    def run() -> T:
        loop = VirtualClockLoop()
        try:
            return loop.run_until_complete(main)
        finally:
            loop.close()

    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        return executor.submit(run).result()


async def connect(
    page: bytes = b"<!doctype html>",
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, asyncio.Task[None]]:
    """Return the client's side of a connection with the default limits, and the server's task."""
    server = FileServer({"index.html": files.build_asset("index.html", page)}, ServerLimits())
    ours, theirs = socket.socketpair()
    serving = asyncio.create_task(server.converse(*await asyncio.open_connection(sock=theirs)))
    return *await asyncio.open_connection(sock=ours), serving


@pytest.mark.parametrize(
    ("sent", "statuses", "seconds"),
    [
        ([], [], 10.0),
        ([(0.0, b"GET / HT")], [b"408"], 10.0),
        (SLOW, [b"408"], 10.0),
        ([(0.0, REQUEST), (3.0, b""), *SLOW], [b"200", b"408"], 10.0),
        ([(0.0, REQUEST), (4.0, REQUEST), (4.0, REQUEST)], [b"200"] * 3, 18.0),
        ([(2.0, LAST)], [b"200"], 2.0),
        ([(2.0, b"no request\r\n\r\n")], [b"400"], 2.0),
    ],
    ids=["silent", "half a request", "a byte now and then", "a slow second request", "idle", "the last", "broken"],
)
def test_time_limits_of_requests(sent: list[tuple[float, bytes]], statuses: list[bytes], seconds: float) -> None:
    async def talk() -> tuple[bytes, float]:
        reader, writer, serving = await connect()

        async def send() -> None:
            for pause, data in sent:
                await asyncio.sleep(pause)
                writer.write(data)

        sending = asyncio.create_task(send())
        await serving
        sending.cancel()
        return await reader.read(), asyncio.get_running_loop().time()

    answers, ended = run_in_virtual_time(talk())
    assert re.findall(rb"HTTP/1.1 (\d+) ", answers) == statuses
    assert ended == seconds


def test_a_reader_has_thirty_seconds_for_what_waits_and_no_bound_while_it_reads() -> None:
    async def talk() -> float:
        reader, writer, serving = await connect(bytes(10_000_000))
        writer.write(REQUEST)
        for _ in range(4):
            await asyncio.sleep(29.0)
            await reader.readexactly(500_000)
        await serving
        return asyncio.get_running_loop().time()

    assert run_in_virtual_time(talk()) == 4 * 29.0 + 30.0


def test_the_last_bytes_of_an_answer_wait_for_thirty_seconds_too() -> None:
    """Those that the system takes are gone at once; else the close waits, though the server has written everything."""

    async def talk(size: int) -> float:
        _, writer, serving = await connect(bytes(size))
        writer.write(LAST)
        await serving
        return asyncio.get_running_loop().time()

    assert {run_in_virtual_time(talk(size)) for size in range(0, 1_000_000, 30_000)} == {0.0, 30.0}


def stalled_clients(running: Served, count: int) -> list[socket.socket]:
    """Open connections that ask for a large file, and read one byte of it."""
    clients = [running.connect() for _ in range(count)]
    for connection in clients:
        connection.sendall(b"GET /ort.wasm HTTP/1.1\r\nHost: x\r\n\r\n")
    for connection in clients:
        connection.recv(1)
    return clients


@pytest.mark.ci
def test_clients_that_do_not_read_are_closed(folder: Path) -> None:
    with served(folder, stalled_seconds=1.0, request_seconds=1.0) as running:
        before = running.memory()
        stalled = stalled_clients(running, 20)
        # Twenty answers of 20 MB: only a few chunks of each are buffered, not the whole answers.
        assert running.memory() - before < 20 * 2_000_000
        # Such a client gets no message, as its buffers are full; the end is visible only in the server's process.
        assert until(lambda: running.connections() == 0), "readers that do not read keep their connections"
        for connection in stalled:
            assert len(received(connection)) < 20_000_000
            connection.close()
        assert running.ask("/").status == 200


@pytest.mark.ci
def test_six_hundred_slow_clients_block_no_page(folder: Path) -> None:
    """Time frees no connection in this test: a new one has to take the place of the one that waits longest."""
    with served(folder, request_seconds=3600.0, connections=512) as running:
        connections = [running.connect() for _ in range(600)]
        for connection in connections[::2]:
            with contextlib.suppress(ConnectionError):  # the oldest ones are closed already
                connection.sendall(b"GET / HT")
        assert [running.ask("/").status for _ in range(5)] == [200] * 5
        assert running.connections() <= 513
        for connection in connections:
            connection.close()


@pytest.mark.ci
def test_too_many_answers_at_once_are_refused(folder: Path) -> None:
    with served(folder, connections=4) as running:
        busy = stalled_clients(running, 4)
        assert running.ask("/").status == 503
        for connection in busy:
            connection.close()
        assert until(lambda: running.connections() == 0)
        assert running.ask("/").status == 200


def hammer(running: Served, folder: Path, clients: int, seconds: float) -> int:
    """Let parallel clients fetch files and compare them; return the number of correct answers."""
    expected = {
        path: hashlib.sha256((folder / path).read_bytes()).hexdigest()
        for path in ("index.html", "sw.js", "icons/one.svg", HASHED_SCRIPT, "manifest.webmanifest")
    }
    large = hashlib.sha256((folder / "ort.wasm").read_bytes()).hexdigest()
    end = time.monotonic() + seconds

    def client(number: int) -> int:
        correct = 0
        while correct == 0 or time.monotonic() < end:
            for path, sha256 in expected.items():
                answer = running.ask(f"/{path}")
                assert (answer.status, hashlib.sha256(answer.body).hexdigest()) == (200, sha256)
                correct += 1
            if number % 10 == 0:
                assert hashlib.sha256(running.ask("/ort.wasm").body).hexdigest() == large
            if number % 7 == 0:  # Some disconnect in the middle of an answer.
                with running.connect() as leaving:
                    leaving.sendall(b"GET /ort.wasm HTTP/1.1\r\nHost: x\r\n\r\n")
                    leaving.recv(1000)
        return correct

    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        return sum(pool.map(client, range(clients)))


@pytest.mark.ci
@pytest.mark.parametrize(
    ("clients", "seconds"), [pytest.param(20, 2.0, id="20"), pytest.param(200, 30.0, id="200", marks=pytest.mark.slow)]
)
def test_many_clients(folder: Path, clients: int, seconds: float) -> None:
    """Every answer is correct, and afterwards the process has no additional resources."""
    with served(folder, request_seconds=1.0) as running:
        hammer(running, folder, clients, 0.0)  # Modules imported and cached on first use are no leak.
        assert until(lambda: running.connections() == 0)
        open_files, memory = running.open_files(), running.memory()
        assert hammer(running, folder, clients, seconds) >= 5 * clients
        assert until(lambda: running.connections() == 0)
        assert until(lambda: running.open_files() <= open_files)
        assert running.memory() - memory < 30_000_000


def test_a_name_with_a_hash_may_be_kept_for_good_and_a_date_may_not() -> None:
    for name in (HASHED_SCRIPT, "models/student-1a2b3c4d5e6f.onnx", "a.0123456789ab.mjs"):
        assert files.build_asset(name, SCRIPT).immutable, name
    for name in ("photo-20261120.png", "assets/my-pictures.png", "sw.js", "cafe.js"):
        assert not files.build_asset(name, SCRIPT).immutable, name


def test_a_taken_port_is_an_error_in_one_line(server: Served) -> None:
    for host, port, error, words in (
        ("127.0.0.1", server.port, SrkdError, f"port {server.port}: the port is taken"),
        ("no.such.host.invalid", 0, UsageError, r"--host no\.such\.host\.invalid.*127\.0\.0\.1.*0\.0\.0\.0"),
        ("192.0.2.77", 0, SrkdError, r"192\.0\.2\.77.*--host 0\.0\.0\.0"),
    ):
        with pytest.raises(error, match=words):
            bind_sockets(host, port)
