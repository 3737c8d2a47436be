"""Where the demo can be reached, and what a browser will allow there.

Browsers give service workers, installing, the camera's stream, WebGPU and shared memory (which threads need) only to
secure contexts: https, or the machine's own localhost.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from demo.certificate import Certificate

ALWAYS = ("photos from files, paste, drop and the camera app", "the models on one thread")
SECURE_ONLY = ("several threads", "WebGPU", "camera stream", "offline use", "install")
NEEDS_TRUST = ("offline use", "install")
"""What hangs on the service worker: a browser that was told to ignore a bad certificate still refuses it."""


@dataclass(frozen=True)
class Address:
    """One URL. `allows` and `refuses` are what the app can do there; `why` says what decides it."""

    url: str
    this_machine_only: bool
    secure: bool
    allows: tuple[str, ...]
    refuses: tuple[str, ...]
    why: str


def addresses(sockets: Iterable[socket.socket], certificate: Certificate | None) -> tuple[Address, ...]:
    """Every URL under which the open sockets can be reached, this machine's own first."""
    found: dict[str, Address] = {}
    for listening in sockets:
        host, port = listening.getsockname()[:2]
        for name in _names(host, certificate):
            address = _address(name, port, certificate)
            found.setdefault(address.url, address)
    return tuple(sorted(found.values(), key=lambda address: not address.this_machine_only))


def for_a_phone(found: Sequence[Address]) -> Address | None:
    """The address for the QR code: the first that other devices reach, one with everything before others."""
    reachable = [address for address in found if not address.this_machine_only]
    return min(reachable, key=lambda address: len(address.refuses), default=None)


def _address(host: str, port: int, certificate: Certificate | None) -> Address:
    shown = f"[{host}]" if ":" in host else host
    url = f"{'https' if certificate else 'http'}://{shown}:{port}/"
    own = is_loopback(host)
    everything = (*ALWAYS, *SECURE_ONLY)
    if certificate is None:
        if own:
            return Address(url, own, True, everything, (), "the own address of a machine counts as secure")
        return Address(url, own, False, ALWAYS, SECURE_ONLY, "it is plain http from another machine: no secure context")
    flaw = certificate.flaw or ("" if certificate.covers(host) else "the certificate is for other names")
    if flaw:
        allowed = tuple(name for name in everything if name not in NEEDS_TRUST)
        return Address(
            url, own, True, allowed, NEEDS_TRUST, f"{flaw}: they warn first, and even then refuse a service worker"
        )
    return Address(url, own, True, everything, (), "it is https, on devices that trust the certificate")


def _names(host: str, certificate: Certificate | None) -> list[str]:
    """What to call a socket's own address: `localhost`, the machine's addresses where it listens on all of them."""
    named = [name for name in certificate.names if _is_host_name(name)] if certificate else []
    bare = ipaddress.ip_address(host.partition("%")[0])
    if bare.is_loopback:
        return [*(name for name in named if is_loopback(name)), host] if certificate else ["localhost", host]
    if not bare.is_unspecified:
        return [*named, host]
    return ["localhost", *named, *machine_addresses(bare.version)]


def machine_addresses(version: int) -> list[str]:
    """This machine's addresses on its networks, that of the way out first."""
    import psutil

    family = socket.AF_INET if version == 4 else socket.AF_INET6
    up = {name for name, facts in psutil.net_if_stats().items() if facts.isup}
    listed = [
        entry.address
        for name, entries in psutil.net_if_addrs().items()
        for entry in entries
        if name in up and entry.family == family
    ]
    usable = [found for found in listed if "%" not in found and not is_loopback(found)]
    return sorted(dict.fromkeys(usable), key=lambda found: found != _way_out(family))


def _way_out(family: socket.AddressFamily) -> str:
    """The address that packets to other networks would leave from. None is sent."""
    elsewhere = "192.0.2.1" if family == socket.AF_INET else "2001:db8::1"  # reserved for documentation
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((elsewhere, 9))
            return str(probe.getsockname()[0])
    except OSError:
        return ""


def is_loopback(host: str) -> bool:
    """Whether a host name or an address means the device itself."""
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
