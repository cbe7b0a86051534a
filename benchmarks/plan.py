"""How long a dry run of every named run takes, and how near estimates come to what jobs took.

`python -m benchmarks.plan` times dry runs; `python -m benchmarks.plan --taken` compares the estimates of
`snakemake plan` with the benchmark files of what was run here (`results/benchmarks`), rule by rule.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections import defaultdict

import yaml

from affectome.config import load_config
from affectome.scheduling.dry_run import planned_jobs
from affectome.scheduling.needs import Needs
from affectome.scheduling.plan import read_benchmark

REPEATS = 3


def dry_run(run: str) -> tuple[float, int]:
    """Wall seconds of a dry run of `run`, and the number of jobs it plans."""
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--forceall", "--config", f"runs=[{run}]"]
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - started
    total = next(line for line in done.stdout.splitlines() if line.startswith("total"))
    return seconds, int(total.split()[1])


def time_dry_runs() -> None:
    """Print a line per named run."""
    with open("workflow_config.yaml", encoding="utf-8") as handle:
        runs = yaml.safe_load(handle)["run_definitions"]
    sys.stdout.write("| run | jobs | seconds, median of 3 |\n|---|---|---|\n")
    for run in runs:
        measured = [dry_run(run) for _ in range(REPEATS)]
        sys.stdout.write(f"| `{run}` | {measured[0][1]} | {statistics.median(s for s, _ in measured):.1f} |\n")


def compare_with_taken() -> None:
    """Print a line per rule of the selected runs: core-hours and peak memory, estimated and taken."""
    with open("workflow_config.yaml", encoding="utf-8") as handle:
        needs = Needs(load_config(yaml.safe_load(handle), ["workflow_config.yaml"]))
    hours: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    memory: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for job in planned_jobs("--forceall"):
        try:
            taken = read_benchmark(job.benchmark)
        except FileNotFoundError:
            continue
        if taken is None:
            continue
        need = needs(job.rule, job.wildcards)
        for column, seconds, size in ((0, need.seconds, need.memory), (1, *taken)):
            hours[job.rule][column] += job.threads * seconds / 3600
            memory[job.rule][column] = max(memory[job.rule][column], size)
    sys.stdout.write(
        "| rule | core-hours estimated | taken | ratio | MB estimated | taken | ratio |\n" + "|---" * 7 + "|\n"
    )
    for rule in hours:
        _line(rule, hours[rule], memory[rule])
    _line(
        "all",
        [sum(each) for each in zip(*hours.values(), strict=True)],
        [max(e) for e in zip(*memory.values(), strict=True)],
    )


def _line(name: str, hours: list[float], memory: list[float]) -> None:
    cells = [f"{hours[0]:.4f}", f"{hours[1]:.4f}", f"{hours[0] / hours[1]:.2f}"]
    cells += [f"{memory[0]:.0f}", f"{memory[1]:.0f}", f"{memory[0] / memory[1]:.2f}"]
    sys.stdout.write(f"| `{name}` | {' | '.join(cells)} |\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--taken", action="store_true", help="compare estimates with results/benchmarks")
    compare_with_taken() if parser.parse_args().taken else time_dry_runs()


if __name__ == "__main__":
    main()
