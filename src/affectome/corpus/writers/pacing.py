"""Limits on how fast a service is asked, held together by all jobs of this machine that ask it.

Requests are spaced evenly: each is due a little more than `60 / limit` seconds after the one before was really sent, so
that no minute ever holds more than the limit, whichever jobs they come from and however late some are (the generic
cell rate algorithm, with a burst of one). Tokens are spaced likewise by what a request is expected to take, and what it
took is made up for afterwards.
"""

import asyncio
import fcntl
import os
import struct
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from affectome.corpus.writers import Request
from affectome.identity import fingerprint

# Characters of a token, and tokens of a text of unknown length; reality corrects both.
_CHARACTERS = 4
_TEXT_TOKENS = 250

# Requests do not all travel equally long: sent just in time, a minute at the service could hold some too many.
_MINUTE_S = 60.0 * 1.02

# Lateness that the next requests make up for; to make up for more would be a burst.
_LATE_S = 0.01

_TIMES = struct.Struct("dd")  # when the next request, and the next token, is due (seconds since the epoch)


class Pace:
    """At most so many requests and tokens a minute to the service called `name`; None is no limit.

    Raises PermissionError where the folder of another user is in the way.
    """

    def __init__(
        self, name: str, requests_per_minute: float | None, tokens_per_minute: float | None, folder: Path | None = None
    ) -> None:
        self._request_s = _MINUTE_S / requests_per_minute if requests_per_minute else 0.0
        self._token_s = _MINUTE_S / tokens_per_minute if tokens_per_minute else 0.0
        folder = folder or Path(tempfile.gettempdir()) / f"affectome-pace-{os.getuid()}"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file = folder / fingerprint(name)

    async def wait(self, request: Request) -> None:
        """Return when `request` is to be sent, which it then has to be; call it for one request at a time."""
        while (seconds := self._take(_expected(request))) > 0:
            await asyncio.sleep(seconds)

    def correct(self, request: Request, tokens: int) -> None:
        """Take into account that `request` took `tokens`."""
        with self._times() as (now, times):
            times[1] = max(times[1], now - _LATE_S) + (tokens - _expected(request)) * self._token_s

    def _take(self, tokens: int) -> float:
        """Seconds until a request of `tokens` is due; 0 where it is, and the next ones are then due later."""
        with self._times() as (now, times):
            seconds = max(times) - now
            if seconds <= 0:
                times[:] = [
                    max(due, now - _LATE_S) + spacing
                    for due, spacing in zip(times, (self._request_s, tokens * self._token_s), strict=True)
                ]
        return max(seconds, 0.0)

    @contextmanager
    def _times(self) -> Iterator[tuple[float, list[float]]]:
        """Now, and when the next request and the next token are due, for nobody else to read or change meanwhile."""
        file = os.open(self._file, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            content = os.pread(file, _TIMES.size, 0)
            now = time.time()
            times = list(_TIMES.unpack(content)) if len(content) == _TIMES.size else [now, now]
            yield now, times
            os.pwrite(file, _TIMES.pack(*times), 0)
        finally:
            os.close(file)


def pace_of(name: str, requests_per_minute: float | None, tokens_per_minute: float | None) -> Pace | None:
    """The pace at which the service called `name` is asked, None where there is no limit."""
    limited = requests_per_minute or tokens_per_minute
    return Pace(name, requests_per_minute, tokens_per_minute) if limited else None


def _expected(request: Request) -> int:
    return len(request.prompt) // _CHARACTERS + (request.max_tokens or _TEXT_TOKENS * request.texts)
