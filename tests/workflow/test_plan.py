"""`snakemake plan` and the profiles, as a user calls them."""

import re
from pathlib import Path

import pytest

from tests.project import planned, snakemake
from tests.workflow.tiny import tiny_config, tiny_project, write_overlay

pytestmark = pytest.mark.workflow

TARGET = "results/tiny/vectors/layer_1.h5"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = tiny_project(tmp_path_factory.mktemp("plan") / "project", shards=4)
    config = tiny_config(project, shards=4)
    config["models"]["tiny"]["gpus"] = 1
    write_overlay(project, config)
    return project


def plan(project: Path) -> dict[str, list[str]]:
    """The printed rows, by rule."""
    done = snakemake(project, "plan", "--configfile", "overlay.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [re.split(r"\s{2,}", line.strip()) for line in done.stdout.splitlines()]
    return {row[0]: row[1:] for row in rows if len(row) >= 8}


def test_the_plan_is_that_of_a_dry_run_until_everything_is_made(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Two pretend GPUs, of which this machine's torch sees none: the jobs run on the CPU, each with a lease.
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    before = plan(project)
    expected = planned(project, "--configfile", "overlay.yaml")
    assert {rule: int(row[0]) for rule, row in before.items() if rule not in {"rule", "total"}} == expected
    assert int(before["total"][0]) == sum(expected.values())
    assert before["collect_activations"][-1] == "estimates"
    assert not (project / "results/corpora").exists()

    done = snakemake(project, TARGET, "--profile", "local-gpu", "--cores", "8", "--configfile", "overlay.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    logs = [file.read_text() for file in (project / "results/logs/collect_activations").rglob("*.log")]
    assert len(logs) == 4
    assert {re.search(r"uses GPU (\S+)", log)[1] for log in logs} == {"0", "1"}

    # A shard is lost: the others say what it takes.
    lost = project / "results/activations/tiny/small/from-50/shards/2.h5"
    lost.unlink()
    (project / "results/benchmarks/collect_activations/tiny/small/from-50/2.tsv").unlink()
    after = plan(project)
    assert (after["collect_activations"][0], after["collect_activations"][-1]) == ("1", "measured")
    assert "import_corpus" not in after


@pytest.mark.parametrize("profile", ["slurm", "profiles/slurm", "local-gpu", "profiles/local-gpu"])
def test_profiles_are_found_by_name_and_by_folder(project: Path, profile: str) -> None:
    done = snakemake(project, "--dry-run", "--profile", profile, "--configfile", "overlay.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{profile} and workflow specific profile profiles/default" in done.stdout + done.stderr


def test_a_plan_of_what_cannot_be_planned_says_so(project: Path) -> None:
    config = tiny_config(project)
    config["corpora"]["small"]["stories"] = {"file": "missing.jsonl"}
    write_overlay(project, config, "broken.yaml")
    done = snakemake(project, "plan", "--configfile", "broken.yaml")
    assert done.returncode != 0
    assert "missing.jsonl" in done.stdout + done.stderr
