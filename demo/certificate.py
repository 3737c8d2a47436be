"""A TLS certificate as the user has it: what is wrong with it, and for which names it stands."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressor.base.errors import SrkdError


@dataclass(frozen=True)
class Certificate:
    """Ready to serve. `names` are host names and addresses; `flaw` is what a browser will object to by itself."""

    context: ssl.SSLContext
    names: tuple[str, ...]
    flaw: str | None

    def covers(self, host: str) -> bool:
        """Whether it stands for a host name or an address; `*.example.org` stands for one label."""
        return any(
            name == host or (name.startswith("*.") and name[1:] == f".{host.partition('.')[2]}") for name in self.names
        )


def read_certificate(certificate: Path, key: Path) -> Certificate:
    """A certificate (with its chain) and its key from PEM files."""
    for path in (certificate, key):
        if not path.is_file():
            raise SrkdError(f"{path}: no such file (--tls-cert and --tls-key name PEM files)")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except (ssl.SSLError, OSError, ValueError) as error:
        told = getattr(error, "reason", None) or str(error)
        raise SrkdError(f"{certificate} and {key} are not a PEM certificate and its key: {told}") from error
    names, flaw = _shaken(context, certificate)
    return Certificate(context, names, flaw)


def _no_password() -> str:
    raise ValueError("the key has a password (write one without: openssl pkey -in KEY -out PLAIN)")


def _shaken(context: ssl.SSLContext, certificate: Path) -> tuple[tuple[str, ...], str | None]:
    """The names, and what a client finds wrong: a handshake in memory, since ssl reads no certificate otherwise."""
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname = False
    trusting.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    trusting.load_verify_locations(cafile=certificate)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = context.wrap_bio(to_server, to_client, server_side=True)
    client = trusting.wrap_bio(to_client, to_server)
    try:
        for side in (client, server, client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    except ssl.SSLCertVerificationError as error:
        return (), error.verify_message
    except ssl.SSLError as error:
        raise SrkdError(f"{certificate} cannot be used for TLS: {error.reason}") from error
    told: Any = client.getpeercert() or {}
    names = told.get("subjectAltName", ())
    return tuple(str(name) for kind, name in names if kind in ("DNS", "IP Address")), None
