"""Faults, then the same call again: equal results, or one line that names the file (see `benchmarks.faults`)."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import pytest

from benchmarks.faults import LAYER, MODEL, SHARD, VECTORS, Campaign, CaseError, clear_error, contents
from tests.helpers import STORIES, collect, collect_spec, tiny_model, write_corpora

pytestmark = pytest.mark.workflow


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    """On a run that goes as far as the vectors of one layer."""
    return Campaign(tmp_path_factory.mktemp("faults"), seed=0, targets=[VECTORS])


@pytest.mark.parametrize(
    ("kind", "number"),
    [
        ("sigkill", 1),
        pytest.param(
            "full disk", 0, marks=pytest.mark.skipif(os.getuid() != 0, reason="mounting a small disk takes root")
        ),
        ("unreadable", 0),
        ("truncated hdf5", 0),
        ("truncated table", 2),
        ("journal", 0),
    ],
)
def test_after_a_fault_the_same_call_ends_well(campaign: Campaign, kind: str, number: int) -> None:
    case = campaign.run(number, kind)
    assert case.outcome != "failed", case
    # A run may end before it can be killed.
    assert case.hit or kind == "sigkill", case


# ---------------------------------------------------------------- the judge


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a shard, a table and a JSON file."""
    project = tmp_path_factory.mktemp("judge")
    stories, neutral = write_corpora(project, STORIES)
    shard = project / SHARD
    shard.parent.mkdir(parents=True)
    collect(tiny_model(project / "model"), stories, neutral, shard, collect_spec([0, 2]))
    shutil.copy(stories, project / "results/stories.parquet")
    (project / "results/notes.json").write_text(json.dumps({"seconds": 1.5, "all": [{"seconds": 2, "n": 3}]}))
    return project


def write_byte(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def edit_shard(project: Path, edit: Callable[[h5py.File], None]) -> None:
    with h5py.File(project / SHARD, "a") as file:
        edit(file)


def set_first_value(file: h5py.File) -> None:
    file["activations/layer_2"][0, 0] += 1e-6


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        (lambda project: edit_shard(project, set_first_value), [SHARD]),
        (lambda project: edit_shard(project, lambda file: file.attrs.modify("cut", 9)), [SHARD]),
        (lambda project: edit_shard(project, lambda file: file.attrs.modify("seconds", 9.0)), []),
        (lambda project: edit_shard(project, lambda file: file["performance"].attrs.modify("any", 9.0)), []),
        (lambda project: write_byte(project / "results/stories.parquet", 99), ["results/stories.parquet"]),
        (lambda project: (project / "results/.left.tmp").touch(), ["results/.left.tmp"]),
        (lambda project: (project / "results/notes.json").unlink(), ["results/notes.json"]),
        (
            lambda project: (project / "results/notes.json").write_text('{"all": [{"seconds": 9, "n": 4}]}'),
            ["results/notes.json"],
        ),
        (lambda project: (project / "results/notes.json").write_text('{"seconds": 7, "all": [{"n": 3}]}'), []),
    ],
)
def test_results_differ_in_all_but_how_long_they_took(
    results: Path, change: Callable[[Path], object], differs: list[str], tmp_path: Path
) -> None:
    copy = shutil.copytree(results, tmp_path / "copy")
    assert contents(copy) == contents(results)
    change(copy)
    found, wanted = contents(copy), contents(results)
    assert [name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name)] == differs


def test_an_error_is_clear_where_it_names_the_file_and_shows_no_traceback() -> None:
    line = f"2026-11-20 ERROR emotion_vectors: {LAYER}: not a whole HDF5 file; delete it"
    job = f"rule emotion_vectors:\n    input: {LAYER}\n    reason: Missing output files: {VECTORS}\n"
    assert clear_error(LAYER, job + line) == line
    with pytest.raises(CaseError, match="no message names"):
        clear_error(LAYER, f"{job}RuleException in rule emotion_vectors")
    with pytest.raises(CaseError, match="a traceback"):
        clear_error(LAYER, f"Traceback (most recent call last):\n{line}")
    assert clear_error("weights/config.json", f"not what was fetched: {MODEL}/config.json")
