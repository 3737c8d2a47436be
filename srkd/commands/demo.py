"""`srkd demo`: the student in a browser, on this machine or on a phone."""

from __future__ import annotations

import sys
import webbrowser
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from compressor.base.errors import UsageError
from srkd.console import Console
from srkd.parameters import SETTING
from srkd.verb import verb

if TYPE_CHECKING:
    import socket

    from demo.addresses import Address, Certificate
    from demo.catalogue import Model
    from demo.files import Asset

EPILOG = """Examples:

\b
  srkd demo
  srkd demo student.onnx --host 0.0.0.0
  srkd demo runs/first --host 0.0.0.0 --tls-cert cert.pem --tls-key key.pem
  srkd demo runs/first student.int8.onnx --build site
"""


@verb("demo", epilog=EPILOG)
@click.argument("models", metavar="[MODEL]...", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--teacher", type=click.Path(path_type=Path), help="To compare with; none: the run folder's own, or the embedded."
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0: the network too.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0: a free one.")
@click.option("--tls-cert", type=click.Path(path_type=Path), help="Certificate with its chain, PEM: serve https.")
@click.option("--tls-key", type=click.Path(path_type=Path), help="The certificate's key, PEM.")
@click.option("--open", "open_browser", is_flag=True, help="Open this machine's browser.")
@click.option(
    "--build", type=click.Path(path_type=Path), metavar="DIR", help="Write files for an https host; serve nothing."
)
@click.option(
    "--app", type=click.Path(path_type=Path), metavar="DIR", help="Another built app than srkd's own, to show these in."
)
@click.option("--scale", type=click.IntRange(1, 8), help="Which scale of a multi-scale file.")
@click.option("--arch-option", "arch_options", type=SETTING, multiple=True, help="What a file does not say.")
def command(
    console: Console,
    *,
    host: str,
    port: int,
    tls_cert: Path | None,
    tls_key: Path | None,
    open_browser: bool,
    build: Path | None,
    app: Path | None,
    **named: Any,
) -> None:
    """Show MODELs in an app that runs them in the browser.

    MODEL is a checkpoint, a run folder or an ONNX file; none: the embedded student. Until Ctrl-C.
    """
    from demo import require_server_modules
    from demo.addresses import bind_sockets
    from demo.files import read_app, require_replaceable, write_site

    # What is cheap to find wrong is told before the export, which takes a while.
    if build is None:
        require_server_modules()
    else:
        require_replaceable(build)
    certificate = _certificate(tls_cert, tls_key)
    built = read_app(app)
    if build is not None:
        files, shown = _prepared(console, built, named)
        _tell_built(console, build, write_site(files, build), shown)
        return
    with ExitStack() as stack:
        sockets = [stack.enter_context(claimed) for claimed in bind_sockets(host, port)]
        files, shown = _prepared(console, built, named)
        _serve(console, sockets, files, shown, certificate, open_browser)


def _certificate(certificate: Path | None, key: Path | None) -> Certificate | None:
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise UsageError("--tls-cert and --tls-key belong together: give both")
    from demo.addresses import read_certificate

    return read_certificate(certificate, key)


def _prepared(
    console: Console, app: Mapping[str, Asset], named: Mapping[str, Any]
) -> tuple[dict[str, Asset], tuple[Model, ...]]:
    from srkd.demonstration import Demonstration, demo_files

    options = {**named, "arch_options": dict(named["arch_options"])}
    with console.progress() as progress:
        shown = Demonstration(**options).prepare(progress, console.say)
    return demo_files(app, shown), shown


def _serve(
    console: Console,
    sockets: Sequence[socket.socket],
    files: Mapping[str, Asset],
    shown: Sequence[Model],
    certificate: Certificate | None,
    open_browser: bool,
) -> None:
    from demo.addresses import list_addresses
    from demo.server import serve

    found = list_addresses(sockets, certificate)

    def begun() -> None:
        if console.wants_json:
            console.emit("demo", {"addresses": found, "models": [model.catalogue_entry() for model in shown]})
        else:
            _tell_models(console, shown)
            _tell_addresses(console, found)
        if open_browser:
            webbrowser.open(found[0].url)

    serve(files, sockets, None if certificate is None else certificate.context, on_ready=begun, note=console.detail)


def _tell_built(console: Console, folder: Path, size: int, shown: Sequence[Model]) -> None:
    if console.wants_json:
        console.emit("demo", {"folder": folder, "bytes": size, "models": [model.catalogue_entry() for model in shown]})
        return
    _tell_models(console, shown)
    console.result(f"{folder}  {size / 1e6:.1f} MB: put these files on any https host, under any path")


def _tell_models(console: Console, shown: Sequence[Model]) -> None:
    rows = [
        (
            model.name,
            model.role,
            model.architecture or "-",
            model.precision,
            f"x{model.scale}",
            f"{model.megabytes:.2f}",
        )
        for model in shown
    ]
    console.table(["model", "role", "network", "precision", "scale", "MB"], rows)


def _tell_addresses(console: Console, found: Sequence[Address]) -> None:
    from demo.addresses import draw_qr_code, phone_address

    console.say("")
    for address in found:
        reach = "this machine only" if address.this_machine_only else "every device that reaches this machine"
        console.result(f"{address.url}  ({reach})")
        console.say(f"  works: {', '.join(address.allows)}")
        if address.refuses:
            console.say(f"  browsers refuse: {', '.join(address.refuses)}")
        console.say(f"  because {address.why}")
    phone = phone_address(found)
    if phone is not None and not console.quiet:
        drawn = draw_qr_code(phone.url, sys.stdout.encoding)
        console.say(f"\n{phone.url} for a phone's camera:\n{drawn}" if drawn else "")
    for line in _ways(found, phone):
        console.say(line)
    console.say("Ctrl-C ends it.")


def _ways(found: Sequence[Address], phone: Address | None) -> list[str]:
    """How a phone gets the whole app, where these addresses do not give it."""
    if phone is not None and not phone.refuses:
        return []
    port = urlsplit(found[0].url).port
    ways = ["The whole app on a phone (docs/demo.md):"]
    if not found[0].url.startswith("https"):
        ways.append(f"  by USB, Android: adb reverse tcp:{port} tcp:{port}, then http://localhost:{port}/ on the phone")
    ways.append("  by https from here: srkd demo --host 0.0.0.0 --tls-cert CERT --tls-key KEY")
    ways.append("  by https from elsewhere: srkd demo --build DIR, files for any static host")
    if phone is None:
        ways.append("Without https, one thread and no camera stream: srkd demo --host 0.0.0.0")
    return ways
