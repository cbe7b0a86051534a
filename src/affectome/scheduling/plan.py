"""`snakemake plan`: what the selected runs still take, per rule, before anything is submitted.

Which jobs are left is Snakemake's own answer. What each takes comes from its benchmark file where it ran before, or
from those of the other shards or layers beside it, and from `affectome.scheduling.needs` otherwise.
"""

import csv
import json
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from affectome.config import ROOT, Config, load_config
from affectome.scheduling.dry_run import Job, planned_jobs
from affectome.scheduling.needs import Need, Needs

# Jobs that differ in one of these only take alike; its value is the name of the benchmark file.
_ALIKE = ("shard", "layer")

_COLUMNS = ("rule", "jobs", "each", "GPU-hours", "CPU-hours", "peak memory", "disk", "tokens paid", "US$", "from")


@dataclass
class Row:
    """What the jobs of a rule take together; `seconds` is of each, `memory` (MB) the most that one of them holds."""

    rule: str
    seconds: list[float] = field(default_factory=list)
    gpu_hours: float = 0.0
    cpu_hours: float = 0.0
    memory: float = 0.0
    disk: float = 0.0
    tokens: float = 0.0
    dollars: float = 0.0
    priced: bool = True
    measured: int = 0

    def add(self, job: Job, need: Need, measured: tuple[float, float] | None) -> None:
        """Count `job`, with `measured` seconds and MB where there are some, and as `need` says otherwise."""
        seconds, memory = measured or (need.seconds, need.memory)
        self.seconds.append(seconds)
        self.gpu_hours += need.gpus * seconds / 3600
        self.cpu_hours += job.threads * seconds / 3600
        self.memory = max(self.memory, memory)
        self.disk += need.disk
        self.tokens += need.read + need.written
        self.priced &= need.dollars is not None
        self.dollars += need.dollars or 0.0
        self.measured += measured is not None


def plan(config: dict[str, Any]) -> str:
    """The table as text, for the merged configuration `config`. Raises UserError where Snakemake cannot plan."""
    with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
        json.dump(config, file)
        file.flush()
        jobs = planned_jobs("all", "--snakefile", str(ROOT / "Snakefile"), "--configfile", file.name)
    validated = load_config(config, ["the configuration"])
    return table(rows(jobs, validated), validated.runs)


def rows(jobs: Sequence[Job], config: Config) -> list[Row]:
    """A row per rule of `jobs`, in the order in which Snakemake names them."""
    needs, found = Needs(config), {}
    for job in jobs:
        row = found.setdefault(job.rule, Row(job.rule))
        row.add(job, needs(job.rule, job.wildcards), measured(job))
    return list(found.values())


def measured(job: Job) -> tuple[float, float] | None:
    """Seconds and MB that `job` took before; of a shard or layer that never ran, the medians of the others."""
    file = Path(job.benchmark)
    files = [file] if file.exists() else []
    if not files and any(hasattr(job.wildcards, name) for name in _ALIKE):
        files = sorted(file.parent.glob("*.tsv"))
    taken = [each for each in map(read_benchmark, files) if each is not None]
    return (statistics.median(s for s, _ in taken), statistics.median(m for _, m in taken)) if taken else None


def read_benchmark(file: str | Path) -> tuple[float, float] | None:
    """Seconds and peak resident MB in one of Snakemake's benchmark files; None where it holds none."""
    with open(file, encoding="utf-8", newline="") as opened:
        row = next(csv.DictReader(opened, delimiter="\t"), None)
    try:
        return float(row["s"]), float(row["max_rss"])
    except (TypeError, KeyError, ValueError):
        # A job that ended within a second has no memory measured.
        return None


def table(found: list[Row], runs: Sequence[str]) -> str:
    """`found` as a table with a sum, and what it rests on."""
    names = ", ".join(runs)
    if not found:
        return f"{names}: everything is made; nothing would run.\n"
    lines = [_COLUMNS, *(_cells(row) for row in found), _sum(found)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_COLUMNS))]
    # Names at the left, numbers at the right.
    left = {0, len(_COLUMNS) - 1}
    shown = [
        "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    rule = "-" * max(map(len, shown))
    notes = [_NOTE] + [_UNPRICED] * any(not row.priced for row in found)
    title = f"What is left to do for {names}:"
    return "\n".join([title, "", shown[0], rule, *shown[1:-1], rule, shown[-1], "", *notes]) + "\n"


_NOTE = """\
CPU-hours are cores × time; disk is what jobs leave, tokens are what a service is paid for, thinking not counted. "from"
says how many jobs were measured before (results/benchmarks); the others are estimates, good to a factor of two: models
on 2 CPU cores or one H200 per GPU job (affectome.scheduling.needs). `snakemake plan_trials` says more of trials."""
_UNPRICED = "The price of a model is not in resources/api_prices.csv; add it there."


def _cells(row: Row) -> tuple[str, ...]:
    jobs = len(row.seconds)
    return (
        row.rule,
        f"{jobs:,}",
        _duration(sum(row.seconds) / jobs),
        _hours(row.gpu_hours),
        _hours(row.cpu_hours),
        _bytes(row.memory * 1e6),
        _bytes(row.disk),
        _count(row.tokens),
        _dollars(row),
        "estimates" if not row.measured else f"{row.measured} measured" if row.measured < jobs else "measured",
    )


def _sum(found: list[Row]) -> tuple[str, ...]:
    whole = Row("total", priced=all(row.priced for row in found))
    for name in ("gpu_hours", "cpu_hours", "disk", "tokens", "dollars"):
        setattr(whole, name, sum(getattr(row, name) for row in found))
    return (
        "total",
        f"{sum(len(row.seconds) for row in found):,}",
        "",
        _hours(whole.gpu_hours),
        _hours(whole.cpu_hours),
        _bytes(max(row.memory for row in found) * 1e6),
        _bytes(whole.disk),
        _count(whole.tokens),
        _dollars(whole),
        "",
    )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _hours(hours: float) -> str:
    if not hours:
        return "–"
    return f"{hours:.2f}" if hours < 10 else f"{hours:,.0f}"


def _bytes(size: float) -> str:
    if not size:
        return "–"
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size / 1e3:.0f} kB"


def _count(number: float) -> str:
    if not number:
        return "–"
    return f"{number / 1e6:,.1f} M" if number >= 1e5 else f"{number:,.0f}"


def _dollars(row: Row) -> str:
    if row.priced and not row.dollars:
        return "–"
    return f"{row.dollars:,.2f}" + ("" if row.priced else " + ?")
