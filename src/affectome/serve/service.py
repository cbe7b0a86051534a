"""The one way to the engine: requests are checked and planned, wait their turn, run under limits, and are counted.

HTTP routes and the dashboard both come through here, so that they behave alike.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from affectome.serve.backend import DEFAULT_TOKENS, READOUT, Backend, Kind, prompts_of
from affectome.serve.catalogue import Catalogue
from affectome.serve.plan import Plan, Readout, Refused
from affectome.serve.schema import parse
from affectome.serve.steering import take_readout, take_steering

log = logging.getLogger(__name__)

GRACE_S = 30.0
_HEALTH_S = 5.0
_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)


@dataclass(frozen=True)
class Limits:
    """`concurrency` requests run and `queue` wait; a reply takes `timeout_s` at most, its wait included."""

    max_body_bytes: int = 1 << 20
    max_tokens: int = 4096
    concurrency: int = 64
    queue: int = 128
    timeout_s: float = 300.0
    api_key: str = field(default="", repr=False)

    def as_json(self) -> dict[str, float]:
        return {name: value for name, value in asdict(self).items() if name != "api_key"}


class Metrics:
    """Counters for Prometheus, which hold no text of any request."""

    def __init__(self, service: "Service") -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter("affectome_requests", "HTTP requests answered", ["route", "status"], registry=registry)
        self.tokens = Counter("affectome_generated_tokens", "Tokens of replies that ended", registry=registry)
        self.steered = Counter("affectome_steered_requests", "Requests steered", ["family"], registry=registry)
        self.first_token = Histogram(
            "affectome_time_to_first_token_seconds", "Of streamed replies", registry=registry, buckets=_SECONDS
        )
        self.duration = Histogram(
            "affectome_reply_seconds", "Of replies, the wait included", registry=registry, buckets=_SECONDS
        )
        running = Gauge("affectome_requests_running", "Requests with the engine", registry=registry)
        running.set_function(lambda: service.running)
        waiting = Gauge("affectome_requests_waiting", "Requests waiting their turn", registry=registry)
        waiting.set_function(lambda: service.waiting)


@dataclass(frozen=True)
class _Asked:
    """A request that can go to the engine; `usage` says whether a streamed reply is to end with its usage."""

    kind: Kind
    body: dict[str, Any]
    plan: Plan
    readout: Readout | None
    usage: bool


class Service:
    """`backend` for requests steered along `catalogue`, under `limits`.

    Nothing outlives the call that started it: when that returns, raises, is cancelled or is closed, the generation is
    ended and its place is free.
    """

    def __init__(self, catalogue: Catalogue, backend: Backend, limits: Limits) -> None:
        self.catalogue, self.backend, self.limits = catalogue, backend, limits
        self.running = self.waiting = 0
        self.closing = self._cut = False
        self.metrics = Metrics(self)
        self._places = asyncio.Semaphore(limits.concurrency)
        self._timeouts: set[asyncio.Timeout] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    async def complete(self, kind: Kind, body: dict[str, Any]) -> dict[str, Any]:
        """The whole reply to a request of OpenAI's with our fields; Refused where there is none."""
        asked = self._take(kind, body, stream=False)
        async with self._turn() as deadline:
            self._count_steered(asked)
            async with self._until(deadline):
                reply = await self.backend.complete(kind, asked.body, asked.plan, asked.readout)
        self._count_tokens(reply)
        if asked.readout:
            reply["readout"] = self._named(asked.readout) | (reply.get("readout") or {})
        return reply

    async def stream(self, kind: Kind, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """The reply chunk by chunk. Refused comes with the first chunk where it can, and may come between any two."""
        asked = self._take(kind, body, stream=True)
        loop = asyncio.get_running_loop()
        started = loop.time()
        first = True
        async with (
            self._turn() as deadline,
            aclosing(self.backend.stream(kind, asked.body, asked.plan, asked.readout)) as chunks,
        ):
            self._count_steered(asked)
            while True:
                async with self._until(deadline):
                    chunk = await anext(chunks, None)
                if chunk is None:
                    return
                if first and _has_text(chunk):
                    self.metrics.first_token.observe(loop.time() - started)
                    first = False
                if chunk.get("object") == READOUT:
                    chunk["readout"] = self._named(asked.readout) | chunk["readout"]
                elif not chunk.get("choices"):
                    self._count_tokens(chunk)
                    if not asked.usage:
                        continue
                elif not asked.usage:
                    chunk.pop("usage", None)
                yield chunk

    async def healthy(self) -> bool:
        """Whether requests are answered."""
        if self.closing:
            return False
        try:
            async with asyncio.timeout(_HEALTH_S):
                return await self.backend.healthy()
        except TimeoutError:
            return False

    async def shutdown(self, grace_s: float = GRACE_S) -> None:
        """Take no more requests, let those there are end within `grace_s` seconds, and cut what is left."""
        self.closing = True
        try:
            async with asyncio.timeout(grace_s):
                await self._idle.wait()
        except TimeoutError:
            log.warning("%d requests are cut short", self.running + self.waiting)
        self.cut()

    def cut(self) -> None:
        """End every request now, and take no more."""
        self.closing = self._cut = True
        for timeout in list(self._timeouts):
            timeout.reschedule(asyncio.get_running_loop().time())

    def _take(self, kind: Kind, body: dict[str, Any], stream: bool) -> _Asked:
        """What `body` asks for, its plan apart; Refused for anything that cannot be answered."""
        body = dict(body)
        _check_text(body)
        _unfold(body, "extra_body")
        own = {name: body.pop(name) for name in ("steering", "readout", "vllm_xargs") if name in body}
        unsafe = body.pop("allow_unsafe", None)
        if not (unsafe is None or isinstance(unsafe, bool)):
            raise Refused(400, "allow_unsafe is true or false", "allow_unsafe", "invalid_value")
        plan = take_steering(own, self.catalogue, bool(unsafe))
        request = parse(kind, body)
        own["n"] = request.n
        readout = take_readout(own, self.catalogue)
        if own.get("vllm_xargs") not in (None, {}):
            raise Refused(400, "vllm_xargs may hold steering and readout, nothing else", "vllm_xargs", "invalid_value")
        if request.model not in (None, self.catalogue.model):
            raise Refused(
                404,
                f"the model {request.model[:100]!r} does not exist; this server has {self.catalogue.model}",
                "model",
                "model_not_found",
            )
        most = self.limits.max_tokens
        if request.max_tokens is not None and request.max_tokens > most:
            raise Refused(400, f"max_tokens is at most {most} on this server", "max_tokens", "invalid_value")
        usage = bool(request.stream_options and request.stream_options.include_usage)
        content = request.model_dump(exclude_none=True)
        several = len(prompts_of(content.get("prompt", "")))
        if several * (request.n or 1) > 16:
            raise Refused(400, "n times the number of prompts is at most 16", "n", "invalid_value")
        if readout and several != 1:
            raise Refused(400, "a readout is of one reply: send one prompt", "readout", "invalid_value")
        content |= {"model": self.catalogue.model, "stream": stream}
        if most < DEFAULT_TOKENS:
            content.setdefault("max_tokens", most)
        content.pop("stream_options", None)
        if stream:
            # Always, as that is how generated tokens are counted.
            content["stream_options"] = {"include_usage": True}
        return _Asked(kind, content, plan, readout, usage)

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[float]:
        """A place with the engine, once there is one; gives the moment at which the reply has to be whole."""
        if self.closing:
            raise Refused(503, "the server is shutting down", None, "shutting_down")
        if self._places.locked() and self.waiting >= self.limits.queue:
            raise Refused(
                429,
                f"{self.running} requests run and {self.waiting} wait, which is all there is room for; try again later",
                None,
                "rate_limit_exceeded",
            )
        loop = asyncio.get_running_loop()
        started = loop.time()
        deadline = started + self.limits.timeout_s
        self._idle.clear()
        try:
            self.waiting += 1
            try:
                async with self._until(deadline):
                    await self._places.acquire()
            finally:
                self.waiting -= 1
            self.running += 1
            try:
                yield deadline
            finally:
                self.running -= 1
                self._places.release()
        finally:
            self.metrics.duration.observe(loop.time() - started)
            if not self.running + self.waiting:
                self._idle.set()

    @asynccontextmanager
    async def _until(self, deadline: float) -> AsyncIterator[None]:
        """What is done within ends at `deadline`, or with the server; Refused where that comes first."""
        timeout = asyncio.timeout_at(asyncio.get_running_loop().time() if self._cut else deadline)
        try:
            async with timeout:
                self._timeouts.add(timeout)
                yield
        except TimeoutError:
            if not timeout.expired():
                raise
            if self._cut:
                raise Refused(503, "the server is shutting down", None, "shutting_down") from None
            raise Refused(504, f"the reply was not whole after {self.limits.timeout_s:g} s", None, "timeout") from None
        finally:
            self._timeouts.discard(timeout)

    def _named(self, readout: Readout) -> dict[str, Any]:
        names = [self.catalogue.directions[number].name for number in readout.directions]
        return {"layer": readout.layer, "emotions": names}

    def _count_steered(self, asked: _Asked) -> None:
        for family in {self.catalogue.directions[change.direction].family for change in asked.plan}:
            self.metrics.steered.labels(family).inc()

    def _count_tokens(self, reply: dict[str, Any]) -> None:
        self.metrics.tokens.inc((reply.get("usage") or {}).get("completion_tokens") or 0)


def _has_text(chunk: dict[str, Any]) -> bool:
    return any(choice.get("text") or (choice.get("delta") or {}).get("content") for choice in chunk.get("choices", ()))


def _check_text(body: dict[str, Any]) -> None:
    """Refused for halves of surrogate pairs, which JSON can say and no tokenizer can read."""
    try:
        json.dumps(body, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise Refused(400, "the body holds half of a surrogate pair, which is no text", None, "invalid_text") from error
    except (RecursionError, TypeError, ValueError) as error:
        raise Refused(400, "the body is nested too deeply", None, "invalid_json") from error


def _unfold(body: dict[str, Any], name: str) -> None:
    """Put the fields of `body[name]` beside it, as OpenAI's own client does before it sends them."""
    within = body.pop(name, None)
    if within is None:
        return
    if not isinstance(within, dict):
        raise Refused(400, f"{name} is an object", name, "invalid_value")
    if twice := sorted(within.keys() & body.keys()):
        raise Refused(
            400, f"{twice[0][:100]} stands in several places of the request; leave one", name, "invalid_value"
        )
    body |= within
