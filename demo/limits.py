"""uvicorn's HTTP connections with bounds on time and number.

By itself uvicorn waits for ever for the rest of a request, and for a client that takes no more of its answer.
"""

from __future__ import annotations

import asyncio
import socket
import ssl

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle
from uvicorn.server import ServerState

from demo.serving import Limits


class BoundedProtocol(H11Protocol):
    """One connection. Three timers: for the request, for the answer to be taken, for the end to be reached."""

    def __init__(self, config: uvicorn.Config, server_state: ServerState, limits: Limits) -> None:
        super().__init__(config, server_state, app_state={})
        self.limits = limits
        self.opened = self.loop.time()
        self._request_timer: asyncio.TimerHandle | None = None
        self._reader_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections and not self._make_room():
            self._refuse(b"503 Service Unavailable")
        else:
            self._expect_request()

    def connection_lost(self, exc: Exception | None) -> None:
        self._request_arrived()
        self._reader_moved()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.answering:
            self._request_arrived()
        elif self._request_timer is None and not self.transport.is_closing():
            self._expect_request()
        self._watch_the_end()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch_the_end()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._watch_the_end()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_reader()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._reader_moved()
        self._watch_the_end()

    @property
    def answering(self) -> bool:
        """Whether a request has arrived whose answer is not complete."""
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and not cycle.response_complete

    def _expect_request(self) -> None:
        self._request_timer = self.loop.call_later(self.limits.request_seconds, self._too_slow)

    def _request_arrived(self) -> None:
        if self._request_timer is not None:
            self._request_timer.cancel()
            self._request_timer = None

    def _watch_reader(self) -> None:
        if self._reader_timer is None:
            self._reader_timer = self.loop.call_later(self.limits.stalled_seconds, self.transport.abort)

    def _reader_moved(self) -> None:
        if self._reader_timer is not None:
            self._reader_timer.cancel()
            self._reader_timer = None

    def _watch_the_end(self) -> None:
        """A closing connection still waits for its last bytes to be taken."""
        if self.transport.is_closing():
            self._request_arrived()
            self._watch_reader()

    def _too_slow(self) -> None:
        self._request_timer = None
        self._refuse(b"408 Request Timeout")

    def _refuse(self, status: bytes) -> None:
        # Whoever has sent nothing yet, as a browser's spare connection, sees it end without a word after a while.
        self.transport.write(b"HTTP/1.1 " + status + b"\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        self.transport.close()
        self._watch_the_end()

    def _make_room(self) -> bool:
        """End the connection that has waited longest without a request: holding many must not lock others out."""
        others = [held for held in self.connections if isinstance(held, BoundedProtocol) and held is not self]
        idle = [held for held in others if not held.answering and not held.transport.is_closing()]
        oldest = min(idle, key=lambda held: held.opened, default=None)
        if oldest is not None:
            oldest.transport.abort()
        return oldest is not None


class BoundedServer(uvicorn.Server):
    """uvicorn on sockets that are open already, with a bound on the TLS handshake too."""

    def __init__(self, config: uvicorn.Config, limits: Limits, context: ssl.SSLContext | None) -> None:
        super().__init__(config)
        self.limits, self.context = limits, context

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        loop = asyncio.get_running_loop()
        self.servers = []
        for listening in sockets or []:
            self.servers.append(
                await loop.create_server(
                    lambda: BoundedProtocol(self.config, self.server_state, self.limits),
                    sock=listening,
                    ssl=self.context,
                    ssl_handshake_timeout=self.limits.request_seconds if self.context else None,
                    backlog=self.config.backlog,
                )
            )
        self.started = True
