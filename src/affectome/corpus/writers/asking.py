"""How services are asked: many requests under way, patience with a busy service, none with a mistake."""

import asyncio
import os
import re
from collections.abc import Awaitable, Callable, Sequence

from affectome.corpus.writers import Reply, Request
from affectome.errors import UserError
from affectome.randomness import generator

# Wait before the second attempt; it doubles with every further one, up to the longest.
BACKOFF_S = 1.0
LONGEST_BACKOFF_S = 60.0

# Per-minute quotas ask for up to a minute; a service that asks for longer than this has no quota left today.
LONGEST_RETRY_AFTER_S = 600.0

# Models that think first need up to a minute for a paragraph.
REQUEST_TIMEOUT_S = 180.0


class BusyError(Exception):
    """The service did not answer; the same request may succeed after `retry_after` seconds."""

    def __init__(self, reason: str, retry_after: float = 0.0) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class UnusableError(Exception):
    """The model answered without a whole text; the same request with the same seed would likely do so again."""


async def ask_all(
    ask: Callable[[str, int], Awaitable[str]],
    requests: Sequence[Request],
    keep: Callable[[Reply], None],
    concurrency: int,
    attempts: int,
) -> None:
    """Hand `keep` one reply per request, after `attempts` failures one without text.

    `ask` takes a prompt and a seed; it returns the text or raises BusyError or UnusableError, and the first other error
    that it or `keep` raises ends everything.
    """
    places = asyncio.Semaphore(concurrency)

    async def ask_one(request: Request) -> None:
        # An item keeps its place while it waits to try again, so a busy service is asked less.
        async with places:
            keep(await _reply(ask, request, attempts))

    try:
        async with asyncio.TaskGroup() as tasks:
            for request in requests:
                tasks.create_task(ask_one(request))
    except ExceptionGroup as group:
        # All items meet the same mistake; one report of it is enough.
        raise group.exceptions[0] from None


async def _reply(ask: Callable[[str, int], Awaitable[str]], request: Request, attempts: int) -> Reply:
    failures: list[str] = []
    seed = request.seed
    for attempt in range(1, attempts + 1):
        try:
            return Reply(request.id, await ask(request.prompt, seed), tuple(failures))
        except UnusableError as error:
            failures.append(str(error))
            seed = (seed + 1) % 2**31
        except BusyError as error:
            failures.append(str(error))
            if attempt < attempts:
                jitter = generator(request.seed, "backoff", attempt).uniform(0.5, 1.5)
                backoff = min(BACKOFF_S * 2 ** (attempt - 1), LONGEST_BACKOFF_S) * jitter
                await asyncio.sleep(max(backoff, error.retry_after))
    return Reply(request.id, None, tuple(failures))


def key_from_environment(name: str) -> str:
    """The key in the environment variable `name`, "" where it is not set; raises UserError where it can be no key."""
    key = os.environ.get(name, "").strip()
    if not re.fullmatch(r"[!-~]*", key):
        raise UserError(f"{name} holds characters that no key has; copy the key again, without spaces or quotes")
    return key


def on_one_line(message: str, key: str) -> str:
    """A service's own words, short and without the key, which some quote."""
    return " ".join((message.replace(key, "[key]") if key else message).split())[:300]
