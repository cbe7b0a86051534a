"""How long a dry run of every named run takes: `python -m benchmarks.plan`."""

import statistics
import subprocess
import sys
import time

import yaml

REPEATS = 3


def dry_run(run: str) -> tuple[float, int]:
    """Wall seconds of a dry run of `run`, and the number of jobs it plans."""
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--forceall", "--config", f"runs=[{run}]"]
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - started
    total = next(line for line in done.stdout.splitlines() if line.startswith("total"))
    return seconds, int(total.split()[1])


def main() -> None:
    with open("workflow_config.yaml", encoding="utf-8") as handle:
        runs = yaml.safe_load(handle)["run_definitions"]
    sys.stdout.write("| run | jobs | seconds, median of 3 |\n|---|---|---|\n")
    for run in runs:
        measured = [dry_run(run) for _ in range(REPEATS)]
        sys.stdout.write(f"| `{run}` | {measured[0][1]} | {statistics.median(s for s, _ in measured):.1f} |\n")


if __name__ == "__main__":
    main()
