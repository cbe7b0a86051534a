"""Starts the engine and answers for it on a port, until a signal ends it."""

import asyncio
import contextlib
import ipaddress
import signal
import socket
import sys
from collections.abc import Iterator
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from affectome.errors import UserError
from affectome.serve.app import create_app
from affectome.serve.service import GRACE_S, Service

# Of a request's line and headers together.
_MOST_HEAD_BYTES = 32 * 1024
_HEAD_S = 35.0
_STALL_S = 30.0
_IDLE_S = 30
_FORCED_S = 5.0
_LAST_WORDS_S = 0.5
_SPARE_CONNECTIONS = 512


def run(service: Service, host: str = "127.0.0.1", port: int = 8000) -> None:
    """Serve until SIGTERM or SIGINT, after which what runs may end; a second signal ends it at once.

    Prints a line with the address once it answers; port 0 is any free one. Raises UserError where the address cannot
    be used, or others could reach it and there is no API key.
    """
    asyncio.run(_run(service, host, port))


async def _run(service: Service, host: str, port: int) -> None:
    listening, loopback = _bind(service, host, port)
    with listening, _signals() as signals:
        starting = asyncio.ensure_future(service.backend.start())
        try:
            if not await _first(starting, signals.first):
                return
            server = _Server(service, loopback, signals)
            await server.serve([listening])
        finally:
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            stopping = asyncio.ensure_future(service.backend.stop())
            if not await _first(stopping, signals.second):
                await asyncio.wait([stopping], timeout=_FORCED_S)


def _bind(service: Service, host: str, port: int) -> tuple[socket.socket, bool]:
    """A socket at `host` and `port`, and whether only this machine reaches it; nobody is answered yet."""
    if not 0 <= port <= 65535:
        raise UserError(f"{port} is no port; use 1 to 65535, or 0 for any free one")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        loopback = ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback
        if not loopback and not service.limits.api_key:
            raise UserError(
                f"{host} can be reached by others, and there is no API key: set the environment variable "
                f"AFFECTOME_API_KEY, or serve this machine only, with --host 127.0.0.1"
            )
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except (OSError, OverflowError, UnicodeError) as error:
        raise UserError(
            f"cannot listen on {host} port {port}: {error}; choose another with --host or --port"
        ) from error
    return listening, loopback


class _Signals:
    """Done with the first and the second of the signals that end a server."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.first: asyncio.Future[None] = loop.create_future()
        self.second: asyncio.Future[None] = loop.create_future()

    def take(self) -> None:
        for future in (self.first, self.second):
            if not future.done():
                return future.set_result(None)
        return None


@contextlib.contextmanager
def _signals() -> Iterator[_Signals]:
    signals, loop = _Signals(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, signals.take)
    try:
        yield signals
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


async def _first(task: asyncio.Future[None], other: asyncio.Future[None]) -> bool:
    """Whether `task` ends before `other` is done; raises what it raises."""
    await asyncio.wait([task, other], return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        task.result()
    return task.done()


class _Server(uvicorn.Server):
    """uvicorn, ended by our signals, and in such a way that requests can end by themselves."""

    def __init__(self, service: Service, loopback: bool, signals: _Signals) -> None:
        limits = service.limits
        super().__init__(
            uvicorn.Config(
                create_app(service, loopback),
                http=_Protocol,
                loop="asyncio",
                lifespan="on",
                access_log=False,
                log_config=None,
                server_header=False,
                # Whoever claims to stand in front of us is not believed.
                proxy_headers=False,
                ws_max_size=limits.max_body_bytes,
                h11_max_incomplete_event_size=_MOST_HEAD_BYTES,
                limit_concurrency=limits.concurrency + limits.queue + _SPARE_CONNECTIONS,
                timeout_keep_alive=_IDLE_S,
                timeout_graceful_shutdown=round(GRACE_S) + 5,
            )
        )
        self._service, self._signals = service, signals
        signals.first.add_done_callback(lambda _: setattr(self, "should_exit", True))

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        service = self._service
        address = _url((sockets or [])[0])
        sys.stdout.write(f"affectome serves {service.catalogue.model} with {service.backend.name} at {address}\n")
        sys.stdout.flush()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._signals.second.add_done_callback(self._force)
        ending = asyncio.ensure_future(self._service.shutdown(GRACE_S))
        await super().shutdown(sockets)
        ending.cancel()
        if self.force_exit:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_FORCED_S):
                    await self.lifespan.shutdown()

    def _force(self, _: Any) -> None:
        self.force_exit = True
        self._service.cut()
        asyncio.get_running_loop().call_later(_LAST_WORDS_S, self._abort)

    def _abort(self) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()


class _Protocol(H11Protocol):
    """uvicorn's HTTP, in which nobody holds a connection by being slow.

    A request's head has to come whole within _HEAD_S of the connection or of the answer before it, and a reader has to
    take what waits for it (64 KiB at most) within _STALL_S. Bodies are timed where they are read.
    """

    _timer: asyncio.TimerHandle | None = None
    _stall: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel()
        self.resume_writing()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        before = self.cycle
        super().handle_events()
        if self.cycle is not before:
            self._cancel()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        self._cancel()
        super().handle_websocket_upgrade(event)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.response_complete:
            self._await_head()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stall = self.loop.call_later(_STALL_S, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stall:
            self._stall.cancel()

    def _await_head(self) -> None:
        self._cancel()
        # Aborted, as closing waits for a reader that may have stopped.
        self._timer = self.loop.call_later(_HEAD_S, self.transport.abort)

    def _cancel(self) -> None:
        if self._timer:
            self._timer.cancel()


def _url(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
