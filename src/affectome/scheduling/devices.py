"""GPUs of one machine shared among jobs that know nothing of each other: each takes a lease on what it uses.

Snakemake counts GPUs but does not say which one a local job may use. A lease is an operating system lock on a file per
device, so that it ends with its process, however that ends. A job may take part of a device. Where a scheduler has
assigned devices, nothing is leased: what it says is kept.
"""

import contextlib
import fcntl
import logging
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from affectome.errors import UserError

log = logging.getLogger(__name__)

# A GPU in parts, since Snakemake's resources are whole numbers.
WHOLE = 100

_POLL_S = 0.5


def devices() -> list[str]:
    """Names of this machine's GPUs as `CUDA_VISIBLE_DEVICES` takes them; those it names where it is set."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    try:
        listed = subprocess.run(
            ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"], capture_output=True, text=True, check=False
        )
    except OSError:
        return []
    return listed.stdout.split() if listed.returncode == 0 else []


@contextlib.contextmanager
def lease(gpus: int, percent: int, folder: Path | None = None) -> Iterator[None]:
    """Hold `percent` of `gpus` devices together and let this process see no others; waits until they are free.

    Sets `CUDA_VISIBLE_DEVICES`, so it must come before CUDA is used. Does nothing for a job that asks for no GPU,
    inside a SLURM job, and on a machine without GPUs, where models run on the CPU. Raises UserError where the machine
    has fewer than are asked for.
    """
    if not gpus or "SLURM_JOB_ID" in os.environ:
        yield
        return
    there = devices()
    if not there:
        log.warning("no GPU here; the model runs on the CPU")
        yield
        return
    if gpus > len(there):
        raise UserError(f"the model asks for {gpus} GPUs and this machine has {len(there)}; lower models.*.gpus")
    folder = folder or Path(tempfile.gettempdir()) / f"affectome-gpus-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    with contextlib.ExitStack() as held:
        taken = _take(there, gpus, percent // gpus, folder, held)
        before = os.environ.get("CUDA_VISIBLE_DEVICES")
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(taken)
        log.info("uses GPU %s", ", ".join(taken))
        try:
            yield
        finally:
            if before is None:
                del os.environ["CUDA_VISIBLE_DEVICES"]
            else:
                os.environ["CUDA_VISIBLE_DEVICES"] = before


def _take(there: list[str], gpus: int, parts: int, folder: Path, held: contextlib.ExitStack) -> list[str]:
    """Lock `parts` of each of `gpus` devices, all or none, and keep them in `held`; waits for them."""
    waiting = False
    while True:
        # All or none: two jobs that each held half of what they need would wait for each other for ever.
        with contextlib.ExitStack() as attempt:
            taken: list[str] = []
            # The same part of every device before the next part of any: jobs that share spread out first.
            for start in range(0, WHOLE - parts + 1, parts):
                for device in there:
                    if len(taken) < gpus and device not in taken and _lock(device, start, parts, folder, attempt):
                        taken.append(device)
            if len(taken) == gpus:
                held.enter_context(attempt.pop_all())
                return taken
        if not waiting:
            log.info("waits for %d of %d GPUs to be free", gpus, len(there))
            waiting = True
        time.sleep(_POLL_S)


def _lock(device: str, start: int, parts: int, folder: Path, held: contextlib.ExitStack) -> bool:
    """Lock `parts` of `device` from `start` on; False where somebody has one of them."""
    name = "".join(letter if letter.isalnum() else "-" for letter in device)
    file = open(folder / f"{name}.lock", "ab")  # noqa: SIM115 - closed by `held`, which releases the lock
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, parts, start)
    except (BlockingIOError, PermissionError):
        file.close()
        return False
    held.callback(file.close)
    return True
