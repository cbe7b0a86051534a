"""What every script of the workflow does around its one call: logging, GPU leases, clean exits and termination.

`with job(snakemake):` sends log records to the rule's log file and to stderr, holds the GPUs that the job was given,
turns SIGTERM into an ordinary exit so that long jobs can flush what they have, and prints a UserError or a full disk
as one line instead of a traceback.
"""

import contextlib
import errno
import logging
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from affectome.errors import UserError
from affectome.scheduling.devices import lease

log = logging.getLogger("affectome")

# No space left, and no more of it for this user.
_FULL = (errno.ENOSPC, errno.EDQUOT)
# HDF5 and NumPy say it in words alone.
_WORDS_OF_FULL = re.compile(rf"errno = ({'|'.join(map(str, _FULL))}),|\d+ requested and \d+ written")


class _LogFile(logging.FileHandler):
    """A log file that is silent about a full disk, of which the job speaks."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name is logging's
        if not _disk_is_full(sys.exception()):
            super().handleError(record)


def start_logging(file: str | Path | None = None) -> None:
    """Send this package's records to stderr and, where given, to `file`."""
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if file:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        handlers.append(_LogFile(file, mode="w", encoding="utf-8"))
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", handlers=handlers, force=True
    )
    for chatty in ("httpx", "httpx2", "matplotlib", "fontTools", "urllib3", "google_genai"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    # It warns of the same cast in every product of every pass.
    logging.getLogger("bitsandbytes.autograd").setLevel(logging.ERROR)


@contextlib.contextmanager
def job(snakemake: Any) -> Iterator[logging.Logger]:
    """The set-up shared by all scripts; `snakemake` is the object Snakemake gives a script."""
    start_logging(snakemake.log[0] if snakemake.log else None)
    signal.signal(signal.SIGTERM, _exit_on_signal)
    try:
        with lease(snakemake.resources.get("gpu", 0), snakemake.resources.get("gpu_percent", 0)):
            yield log
    except UserError as error:
        log.error("%s: %s", snakemake.rule, error)
        sys.exit(1)
    except Exception as error:
        if _disk_is_full(error):
            made = ", ".join(map(str, snakemake.output))
            log.error("%s: no space left on the disk to make %s; make room and run again", snakemake.rule, made)
        else:
            log.exception("%s failed", snakemake.rule)
        sys.exit(1)


def _disk_is_full(error: BaseException | None) -> bool:
    """Whether a write for which there was no room is behind `error`; libraries raise what they like because of it."""
    while error is not None:
        if getattr(error, "errno", None) in _FULL or _WORDS_OF_FULL.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def _exit_on_signal(number: int, _frame: object) -> None:
    sys.exit(128 + number)
