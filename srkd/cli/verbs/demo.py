"""`srkd demo`: an app that runs models in a browser, on this machine or on a phone."""

from __future__ import annotations

import sys
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from compressor.base.errors import UsageError
from srkd.cli.verb import verb
from srkd.options.shared import path_of
from srkd.options.verbs import DemoOptions
from srkd.terminal.console import Console
from srkd.terminal.tables import Table

if TYPE_CHECKING:
    from demo.addresses import Address
    from demo.catalogue import Model


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

    MODEL is a checkpoint, a run folder, a name of srkd students or an ONNX file. Without MODEL it shows the students of
    x2 that come with srkd. The folder of a plan (srkd plan --emit) opens a page that times its files, for srkd plan
    --measured. Ctrl-C ends it.
    """
    from demo import require_server_modules
    from demo.addresses import list_addresses, listen, require_certificate
    from demo.files import find_app, require_new

    # Quick checks come before the slow export.
    build, certificate = path_of(options.build), None
    if build is not None:
        require_new(build)
    else:
        require_server_modules()
    if options.tls_cert is not None and options.tls_key is not None:
        certificate = Path(options.tls_cert), Path(options.tls_key)
        require_certificate(*certificate)
    elif options.tls_cert is not None or options.tls_key is not None:
        raise UsageError("--tls-cert and --tls-key belong together: give both")
    app = find_app(path_of(options.app))
    if build is not None:
        size, models = _write_site(console, options, app, build)
        written = {"folder": build, "bytes": size, "models": [model.catalogue_entry() for model in models]}
        console.report("demo", written, lambda console, _: _show_site(console, build, size, models))
        return
    with listen(options.host, options.port) as listening, TemporaryDirectory(prefix="srkd-demo-") as temporary:
        site = Path(temporary) / "site"
        _, models = _write_site(console, options, app, site)
        addresses = list_addresses(options.host, listening, https=certificate is not None)
        served = {"addresses": addresses, "models": [model.catalogue_entry() for model in models]}
        console.report("demo", served, lambda console, _: _show_addresses(console, addresses, models))
        if options.open_browser:
            webbrowser.open(addresses[0].url)
        from demo.server import serve, site_app

        hosts = {options.host.lower(), *(urlsplit(address.url).hostname or "" for address in addresses)}
        serve(site_app(site, hosts, console.detail), listening, certificate)


def _write_site(console: Console, options: DemoOptions, app: Path, folder: Path) -> tuple[int, Sequence[Model]]:
    from demo.catalogue import load_samples, site_contents
    from demo.files import write_site
    from srkd.api.demonstration import demo_models, plan_to_time

    with console.context() as context:
        plan, models = plan_to_time(options, context) or (None, demo_models(options, context))
    return write_site(app, site_contents(models, () if plan else load_samples(), plan), folder), models


def _show_site(console: Console, folder: Path, size: int, models: Sequence[Model]) -> None:
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
    console.table(Table(["model", "role", "network", "precision", "loss", "scale", "MB"], rows))


def loss_of(model: Model) -> str:
    """The loss in dB that an int8 file states, or "-"."""
    from compressor.models.quantisation.file_facts import read_quantised_file

    file = read_quantised_file(model.metadata)
    return "-" if file is None or file.drop_db is None else f"{-file.drop_db:+.3f} dB"


def _show_addresses(console: Console, addresses: Sequence[Address], models: Sequence[Model]) -> None:
    from demo.addresses import draw_qr_code

    _show_models(console, models)
    console.say("")
    for address in addresses:
        reach = "this machine only" if address.this_machine_only else "every device that reaches this machine"
        console.result(f"{address.url}  ({reach})")
        if address.refuses:
            console.say(f"  plain http from another machine: browsers refuse {', '.join(address.refuses)}")
    phone = next((address for address in addresses if not address.this_machine_only), None)
    if phone is not None and not console.quiet:
        code = draw_qr_code(phone.url, sys.stdout.encoding)
        console.say(f"\n{phone.url} for a phone's camera:\n{code}" if code else "")
    if phone is None or phone.refuses:
        console.say("How a phone gets the whole app, by USB or over https: docs/use/demo.md")
    console.say("Ctrl-C ends it.")
