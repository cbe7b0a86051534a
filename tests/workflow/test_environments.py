"""A site's environment modules are loaded by the jobs they are meant for, and by none where none are named."""

import shutil
import sys
from pathlib import Path

import pytest

from tests.project import planned, snakemake
from tests.workflow.tiny import RUN, write_overlay

pytestmark = pytest.mark.workflow

LAYER = "results/activations/tiny/small/from-50/layer_1.h5"
COMMAND = [LAYER, "--forcerun", "collect_activations", "--configfile", "overlay.yaml"]
MODULES = {"envmodules": {"cpu": ["site-python/3.11"], "gpu": ["site-python/3.11", "site-cuda/12.8"]}}

# Stands in for Environment Modules and Lmod, which both are a shell function: writes down what it is asked, and puts a
# Python that writes down its script in front of the path.
MODULE = """() {{
    [ "$1" = load ] || return 0
    shift
    export LOADED_MODULES="$*" PATH="{site}:$PATH"
}}"""
PYTHON = """#!/bin/sh
case "$1" in *.py) echo "$LOADED_MODULES: ${{1##*.snakemake/scripts/}}" >> {calls};; esac
exec {python} "$@"
"""


@pytest.fixture
def project(built: Path, tmp_path: Path) -> Path:
    """A copy in which jobs may run."""
    return shutil.copytree(built, tmp_path / "project", symlinks=True)


def test_jobs_load_the_modules_of_their_kind(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site, calls = tmp_path / "site", tmp_path / "calls"
    site.mkdir()
    (site / "python").write_text(PYTHON.format(calls=calls, python=sys.executable))
    (site / "python").chmod(0o755)
    monkeypatch.setenv("BASH_FUNC_module%%", MODULE.format(site=site))
    write_overlay(project, MODULES, "site.yaml")
    done = snakemake(project, *COMMAND, "site.yaml", "--sdm", "env-modules", "--rerun-triggers", "mtime")
    assert done.returncode == 0, done.stdout + done.stderr
    ran = [line.split(": tmp") for line in calls.read_text().splitlines()]
    assert sorted((loaded, script.partition(".")[2]) for loaded, script in ran) == [
        ("site-python/3.11", "layer_activations.py"),
        ("site-python/3.11 site-cuda/12.8", "collect_activations.py"),
    ]


def test_without_named_modules_none_are_wanted(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked to use modules, a project that names none runs as it is, on machines without the command too."""
    monkeypatch.setenv("BASH_FUNC_module%%", "() { exit 9; }")
    table = f"results/{RUN}/analyses/similarity.parquet"
    done = snakemake(project, table, "-R", "similarity", "--configfile", "overlay.yaml", "--sdm", "env-modules")
    assert done.returncode == 0, done.stdout + done.stderr


def test_other_modules_are_another_software_environment(built: Path, tmp_path: Path) -> None:
    """As a changed conda environment does, they have what used them made again."""
    for kind, rule in (("cpu", "import_corpus"), ("gpu", "collect_activations")):
        write_overlay(tmp_path, {"envmodules": {kind: ["site/1"]}})
        plan = planned(built, "--configfile", "overlay.yaml", str(tmp_path / "overlay.yaml"))
        assert rule in plan
        assert ("import_corpus" in plan) == (kind == "cpu")
