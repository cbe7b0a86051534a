"""Rows that an interrupted collecting job has already computed.

They lie in a folder beside the job's output, keyed by the fingerprint of everything that decides the numbers: raw
float32 arrays and a journal of finished batches. A killed job loses at most the batches since the last flush; a job
with another fingerprint starts afresh. The folder is locked, so a job whose killed predecessor is still alive waits.
"""

import fcntl
import json
import logging
import os
import shutil
import time
from pathlib import Path

import numpy as np

log = logging.getLogger(__name__)

FLUSH_INTERVAL_S = 10.0


class PartialRows:
    """Arrays `pooled` (layers, texts, width) and `norms` (layers, texts) that survive the process."""

    def __init__(self, folder: Path, fingerprint: str, layers: int, texts: int, width: int) -> None:
        self._folder = folder
        self._lock = self._wait_for_lock()
        self._journal = folder / "journal.jsonl"
        key = folder / "fingerprint"
        if not key.exists() or key.read_text(encoding="utf-8") != fingerprint:
            for file in (self._journal, folder / "pooled.f32", folder / "norms.f32"):
                file.unlink(missing_ok=True)
            key.write_text(fingerprint, encoding="utf-8")
        self.pooled = self._map("pooled.f32", (layers, texts, width))
        self.norms = self._map("norms.f32", (layers, texts))
        self.done: dict[int, float] = self._read_journal()
        self._pending: dict[int, float] = {}
        self._flushed = time.monotonic()

    def write(self, batch: int, texts: list[int], pooled: np.ndarray, norms: np.ndarray, seconds: float) -> None:
        """Keep the rows of finished batch number `batch`; `seconds` is what it took."""
        self.pooled[:, texts] = pooled
        self.norms[:, texts] = norms
        self._pending[batch] = seconds
        if time.monotonic() - self._flushed >= FLUSH_INTERVAL_S:
            self.flush()

    def flush(self) -> None:
        """Put everything finished on disk; the journal names a batch only once its rows are there."""
        self.pooled.flush()
        self.norms.flush()
        with open(self._journal, "a", encoding="utf-8") as journal:
            for batch, seconds in self._pending.items():
                journal.write(json.dumps({"batch": batch, "seconds": seconds}) + "\n")
            journal.flush()
            os.fsync(journal.fileno())
        self.done |= self._pending
        self._pending = {}
        self._flushed = time.monotonic()

    def remove(self) -> None:
        """Forget everything: the declared output now holds it."""
        shutil.rmtree(self._folder)
        self._lock.close()

    def _map(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        if 0 in shape:
            return np.memmap(self._folder / name, np.float32, "w+", shape=(1,))[:0].reshape(shape)
        mode = "r+" if (self._folder / name).exists() else "w+"
        return np.memmap(self._folder / name, np.float32, mode, shape=shape)

    def _read_journal(self) -> dict[int, float]:
        done = {}
        if self._journal.exists():
            for line in self._journal.read_text(encoding="utf-8").splitlines():
                try:
                    entry = json.loads(line)
                except ValueError:
                    continue  # a line cut short by the kill: its batch is computed again
                done[entry["batch"]] = entry["seconds"]
        return done

    def _wait_for_lock(self):
        while True:
            self._folder.mkdir(parents=True, exist_ok=True)
            lock = open(self._folder / "lock", "w", encoding="utf-8")  # noqa: SIM115 - held for the life of the object
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                log.info("another job is computing these activations; waiting for it to end")
                fcntl.flock(lock, fcntl.LOCK_EX)
            # The job waited for may have finished and removed the folder together with the file that is locked now.
            if lock.name and Path(lock.name).exists() and os.fstat(lock.fileno()).st_ino == os.stat(lock.name).st_ino:
                return lock
            lock.close()
