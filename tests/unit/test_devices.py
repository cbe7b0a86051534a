"""Leases of GPUs: none is given twice, all come back, and what a scheduler assigned is kept."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from affectome.errors import UserError
from affectome.scheduling.devices import devices, lease

# Holds a lease until its standard input ends, and says what it sees.
HOLDER = """
import os, sys
from pathlib import Path
from affectome.scheduling.devices import lease
with lease(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])):
    print(os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
    sys.stdin.read()
"""


class Holder:
    """A process that asks for `gpus` and `percent` of `there`."""

    def __init__(self, folder: Path, gpus: int, percent: int, there: str = "0,1") -> None:
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": there}
        environment.pop("SLURM_JOB_ID", None)
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(gpus), str(percent), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    @property
    def sees(self) -> str:
        """What it was given; waits for it."""
        return self.process.stdout.readline().strip()

    @property
    def waits(self) -> bool:
        time.sleep(1.5)
        os.set_blocking(self.process.stdout.fileno(), False)
        waits = not self.process.stdout.readline()
        os.set_blocking(self.process.stdout.fileno(), True)
        return waits and self.process.poll() is None

    def end(self) -> None:
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture(autouse=True)
def _no_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)


def test_jobs_get_devices_of_their_own_and_the_third_waits(tmp_path: Path) -> None:
    first, second = Holder(tmp_path, 1, 100), Holder(tmp_path, 1, 100)
    assert {first.sees, second.sees} == {"0", "1"}
    third = Holder(tmp_path, 1, 100)
    assert third.waits
    # However a job ends, its device is free again.
    first.process.send_signal(signal.SIGKILL)
    assert third.sees in {"0", "1"}
    for holder in (first, second, third):
        holder.end()


def test_jobs_that_share_spread_out_and_then_double_up(tmp_path: Path) -> None:
    holders = [Holder(tmp_path, 1, 50)]
    seen = [holders[0].sees]
    for _ in range(3):
        holders.append(Holder(tmp_path, 1, 50))
        seen.append(holders[-1].sees)
    assert set(seen[:2]) == {"0", "1"}
    assert sorted(seen) == ["0", "0", "1", "1"]
    fifth, whole = Holder(tmp_path, 1, 50), Holder(tmp_path, 1, 100)
    assert fifth.waits
    assert whole.waits
    for holder in [*holders, fifth, whole]:
        holder.process.kill()
        holder.end()


@pytest.mark.parametrize(("percent", "jobs"), [(100, 1), (50, 2), (33, 3), (25, 4), (20, 5), (16, 6)])
def test_as_many_jobs_share_a_device_as_config_says(tmp_path: Path, percent: int, jobs: int) -> None:
    holders = [Holder(tmp_path, 1, percent, "7") for _ in range(jobs)]
    assert [holder.sees for holder in holders] == ["7"] * jobs
    one_more = Holder(tmp_path, 1, percent, "7")
    assert one_more.waits
    for holder in [*holders, one_more]:
        holder.process.kill()
        holder.end()


def test_two_devices_are_taken_together_or_not_at_all(tmp_path: Path) -> None:
    one = Holder(tmp_path, 1, 100, "0,1,2")
    assert one.sees == "0"
    two = Holder(tmp_path, 2, 200, "0,1,2")
    assert two.sees == "1,2"
    more = Holder(tmp_path, 2, 200, "0,1,2")
    assert more.waits
    one.end()
    # One is free; a job that kept it while it waits for another would block this one.
    single = Holder(tmp_path, 1, 100, "0,1,2")
    assert single.sees == "0"
    for holder in (two, more, single):
        holder.process.kill()
        holder.end()


def test_more_than_there_are_is_a_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(UserError, match="asks for 4 GPUs and this machine has 2"), lease(4, 400, tmp_path):
        pass


@pytest.mark.parametrize(
    ("gpus", "environment"),
    [
        (0, {"CUDA_VISIBLE_DEVICES": "0,1"}),
        (1, {"CUDA_VISIBLE_DEVICES": "3", "SLURM_JOB_ID": "9"}),
        (1, {"CUDA_VISIBLE_DEVICES": ""}),
    ],
    ids=["no GPU asked for", "assigned by SLURM", "no GPU there"],
)
def test_what_is_set_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpus: int, environment: dict[str, str]
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with lease(gpus, 100 * gpus, tmp_path):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == environment["CUDA_VISIBLE_DEVICES"]
    assert not list(tmp_path.iterdir())


def test_the_environment_is_as_before_afterwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    with lease(1, 100, tmp_path):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "4"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "4,5"


def test_devices_are_those_that_nvidia_smi_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\n[ \"$1\" = --query-gpu=index ] && printf '0\\n1\\n2\\n'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert devices() == ["0", "1", "2"]
    program.write_text("#!/bin/sh\necho no driver; exit 9\n")
    assert devices() == []
    program.unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert devices() == []
