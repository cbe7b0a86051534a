"""Snakemake killed at any moment and run again as always ends in the vectors of an undisturbed run, byte for byte."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import pytest

from tests.project import snakemake
from tests.workflow.tiny import RUN, tiny_project

pytestmark = pytest.mark.workflow

TARGET = f"results/{RUN}/vectors/vectors.safetensors"
COMMAND = [TARGET, "--configfile", "overlay.yaml"]


def datasets(project: Path) -> dict[str, bytes]:
    """The bytes of every dataset of every vector file."""
    found: dict[str, bytes] = {}
    for file in sorted((project / f"results/{RUN}/vectors").glob("*.h5")):
        with h5py.File(file) as opened:
            opened.visititems(
                lambda name, item, file=file: found.__setitem__(
                    f"{file.name}/{name}", item[...].tobytes() if item.dtype.kind != "O" else b"|".join(item[...])
                )
            )
    return found


def start(project: Path) -> subprocess.Popen:
    """Snakemake at work in `project`, leading a process group of its own."""
    command = [sys.executable, "-m", "snakemake", *COMMAND]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, cwd=project, start_new_session=True, **quiet)


@pytest.mark.parametrize("whole_group", [True, False], ids=["with its jobs", "alone, its jobs living on"])
def test_sigkill_and_rerun(tmp_path: Path, whole_group: bool) -> None:
    undisturbed = tiny_project(tmp_path / "undisturbed", shards=2)
    assert snakemake(undisturbed, *COMMAND).returncode == 0
    expected = datasets(undisturbed)
    assert len(expected) == 3 * 7

    disturbed = tiny_project(tmp_path / "disturbed", shards=2)
    moments = random.Random(2604)
    for _ in range(4):
        process = start(disturbed)
        time.sleep(moments.uniform(1.0, 9.0))
        if whole_group:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.wait()
    done = snakemake(disturbed, *COMMAND)
    assert done.returncode == 0, done.stdout + done.stderr
    assert datasets(disturbed) == expected
    assert not list((disturbed / "results").rglob("*.tmp"))


def test_a_second_snakemake_in_the_same_folder_is_told_to_wait(tmp_path: Path) -> None:
    project = tiny_project(tmp_path / "project")
    first = start(project)
    lock = project / ".snakemake/affectome.lock"
    while not (lock.exists() and lock.read_text().strip()):
        assert first.poll() is None
        time.sleep(0.1)
    second = snakemake(project, *COMMAND)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert second.returncode != 0
    assert f"another snakemake (process {first.pid}) is working here" in second.stdout + second.stderr
