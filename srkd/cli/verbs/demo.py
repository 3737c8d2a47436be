"""`srkd demo`: an app that runs models in a browser, on this machine or on a phone."""

from __future__ import annotations

import sys
import webbrowser
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from compressor.base.errors import UsageError
from srkd.cli.verb import verb
from srkd.options.shared import path_of
from srkd.options.verbs import DemoOptions
from srkd.terminal.console import Console

if TYPE_CHECKING:
    import socket

    from demo.addresses import Address, Certificate
    from demo.catalogue import Model
    from demo.files import Asset


@verb(
    "demo",
    DemoOptions,
    examples=(
        "srkd demo",
        "srkd demo student.onnx --host 0.0.0.0",
        "srkd demo runs/first --host 0.0.0.0 --tls-cert cert.pem --tls-key key.pem",
        "srkd demo runs/first other.onnx --build site",
        "srkd demo phone --host 0.0.0.0",
    ),
)
def command(console: Console, options: DemoOptions) -> None:
    """Show MODELs in an app that runs them in the browser.

    MODEL is a checkpoint, a run folder or an ONNX file. Without MODEL it shows the embedded student. The folder of a
    plan (srkd plan --emit) opens a page that times its files, for srkd plan --measured. Ctrl-C ends it.
    """
    from demo import require_server_modules
    from demo.addresses import bind_sockets, read_certificate
    from demo.files import app_command, is_app_outdated, read_app, require_replaceable, write_site

    # Quick checks come before the slow export.
    build = path_of(options.build)
    if build is None:
        require_server_modules()
    else:
        require_replaceable(build)
    certificate = None
    if options.tls_cert is not None and options.tls_key is not None:
        certificate = read_certificate(Path(options.tls_cert), Path(options.tls_key))
    elif options.tls_cert is not None or options.tls_key is not None:
        raise UsageError("--tls-cert and --tls-key belong together: give both")
    app = read_app(path_of(options.app))
    if options.app is None and is_app_outdated():
        console.warn(f"the built app is older than its sources: {app_command()}")
    with ExitStack() as stack:
        listeners = [] if build is not None else bind_sockets(options.host, options.port)
        sockets = [stack.enter_context(listener) for listener in listeners]
        from demo.catalogue import build_site, load_samples
        from srkd.api.demonstration import demo_models, plan_to_time

        with console.context() as context:
            planned = plan_to_time(options, context)
            plan, models = planned or (None, demo_models(options, context))
        files = build_site(app, models, () if plan else load_samples(), plan)
        if build is not None:
            _show_site(console, build, write_site(files, build), models)
        else:
            _serve(console, sockets, files, models, certificate, options.open_browser)


def _serve(
    console: Console,
    sockets: Sequence[socket.socket],
    files: Mapping[str, Asset],
    models: Sequence[Model],
    certificate: Certificate | None,
    open_browser: bool,
) -> None:
    from demo.addresses import list_addresses
    from demo.server import serve

    reachable = list_addresses(sockets, certificate)

    def announce() -> None:
        if console.wants_json:
            console.emit("demo", {"addresses": reachable, "models": [model.catalogue_entry() for model in models]})
        else:
            _show_models(console, models)
            _show_addresses(console, reachable)
        if open_browser:
            webbrowser.open(reachable[0].url)

    serve(files, sockets, None if certificate is None else certificate.context, on_ready=announce, note=console.detail)


def _show_site(console: Console, folder: Path, size: int, models: Sequence[Model]) -> None:
    if console.wants_json:
        console.emit("demo", {"folder": folder, "bytes": size, "models": [model.catalogue_entry() for model in models]})
        return
    _show_models(console, models)
    console.result(f"{folder}  {size / 1e6:.1f} MB: put these files on any https host, under any path")


def _show_models(console: Console, models: Sequence[Model]) -> None:
    rows = [
        (
            model.name,
            # A file of another tool is not necessarily a student.
            "-" if model.architecture is None and model.role == "student" else model.role,
            model.architecture or model.producer or "-",
            model.precision,
            loss_of(model),
            f"x{model.descriptor.scale}",
            f"{len(model.content) / 1e6:.2f}",
        )
        for model in models
    ]
    console.table(["model", "role", "network", "precision", "loss", "scale", "MB"], rows)


def loss_of(model: Model) -> str:
    """The loss in dB that an int8 file states, or "-"."""
    from compressor.models.quantisation.file_facts import read_quantised_file

    file = read_quantised_file(model.metadata)
    return "-" if file is None or file.drop_db is None else f"{-file.drop_db:+.3f} dB"


def _show_addresses(console: Console, addresses: Sequence[Address]) -> None:
    from demo.addresses import draw_qr_code, phone_address

    console.say("")
    for address in addresses:
        reach = "this machine only" if address.this_machine_only else "every device that reaches this machine"
        console.result(f"{address.url}  ({reach})")
        console.say(f"  works: {', '.join(address.allows)}")
        if address.refuses:
            console.say(f"  browsers refuse: {', '.join(address.refuses)}")
        console.say(f"  because {address.why}")
    phone = phone_address(addresses)
    if phone is not None and not console.quiet:
        code = draw_qr_code(phone.url, sys.stdout.encoding)
        console.say(f"\n{phone.url} for a phone's camera:\n{code}" if code else "")
    for line in _phone_advice(addresses, phone):
        console.say(line)
    console.say("Ctrl-C ends it.")


def _phone_advice(addresses: Sequence[Address], phone: Address | None) -> list[str]:
    """Lines on how a phone gets the whole app, if these addresses do not allow it."""
    if phone is not None and not phone.refuses:
        return []
    port = urlsplit(addresses[0].url).port
    lines = ["The whole app on a phone (docs/use/demo.md):"]
    if not addresses[0].url.startswith("https"):
        lines.append(
            f"  by USB, Android: adb reverse tcp:{port} tcp:{port}, then http://localhost:{port}/ on the phone"
        )
    lines.append("  by https from here: srkd demo --host 0.0.0.0 --tls-cert CERT --tls-key KEY")
    lines.append("  by https from elsewhere: srkd demo --build DIR, files for any static host")
    if phone is None:
        lines.append("Without https, one thread and no camera stream: srkd demo --host 0.0.0.0")
    return lines
