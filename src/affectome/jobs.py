"""What every script of the workflow does around its one call: logging, clean exits and termination.

`with job(snakemake):` sends log records to the rule's log file and to stderr, turns SIGTERM into an ordinary exit so
that long jobs can flush what they have, and prints a UserError as one line instead of a traceback.
"""

import contextlib
import logging
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from affectome.errors import UserError

log = logging.getLogger("affectome")


def start_logging(file: str | Path | None = None) -> None:
    """Send this package's records to stderr and, where given, to `file`."""
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if file:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(file, mode="w", encoding="utf-8"))
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
        yield log
    except UserError as error:
        log.error("%s: %s", snakemake.rule, error)
        sys.exit(1)
    except Exception:
        log.exception("%s failed", snakemake.rule)
        sys.exit(1)


def _exit_on_signal(number: int, _frame: object) -> None:
    sys.exit(128 + number)
