"""A scratch copy of the project in which tests run the real Snakemake."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

_NOT_COPIED = (
    ".venv",
    ".git",
    ".snakemake",
    "results",
    "models",
    "__pycache__",
    "tests",
    "benchmarks",
    "*.egg-info",
    ".*_cache",
)


def copy_project(folder: Path) -> Path:
    """The project's files, without results and weights, in `folder`."""
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*_NOT_COPIED))
    # The pattern that leaves weights out also leaves out the package of that name.
    shutil.copytree(
        ROOT / "src/affectome/models", folder / "src/affectome/models", ignore=shutil.ignore_patterns("__pycache__")
    )
    return folder


def snakemake(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Snakemake in `project` to the end."""
    command = [sys.executable, "-m", "snakemake", *arguments]
    return subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)


def planned(project: Path, *arguments: str) -> dict[str, int]:
    """Jobs per rule that a dry run would run, `all` left out."""
    done = snakemake(project, "--dry-run", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    output = done.stdout + done.stderr
    table = re.search(r"Job stats:\n.*?\n-+\s+-+\n(.*?)\ntotal", output, flags=re.DOTALL)
    if table is None:
        assert "Nothing to be done" in output, output
        return {}
    jobs = dict(line.split() for line in table.group(1).splitlines())
    return {rule: int(count) for rule, count in jobs.items() if rule != "all"}
