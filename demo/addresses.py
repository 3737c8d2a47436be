"""The addresses of the demo: sockets, certificate, URLs, and the features that a browser allows at each.

Browsers allow service workers, installation, the camera's stream, WebGPU and shared memory (which threads need) only in
secure contexts: https, or the machine's own localhost.
"""

from __future__ import annotations

import errno
import io
import ipaddress
import socket
import ssl
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressor.base.errors import SrkdError, UsageError

EVERYWHERE = ("photos from files, paste, drop and the camera app", "the models on one thread")
SECURE_ONLY = ("several threads", "WebGPU", "camera stream", "offline use", "install")
NEEDS_TRUST = ("offline use", "install")
"""Features that need a service worker, which a browser refuses even if the user ignores a bad certificate."""

BIND_ERRORS = {
    errno.EADDRINUSE: "the port is taken; choose another --port, or --port 0 for a free one",
    errno.EACCES: "the port needs more rights; choose a --port above 1023",
    errno.EADDRNOTAVAIL: "this machine has no such address; --host 0.0.0.0 means all that it has",
}


@dataclass(frozen=True)
class Certificate:
    """A loaded TLS certificate. `flaw` is a browser's objection to it, independent of the host name."""

    context: ssl.SSLContext
    names: tuple[str, ...]
    """Host names and addresses that it covers."""
    flaw: str | None

    def covers(self, host: str) -> bool:
        """Return True for a host name or an address in `names`; the * of `*.example.org` stands for one label."""
        return any(
            name == host or (name.startswith("*.") and name[1:] == f".{host.partition('.')[2]}") for name in self.names
        )


def read_certificate(certificate: Path, key: Path) -> Certificate:
    """Return a certificate (with its chain) and its key from PEM files."""
    for path in (certificate, key):
        if not path.is_file():
            raise SrkdError(f"{path}: no such file (--tls-cert and --tls-key name PEM files)")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key, password=_refuse_password)
    except (ssl.SSLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or str(error)
        raise SrkdError(f"{certificate} and {key} are not a PEM certificate and its key: {reason}") from error
    names, flaw = _inspect(context, certificate)
    return Certificate(context, names, flaw)


def _refuse_password() -> str:
    raise ValueError("the key has a password (write one without: openssl pkey -in KEY -out PLAIN)")


def _inspect(context: ssl.SSLContext, certificate: Path) -> tuple[tuple[str, ...], str | None]:
    """Return the names and a client's objection, from a handshake in memory, as ssl cannot read a certificate."""
    client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_context.check_hostname = False
    client_context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    client_context.load_verify_locations(cafile=certificate)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = context.wrap_bio(to_server, to_client, server_side=True)
    client = client_context.wrap_bio(to_client, to_server)
    try:
        for side in (client, server, client, server):
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()
    except ssl.SSLCertVerificationError as error:
        return (), error.verify_message
    except ssl.SSLError as error:
        raise SrkdError(f"{certificate} cannot be used for TLS: {error.reason}") from error
    fields: Any = client.getpeercert() or {}
    names = fields.get("subjectAltName", ())
    return tuple(str(name) for kind, name in names if kind in ("DNS", "IP Address")), None


def bind_sockets(host: str, port: int) -> list[socket.socket]:
    """Return sockets bound to every address of `host`, all on one port, not yet listening; port 0 means a free one."""
    try:
        results = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        raise UsageError(f"--host {host}: no such address ({error}); 127.0.0.1 is this machine, 0.0.0.0 all") from error
    with ExitStack() as stack:
        sockets: list[socket.socket] = []
        failure: OSError | None = None
        for family, _, _, _, target in results:
            try:
                bound = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                bound.bind((target[0], port, *target[2:]))
            except OSError as error:
                failure = error
                continue
            sockets.append(bound)
            port = int(bound.getsockname()[1])
        if not sockets or (failure is not None and failure.errno == errno.EADDRINUSE):
            reason = "it has no address" if failure is None else BIND_ERRORS.get(failure.errno or 0, failure.strerror)
            raise SrkdError(f"cannot listen on {host} port {port}: {reason or failure}")
        stack.pop_all()
    return sockets


@dataclass(frozen=True)
class Address:
    """One URL. `allows` and `refuses` are the app's features there; `why` is the reason."""

    url: str
    this_machine_only: bool
    secure: bool
    allows: tuple[str, ...]
    refuses: tuple[str, ...]
    why: str


def list_addresses(sockets: Iterable[socket.socket], certificate: Certificate | None) -> tuple[Address, ...]:
    """Return every URL that reaches the bound sockets, those for this machine only first."""
    addresses: dict[str, Address] = {}
    for bound in sockets:
        host, port = bound.getsockname()[:2]
        for name in _host_names(host, certificate):
            address = _build_address(name, port, certificate)
            addresses.setdefault(address.url, address)
    return tuple(sorted(addresses.values(), key=lambda address: not address.this_machine_only))


def phone_address(addresses: Sequence[Address]) -> Address | None:
    """Return the address for the QR code: reachable by other devices, with the fewest refused features."""
    reachable = [address for address in addresses if not address.this_machine_only]
    return min(reachable, key=lambda address: len(address.refuses), default=None)


def _build_address(host: str, port: int, certificate: Certificate | None) -> Address:
    url_host = f"[{host}]" if ":" in host else host
    url = f"{'https' if certificate else 'http'}://{url_host}:{port}/"
    local = is_loopback(host)
    everything = (*EVERYWHERE, *SECURE_ONLY)
    if certificate is None:
        if local:
            return Address(url, local, True, everything, (), "a machine's own address counts as secure")
        why = "it is plain http from another machine: not a secure context"
        return Address(url, local, False, EVERYWHERE, SECURE_ONLY, why)
    flaw = certificate.flaw or ("" if certificate.covers(host) else "the certificate is for other names")
    if flaw:
        allowed = tuple(name for name in everything if name not in NEEDS_TRUST)
        why = f"{flaw}: browsers warn first, and even then refuse a service worker"
        return Address(url, local, True, allowed, NEEDS_TRUST, why)
    return Address(url, local, True, everything, (), "it is https, on devices that trust the certificate")


def _host_names(host: str, certificate: Certificate | None) -> list[str]:
    """Return the names and addresses that reach a socket: all of the machine's if it listens on all of them."""
    covered = [name for name in certificate.names if _is_host_name(name)] if certificate else []
    ip = ipaddress.ip_address(host.partition("%")[0])
    if ip.is_loopback:
        return [*(name for name in covered if is_loopback(name)), host] if certificate else ["localhost", host]
    if not ip.is_unspecified:
        return [*covered, host]
    return ["localhost", *covered, *machine_addresses(ip.version)]


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


def _is_host_name(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return "*" not in name
    return False


def draw_qr_code(url: str, encoding: str | None) -> str:
    """Return the URL's QR code in half-block characters; "" if the terminal's encoding lacks these."""
    import segno

    text = io.StringIO()
    segno.make(url, error="l", micro=False).terminal(out=text, border=2, compact=True)
    with suppress(LookupError, UnicodeEncodeError):
        text.getvalue().encode(encoding or "ascii")
        return text.getvalue().rstrip("\n")
    return ""
