"""The headers of every answer: what the app may do, and that nobody else may use it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self' 'wasm-unsafe-eval'",
        "worker-src 'self' blob:",
        "connect-src 'self' blob:",
        "img-src 'self' blob: data:",
        "media-src 'self' blob:",
        "style-src 'self'",
        "font-src 'self'",
        "manifest-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
"""WebAssembly is compiled, no script is evaluated; nothing is fetched from, or sent to, another host."""

HEADERS: Mapping[str, str] = MappingProxyType(
    {
        # These two give the page SharedArrayBuffer, and with it threads.
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Embedder-Policy": "require-corp",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Content-Security-Policy": POLICY,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Permissions-Policy": "camera=(self), microphone=(), geolocation=(), payment=(), usb=()",
    }
)

ONLY_WHERE_SECURE = ("Cross-Origin-Opener-Policy",)
"""A browser ignores it elsewhere, and complains in the page's console."""

FOR_GOOD = "public, max-age=31536000, immutable"
ASK_AGAIN = "no-cache"
"""Kept, but asked about every time: the answer is 304 while nothing has changed."""


def headers_for(*, secure: bool) -> dict[str, str]:
    """The headers of an answer to a page that is, or is not, a secure context."""
    return {name: value for name, value in HEADERS.items() if secure or name not in ONLY_WHERE_SECURE}


def cache_control(immutable: bool) -> str:
    """How long a browser may keep a file unasked."""
    return FOR_GOOD if immutable else ASK_AGAIN
