"""The SLURM profile on a real cluster: whatever happens to jobs, the results are those of a local run.

All scenarios run at once, each in a project of its own and with a thread that does to it what it is about, so that
their waits overlap. The tests then look at what came of them. One node, two pretend GPUs.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pytest

from affectome.files import read_json
from tests.project import fetch_weights, snakemake
from tests.slurm import cluster as slurm
from tests.slurm.slow import slow_down
from tests.workflow.tiny import RUN, tiny_config, tiny_project, write_overlay

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(slurm.why_not() is not None, reason=f"no SLURM: {slurm.why_not()}"),
]

SHARD = "results/activations/tiny/small/from-50/shards/0.h5"
VECTORS = f"results/{RUN}/vectors/layer_1.h5"
# Seconds after which something is taken not to happen any more: seven Snakemakes share a machine that may be slow.
PATIENCE = 1500

# A status check every other second instead of every ten.
PROFILE = ["--profile", "slurm", "--slurm-init-seconds-before-status-checks", "2", "--latency-wait", "15"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[slurm.Cluster]:
    with slurm.running(tmp_path_factory.mktemp("slurm") / "cluster") as cluster:
        yield cluster


def project_in(folder: Path, shards: int = 1, gpus: int = 0) -> Path:
    project = tiny_project(folder, shards)
    slow_down(project / "weights")
    config = tiny_config(project, shards)
    config["models"]["tiny"] |= {"trust_remote_code": True, "gpus": gpus}
    write_overlay(project, config)
    return project


def uncollected(local: Path, folder: Path) -> Path:
    """A copy of `local` in which the model is there and the corpus, and all that is read of it is not."""
    project = Path(shutil.copytree(local, folder))
    for results in ("activations", RUN):
        shutil.rmtree(project / "results" / results)
    return project


def datasets(file: Path) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    with h5py.File(file) as opened:
        opened.visititems(
            lambda name, item: found.__setitem__(name, item[...]) if isinstance(item, h5py.Dataset) else None
        )
    return found


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which everything was made here, undisturbed."""
    project = project_in(tmp_path_factory.mktemp("local") / "project")
    done = snakemake(project, SHARD, VECTORS, "--configfile", "overlay.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    return project


# ---------------------------------------------------------------- scenarios


@dataclass
class Scenario:
    """A project that Snakemake is building on the cluster."""

    cluster: slurm.Cluster
    project: Path
    target: str
    arguments: tuple[str, ...] = ()
    pause: float = 0.0
    ballast: int = 0

    def start(self) -> "Scenario":
        command = [sys.executable, "-m", "snakemake", self.target, *PROFILE, *self.arguments]
        self.log = open(self.project / "snakemake.log", "ab")  # noqa: SIM115 - the process writes to it
        self.process = subprocess.Popen(
            [*command, "--configfile", "overlay.yaml"],
            cwd=self.project,
            stdout=self.log,
            stderr=self.log,
            env={**os.environ, "TEST_PAUSE_S": str(self.pause), "TEST_BALLAST_MB": str(self.ballast)},
            start_new_session=True,
        )
        return self

    @property
    def output(self) -> str:
        return (self.project / "snakemake.log").read_text()

    def jobs(self, rule: str = "collect_activations", state: str | None = None) -> list[dict[str, str]]:
        """Jobs of `rule`, in `state` where it is given, in the order of submission."""
        jobs = [job for job in self.cluster.jobs(self.project) if rule in job.get("Comment", "")]
        jobs.sort(key=lambda job: int(job["JobId"]))
        return [job for job in jobs if state in (None, job["JobState"])]

    def wait_for(self, condition: Callable[[], object], what: str) -> object:
        end = time.monotonic() + PATIENCE
        while not (found := condition()):
            assert time.monotonic() < end, f"{what}: not within {PATIENCE} s\n{self.output[-4000:]}"
            assert self.process.poll() is None or condition(), f"{what}: Snakemake ended\n{self.output[-4000:]}"
            time.sleep(0.3)
        return found

    def collecting(self) -> dict[str, str]:
        """The running job that collects, once some of its batches are on disk."""
        journal = self.project / Path(SHARD).parent
        self.wait_for(lambda: any(file.stat().st_size for file in journal.rglob("journal.jsonl")), "batches on disk")
        return self.wait_for(lambda: self.jobs(state="RUNNING"), "a running job")[0]

    def finish(self) -> None:
        try:
            self.process.wait(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            pytest.fail(f"Snakemake did not end in {PATIENCE} s\n{self.output[-4000:]}")
        assert self.process.returncode == 0, self.output[-6000:]

    def collecting_log(self) -> str:
        return next((self.project / "results/logs/collect_activations").rglob("*.log")).read_text()


def equal_to(local: Path, scenario: Scenario) -> None:
    """The activations are those of a local run, bit by bit."""
    expected, found = datasets(local / SHARD), datasets(scenario.project / SHARD)
    assert expected.keys() == found.keys()
    for name, values in expected.items():
        assert values.tobytes() == found[name].tobytes() or (values == found[name]).all(), name


# ---------------------------------------------------------------- what happens


def two_gpus(scenario: Scenario) -> list[dict[str, str]]:
    """Three jobs want two GPUs; returns them as they are when two run.

    Then the controller goes away for some seconds, for which all scenarios have to do without it. Not before: back
    again, it says of every job submitted then that the node is not available.
    """

    def seen() -> list[dict[str, str]]:
        jobs = scenario.jobs()
        # A job that SLURM has not looked at yet waits for no reason.
        waits = [job for job in jobs if job["JobState"] == "PENDING" and job["Reason"] != "None"]
        return jobs if (sum(job["JobState"] == "RUNNING" for job in jobs), len(waits)) == (2, 1) else []

    jobs = scenario.wait_for(seen, "two GPU jobs side by side and one that waits")
    scenario.cluster.stop_controller()
    time.sleep(5)
    scenario.cluster.start_controller()
    scenario.finish()
    return jobs


def too_little_memory(scenario: Scenario) -> None:
    scenario.finish()


def too_little_time(scenario: Scenario) -> None:
    scenario.finish()


def requeued(scenario: Scenario) -> str:
    """Returns the job that was."""
    job = scenario.collecting()["JobId"]
    scenario.cluster.insist("scontrol", "requeue", job)
    scenario.wait_for(lambda: scenario.jobs(state="PENDING"), "the job to be queued")

    def runs() -> list[dict[str, str]]:
        # SLURM would hold it for two minutes, and forgets a new time while the job's end is being cleared away.
        scenario.cluster.command("scontrol", "update", f"JobId={job}", "StartTime=now", check=False)
        return scenario.jobs(state="RUNNING")

    scenario.wait_for(runs, "the job to run again")
    scenario.finish()
    return job


def cancelled(scenario: Scenario) -> None:
    scenario.cluster.insist("scancel", scenario.collecting()["JobId"])
    scenario.finish()


def killed(scenario: Scenario) -> None:
    """Snakemake dies, its job lives on, and Snakemake is called again."""
    scenario.collecting()
    os.killpg(scenario.process.pid, signal.SIGKILL)
    scenario.process.wait()
    scenario.start().finish()


# ---------------------------------------------------------------- the demo


def small_demo(project: Path) -> None:
    """`overlay.yaml` of the demo in small: the real model on two pretend GPUs reads 36 stories in two shards."""
    config = tiny_config(project, shards=2)
    config |= {"runs": ["demo"], "models": {"smollm2-135m": {"layers": [10, 20], "gpus": 1}}}
    config["run_definitions"] = {
        "demo": {
            "corpus": "small",
            "statistics": {"bootstrap": 100, "permutations": 99},
            "analyses": [],
        }
    }
    write_overlay(project, config)


def whole_demo(scenario: Scenario) -> Path:
    """Everything from the corpus to the page, by the profile; returns a project in which it was made here."""
    local = scenario.project.with_name("demo-here")
    shutil.copytree(scenario.project, local, ignore=shutil.ignore_patterns("snakemake.log", ".snakemake"))
    scenario.start()
    here = snakemake(local, "results/demo/summary.json", "--configfile", "overlay.yaml")
    assert here.returncode == 0, here.stdout + here.stderr
    scenario.finish()
    return local


@pytest.fixture(scope="module")
def done(
    cluster: slurm.Cluster, local: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[Callable, tuple[Scenario, Future]]]:
    """Each scenario and what its function returns or raises."""
    folder = tmp_path_factory.mktemp("scenarios")
    partition = ("--set-resources", "collect_activations:slurm_partition=gpu")
    # One minute in the first attempt, two in the second: minutes are the least that SLURM counts in.
    minutes = ("--set-resources", "collect_activations:runtime=attempt", "--retries", "4")
    scenarios = {
        whole_demo: Scenario(cluster, tiny_project(folder / "demo"), "all"),
        two_gpus: Scenario(cluster, project_in(folder / "gpus", shards=3, gpus=1), VECTORS, partition, pause=0.5),
        too_little_time: Scenario(cluster, uncollected(local, folder / "time"), SHARD, minutes, pause=1.5),
        too_little_memory: Scenario(cluster, uncollected(local, folder / "memory"), SHARD, ballast=2600),
        requeued: Scenario(cluster, uncollected(local, folder / "requeued"), SHARD, pause=0.5),
        cancelled: Scenario(cluster, uncollected(local, folder / "cancelled"), SHARD, pause=0.5),
        killed: Scenario(cluster, uncollected(local, folder / "killed"), SHARD, pause=0.5),
    }
    small_demo(scenarios[whole_demo].project)
    fetch_weights(scenarios[whole_demo].project)
    with ThreadPoolExecutor(len(scenarios)) as threads:
        yield {
            happens: (scenario, threads.submit(happens, scenario if happens is whole_demo else scenario.start()))
            for happens, scenario in scenarios.items()
        }


# ---------------------------------------------------------------- tests


def test_gpu_jobs_have_devices_of_their_own_and_a_controller_may_restart(local: Path, done: dict) -> None:
    scenario, future = done[two_gpus]
    jobs = future.result()
    assert {job["Partition"] for job in jobs} == {"gpu"}
    assert sorted(job["GRES"] for job in jobs if job["JobState"] == "RUNNING") == ["gpu:1(IDX:0)", "gpu:1(IDX:1)"]
    # Priority is what SLURM calls it where jobs of another scenario wait as well.
    assert {job["Reason"] for job in jobs if job["JobState"] == "PENDING"} <= {"Resources", "Priority"}
    assert len(scenario.jobs()) == 3
    others = [job for job in scenario.cluster.jobs(scenario.project) if job not in scenario.jobs()]
    assert others
    assert {job["Partition"] for job in others} == {"cpu"}
    expected, found = datasets(local / VECTORS), datasets(scenario.project / VECTORS)
    for name in ("raw", "denoised", "unit"):
        # Shards of other sizes are batched otherwise.
        np.testing.assert_allclose(found[name], expected[name], atol=1e-5)


def test_a_requeued_job_continues(local: Path, done: dict) -> None:
    scenario, future = done[requeued]
    job = future.result()
    assert [each["JobId"] for each in scenario.jobs()] == [job]
    assert int(scenario.jobs()[0]["Restarts"]) == 1
    assert continued(scenario) > 0
    equal_to(local, scenario)


def test_a_cancelled_job_is_submitted_again_and_continues(local: Path, done: dict) -> None:
    scenario, future = done[cancelled]
    future.result()
    assert [job["JobState"] for job in scenario.jobs()] == ["CANCELLED", "COMPLETED"]
    assert continued(scenario) > 0
    equal_to(local, scenario)


def test_snakemake_killed_and_started_again(local: Path, done: dict) -> None:
    scenario, future = done[killed]
    future.result()
    equal_to(local, scenario)


def test_a_job_that_takes_too_much_memory_gets_more(local: Path, done: dict) -> None:
    scenario, future = done[too_little_memory]
    future.result()
    first, second = scenario.jobs()
    assert first["JobState"] in {"OUT_OF_MEMORY", "FAILED", "CANCELLED"}
    assert second["JobState"] == "COMPLETED"
    assert memory(second) == 2 * memory(first)
    equal_to(local, scenario)


def memory(job: dict[str, str]) -> int:
    return int(re.fullmatch(r"(\d+)M?", job["MinMemoryNode"])[1])


def test_a_job_that_runs_out_of_time_continues(local: Path, done: dict) -> None:
    scenario, future = done[too_little_time]
    future.result()
    jobs = scenario.jobs()
    assert [job["TimeLimit"] for job in jobs] == [f"00:0{1 + attempt}:00" for attempt in range(len(jobs))]
    assert [job["JobState"] for job in jobs] == ["TIMEOUT"] * (len(jobs) - 1) + ["COMPLETED"]
    assert len(jobs) > 1
    assert continued(scenario) > 0
    equal_to(local, scenario)


@pytest.mark.model
def test_the_demo_by_the_profile_is_the_demo_here(done: dict) -> None:
    scenario, future = done[whole_demo]
    local = future.result()
    here, there = (read_json(project / "results/demo/summary.json") for project in (local, scenario.project))
    assert here["steering"] == there["steering"]
    assert here["corpus"] == there["corpus"]
    for layer in ("10", "20"):
        vectors = [
            datasets(project / f"results/demo/vectors/layer_{layer}.h5") for project in (local, scenario.project)
        ]
        # Batches are read by other numbers of cores, in bfloat16.
        assert (vectors[0]["unit"] * vectors[1]["unit"]).sum(axis=1).min() > 0.999
    # Few jobs for many rules, and none of what needs internet.
    jobs = scenario.cluster.jobs(scenario.project)
    assert 6 <= len(jobs) <= 16
    assert not scenario.jobs("fetch_model")
    assert len(scenario.jobs()) == len(scenario.jobs("steering_trial")) == 2


def continued(scenario: Scenario) -> int:
    """The most batches that any of the jobs found done; SLURM's logs of jobs that failed are kept."""
    logs = [scenario.collecting_log()]
    logs += [log.read_text() for log in (scenario.project / "results/logs/slurm").rglob("*.log")]
    found = [int(each) for log in logs for each in re.findall(r"continuing after (\d+) of \d+ batches", log)]
    return max(found, default=0)
