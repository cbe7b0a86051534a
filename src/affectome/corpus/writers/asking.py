"""How services are asked: many requests under way, patience with a busy service, none with a mistake."""

import asyncio
import json
import os
import re
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from affectome.corpus.writers import Keep, Purse, Reply, Request
from affectome.errors import UserError
from affectome.randomness import generator

if TYPE_CHECKING:
    from affectome.corpus.writers.pacing import Pace

# Times that a request is sent before it is given up; a service that fails two of three answers all the same.
TRIES = 10

# A service that was never reached is not waited for as long.
FIRST_TRIES = 4

# Wait before the second try; it doubles with every further one, up to the longest.
BACKOFF_S = 1.0
LONGEST_BACKOFF_S = 60.0

# Per-minute quotas ask for up to a minute; a service that asks for longer than this has no quota left today.
LONGEST_RETRY_AFTER_S = 600.0

# Models that think first need up to a minute for a paragraph.
TIMEOUT_S = 180.0


class BusyError(Exception):
    """The service did not answer; the same request may succeed after `retry_after` seconds.

    `unreachable` where there was no connection at all.
    """

    def __init__(self, reason: str, retry_after: float = 0.0, unreachable: bool = False) -> None:
        super().__init__(reason)
        self.retry_after = retry_after
        self.unreachable = unreachable


@dataclass(frozen=True)
class Answer:
    """What a service said: texts, or the `problem` that makes it useless; and the tokens to be paid."""

    texts: tuple[str, ...] = ()
    problem: str = ""
    read: int = 0
    written: int = 0


Ask = Callable[[Request], Awaitable[Answer]]


async def ask_all(
    ask: Ask,
    requests: Sequence[Request],
    keep: Keep,
    concurrency: int,
    where: str,
    pace: "Pace | None" = None,
    purse: Purse | None = None,
) -> None:
    """Hand `keep` one reply per request, and one per request that it returns.

    `ask` returns an Answer or raises BusyError; the first other error that it or `keep` raises ends everything. `where`
    names the service in errors. Raises UserError where the service answers nobody, and what `purse` says once it is
    exhausted and everything under way has been kept.
    """
    await _Asking(ask, requests, keep, where, pace, purse).run(concurrency)


class _Asking:
    def __init__(
        self, ask: Ask, requests: Sequence[Request], keep: Keep, where: str, pace: "Pace | None", purse: Purse | None
    ) -> None:
        self._ask, self._keep, self._where, self._pace, self._purse = ask, keep, where, pace, purse
        self._waiting = deque(requests)
        self._under_way = 0
        self._answered = 0
        self._exhausted = False
        self._change = asyncio.Condition()
        self._turn = asyncio.Lock()

    async def run(self, concurrency: int) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(concurrency):
                    tasks.create_task(self._work())
        except ExceptionGroup as group:
            # All requests meet the same mistake; one report of it is enough.
            raise group.exceptions[0] from None
        if self._exhausted and self._purse:
            raise self._purse.exhausted()

    async def _work(self) -> None:
        while (request := await self._next()) is not None:
            reply = await self._reply(request)
            # Repeated texts come first, so that what is nearly done is done first.
            self._waiting.extendleft(self._keep(reply))
            async with self._change:
                self._under_way -= 1
                self._change.notify_all()

    async def _next(self) -> Request | None:
        """The next request; waits for those under way, which may lead to more, and is None when nothing is left."""
        async with self._change:
            while not self._waiting and self._under_way and not self._exhausted:
                await self._change.wait()
            if self._waiting and self._purse and not self._purse.allow(self._under_way):
                self._exhausted = True
                self._change.notify_all()
            if self._exhausted or not self._waiting:
                return None
            self._under_way += 1
            return self._waiting.popleft()

    async def _reply(self, request: Request) -> Reply:
        failures: list[str] = []
        answered = self._answered
        for attempt in range(1, TRIES + 1):
            if self._pace:
                async with self._turn:
                    await self._pace.wait(request)
            try:
                answer = await self._ask(request)
            except BusyError as error:
                failures.append(str(error))
                if error.unreachable and not self._answered and attempt >= FIRST_TRIES:
                    raise UserError(
                        f"{self._where} cannot be reached ({error}); see that it is up, then rerun"
                    ) from None
                if attempt < TRIES:
                    # An item keeps its place while it waits to try again, so a busy service is asked less.
                    await asyncio.sleep(max(backoff(request.seed, attempt), error.retry_after))
                continue
            self._answered += 1
            if self._pace:
                self._pace.correct(request, answer.read + answer.written)
            return Reply(request.id, answer.texts, answer.problem, True, answer.read, answer.written, tuple(failures))
        if self._answered == answered:
            raise UserError(
                f"{self._where} answers nothing any more ({failures[-1]}, {TRIES} times); rerun when it does"
            )
        return Reply(request.id, problem=failures[-1], answered=False, failures=tuple(failures[:-1]))


def backoff(seed: int, attempt: int) -> float:
    """Seconds to wait after `attempt` tries, the same for the same `seed`."""
    jitter = generator(seed, "backoff", attempt).uniform(0.5, 1.5)
    return min(BACKOFF_S * 2 ** (attempt - 1), LONGEST_BACKOFF_S) * jitter


def texts_in(text: str, count: int) -> Answer:
    """What a reply with this text holds: one text, or as JSON a list of `count` or an object with such a list alone."""
    if not text.strip():
        return Answer(problem="empty text")
    if count == 1:
        return Answer((text,))
    try:
        content = json.loads(text)
    except ValueError:
        return Answer(problem="truncated JSON")
    if isinstance(content, dict) and len(content) == 1:
        content = next(iter(content.values()))
    if not isinstance(content, list) or not all(isinstance(each, str) and each.strip() for each in content):
        return Answer(problem="no list of texts")
    if len(content) != count:
        return Answer(problem=f"{len(content)} texts instead of {count}")
    return Answer(tuple(content))


def key_from_environment(name: str) -> str:
    """The key in the environment variable `name`, "" where it is not set; raises UserError where it can be no key."""
    key = os.environ.get(name, "").strip()
    if not re.fullmatch(r"[!-~]*", key):
        raise UserError(f"{name} holds characters that no key has; copy the key again, without spaces or quotes")
    return key


def on_one_line(message: str, key: str) -> str:
    """A service's own words, short and without the key, which some quote."""
    return " ".join((message.replace(key, "[key]") if key else message).split())[:300]
