"""A scratch copy of the project in which tests run the real Snakemake."""

import contextlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# Rules that only name files of others.
TARGETS = {"all", "corpora", "activations", "vectors", "analyses", "steering", "report", "bundle", "compare"}

_NOT_COPIED = (
    ".venv",
    ".git",
    ".snakemake",
    ".vllm",
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


@cache
def _planner() -> subprocess.Popen[str]:
    """The one process that dry runs are forked from; it ends when its input does."""
    command = [sys.executable, str(ROOT / "tests/planner.py")]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)


def dry_run(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`snakemake --dry-run` in `project`, what it prints on either stream in `stdout`.

    Its environment variables are those of the first call.
    """
    planner = _planner()
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "output")
        command = ["--dry-run", *arguments]
        request = {"folder": str(project), "arguments": command, "output": str(output)}
        planner.stdin.write(json.dumps(request) + "\n")
        status = int(planner.stdout.readline())
        return subprocess.CompletedProcess(command, status, output.read_text(encoding="utf-8"), "")


def planned(project: Path, *arguments: str) -> dict[str, int]:
    """Jobs per rule that a dry run would run, rules that only name files of others left out."""
    done = dry_run(project, *arguments)
    assert done.returncode == 0, done.stdout
    table = re.search(r"Job stats:\n.*?\n-+\s+-+\n(.*?)\ntotal", done.stdout, flags=re.DOTALL)
    if table is None:
        assert "Nothing to be done" in done.stdout, done.stdout
        return {}
    jobs = dict(line.split() for line in table.group(1).splitlines())
    return {rule: int(count) for rule, count in jobs.items() if rule not in TARGETS}


MODEL = "resources/models/smollm2-135m"


def fetch_weights(project: Path) -> None:
    """SmolLM2-135M in `project`."""
    shutil.copytree(kept_weights(), project / MODEL)


def kept_weights() -> Path:
    """The folder of SmolLM2-135M in the project itself: what was fetched before, or is fetched now."""
    kept = ROOT / MODEL
    if not (kept / "manifest.json").exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        # Beside its place and renamed, as several tests may be at it at once.
        with tempfile.TemporaryDirectory(dir=kept.parent, prefix=".fetching-") as folder:
            scratch = copy_project(Path(folder, "project"))
            done = snakemake(scratch, f"{MODEL}/manifest.json")
            assert done.returncode == 0, done.stdout + done.stderr
            with contextlib.suppress(OSError):
                (scratch / MODEL).rename(kept)
    return kept
