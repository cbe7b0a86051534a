"""The jobs that a call of Snakemake would run, as JSON on standard output.

`python -m affectome.scheduling.dry_run ARGUMENT…` takes Snakemake's arguments. Run as a program, since Snakemake cannot
be called twice in one process.
"""

import contextlib
import io
import json
import logging
import subprocess
import sys
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from affectome.errors import UserError


@dataclass(frozen=True)
class Job:
    """A job that would run: `wildcards` has an attribute for each, `benchmark` is a file that it writes, if any."""

    rule: str
    wildcards: SimpleNamespace
    threads: int
    benchmark: str | None


def planned_jobs(*arguments: str) -> list[Job]:
    """The jobs of a dry run with `arguments`, rules without a script left out.

    Raises UserError with Snakemake's own words where it cannot plan.
    """
    command = [sys.executable, "-m", "affectome.scheduling.dry_run", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"Snakemake cannot plan this: {done.stderr.strip()}")
    jobs = [Job(**{**job, "wildcards": SimpleNamespace(**job["wildcards"])}) for job in json.loads(done.stdout)]
    return [job for job in jobs if job.benchmark]


class _Listener(logging.Filter):
    """Keeps what Snakemake says of each job; a filter, because Snakemake takes handlers away that are not its own."""

    def __init__(self) -> None:
        super().__init__()
        self.jobs: list[dict[str, Any]] = []

    def filter(self, record: logging.LogRecord) -> bool:
        from snakemake_interface_logger_plugins.common import LogEvent

        if getattr(record, "event", None) == LogEvent.JOB_INFO:
            self.jobs.append(
                {
                    "rule": record.rule_name,
                    "wildcards": dict(record.wildcards),
                    "threads": int(record.threads),
                    "benchmark": record.benchmark,
                }
            )
        return True


def _main(arguments: list[str]) -> int:
    from snakemake.cli import main

    listener = _Listener()
    logging.getLogger("snakemake.logging").addFilter(listener)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        try:
            main(["--dry-run", *arguments])
        except SystemExit as end:
            if end.code:
                return int(end.code)
    sys.stdout.write(json.dumps(listener.jobs))
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
