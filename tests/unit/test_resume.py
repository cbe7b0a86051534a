"""An interrupted collecting job loses little, repeats nothing that is on disk, and ends with the same bytes.

Jobs are killed for real, in processes of their own; races around the lock are provoked with threads, whose locks on
separately opened files exclude each other as those of processes do.
"""

import errno
import fcntl
import json
import logging
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from affectome.activations import resume
from affectome.activations.pooling import PoolingHooks
from affectome.activations.resume import PartialRows
from affectome.activations.store import Texts
from tests.helpers import collect, collect_spec, tiny_model, write_corpora, write_manifest
from tests.project import ROOT

# One text to a batch: twelve batches, the longest text first.
STORIES = [("calm", "Once upon a time there was a river. " * (1 + index % 5) + "x" * index) for index in range(12)]
SPEC = collect_spec([0, 2], token_budget=1)
KINDS = ("activations", "token_norm")

# A collecting job that does `act` when it has finished its third batch.
JOB = """
import json, os, signal, sys, time, types
from affectome.activations import resume
from affectome.activations.collect import collect_shard
from affectome.jobs import job

arguments = json.loads(sys.argv[1])
resume.FLUSH_INTERVAL_S = arguments.pop("flush_interval")
act = arguments.pop("act")
write, finished = resume.PartialRows.write, []

def counted(self, batch, *rest):
    write(self, batch, *rest)
    finished.append(batch)
    if len(finished) == 3:
        exec(act)

resume.PartialRows.write = counted
with job(types.SimpleNamespace(log=[], rule="collect_activations", resources={})):
    collect_shard(**arguments)
"""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("inputs")
    model = tiny_model(folder / "model")
    stories, neutral = write_corpora(folder, STORIES)
    return {"model": model, "stories": stories, "neutral": neutral}


@pytest.fixture(scope="module")
def uninterrupted(inputs: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return contents(collect(**inputs, output=tmp_path_factory.mktemp("whole") / "0.h5", spec=SPEC))


def contents(shard: Path) -> dict[str, bytes]:
    """All that a shard holds, but for how fast it was made."""
    found = {}
    with h5py.File(shard) as file:
        for name, value in file.attrs.items():
            found[f"@{name}"] = np.asarray(value).tobytes() if name != "seconds" else b""
        for name in [*Texts.__dataclass_fields__, *(f"{kind}/layer_{i}" for kind in KINDS for i in SPEC["layers"])]:
            found[name] = str(list(file[name])).encode() if file[name].dtype == object else file[name][...].tobytes()
    return found


def start(inputs: dict[str, Any], output: Path, act: str = "pass", flush_interval: float = 0.0) -> subprocess.Popen:
    arguments = {
        "stories": str(inputs["stories"]),
        "neutral": str(inputs["neutral"]),
        "manifest": str(write_manifest(inputs["model"])),
        "output": str(output),
        "shard": 0,
        "spec": SPEC,
        "code": "code",
        "threads": 1,
    }
    command = [sys.executable, "-c", JOB, json.dumps(arguments | {"act": act, "flush_interval": flush_interval})]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Token counts of the passes made in this process, one per batch."""
    made: list[int] = []
    run = PoolingHooks.run

    def counted(self: PoolingHooks, model: Any, ids: Any, *spans: Any) -> Any:
        made.append(ids.numel())
        return run(self, model, ids, *spans)

    monkeypatch.setattr(PoolingHooks, "run", counted)
    return made


# ---------------------------------------------------------------- jobs that end early


@pytest.mark.parametrize(
    ("act", "flush_interval", "code", "left"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", 0.0, -signal.SIGKILL, 9),
        # Nothing was flushed yet, so nothing is believed.
        ("os._exit(7)", 1e9, 7, 12),
        # SIGTERM is an ordinary exit, and what is finished is kept.
        ("os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)", 1e9, 128 + signal.SIGTERM, 9),
    ],
)
def test_a_rerun_computes_only_what_is_missing(
    act: str,
    flush_interval: float,
    code: int,
    left: int,
    inputs: dict[str, Any],
    uninterrupted: dict[str, bytes],
    passes: list[int],
    tmp_path: Path,
) -> None:
    output = tmp_path / "0.h5"
    job = start(inputs, output, act, flush_interval)
    _, log = job.communicate(timeout=120)
    assert job.returncode == code, log
    assert not output.exists()
    collect(**inputs, output=output, spec=SPEC)
    assert len(passes) == left
    assert contents(output) == uninterrupted
    assert [file.name for file in tmp_path.iterdir()] == ["0.h5"]


# Forks collecting jobs, which need not import anything anew, and ends each after a random time until one is done.
# Batches take 100 ms, so that twenty jobs never get through them, and rows are flushed every 50 ms. Prints the batches
# of every job, and those then on record.
KILLER = """
import json, os, random, signal, sys, time, types
from pathlib import Path
from affectome.activations import resume
from affectome.activations.collect import collect_shard
from affectome.activations.engine import Engine
from affectome.jobs import job

arguments = json.loads(sys.argv[1])
folder = Path(arguments["output"]).parent
resume.FLUSH_INTERVAL_S = 0.05
read, log = Engine._read, folder / "passes"

def slow(self, hooks, texts, spans):
    with open(log, "a") as file:
        file.write(f"{len(texts[0].ids)} ")
    time.sleep(0.1)
    return read(self, hooks, texts, spans)

Engine._read = slow
moments, ends = random.Random(0), []
while True:
    log.write_text("")
    begun, begin = os.pipe()
    child = os.fork()
    if not child:
        try:
            with job(types.SimpleNamespace(log=[], rule="collect_activations", resources={})):
                os.write(begin, b".")
                collect_shard(**arguments)
        except SystemExit as end:
            os._exit(end.code or 0)
        os._exit(0)
    os.read(begun, 1)  # before that, SIGTERM would end Python and not the job
    os.close(begun), os.close(begin)
    deadline = time.monotonic() + moments.uniform(0.05, 0.45)
    while time.monotonic() < deadline and not os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        time.sleep(0.005)
    os.kill(child, moments.choice([signal.SIGKILL, signal.SIGTERM]) if len(ends) < 20 else 0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    journal = folder / ".0.partial/journal.jsonl"
    lines = journal.read_text().splitlines() if journal.exists() else []
    done = []
    for line in filter(None, lines):
        try:
            done.append(json.loads(line)["batch"])
        except ValueError:
            pass
    ends.append({"status": status, "passes": log.read_text().split(), "done": sorted(done)})
    if Path(arguments["output"]).exists():
        break
print(json.dumps(ends))
"""


def test_twenty_kills_at_random_moments(inputs: dict[str, Any], tmp_path: Path) -> None:
    """Ninety batches of one text each, all of different lengths, by which a pass tells which batch it read."""
    stories, neutral = write_corpora(tmp_path, [("calm", "x" * (10 + length)) for length in range(90)])
    texts = {**inputs, "stories": stories, "neutral": neutral}
    whole = contents(collect(**texts, output=tmp_path / "whole.h5", spec=SPEC))
    arguments = {
        "stories": str(stories),
        "neutral": str(neutral),
        "manifest": str(write_manifest(inputs["model"])),
        "output": str(tmp_path / "killed/0.h5"),
        "shard": 0,
        "spec": SPEC,
        "code": "code",
        "threads": 1,
    }
    (tmp_path / "killed").mkdir()
    command = [sys.executable, "-c", KILLER, json.dumps(arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=300)
    ends = json.loads(done.stdout)
    killed = [end for end in ends if end["status"]]
    assert {end["status"] for end in killed} == {-signal.SIGKILL, 128 + signal.SIGTERM}
    assert len(killed) == 20
    assert ends[-1]["status"] == 0
    recorded: set[int] = set()
    for end in ends:
        # Batch 0 is the longest text, of 1 + 99 tokens. Nothing on record is read again, nor anything twice by one job.
        read = [1 + 99 - int(length) for length in end["passes"]]
        assert len(set(read)) == len(read)
        assert not recorded & set(read)
        assert not end["done"] or recorded <= set(end["done"])
        recorded = set(end["done"])
    assert contents(tmp_path / "killed/0.h5") == whole
    assert sum(len(end["passes"]) for end in ends) >= 90


def test_other_settings_start_afresh(inputs: dict[str, Any], passes: list[int], tmp_path: Path) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for code, expected in (("a", 12), ("b", 12), ("b", 0)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("affectome.activations.store.write_shard", interrupted)
            with pytest.raises(KeyboardInterrupt):
                collect(**inputs, output=tmp_path / "0.h5", spec=SPEC, code=code)
        assert len(passes) == expected
        passes.clear()


def test_a_second_process_waits_for_the_first(
    inputs: dict[str, Any], uninterrupted: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first stands still amid its batches until the second waits for its lock, and then ends well."""
    output = tmp_path / "0.h5"
    paused, go_on = threading.Event(), threading.Event()
    write = PartialRows.write

    def pausing(self: PartialRows, *batch: Any) -> None:
        write(self, *batch)
        paused.set()
        assert go_on.wait(120)

    monkeypatch.setattr(PartialRows, "write", pausing)
    first = threading.Thread(target=collect, kwargs={**inputs, "output": output, "spec": SPEC}, daemon=True)
    first.start()
    assert paused.wait(120)
    second = start(inputs, output)
    assert second.stderr is not None
    log = ""
    while "waiting for it to end" not in log:
        log += second.stderr.readline()
        assert second.poll() is None, log
    assert not output.exists()
    go_on.set()
    first.join(120)
    _, log = second.communicate(timeout=120)
    assert second.returncode == 0, log
    assert contents(output) == uninterrupted
    assert [file.name for file in tmp_path.iterdir()] == ["0.h5"]


# ---------------------------------------------------------------- rows on disk


def rows(folder: Path, key: str = "key", texts: int = 4) -> PartialRows:
    partial = PartialRows(folder, key, layers=2, texts=texts, width=3)
    if partial.plan is None:
        partial.set_plan({"token_budget": 1})
    return partial


def fill(partial: PartialRows, batch: int) -> None:
    """Batch `batch` of one text, whose rows hold its number."""
    partial.write(batch, [batch], np.full((2, 1, 3), 1.0 + batch), np.full((2, 1), 1.0 + batch), seconds=0.5)


def check(partial: PartialRows) -> None:
    """Every batch that counts as done has its rows."""
    for batch in partial.done:
        for part in (*partial.pooled, *partial.norms):
            assert (part[batch : batch + 1] == 1 + batch).all()


def test_finished_rows_are_there_again(tmp_path: Path) -> None:
    with rows(tmp_path / "p") as partial:
        fill(partial, 2)
        fill(partial, 0)
    with rows(tmp_path / "p") as partial:
        assert partial.done == {2: 0.5, 0: 0.5}
        check(partial)
        fill(partial, 1)
        partial.flush()
        assert sorted(partial.done) == [0, 1, 2]
    with rows(tmp_path / "p") as partial:
        assert sorted(partial.done) == [0, 1, 2]
        partial.remove()
    assert not (tmp_path / "p").exists()


def test_batches_mean_nothing_without_the_plan_that_numbered_them(tmp_path: Path) -> None:
    with rows(tmp_path / "p") as partial:
        fill(partial, 2)
    (tmp_path / "p/plan.json").unlink()
    with rows(tmp_path / "p") as partial:
        assert partial.done == {}


@pytest.mark.parametrize("damage", [b"", b'{"token_bud', b"\xff\x00"])
def test_a_damaged_plan_lends_its_batches_to_no_other(damage: bytes, tmp_path: Path) -> None:
    with rows(tmp_path / "p") as partial:
        fill(partial, 2)
    (tmp_path / "p/plan.json").write_bytes(damage)
    for _ in range(2):
        # The second time, there is a plan again.
        with rows(tmp_path / "p") as partial:
            assert partial.done == {}


@pytest.mark.parametrize("line", [b"\xff\xfe", bytes(9), b"null", b"3", b"[1]", b"{}", b'{"batch": 3}'])
def test_a_damaged_line_of_the_journal_costs_itself_only(line: bytes, tmp_path: Path) -> None:
    with rows(tmp_path / "p") as partial:
        fill(partial, 2)
        partial.flush()
        fill(partial, 0)
    journal = tmp_path / "p/journal.jsonl"
    first, last = journal.read_bytes().split(b"\n")[1:]
    journal.write_bytes(b"\n".join([b"", first, line, last]))
    with rows(tmp_path / "p") as partial:
        assert partial.done == {2: 0.5, 0: 0.5}
        check(partial)


def test_a_damaged_fingerprint_is_another_fingerprint(tmp_path: Path) -> None:
    with rows(tmp_path / "p") as partial:
        fill(partial, 2)
    (tmp_path / "p/fingerprint").write_bytes(b"\xff\x00")
    with rows(tmp_path / "p") as partial:
        assert partial.done == {}


def test_the_plan_is_there_again(tmp_path: Path) -> None:
    with rows(tmp_path / "p") as partial:
        partial.set_plan({"token_budget": 7, "cores": 2})
    with rows(tmp_path / "p") as partial:
        assert partial.plan == {"token_budget": 7, "cores": 2}
    with rows(tmp_path / "p", "other") as partial:
        assert partial.plan == {"token_budget": 1}


def test_rows_of_another_key_are_forgotten(tmp_path: Path) -> None:
    with rows(tmp_path / "p") as partial:
        fill(partial, 2)
    with rows(tmp_path / "p", "other", texts=6) as partial:
        assert partial.done == {}
        assert [part.shape for part in (*partial.pooled, *partial.norms)] == [(6, 3), (6, 3), (6,), (6,)]
        assert not any(part[:].any() for part in (*partial.pooled, *partial.norms))


@pytest.mark.parametrize("kept", range(0, 80, 3))
def test_a_torn_journal_costs_its_last_batch_only(kept: int, tmp_path: Path) -> None:
    """However little of the journal was written, the rest is read, continued and read again."""
    with rows(tmp_path / "p") as partial:
        for batch in (0, 1, 2):
            fill(partial, batch)
    journal = tmp_path / "p/journal.jsonl"
    whole = journal.read_bytes()
    journal.write_bytes(whole[:kept])
    with rows(tmp_path / "p") as partial:
        survived = set(partial.done)
        assert survived == {batch for batch in range(3) if kept >= (batch + 1) * len(whole) / 3}
        fill(partial, 3)
    with rows(tmp_path / "p") as partial:
        assert set(partial.done) == survived | {3}
        check(partial)


@pytest.mark.parametrize("steps", range(7))
def test_a_kill_while_rows_are_forgotten_leaves_none_that_are_believed(
    steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job was done and removing its rows when it was killed, and Snakemake deleted its output."""
    unlink, left = Path.unlink, [None] * steps

    def failing(self: Path, **options: Any) -> None:
        if not left:
            raise KeyboardInterrupt
        left.pop()
        unlink(self, **options)

    with rows(tmp_path / "p") as partial:
        fill(partial, 1)
        partial.flush()
        monkeypatch.setattr(Path, "unlink", failing)
        try:
            partial.remove()
        except KeyboardInterrupt:
            assert steps < 6
        monkeypatch.setattr(Path, "unlink", unlink)
    with rows(tmp_path / "p") as partial:
        assert set(partial.done) <= {1}
        check(partial)


def test_a_flush_that_is_interrupted_is_made_up_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM may come while the journal is being written; leaving the context then writes it again."""
    with rows(tmp_path / "p") as partial:
        fill(partial, 1)
        monkeypatch.setattr(resume.os, "fsync", lambda _file: sys.exit(143))
        with pytest.raises(SystemExit):
            partial.flush()
        monkeypatch.undo()
    with rows(tmp_path / "p") as partial:
        assert set(partial.done) == {1}
        check(partial)


# ---------------------------------------------------------------- the lock


def test_the_lock_is_given_back_on_any_exit(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="stop"), rows(tmp_path / "p"):
        raise ValueError("stop")
    with rows(tmp_path / "p"), open(tmp_path / "p/lock") as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with open(tmp_path / "p/lock") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize("leave", [PartialRows.remove, PartialRows.flush])
def test_jobs_never_work_at_once_nor_trip_over_each_other(leave: Callable[[PartialRows], None], tmp_path: Path) -> None:
    """Many jobs on one folder, each making it, locking it, working, and removing it under the feet of the others."""
    inside: list[int] = []
    mistakes: list[object] = []

    def work(number: int) -> None:
        try:
            for _ in range(40):
                with rows(tmp_path / "p") as partial:
                    inside.append(number)
                    fill(partial, number % 4)
                    time.sleep(0.0002)
                    if inside != [number]:
                        mistakes.append(list(inside))
                    inside.remove(number)
                    leave(partial)
        except BaseException as error:
            mistakes.append(error)

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert mistakes == []
    assert not any(thread.is_alive() for thread in threads)


@pytest.mark.parametrize("before", [True, False])
def test_a_folder_that_vanishes_while_it_is_locked_is_made_again(
    before: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once found to exist and gone when looked at, and once gone before the lock in it could be opened."""
    mkdir, left = Path.mkdir, [None]

    def vanishing(self: Path, *arguments: Any, **options: Any) -> None:
        if left and before:
            left.pop()
            raise FileExistsError
        mkdir(self, *arguments, **options)
        if left:
            left.pop()
            self.rmdir()

    monkeypatch.setattr(Path, "mkdir", vanishing)
    with rows(tmp_path / "p") as partial:
        fill(partial, 0)
    assert not left
    assert (tmp_path / "p/journal.jsonl").exists()


def test_a_job_that_comes_while_rows_are_removed_is_let_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has locked a new file by the time the folder of the old one is to go."""
    unlink = Path.unlink

    def followed(self: Path, **options: Any) -> None:
        unlink(self, **options)
        if self.name == "lock":
            self.touch()

    with rows(tmp_path / "p") as partial:
        monkeypatch.setattr(Path, "unlink", followed)
        partial.remove()
    assert [file.name for file in (tmp_path / "p").iterdir()] == ["lock"]


def test_a_file_system_without_locks_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def flock(_file: object, _operation: int) -> None:
        raise OSError(number, "no")

    monkeypatch.setattr(resume.fcntl, "flock", flock)
    number = errno.ENOSYS
    with caplog.at_level(logging.WARNING), rows(tmp_path / "p") as partial:
        fill(partial, 0)
    assert "has no locks" in caplog.text
    number = errno.EIO
    with pytest.raises(OSError, match="no"):
        rows(tmp_path / "p")
