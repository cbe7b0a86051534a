"""Parts of a run made again: stages by name, deleted results, and Snakemake's own options.

What depends on what is taken from `snakemake --detailed-summary`, which lists the files that every file was made from.
"""

import csv
import hashlib
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from tests.project import planned, snakemake
from tests.workflow.tiny import RUN, write_overlay

pytestmark = pytest.mark.workflow

OVERLAY = ("--configfile", "overlay.yaml")

# Stages: which files they are about.
STAGES = {
    "corpora": r"results/corpora/small/(stories\.parquet|neutral\.parquet|screening\.json|corpus_card\.(html|json))",
    "activations": r"results/activations/tiny/small/from-50/layer_\d\.h5",
    "vectors": rf"results/{RUN}/vectors/.*",
    "analyses": rf"results/{RUN}/analyses/.*",
    "steering": rf"results/{RUN}/steering/\w+/((items|effects)\.parquet|(verdict|safe_ranges)\.json)",
    "report": rf"results/{RUN}/((summary|manifest|overview|figures/).*|steering/\w+/(figures/.*|generations\.html))",
}

# What a run is made from and is not asked for by name: such a file comes back once something needs it.
BETWEEN = (
    rf"results/(corpora|activations)/(?!small/corpus_card).*|resources/models/.*|"
    rf"results/{RUN}/steering/\w+/(directions\.h5|notes\.json)"
)


@dataclass
class Job:
    rule: str
    inputs: set[str]
    outputs: set[str] = field(default_factory=set)


class Graph:
    """The jobs of the tiny run and how they hang together, by Snakemake's account."""

    def __init__(self, project: Path) -> None:
        done = snakemake(project, "--detailed-summary", *OVERLAY)
        assert done.returncode == 0, done.stdout + done.stderr
        jobs: dict[str, Job] = {}
        for row in csv.DictReader(done.stdout.splitlines(), delimiter="\t"):
            job = jobs.setdefault(row["log-file(s)"], Job(row["rule"], set(row["input-file(s)"].split(","))))
            job.outputs.add(row["output_file"])
        self.jobs = list(jobs.values())

    def files(self) -> Iterator[tuple[Job, str]]:
        for job in self.jobs:
            for file in sorted(job.outputs):
                yield job, file

    def matching(self, pattern: str) -> list[Job]:
        """Jobs with an output of this name."""
        return [job for job in self.jobs if any(re.fullmatch(pattern, file) for file in job.outputs)]

    def of(self, rule: str) -> list[Job]:
        return [job for job in self.jobs if job.rule == rule]

    def after(self, first: Iterable[Job]) -> list[Job]:
        """`first` and every job that reads what they, directly or not, make."""
        return self._reach(first, lambda job, other: job.outputs & other.inputs)

    def before(self, last: Iterable[Job]) -> list[Job]:
        """`last` and every job that they, directly or not, read from."""
        return self._reach(last, lambda job, other: job.inputs & other.outputs)

    def _reach(self, start: Iterable[Job], joined) -> list[Job]:
        todo, seen = list(start), []
        while todo:
            job = todo.pop()
            if job not in seen:
                seen.append(job)
                todo += [other for other in self.jobs if joined(job, other)]
        return seen


def count(jobs: Iterable[Job]) -> dict[str, int]:
    return dict(Counter(job.rule for job in jobs))


@pytest.fixture(scope="module")
def graph(built: Path) -> Graph:
    return Graph(built)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_builds_its_files_and_what_they_need(project: Path, graph: Graph, stage: str) -> None:
    wanted = graph.before(graph.matching(STAGES[stage]))
    assert planned(project, stage, "--forceall", *OVERLAY) == count(wanted)


def test_the_stages_together_are_the_whole_run(graph: Graph) -> None:
    missing = [file for _, file in graph.files() if not re.fullmatch("|".join([BETWEEN, *STAGES.values()]), file)]
    assert missing == []


def without(project: Path, file: str, *arguments: str) -> dict[str, int]:
    """The plan of `snakemake arguments` while `file` is gone."""
    aside = project / "aside"
    times = os.stat(project / file).st_mtime_ns
    (project / file).rename(aside)
    try:
        return planned(project, *arguments, *OVERLAY)
    finally:
        aside.rename(project / file)
        assert os.stat(project / file).st_mtime_ns == times


def test_a_deleted_result_comes_back_with_what_depends_on_it_alone(project: Path, graph: Graph) -> None:
    """One file of every kind that each rule makes; what lies between stays away until something needs it."""
    found, wanted = {}, {}
    tried = set()
    for job, file in graph.files():
        kind = (job.rule, Path(file).suffix)
        if kind not in tried:
            tried.add(kind)
            found[file] = without(project, file)
            wanted[file] = {} if re.fullmatch(BETWEEN, file) else count(graph.after([job]))
    assert found == wanted
    assert {rule for rule, _ in tried} == {job.rule for job in graph.jobs}


def test_a_deleted_file_between_comes_back_with_its_stage(project: Path) -> None:
    assert without(project, "results/corpora/small/screening.json", "corpora") == {
        "screen_corpus": 1,
        "corpus_card": 1,
    }
    layer = "results/activations/tiny/small/from-50/layer_1.h5"
    assert without(project, layer, "activations") == {"layer_activations": 1}
    assert without(project, layer, "vectors") == {}


def test_until_and_omit_from_cut_the_plan(project: Path, graph: Graph) -> None:
    until = planned(project, "--forceall", "--until", "geometry", *OVERLAY)
    assert until == count(graph.before(graph.of("geometry")))
    gone = graph.after(graph.of("steering_directions"))
    omitted = planned(project, "--forceall", "--omit-from", "steering_directions", *OVERLAY)
    assert omitted == count(job for job in graph.jobs if job not in gone)


@pytest.mark.parametrize("option", ["--forcerun", "-R"])
def test_a_forced_rule_or_file_runs_with_what_depends_on_it(project: Path, graph: Graph, option: str) -> None:
    wanted = count(graph.after(graph.of("geometry")))
    target = "geometry" if option == "-R" else f"results/{RUN}/analyses/geometry.json"
    assert planned(project, *OVERLAY, option, target) == wanted


def test_forceall_runs_everything(project: Path, graph: Graph) -> None:
    assert planned(project, "--forceall", *OVERLAY) == count(graph.jobs)


def test_with_times_alone_settings_and_code_do_not_count(project: Path, graph: Graph) -> None:
    config = yaml.safe_load((project / "overlay.yaml").read_text(encoding="utf-8"))
    config["run_definitions"][RUN]["pairs"] = 4
    write_overlay(project, config, "edited.yaml")
    edited = ("--configfile", "edited.yaml")
    edit(project / "src/affectome/analyses/clusters.py", "\n\n\n", "\n\nPLANTED = 1\n\n\n")
    assert planned(project, *edited) == count(graph.after([*graph.of("similarity"), *graph.of("clusters")]))
    assert planned(project, *edited, "--rerun-triggers", "mtime") == {}
    edit(project / "small.jsonl", "dinner", "supper")
    assert planned(project, *edited, "--rerun-triggers", "mtime") == count(graph.after(graph.of("import_corpus")))


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new, 1), encoding="utf-8")


def digests(project: Path) -> dict[str, str]:
    """SHA-256 of every result, by name."""
    files = (file for file in (project / "results").rglob("*") if file.is_file() and "timestamp" not in file.name)
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_touch_marks_everything_done_and_changes_no_result(built: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    shutil.copytree(built, project, symlinks=True)
    edit(project / "small.jsonl", "dinner", "supper")
    edit(project / "src/affectome/analyses/clusters.py", "\n\n\n", "\n\nPLANTED = 1\n\n\n")
    assert planned(project, *OVERLAY)
    before = digests(project)
    done = snakemake(project, "--touch", *OVERLAY)
    assert done.returncode == 0, done.stdout + done.stderr
    assert planned(project, *OVERLAY) == {}
    assert digests(project) == before
