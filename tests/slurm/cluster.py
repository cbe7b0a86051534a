"""A real SLURM of one node on this machine, with two pretend GPUs, two partitions and no accounting.

It needs slurm-wlm and munge (`apt-get install slurm-wlm munge`) and root, and writes /etc/slurm, because programs that
SLURM starts look nowhere else; a configuration that is not its own is left alone, and `why_not` says so.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

CONFIG = Path("/etc/slurm")
_OURS = "# written by affectome's tests"
_PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "munged")

# As the cluster sees the machine; jobs of the tests mostly sleep.
CPUS, MEMORY_MB = 16, 64_000


def why_not() -> str | None:
    """Why no cluster can be started here; None where one can."""
    missing = [program for program in _PROGRAMS if shutil.which(program, path=_path()) is None]
    if missing:
        return f"not installed: {', '.join(missing)} (apt-get install slurm-wlm munge)"
    if os.getuid():
        return "needs root"
    config = CONFIG / "slurm.conf"
    if config.exists() and _OURS not in config.read_text():
        return f"{config} belongs to another SLURM"
    return None


def _path() -> str:
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


class Cluster:
    """The running cluster; `command` calls SLURM's programs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._daemons: dict[str, subprocess.Popen] = {}

    # ------------------------------------------------------------ life

    def start(self) -> None:
        """Configure and start all daemons; returns once the node is idle."""
        for name in ("state", "spool", "logs"):
            (self.folder / name).mkdir(parents=True)
        for index in range(2):
            # SLURM wants a device file of each GPU; any character device will do.
            subprocess.run(["mknod", str(self.folder / f"gpu{index}"), "c", "1", "3"], check=True)
        host = socket.gethostname().partition(".")[0]
        CONFIG.mkdir(exist_ok=True)
        (CONFIG / "gres.conf").write_text(f"Name=gpu File={self.folder}/gpu[0-1]\n")
        (CONFIG / "slurm.conf").write_text("\n".join([_OURS, *self._settings(host)]) + "\n")
        self._munge()
        self.start_controller()
        self._daemon("slurmd", "-D", "-N", host)
        self._wait_for("idle")

    def stop(self) -> None:
        """End all daemons and take the configuration away."""
        subprocess.run(["scancel", "--user=root"], check=False, capture_output=True)
        end = time.monotonic() + 20
        # Jobs outlive daemons that go before them.
        while self.command("squeue", "--noheader", check=False).strip() and time.monotonic() < end:
            time.sleep(0.5)
        for daemon in reversed(self._daemons.values()):
            daemon.send_signal(signal.SIGTERM)
        for daemon in self._daemons.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                daemon.wait(timeout=10)
            daemon.kill()
        for name in ("slurm.conf", "gres.conf"):
            (CONFIG / name).unlink(missing_ok=True)

    def start_controller(self) -> None:
        self._daemon("slurmctld", "-D")

    def stop_controller(self) -> None:
        """As a service manager does before it starts it again; killed, SLURM may lose track of jobs by itself."""
        self._daemons["slurmctld"].terminate()
        self._daemons.pop("slurmctld").wait()

    def _munge(self) -> None:
        if subprocess.run(["pgrep", "-x", "munged"], check=False, capture_output=True).returncode:
            Path("/run/munge").mkdir(exist_ok=True)
            shutil.chown("/run/munge", "munge", "munge")
            subprocess.run(["runuser", "-u", "munge", "--", "munged", "--force"], check=True, env=self._environment())

    def _daemon(self, program: str, *arguments: str) -> None:
        with open(self.folder / "logs" / f"{program}.log", "ab") as log:
            self._daemons[program] = subprocess.Popen(
                [program, *arguments], stdout=log, stderr=log, env=self._environment(), start_new_session=True
            )

    @staticmethod
    def _environment() -> dict[str, str]:
        return {**os.environ, "PATH": _path()}

    def _wait_for(self, state: str, seconds: float = 30) -> None:
        end = time.monotonic() + seconds
        while state not in self.command("sinfo", "--noheader", "--format=%t", check=False):
            if time.monotonic() > end:
                logs = "\n".join(file.read_text()[-3000:] for file in (self.folder / "logs").iterdir())
                raise RuntimeError(f"the node is not {state} after {seconds} s\n{logs}")
            time.sleep(0.3)

    def _settings(self, host: str) -> list[str]:
        return [
            "ClusterName=affectome",
            f"SlurmctldHost={host}(127.0.0.1)",
            "SlurmUser=root",
            "SlurmdUser=root",
            "AuthType=auth/munge",
            "ProctrackType=proctrack/linuxproc",
            "TaskPlugin=task/none",
            "SelectType=select/cons_tres",
            "SelectTypeParameters=CR_Core_Memory",
            "ReturnToService=2",
            "EnforcePartLimits=ALL",
            "MinJobAge=60000",
            "KillWait=5",
            # On a machine with more to do than it can, submitting takes longer than the ten seconds it usually may.
            "MessageTimeout=60",
            "JobRequeue=1",
            "SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0",
            "AccountingStorageType=accounting_storage/none",
            "JobAcctGatherType=jobacct_gather/linux",
            "JobAcctGatherParams=OverMemoryKill,UsePss",
            "JobAcctGatherFrequency=task=1",
            "GresTypes=gpu",
            "SlurmdParameters=config_overrides",
            f"StateSaveLocation={self.folder}/state",
            f"SlurmdSpoolDir={self.folder}/spool",
            f"SlurmctldPidFile={self.folder}/slurmctld.pid",
            f"SlurmdPidFile={self.folder}/slurmd.pid",
            f"NodeName={host} NodeAddr=127.0.0.1 CPUs={CPUS} RealMemory={MEMORY_MB} Gres=gpu:2",
            "PartitionName=cpu Nodes=ALL Default=YES",
            "PartitionName=gpu Nodes=ALL",
        ]

    # ------------------------------------------------------------ use

    def command(self, *command: str, check: bool = True) -> str:
        """What one of SLURM's programs prints."""
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout

    def insist(self, *command: str) -> None:
        """Call one of SLURM's programs until it succeeds; the controller may be away for some seconds."""
        for _ in range(60):
            if subprocess.run(command, capture_output=True, check=False).returncode == 0:
                return
            time.sleep(0.5)
        raise RuntimeError(f"{' '.join(command)}: refused for 30 s")

    def jobs(self, folder: Path) -> list[dict[str, str]]:
        """Jobs submitted from `folder`, finished ones too.

        Keys are those of `scontrol show job --details`, among them JobId, JobState, Partition, Comment and, of running
        jobs with a GPU, GRES.
        """
        shown = self.command("scontrol", "show", "job", "--details", "--oneliner", check=False)
        words = [[word for word in line.split(" ") if "=" in word] for line in shown.splitlines()]
        jobs = [dict(word.partition("=")[::2] for word in line) for line in words]
        return [job for job in jobs if job.get("WorkDir") == str(folder)]


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Cluster]:
    """A cluster whose files are in `folder`."""
    cluster = Cluster(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
