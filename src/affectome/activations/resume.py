"""Rows that an interrupted collecting job has already computed.

They lie in a folder beside the job's output, keyed by the fingerprint of everything that decides the numbers: raw
float32 arrays and a journal of finished batches. A killed job loses at most the batches since the last flush; a job
with another fingerprint starts afresh. The folder is locked, so a job whose killed predecessor is still alive waits.
"""

import errno
import fcntl
import json
import logging
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

import numpy as np

log = logging.getLogger(__name__)

FLUSH_INTERVAL_S = 10.0

# What file systems without locks answer; Lustre does unless mounted with `flock`.
_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK}


class PartialRows:
    """Arrays `pooled` (layers, texts, width) and `norms` (layers, texts) that survive the process.

    A context: leaving it keeps what is finished and lets the next job in.
    """

    def __init__(self, folder: Path, fingerprint: str, layers: int, texts: int, width: int) -> None:
        self._folder = folder
        self._lock = self._wait_for_lock()
        self._key = folder / "fingerprint"
        self._journal = folder / "journal.jsonl"
        if not self._key.exists() or self._key.read_text(encoding="utf-8") != fingerprint:
            self._forget()
            self._key.write_text(fingerprint, encoding="utf-8")
        self.pooled = self._map("pooled.f32", (layers, texts, width))
        self.norms = self._map("norms.f32", (layers, texts))
        self.done: dict[int, float] = self._read_journal()
        self._pending: dict[int, float] = {}
        self._flushed = time.monotonic()

    def __enter__(self) -> "PartialRows":
        return self

    def __exit__(self, *_: Any) -> None:
        try:
            self.flush()
        finally:
            self._lock.close()

    def write(self, batch: int, texts: list[int], pooled: np.ndarray, norms: np.ndarray, seconds: float) -> None:
        """Keep the rows of finished batch number `batch`; `seconds` is what it took."""
        self.pooled[:, texts] = pooled
        self.norms[:, texts] = norms
        self._pending[batch] = seconds
        if time.monotonic() - self._flushed >= FLUSH_INTERVAL_S:
            self.flush()

    def flush(self) -> None:
        """Put everything finished on disk; the journal names a batch only once its rows are there."""
        if not self._pending:
            return
        self.pooled.flush()
        self.norms.flush()
        with open(self._journal, "a", encoding="utf-8") as journal:
            for batch, seconds in self._pending.items():
                # A line begins with its line end, so that one cut short by a kill spoils no other.
                journal.write("\n" + json.dumps({"batch": batch, "seconds": seconds}))
            journal.flush()
            os.fsync(journal.fileno())
        self.done |= self._pending
        self._pending = {}
        self._flushed = time.monotonic()

    def remove(self) -> None:
        """Forget everything: the declared output now holds it."""
        self._pending = {}
        self._forget()
        # From here on another job may lock a new file of this name and work in the folder, which then stays.
        (self._folder / "lock").unlink(missing_ok=True)
        with suppress(OSError):
            self._folder.rmdir()

    def _forget(self) -> None:
        # The key goes first: without it, whatever else a kill leaves here is not believed.
        for file in (self._key, self._journal, self._folder / "pooled.f32", self._folder / "norms.f32"):
            file.unlink(missing_ok=True)

    def _map(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        if 0 in shape:
            return np.zeros(shape, np.float32)  # no file can be mapped that is empty
        mode = "r+" if (self._folder / name).exists() else "w+"
        return np.memmap(self._folder / name, np.float32, mode, shape=shape)

    def _read_journal(self) -> dict[int, float]:
        done = {}
        if self._journal.exists():
            for line in self._journal.read_text(encoding="utf-8").splitlines():
                try:
                    entry = json.loads(line)
                except ValueError:
                    continue  # empty, or cut short by a kill: that batch is computed again
                done[entry["batch"]] = entry["seconds"]
        return done

    def _wait_for_lock(self) -> TextIO:
        path = self._folder / "lock"
        while True:
            # The job waited for may finish at any moment and remove the folder: while it is made here (`mkdir` then
            # fails on what it found to exist), before the file in it is opened, or after.
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                lock = open(path, "w", encoding="utf-8")  # noqa: SIM115 - held for the life of the object
            except (FileExistsError, FileNotFoundError):
                continue
            _lock(lock)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(lock.fileno()), os.stat(path)):
                    return lock
            lock.close()


def _lock(file: TextIO) -> None:
    """Wait until no other process has locked `file`, and lock it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        log.info("another job is computing these activations; waiting for it to end")
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        log.warning("this file system has no locks: take care that no two workflows write here at once")
