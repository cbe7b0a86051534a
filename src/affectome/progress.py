"""A progress bar with rate and time left: drawn on a terminal, a log line every 30 s elsewhere."""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

log = logging.getLogger(__name__)

LOG_INTERVAL_S = 30.0


class _Lines:
    """Stands in for a bar where nobody watches a terminal."""

    def __init__(self, what: str, total: int, unit: str, initial: int) -> None:
        self._what, self._total, self._unit = what, total, unit
        self._initial = self._done = initial
        self._start = self._last = time.monotonic()
        self._note = ""

    def update(self, n: int, note: str = "") -> None:
        self._done += n
        self._note = note
        now = time.monotonic()
        if now - self._last >= LOG_INTERVAL_S:
            self._last = now
            self._write(now)

    def close(self) -> None:
        if self._done > self._initial:
            self._write(time.monotonic())

    def _write(self, now: float) -> None:
        rate = (self._done - self._initial) / max(now - self._start, 1e-9)
        left = (self._total - self._done) / rate if rate else float("inf")
        message = "%s: %d of %d %s (%.0f %%), %s %s/s, %.0f s left%s"
        share = 100 * self._done / max(self._total, 1)
        note = f"; {self._note}" if self._note else ""
        speed = f"{rate:.0f}" if rate >= 10 else f"{rate:.2f}"
        log.info(message, self._what, self._done, self._total, self._unit, share, speed, self._unit, left, note)


class _Bar(tqdm):
    """A bar on a terminal."""

    def update(self, n: int = 1, note: str = "") -> None:
        if note:
            self.set_postfix_str(note, refresh=False)
        super().update(n)


@contextmanager
def progress(what: str, total: int, unit: str, initial: int = 0) -> Iterator["_Bar | _Lines"]:
    """A bar whose `update(n, note)` counts `n` more `unit`s of `total` and says `note` beside the rate.

    `initial` units were done by an interrupted job before.
    """
    if sys.stderr.isatty():
        bar = _Bar(total=total, desc=what, unit=f" {unit}", unit_scale=True, initial=initial, file=sys.stderr)
    else:
        bar = _Lines(what, total, unit, initial)
    try:
        yield bar
    finally:
        bar.close()
