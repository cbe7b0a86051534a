"""Faults at random places and moments, then the same call again: `python -m benchmarks.faults`.

A tiny run is built once, undisturbed. Each case begins from a copy of it, in which a part is to be made again, and has
one fault: a process killed, a full disk, a damaged file, side file or clock. Then the same snakemake call is made
again, plainly. It must either end in the results of the undisturbed run, or stop with an error that names the damaged
file and shows no traceback; then, with what it names deleted (or put back, where it is the user's own), the call must
end in the same results.

Results are the same when the same files are there with the same content: every dataset and attribute of HDF5 files,
every value of JSON files, and the bytes of all others (Parquet, safetensors, NPZ, GGUF, SVG, PNG, HTML). Left out is
when and how fast they were made: `seconds`, `tokens_per_second`, `performance` and `made`, logs and benchmarks.

`--folder` keeps the undisturbed run, a log per case and `cases.jsonl`, a line per case. A case is known by its seed and
its number: `--seed 0 --only 17` draws that case again. Exit status 1 says that a case failed. Full disks are tmpfs
mounts, which takes root.
"""

import argparse
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import h5py

from tests.project import snakemake
from tests.workflow.tiny import RUN, tiny_config, tiny_project, write_overlay

CORPUS, STORE, MODEL = "results/corpora/small", "results/activations/tiny/small/from-50", "resources/models/tiny"
SHARD, LAYER, VECTORS = f"{STORE}/shards/0.h5", f"{STORE}/layer_1.h5", f"results/{RUN}/vectors/layer_1.h5"
ANALYSES, FIGURES, STEERING = (f"results/{RUN}/{part}" for part in ("analyses", "figures", "steering"))
EXPRESSION, COST = f"{STEERING}/expression", f"{STEERING}/cost"

# Parts of the run that a case makes again: the files removed, the last of which is asked for.
PARTS: dict[str, tuple[str, ...]] = {
    "model": (f"{MODEL}/manifest.json",),
    "corpus": (f"{CORPUS}/raw_stories.parquet", f"{CORPUS}/raw_neutral.parquet", f"{CORPUS}/screening.json"),
    "activations": (SHARD, LAYER, VECTORS),
    "export": (VECTORS, f"results/{RUN}/vectors/vectors.safetensors"),
    "geometry": (f"{ANALYSES}/geometry.parquet", f"{ANALYSES}/norm_correlations.json"),
    "clusters": (f"{ANALYSES}/clusters.json",),
    "figures": (f"{FIGURES}/spectrum.svg",),
    "expression": (f"{EXPRESSION}/items.parquet", f"{EXPRESSION}/verdict.json"),
    "cost": (f"{COST}/directions.h5", f"{COST}/items.parquet", f"{COST}/safe_ranges.json"),
    "records": (f"results/{RUN}/summary.json", f"results/{RUN}/manifest.json"),
    "pages": (f"{EXPRESSION}/generations.html", f"results/{RUN}/summary.html"),
}

# Files, and for each the results that are made by reading it.
READERS: dict[str, tuple[str, ...]] = {
    "small.jsonl": (f"{CORPUS}/raw_stories.parquet",),
    "weights/model.safetensors": (SHARD, f"{COST}/items.parquet"),
    "weights/config.json": (SHARD, f"{COST}/items.parquet"),
    "weights/tokenizer.json": (SHARD,),
    f"{MODEL}/manifest.json": (SHARD, f"{COST}/items.parquet", f"results/{RUN}/manifest.json"),
    f"{CORPUS}/raw_stories.parquet": (f"{CORPUS}/stories.parquet",),
    f"{CORPUS}/stories.parquet": (SHARD, f"{EXPRESSION}/items.parquet"),
    f"{CORPUS}/screening.json": (f"results/{RUN}/summary.json",),
    SHARD: (LAYER, VECTORS),
    LAYER: (VECTORS,),
    f"{STORE}/layer_2.h5": (f"{COST}/directions.h5", f"results/{RUN}/summary.json"),
    VECTORS: (f"{ANALYSES}/geometry.json", f"results/{RUN}/vectors/vectors.npz"),
    f"{ANALYSES}/geometry.parquet": (f"{ANALYSES}/norm_correlations.json", f"{FIGURES}/spectrum.svg"),
    f"{ANALYSES}/geometry.json": (f"{ANALYSES}/layer_profile.parquet",),
    f"{ANALYSES}/norm_correlations.json": (f"{ANALYSES}/layer_profile.parquet",),
    f"{ANALYSES}/similarity.parquet": (f"{FIGURES}/spectrum.svg",),
    f"{ANALYSES}/clusters.json": (f"{FIGURES}/spectrum.svg",),
    f"{EXPRESSION}/directions.h5": (f"{EXPRESSION}/items.parquet",),
    f"{EXPRESSION}/items.parquet": (f"{EXPRESSION}/verdict.json", f"{EXPRESSION}/generations.html"),
    f"{EXPRESSION}/effects.parquet": (f"{EXPRESSION}/figures/dose_response.svg",),
    f"{EXPRESSION}/verdict.json": (f"{EXPRESSION}/figures/dose_response.svg", f"results/{RUN}/summary.json"),
    f"{COST}/safe_ranges.json": (f"{EXPRESSION}/verdict.json", f"{COST}/figures/cost_curves.svg"),
    f"results/{RUN}/summary.json": (f"results/{RUN}/manifest.json", f"results/{RUN}/summary.html"),
}

# Where interrupted jobs keep what they have, by the part that was interrupted: its side files, the journal first.
SIDES: dict[str, tuple[str, ...]] = {
    "expression": (f"{EXPRESSION}/.items.journal.jsonl",),
    "activations": tuple(f"{STORE}/shards/.0.partial/{name}" for name in ("journal.jsonl", "plan.json", "fingerprint")),
}

# One thread per job: more wait for each other when the model is that small.
SETTINGS = ("--configfile", "overlay.yaml", "--set-threads", "collect_activations=1", "steering_trial=1")

_TIMES = {"seconds", "tokens_per_second", "performance", "made"}
_TRACEBACK = "Traceback (most recent call last)"
# Lines in which Snakemake describes a job, naming every file of it.
_DESCRIPTION = re.compile(r"^\s*(input|output|log|reason|benchmark|wildcards|resources|jobid|shell|conda-env): ")
_PAGE = 4096
# A job may end before it could be killed.
_TRIES = 5
_YEAR_S = 365 * 24 * 3600


@dataclass
class Case:
    """What was done, and what came of it: `outcome` is equal, stopped or failed."""

    seed: int
    number: int
    kind: str
    what: dict[str, Any] = field(default_factory=dict)
    hit: bool = True
    outcome: str = "equal"
    detail: str = ""
    seconds: float = 0.0


class CaseError(Exception):
    """A case in which the workflow did not do what it promises."""


class Campaign:
    """Cases on the run in `folder`, which is built at first; `targets` are what it consists of, all by default.

    Every case works in the folder `project`, so that the absolute paths in a model's links stay true.
    """

    def __init__(self, folder: Path, seed: int, targets: Sequence[str] = ()) -> None:
        self._folder, self._seed = folder.resolve(), seed
        self._project = self._folder / "project"
        self._disk = self._project / "results"
        if not (self._folder / "reference").exists():
            self._build(targets)
        for part in self._parts():
            if part in SIDES and not (self._folder / f"interrupted-{part}").exists():
                self._interrupt(part, self._project / SIDES[part][0])
        self._wanted = contents(self._folder / "reference")

    def run(self, number: int, kind: str) -> Case:
        """Draw case `number` of `kind` and go through with it."""
        case = Case(self._seed, number, kind)
        self._log = self._folder / "logs" / f"{self._seed}-{number}-{kind}.log"
        self._log.parent.mkdir(exist_ok=True)
        self._log.unlink(missing_ok=True)
        started = time.monotonic()
        try:
            KINDS[kind](self, case, random.Random(f"{self._seed} {number} {kind}"))  # noqa: S311 - drawing cases
        except CaseError as failure:
            case.outcome, case.detail = "failed", str(failure)
        finally:
            self._unmount()
        case.seconds = round(time.monotonic() - started, 1)
        with open(self._folder / "cases.jsonl", "a", encoding="utf-8") as handle:
            handle.write(json.dumps(asdict(case), ensure_ascii=False) + "\n")
        return case

    # ------------------------------------------------------------ kinds

    def killed(self, case: Case, rng: random.Random) -> None:
        """A signal to snakemake alone or to all its jobs too, any time from its start to its end."""
        number = signal.SIGTERM if case.kind == "sigterm" else signal.SIGKILL
        alone = case.kind == "sigkill alone" or (case.kind == "sigterm" and rng.random() < 0.5)
        part = rng.choice(self._parts())
        # From a job's first line in its log on it is at work; before that, it only imports.
        after_jobs = rng.randint(0, len(PARTS[part]))
        delay = rng.uniform(0.2, 1.5 if after_jobs else 6.0)
        case.what = {"part": part, "alone": alone, "after_jobs": after_jobs, "delay": round(delay, 3)}
        self._restore()
        self._remove(PARTS[part])
        shutil.rmtree(self._project / "results/logs")
        process = self._start(PARTS[part][-1])
        while process.poll() is None and self._begun() < after_jobs:
            time.sleep(0.01)
        with suppress(subprocess.TimeoutExpired):
            process.wait(delay)
        case.hit = process.poll() is None
        if case.hit and alone:
            process.send_signal(number)
        elif case.hit:
            os.killpg(process.pid, number)
        process.wait()
        self._ends_equal(PARTS[part][-1], process)

    def full_disk(self, case: Case, rng: random.Random) -> None:
        """A disk with room for some of what is to be written, at times for none; then there is room again."""
        part = rng.choice([part for part in self._parts() if part != "model"])
        self._restore()
        pages = sum(-(-(self._project / path).stat().st_size // _PAGE) for path in PARTS[part])
        # As many logarithms as there are: most writes are small and come early.
        room = int(_PAGE * 2 ** rng.uniform(0, (pages + 4).bit_length()))
        case.what = {"part": part, "room": room}
        ballast = self._mount()
        self._remove(PARTS[part])
        with open(ballast, "wb") as handle:
            free = os.statvfs(self._disk)
            os.posix_fallocate(handle.fileno(), 0, free.f_bavail * free.f_frsize - room)
        status, output = self._call(PARTS[part][-1])
        ballast.unlink()
        case.hit = status != 0
        said = [line for line in output.splitlines() if "no space left" in line.lower()]
        case.detail = " ".join(said[-1].split())[:300] if said else ""
        if case.hit and (not said or _TRACEBACK in output):
            raise CaseError("a full disk ends in a traceback" if said else "nothing says that the disk is full")
        self._ends_equal(PARTS[part][-1])

    def damaged(self, case: Case, rng: random.Random) -> None:
        """A file that cannot be read or is cut short, its time of change kept; what is made from it is made again."""
        endings = {
            "unreadable": (".jsonl", ".json", ".parquet", ".safetensors", ".h5"),
            "truncated hdf5": (".h5",),
            "truncated table": (".json", ".parquet", ".safetensors", ".jsonl"),
        }[case.kind]
        there = [path for path in READERS if path.endswith(endings) and self._readers(path)]
        path = rng.choice(there)
        reader = rng.choice(self._readers(path))
        way = rng.choice(("directory", "dangling link", "garbage")) if case.kind == "unreadable" else "cut"
        case.what = {"file": path, "way": way, "reader": reader}
        self._restore()
        file = self._project / path
        original, stat = file.read_bytes(), file.stat()
        if way == "cut":
            # Every fifth time nothing is left.
            case.what["left"] = left = max(0, int(rng.uniform(-0.25, 1) * len(original)))
            file.write_bytes(original[:left])
        else:
            file.unlink()
            if way == "directory":
                file.mkdir()
            elif way == "dangling link":
                file.symlink_to("nowhere")
            else:
                file.write_bytes(rng.randbytes(len(original)))
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns), follow_symlinks=False)
        self._remove([reader])
        self._ends_equal_once_mended(case, path, reader, original)

    def journal(self, case: Case, rng: random.Random) -> None:
        """A damaged side file of an interrupted job."""
        part = rng.choice([part for part in self._parts() if part in SIDES])
        path = rng.choice(SIDES[part]) if rng.random() < 0.4 else SIDES[part][0]
        way = rng.choice(("cut", "empty", "zeros", "garbage", "foreign line", "other fingerprint", "future", "past"))
        case.what = {"part": part, "file": path, "way": way}
        self._restore(f"interrupted-{part}")
        file = self._project / path
        content = file.read_bytes()
        start = rng.randrange(len(content))
        length = min(rng.randint(16, 64), len(content) - start)
        match way:
            case "cut":
                file.write_bytes(content[:start])
            case "empty":
                file.write_bytes(b"")
            case "zeros":
                file.write_bytes(content[:start] + bytes(length) + content[start + length :])
            case "garbage":
                file.write_bytes(content[:start] + rng.randbytes(length) + content[start + length :])
            case "foreign line":
                line = rng.choice((b"null", b"3", b"[]", b'{"other": 1}'))
                end = content.find(b"\n", start) + 1
                file.write_bytes(content[:end] + line + b"\n" + content[end:])
            case "other fingerprint":
                file.write_bytes(re.sub(rb"[0-9a-f]{16}", b"0123456789abcdef", content))
            case _:
                moment = time.time() + (_YEAR_S if way == "future" else -20 * _YEAR_S)
                os.utime(file, (moment, moment))
        self._ends_equal(PARTS[part][-1])

    def clock(self, case: Case, rng: random.Random) -> None:
        """A file from the future or from long ago."""
        path = rng.choice([path for path in READERS if self._readers(path)])
        reader, years = rng.choice(self._readers(path)), rng.choice((-50, -1, 1, 10))
        case.what = {"file": path, "years": years, "reader": reader}
        self._restore()
        moment = time.time() + years * _YEAR_S
        os.utime(self._project / path, (max(moment, 0), max(moment, 0)))
        self._remove([reader])
        self._ends_equal_once_mended(case, path, reader, (self._project / path).read_bytes())

    # ------------------------------------------------------------ the undisturbed run

    def _build(self, targets: Sequence[str]) -> None:
        shutil.rmtree(self._project, ignore_errors=True)
        tiny_project(self._project)
        config = tiny_config(self._project)
        # Of the other layers moments are kept, as in large runs; and a batch is kept as soon as it is done.
        config["models"]["tiny"]["stored"] = [2]
        config["trials"]["expression"]["controls"] = {"random": 5, "shuffled": 0, "topic": 0}
        write_overlay(self._project, config)
        resume = self._project / "src/affectome/activations/resume.py"
        text = resume.read_text(encoding="utf-8")
        resume.write_text(text.replace("FLUSH_INTERVAL_S = 10.0", "FLUSH_INTERVAL_S = 0.0"), encoding="utf-8")
        done = snakemake(self._project, *targets, *SETTINGS)
        if done.returncode:
            sys.exit(f"the undisturbed run failed:\n{done.stdout}{done.stderr}")
        (self._project / "results/logs").mkdir(exist_ok=True)
        shutil.copytree(self._project, self._folder / "building", symlinks=True)
        (self._folder / "building").rename(self._folder / "reference")

    def _interrupt(self, part: str, journal: Path, lines: int = 6) -> None:
        """Keep, as `interrupted-{part}`, the project whose job was killed when its journal had some lines."""
        for _ in range(_TRIES):
            self._restore()
            self._log = self._folder / f"interrupted-{part}.log"
            self._remove(PARTS[part])
            process = self._start(PARTS[part][-1])
            while process.poll() is None and not (journal.exists() and journal.read_bytes().count(b"\n") >= lines):
                time.sleep(0.002)
            self._end(process)
            if journal.exists():
                self._project.rename(self._folder / f"interrupted-{part}")
                return
        sys.exit(f"{part} ended {_TRIES} times before it could be interrupted")

    # ------------------------------------------------------------ steps of a case

    def _parts(self) -> list[str]:
        reference = self._folder / "reference"
        return [part for part, paths in PARTS.items() if all((reference / path).exists() for path in paths)]

    def _readers(self, path: str) -> list[str]:
        reference = self._folder / "reference"
        return [reader for reader in READERS[path] if (reference / reader).exists() and (reference / path).exists()]

    def _restore(self, name: str = "reference") -> None:
        shutil.rmtree(self._project, ignore_errors=True)
        shutil.copytree(self._folder / name, self._project, symlinks=True)

    def _remove(self, paths: Sequence[str]) -> None:
        for path in paths:
            (self._project / path).unlink(missing_ok=True)

    def _start(self, target: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "snakemake", target, *SETTINGS]
        with open(self._log, "a", encoding="utf-8") as log:
            return subprocess.Popen(
                command, cwd=self._project, start_new_session=True, stdout=log, stderr=subprocess.STDOUT
            )

    def _call(self, target: str) -> tuple[int, str]:
        """Exit status of a call that asks for `target`, and what it printed."""
        before = self._log.stat().st_size if self._log.exists() else 0
        status = self._start(target).wait()
        return status, self._log.read_bytes()[before:].decode(errors="replace")

    def _begun(self) -> int:
        return sum(1 for _ in (self._project / "results").glob("logs/**/*.log"))

    def _end(self, process: subprocess.Popen) -> None:
        """Kill what is left of a process and its jobs."""
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def _ends_equal(self, target: str, earlier: subprocess.Popen | None = None) -> None:
        """Ask for `target` again; CaseError where that fails or its results are not those of the undisturbed run.

        Jobs that outlived their snakemake, `earlier`, work beside this call, and may end after it.
        """
        status, output = self._call(target)
        if status:
            raise CaseError(f"the rerun failed: {last_error(output)}")
        if earlier is not None:
            for _ in range(600):
                try:
                    os.killpg(earlier.pid, 0)
                except ProcessLookupError:
                    break
                time.sleep(0.1)
            else:
                self._end(earlier)
                raise CaseError("a job that outlived its snakemake did not end")
        self._compare()

    def _ends_equal_once_mended(self, case: Case, path: str, target: str, original: bytes) -> None:
        """Ask for `target`; where that stops, mend what it names, of which `path` is at fault, and ask again."""
        status, output = self._call(target)
        if status == 0:
            self._compare()
            return
        case.outcome = "stopped"
        case.detail = clear_error(path, output)
        # All that the message says to delete, which for a shard is the layer too.
        for named in {path, *re.findall(r"results/[\w./-]+\w", case.detail)}:
            if (self._project / named).is_dir():
                (self._project / named).rmdir()
            (self._project / named).unlink(missing_ok=True)
        if not path.startswith(("results/", MODEL)):
            (self._project / path).write_bytes(original)
            shutil.copystat(self._folder / "reference" / path, self._project / path)
        self._ends_equal(target)

    def _compare(self) -> None:
        found = contents(self._project)
        names = sorted(found.keys() | self._wanted.keys())
        different = [name for name in names if found.get(name) != self._wanted.get(name)]
        if different:
            raise CaseError(f"other results: {', '.join(different[:5])}{' …' if len(different) > 5 else ''}")

    def _mount(self) -> Path:
        """Put the results on a small disk of their own; returns the file that is to fill it."""
        aside = self._project / "aside"
        self._disk.rename(aside)
        self._disk.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", self._disk], check=True)
        shutil.copytree(aside, self._disk, symlinks=True, dirs_exist_ok=True)
        shutil.rmtree(aside)
        return self._disk / "ballast"

    def _unmount(self) -> None:
        if os.path.ismount(self._disk):
            subprocess.run(["umount", "--lazy", self._disk], check=True)


KINDS: dict[str, Callable[[Campaign, Case, random.Random], None]] = {
    "sigkill": Campaign.killed,
    "sigkill alone": Campaign.killed,
    "sigterm": Campaign.killed,
    "full disk": Campaign.full_disk,
    "unreadable": Campaign.damaged,
    "truncated hdf5": Campaign.damaged,
    "truncated table": Campaign.damaged,
    "journal": Campaign.journal,
    "clock": Campaign.clock,
}


def contents(project: Path) -> dict[str, str]:
    """What tells results apart, by path: a digest of every file that is neither a log nor a benchmark."""
    found = {}
    for top in ("results", "resources/models"):
        for path in sorted((project / top).rglob("*")):
            name = path.relative_to(project).as_posix()
            if path.is_dir() or name.startswith(("results/logs/", "results/benchmarks/")):
                continue
            if path.is_symlink():
                found[name] = os.readlink(path)
            elif path.suffix == ".h5":
                found[name] = _hdf5_digest(path)
            elif path.suffix == ".json":
                found[name] = _digest(json.dumps(_untimed(json.loads(path.read_bytes()))).encode())
            elif path.name != ".snakemake_timestamp":
                found[name] = _digest(path.read_bytes())
    return found


def _hdf5_digest(path: Path) -> str:
    found: list[str] = []

    def take(name: str, item: Any) -> None:
        if name.split("/")[0] in _TIMES:
            return
        found.extend(f"{name} {key} {value!r}" for key, value in sorted(item.attrs.items()) if key not in _TIMES)
        if isinstance(item, h5py.Dataset):
            values = item[...]
            data = b"|".join(values.ravel().tolist()) if values.dtype == object else values.tobytes()
            found.append(f"{name} {item.shape} {item.dtype} {_digest(data)}")

    with h5py.File(path) as file:
        take("", file)
        file.visititems(take)
    return _digest("\n".join(found).encode())


def _untimed(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _untimed(value) for key, value in content.items() if key not in _TIMES}
    return [_untimed(value) for value in content] if isinstance(content, list) else content


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def clear_error(path: str, output: str) -> str:
    """The line of `output` that names the damaged file; CaseError where none does or a traceback was shown."""
    # A model's files are links to the user's.
    names = (path, path.replace("weights/", f"{MODEL}/"))
    lines = [line for line in output.splitlines() if not _DESCRIPTION.match(line)]
    said = [line for line in lines if any(name in line for name in names)]
    if not said:
        raise CaseError(f"no message names {path}; the last says: {last_error(output)}")
    if _TRACEBACK in output:
        raise CaseError(f"a traceback, for {path}: {last_error(output)}")
    return " ".join(said[-1].split())[:600]


def last_error(output: str) -> str:
    """The last line of `output` that tells of an error, as far as one can say."""
    lines = [line.strip() for line in output.splitlines() if not _DESCRIPTION.match(line)]
    telling = [line for line in lines if re.search(r"Error\b|ERROR|Exception", line)]
    return " ".join((telling or lines or ["nothing"])[-1].split())[:300]


@contextmanager
def _folder(given: Path | None) -> Any:
    if given is None:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
    else:
        given.mkdir(parents=True, exist_ok=True)
        yield given


def main() -> None:
    parser = argparse.ArgumentParser(description="Faults at random, then the same call again; see the module.")
    parser.add_argument("--runs", type=int, default=50, help="cases")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="the number of the only case to go through")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="only cases of these kinds")
    parser.add_argument("--folder", type=Path, help="where the undisturbed run and the logs are kept")
    arguments = parser.parse_args()
    every = list(KINDS)
    if arguments.only is None:
        numbers = [n for n in range(arguments.runs * len(every)) if every[n % len(every)] in arguments.kinds]
        numbers = numbers[: arguments.runs]
    else:
        numbers = [arguments.only]
    with _folder(arguments.folder) as folder:
        campaign = Campaign(folder, arguments.seed)
        cases = []
        for number in numbers:
            cases.append(campaign.run(number, every[number % len(every)]))
            sys.stdout.write(json.dumps(asdict(cases[-1]), ensure_ascii=False) + "\n")
            sys.stdout.flush()
    sys.stdout.write(f"\n{os.cpu_count()} cores; seed {arguments.seed}\n\n{table(cases)}\n")
    sys.exit(any(case.outcome == "failed" for case in cases))


def table(cases: Sequence[Case]) -> str:
    """Cases by kind and outcome, in Markdown."""
    lines = [
        "| fault | cases | came in time | completed, equal | stopped clearly | failed |",
        "|---|---|---|---|---|---|",
    ]
    groups = [(kind, [case for case in cases if case.kind == kind]) for kind in KINDS]
    for name, group in [*((kind, group) for kind, group in groups if group), ("all", list(cases))]:
        count = Counter(case.outcome for case in group)
        hits = sum(case.hit for case in group)
        lines.append(f"| {name} | {len(group)} | {hits} | {count['equal']} | {count['stopped']} | {count['failed']} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
