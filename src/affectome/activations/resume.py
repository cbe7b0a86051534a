"""Rows that an interrupted collecting job has already computed.

They lie in a folder beside the job's output, keyed by the fingerprint of everything that decides the numbers: raw
float32 arrays, a journal of finished batches and how the job went about them. A killed job loses at most the batches
since the last flush; a job with another fingerprint starts afresh. The folder is locked, so a job whose killed
predecessor is still alive waits. The arrays are read and written with system calls rather than mapped into memory,
where a store larger than it would count as this process's.
"""

import errno
import fcntl
import json
import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from affectome.errors import UserError
from affectome.files import read_json, write_json
from affectome.journal import read_json_lines

log = logging.getLogger(__name__)

FLUSH_INTERVAL_S = 10.0

# Bytes moved by one call.
_AT_ONCE = 2**30

# What file systems without locks answer; Lustre does unless mounted with `flock`.
_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK}


class RowsOnDisk:
    """Part of a file as a float32 array of `shape` (rows, …), of which slices of rows are read."""

    def __init__(self, file: int, offset: int, shape: tuple[int, ...]) -> None:
        self._file, self._offset, self.shape = file, offset, shape
        self._row = int(np.prod(shape[1:], dtype=np.int64)) * 4

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, _ = rows.indices(len(self))
        values = np.empty((stop - start, *self.shape[1:]), np.float32)
        _all(os.preadv, self._file, values, self._offset + start * self._row)
        return values

    def write(self, row: int, values: np.ndarray) -> None:
        _all(os.pwritev, self._file, np.ascontiguousarray(values, np.float32), self._offset + row * self._row)


def _all(move: Callable, file: int, values: np.ndarray, offset: int) -> None:
    """Read or write all of `values`; one call moves at most 2 GiB, and less where a signal or a full disk stops it."""
    left = memoryview(values).cast("B") if values.size else memoryview(b"")
    while left:
        moved = move(file, [left[:_AT_ONCE]], offset)
        if not moved:
            raise OSError(errno.EIO, "a file of finished rows is shorter than it should be")
        left, offset = left[moved:], offset + moved


class PartialRows:
    """Arrays `pooled` (width) and `norms` per layer and text that survive the process, each a `RowsOnDisk` per layer.

    `plan` is what an interrupted job with the same fingerprint left by `set_plan`, None where there is none. A context:
    leaving it keeps what is finished and lets the next job in.
    """

    def __init__(self, folder: Path, fingerprint: str, layers: int, texts: int, width: int) -> None:
        self._folder = folder
        self._lock = self._wait_for_lock()
        self._key = folder / "fingerprint"
        self._journal = folder / "journal.jsonl"
        self._plan = folder / "plan.json"
        if not self._key.exists() or self._key.read_bytes() != fingerprint.encode():
            self._forget()
            self._key.write_text(fingerprint, encoding="utf-8")
        self._files: list[int] = []
        self.pooled = self._open("pooled.f32", layers, (texts, width))
        self.norms = self._open("norms.f32", layers, (texts,))
        self.plan: dict[str, Any] | None = self._read_plan()
        self.done: dict[int, float] = self._read_journal()
        self._pending: dict[int, float] = {}
        self._flushed = time.monotonic()

    def __enter__(self) -> "PartialRows":
        return self

    def __exit__(self, *_: Any) -> None:
        try:
            self.flush()
        finally:
            for file in self._files:
                os.close(file)
            self._lock.close()

    def set_plan(self, plan: dict[str, Any]) -> None:
        """Keep JSON-like `plan`, by which batches are numbered, for the jobs that may follow."""
        write_json(self._plan, plan)
        self.plan = plan

    def write(self, batch: int, texts: list[int], pooled: np.ndarray, norms: np.ndarray, seconds: float) -> None:
        """Keep what finished batch number `batch` gave: `pooled` (layers, texts, width) and `norms` (layers, texts)."""
        for layer in range(len(pooled)):
            for index, text in enumerate(texts):
                self.pooled[layer].write(text, pooled[layer, index])
                self.norms[layer].write(text, norms[layer, index])
        self._pending[batch] = seconds
        if time.monotonic() - self._flushed >= FLUSH_INTERVAL_S:
            self.flush()

    def flush(self) -> None:
        """Put everything finished on disk; the journal names a batch only once its rows are there."""
        if not self._pending:
            return
        for file in self._files:
            os.fsync(file)
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
        names = ("pooled.f32", "norms.f32")
        for file in (self._key, self._journal, self._plan, *(self._folder / name for name in names)):
            file.unlink(missing_ok=True)

    def _open(self, name: str, layers: int, shape: tuple[int, ...]) -> list[RowsOnDisk]:
        size = 4 * int(np.prod(shape, dtype=np.int64))
        self._files.append(os.open(self._folder / name, os.O_RDWR | os.O_CREAT, 0o666))
        if os.fstat(self._files[-1]).st_size != layers * size:
            self._journal.unlink(missing_ok=True)  # it would speak of rows that are not there
            os.ftruncate(self._files[-1], layers * size)
        return [RowsOnDisk(self._files[-1], layer * size, shape) for layer in range(layers)]

    def _read_plan(self) -> dict[str, Any] | None:
        try:
            return read_json(self._plan) if self._plan.exists() else None
        except UserError as error:
            log.warning("%s", error)
            return None

    def _read_journal(self) -> dict[int, float]:
        if self.plan is None:
            # Its batches were numbered by a plan that is lost; the next one would lend them other texts.
            self._journal.unlink(missing_ok=True)
        if not self._journal.exists():
            return {}
        lines = read_json_lines(self._journal)
        return {line["batch"]: line["seconds"] for line in lines if line.keys() == {"batch", "seconds"}}

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
