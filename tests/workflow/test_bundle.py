"""`snakemake bundle` packs a run so that others can check it and make it again."""

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from tests.project import copy_project, planned, snakemake
from tests.workflow.tiny import RUN

pytestmark = pytest.mark.workflow

BUNDLE = f"results/{RUN}/bundle.zip"


@pytest.fixture(scope="module")
def packed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the built project with its bundle."""
    project = tmp_path_factory.mktemp("bundle") / "project"
    shutil.copytree(built, project, symlinks=True)
    done = snakemake(project, "bundle", "--configfile", "overlay.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    return project


def test_a_bundle_is_checked_elsewhere_without_the_project(packed: Path, tmp_path: Path) -> None:
    elsewhere = Path(shutil.copy(packed / BUNDLE, tmp_path / "received.zip"))
    command = [Path(sys.executable).parent / "affectome", "verify", elsewhere.name, "--json"]
    done = subprocess.run(command, cwd=tmp_path, env={}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)["bundle"]
    assert (told["run"], told["layers"], len(told["emotions"])) == (RUN, [0, 1, 2], 6)
    assert [path.name for path in tmp_path.iterdir()] == [elsewhere.name]


def test_its_files_are_those_of_the_run(packed: Path) -> None:
    folder = packed / f"results/{RUN}"
    with zipfile.ZipFile(packed / BUNDLE) as archive:
        for name in archive.namelist():
            if (folder / name).exists():
                assert archive.read(name) == (folder / name).read_bytes()
        held = set(archive.namelist())
        weights = yaml.safe_load(archive.read("config.yaml"))["models"]["tiny"]["source"]["path"]
        assert {name for name in held if weights.encode() in archive.read(name)} == {"config.yaml", "manifest.json"}
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("[!.]*") if path.is_file()}
    left_out = {name for name in there - held if not name.startswith("vectors/layer_")}
    tables = {
        f"steering/{trial}/{name}" for trial in ("cost", "expression") for name in ("items.parquet", "notes.json")
    }
    assert left_out == {"bundle.zip"} | tables | {f"steering/{trial}/directions.h5" for trial in ("cost", "expression")}


def test_its_configuration_makes_the_same_run(packed: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(packed / BUNDLE) as archive:
        config = archive.read("config.yaml")
    (packed / "packed.yaml").write_bytes(config)
    # Snakemake compares the settings of every rule with those that its files were made with.
    assert planned(packed, "all", "bundle", "--configfile", "packed.yaml") == {}
    fresh = copy_project(tmp_path / "fresh")
    shutil.copy(packed / "small.jsonl", fresh)
    (fresh / "workflow_config.yaml").write_bytes(config)
    shutil.copy(packed / "overlay.yaml", fresh)
    (packed / "results").rename(packed / "aside")
    try:
        expected = planned(packed, "bundle", "--configfile", "overlay.yaml")
    finally:
        (packed / "aside").rename(packed / "results")
    assert planned(fresh, "bundle") == expected | {"fetch_model": 1}
    assert expected["bundle_run"] == 1


@pytest.mark.parametrize(
    ("key", "value", "again"),
    [("title", "Another title", True), ("figures", {"dpi": 80}, True), ("title", "A tiny run", False)],
)
def test_it_is_packed_again_when_what_it_holds_changes(packed: Path, key: str, value: object, again: bool) -> None:
    config = yaml.safe_load((packed / "overlay.yaml").read_text(encoding="utf-8"))
    config["run_definitions"][RUN][key] = value
    (packed / "edited.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    assert ("bundle_run" in planned(packed, "bundle", "--configfile", "edited.yaml")) == again


def test_packing_twice_gives_the_same_bytes(packed: Path) -> None:
    before = (packed / BUNDLE).read_bytes()
    done = snakemake(packed, "bundle", "--configfile", "overlay.yaml", "--forcerun", "bundle_run")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (packed / BUNDLE).read_bytes() == before


def test_a_damaged_result_is_named_and_nothing_is_packed(packed: Path) -> None:
    picture, bundle = packed / f"results/{RUN}/figures/spectrum.png", packed / BUNDLE
    whole, before = picture.read_bytes(), bundle.read_bytes()
    picture.write_bytes(whole[:-100])
    try:
        done = snakemake(packed, "bundle", "--configfile", "overlay.yaml", "--forcerun", "bundle_run")
    finally:
        picture.write_bytes(whole)
        bundle.write_bytes(before)
    assert done.returncode != 0
    said = done.stdout + done.stderr
    assert "figures/spectrum.png: is not a whole .png file" in said
    assert "Traceback" not in said
