"""The addresses of the demo: the socket that it listens on, the URLs that reach it, and a QR code for phones.

Browsers allow service workers, installation, the camera's stream, WebGPU and shared memory (which threads need) only in
secure contexts: https, or the machine's own localhost.
"""

from __future__ import annotations

import io
import ipaddress
import socket
import ssl
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from compressor.base.errors import SrkdError

SECURE_ONLY = ("several threads", "WebGPU", "camera stream", "offline use", "install")


@dataclass(frozen=True)
class Address:
    """One URL, and the app's features that browsers refuse there."""

    url: str
    this_machine_only: bool
    refuses: tuple[str, ...]


def require_certificate(certificate: Path, key: Path) -> None:
    """Raise a one-line error if two files are not a PEM certificate (with its chain) and its key."""
    try:
        # Without a password OpenSSL would ask for one on the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except OSError as error:
        raise SrkdError(
            f"--tls-cert {certificate} and --tls-key {key} are not a PEM certificate and its key without a password: "
            f"{error}"
        ) from error


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on an address of this machine; port 0 means a free one."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        return socket.create_server(found[0][4], family=found[0][0])
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SrkdError(
            f"cannot listen on {host} port {port}: {reason}; name another --port (0: a free one) or --host (127.0.0.1: "
            "this machine only, 0.0.0.0: its networks too)"
        ) from error


def list_addresses(host: str, listening: socket.socket, *, https: bool) -> tuple[Address, ...]:
    """Return every URL that reaches a socket listening on `host`, those for this machine only first."""
    bound, port = listening.getsockname()[:2]
    ip = ipaddress.ip_address(bound.partition("%")[0])
    if ip.is_unspecified:
        names = ["localhost", *machine_addresses(ip.version)]
    else:
        names = ["localhost", host] if ip.is_loopback else [host]
    addresses = []
    for name in dict.fromkeys(names):
        url = f"{'https' if https else 'http'}://{f'[{name}]' if ':' in name else name}:{port}/"
        local = is_loopback(name)
        addresses.append(Address(url, local, () if https or local else SECURE_ONLY))
    return tuple(addresses)


def machine_addresses(version: int) -> list[str]:
    """Return this machine's IPv4 or IPv6 addresses on its networks, the address of the default route first."""
    import psutil

    family = socket.AF_INET if version == 4 else socket.AF_INET6
    up = {name for name, status in psutil.net_if_stats().items() if status.isup}
    addresses = [
        entry.address
        for name, entries in psutil.net_if_addrs().items()
        for entry in entries
        if name in up and entry.family == family and "%" not in entry.address and not is_loopback(entry.address)
    ]
    outgoing = _outgoing_address(family)
    return sorted(dict.fromkeys(addresses), key=lambda address: address != outgoing)


def _outgoing_address(family: socket.AddressFamily) -> str:
    """Return the source address of packets to other networks, without sending any."""
    target = "192.0.2.1" if family == socket.AF_INET else "2001:db8::1"  # reserved for documentation
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((target, 9))
            return str(probe.getsockname()[0])
    except OSError:
        return ""


def is_loopback(host: str) -> bool:
    """Return True if a host name or an address means the device itself."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def draw_qr_code(url: str, encoding: str | None) -> str:
    """Return the URL's QR code in half-block characters; "" if the terminal's encoding lacks these."""
    import segno

    text = io.StringIO()
    segno.make(url, error="l", micro=False).terminal(out=text, border=2, compact=True)
    with suppress(LookupError, UnicodeEncodeError):
        text.getvalue().encode(encoding or "ascii")
        return text.getvalue().rstrip("\n")
    return ""
