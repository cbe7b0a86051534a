"""A bundle of vectors is described by known numbers, and what was planted in it is found and named."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from affectome.bundle.archive import write_archive
from affectome.vectors.exchange import Loaded, save_vectors
from affectome.vectors.export import export_vectors
from affectome.vectors.inspect import Inspection, inspect
from tests.helpers import tiny_config
from tests.planted import vector_file

EMOTIONS = ("afraid", "calm", "proud", "sad")
WIDTH = 6
MANIFEST = {"model": "tiny", "model_type": "llama", "blocks": 6, "width": WIDTH, "sha256": {"weights": "0" * 64}}

HOLDOUT = {
    "layer": 4,
    "held_out": "topics",
    "chance": {"top1": 0.25},
    "vectors": {"top1": {"value": 0.75}},
    "words": {"top1": {"value": 0.9}},
}
PROBES = {
    "layers": {
        "1": {"test": {"logistic": {"auc": 0.6}}},
        "4": {"test": {"logistic": {"auc": 0.9}, "mean_difference": {"auc": 0.8}, "words": {"auc": 0.95}}},
    }
}


def rows(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(len(EMOTIONS), WIDTH)).astype(np.float32)


def saved(path: Path, vectors: dict[int, np.ndarray], form: str = "steering-vectors", **known: Any) -> Path:
    save_vectors(Loaded("run", EMOTIONS, vectors, **known), path, form)
    return path


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run with vectors of two layers, their export and held-out tests."""
    folder = tmp_path / "run"
    files = [
        vector_file(folder / f"vectors/layer_{layer}.h5", layer, list(EMOTIONS), rows(layer), 10.0 * (layer + 1))
        for layer in (1, 4)
    ]
    out = folder / "vectors"
    export_vectors(files, out / "vectors.safetensors", out / "vectors.npz", out / "gguf", MANIFEST)
    (folder / "analyses").mkdir()
    (folder / "analyses/story_holdout.json").write_text(json.dumps(HOLDOUT))
    (folder / "analyses/probes.json").write_text(json.dumps(PROBES))
    return folder


def line(found: Inspection, name: str) -> str:
    return next(text for text in found.lines if text.startswith(name))


def test_a_run_is_described(run: Path) -> None:
    found = inspect(run)
    assert found.ok
    assert found.problems == []
    facts = found.as_dict()
    assert json.loads(json.dumps(facts, allow_nan=False))["ok"] is True
    assert (facts["format"], facts["model"], facts["emotions"]) == ("run", "tiny", list(EMOTIONS))
    assert (facts["layers"], facts["width"], facts["headline_layer"]) == ([1, 4], WIDTH, 4)
    assert facts["residual_norm"] == {1: 20.0, 4: 50.0}
    assert facts["counts"] == {"min": 1.0, "median": 1.0, "max": 1.0}
    assert facts["reliability"]["weakest"] == {
        "afraid": 0.0,
        "calm": pytest.approx(1 / 3),
        "proud": pytest.approx(2 / 3),
    }
    assert facts["reliability"]["median"] == pytest.approx(0.5)
    lengths = np.linalg.norm(rows(4), axis=1)
    wanted = {"min": lengths.min(), "median": np.median(lengths), "max": lengths.max()}
    assert facts["lengths"][4] == {name: pytest.approx(value, rel=1e-5) for name, value in wanted.items()}
    units = rows(4) / lengths[:, None]
    cosines = np.sort((units @ units.T)[np.triu_indices(4, 1)])[::-1]
    assert [pair["cosine"] for pair in facts["nearest"]] == pytest.approx(cosines[:5].tolist(), rel=1e-5)
    assert facts["held_out"]["top1"] == {
        "vectors": 0.75,
        "words": 0.9,
        "chance": 0.25,
        "layer": 4,
        "held_out": "topics",
    }
    assert facts["held_out"]["auc"] == {"mean_difference": 0.8, "logistic": 0.9, "words": 0.95, "layer": 4}
    assert line(found, "layers") == "layers    2, 1 to 4, width 6"
    assert line(found, "residual") == "residual  mean norm 20 to 50, median 35 over layers"
    assert "the emotion of 75% of texts is named (by a bag of words 90%, by chance 25.0%)" in line(found, "held out")


def test_parts_of_a_run_are_described_alike(run: Path) -> None:
    whole = inspect(run).as_dict()
    bundle = {f"analyses/{name}.json": run / f"analyses/{name}.json" for name in ("probes", "story_holdout")}
    bundle["vectors/vectors.safetensors"] = run / "vectors/vectors.safetensors"
    write_archive(run / "bundle.zip", bundle)
    for path in (run / "vectors", run / "vectors/vectors.safetensors", run / "bundle.zip"):
        found = inspect(path)
        assert found.ok
        told = found.as_dict()
        for key in ("emotions", "layers", "residual_norm", "counts", "reliability", "held_out"):
            assert told[key] == whole[key], (path, key)
    # What tests of a run's emotions found says nothing of its other directions.
    (run / "analyses/refusal.safetensors").write_bytes((run / "vectors/vectors.safetensors").read_bytes())
    assert inspect(run / "analyses/refusal.safetensors").as_dict()["held_out"] == {}


def test_vectors_of_which_nothing_else_is_known_are_described(tmp_path: Path) -> None:
    found = inspect(saved(tmp_path / "out", {3: rows()}))
    assert found.ok
    assert line(found, "format") == "format    steering-vectors"
    assert line(found, "model") == "model     not named"
    assert line(found, "layers") == "layers    3, width 6"
    assert line(found, "residual") == "residual  norms are not known, so that strengths cannot be stated"
    assert not any(text.startswith(("texts", "halves", "held out", "fits")) for text in found.lines)
    one = inspect(tmp_path / "out/afraid.pt")
    assert one.ok
    assert one.as_dict()["nearest"] == []


def test_what_was_planted_is_found(tmp_path: Path) -> None:
    vectors = {layer: rows(layer) for layer in (1, 2, 3, 5)}
    vectors[1][2] = 0
    vectors[2][1, 3] = np.nan
    vectors[3][1, 0] = np.inf
    vectors[5][3] = 2.5 * vectors[5][0]
    vectors[2][3] = 0.5 * vectors[2][0]
    found = inspect(saved(tmp_path / "out", vectors))
    assert not found.ok
    assert found.problems == [
        "the vector of calm at 2 layers (see 2) holds NaN or infinity",
        "the vector of proud at layer 1 is zero and has no direction",
        "afraid and sad have the same direction at 2 layers (see 2)",
    ]
    json.dumps(found.as_dict(), allow_nan=False)
    vectors = {1: rows(), 2: rows(), 3: rows(3)}
    assert inspect(saved(tmp_path / "same", vectors)).problems == ["layers 1 and 2 have the same vectors"]
    opposite = np.concatenate([rows()[:3], -rows()[:1]])
    assert inspect(saved(tmp_path / "opposite", {1: opposite})).ok


def test_many_problems_are_a_few_lines(tmp_path: Path) -> None:
    names = tuple(f"e{number}" for number in range(20))
    save_vectors(Loaded("run", names, {1: np.zeros((20, 3), np.float32)}), tmp_path / "zero", "gguf")
    assert len(inspect(tmp_path / "zero").problems) == 6
    save_vectors(Loaded("run", names, {1: np.ones((20, 3), np.float32)}), tmp_path / "same", "gguf")
    problems = inspect(tmp_path / "same").problems
    assert len(problems) == 6
    assert problems[-1] == "and so do 185 more pairs"


@settings(max_examples=30, deadline=None)
@given(scale=st.floats(1e-3, 1e3), noise=st.sampled_from([0.0, 0.01]), seed=st.integers(0, 1000))
def test_a_duplicate_is_one_whatever_its_length(tmp_path_factory, scale: float, noise: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(len(EMOTIONS), 64)).astype(np.float32)
    vectors[2] = scale * (vectors[1] + noise * np.linalg.norm(vectors[1]) / 8 * rng.normal(size=64))
    found = inspect(saved(tmp_path_factory.mktemp("pair") / "out", {1: vectors}))
    assert found.problems == ([] if noise else ["calm and proud have the same direction at layer 1"])
    assert found.as_dict()["nearest"][0]["emotions"] == ["calm", "proud"]


def test_whether_a_model_fits_is_told(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()

    def asked(path: Path, **changed: Any) -> Inspection:
        (folder / "manifest.json").write_text(json.dumps({**MANIFEST, **changed}))
        return inspect(path, folder)

    fits = asked(run / "vectors/vectors.safetensors")
    assert fits.problems == []
    assert fits.as_dict()["compatible"]["same_weights"] is True
    assert line(fits, "fits") == f"fits      {folder} (6 blocks, width 6); its weights are theirs"
    other = asked(run / "vectors/vectors.safetensors", sha256={"weights": "1" * 64})
    assert other.problems == [f"the vectors were made from other weights than those in {folder} (fingerprints differ)"]
    assert other.as_dict()["compatible"]["same_weights"] is False
    small = asked(run, blocks=4, width=8)
    assert small.problems == [
        f"vectors of width 6 are not of the model in {folder}, whose width is 8",
        f"there are vectors of layer 4; the 4 blocks of the model in {folder} are numbered 0 to 3",
    ]
    bundle = saved(tmp_path / "es", {1: rows()}, "emotion-steering", blocks=7)
    assert asked(bundle).problems == [f"the vectors are of a model with 7 blocks, and the one in {folder} has 6"]
    unknown = asked(saved(tmp_path / "sv", {1: rows()}))
    assert unknown.ok
    assert line(unknown, "fits").endswith("whether its weights are theirs is not known")


def test_a_model_without_a_manifest_is_read_by_its_config(run: Path, tmp_path: Path) -> None:
    for blocks, width, ok in ((5, WIDTH, True), (4, WIDTH, False), (5, 8, False)):
        tiny_config("llama", blocks, width).save_pretrained(tmp_path / "model")
        found = inspect(run, tmp_path / "model")
        assert found.ok is ok
        assert found.as_dict()["compatible"]["same_weights"] is None
    for path in (tmp_path / "none", run):
        assert "is no folder of a model" in inspect(run, path).problems[0]


def test_emotion_steering_s_validation_is_called_what_it_is(tmp_path: Path) -> None:
    folder = saved(tmp_path / "es", {16: rows(1), 20: rows(2), 21: rows(3)}, "emotion-steering", chosen=(20, 21))
    said = json.loads((folder / "metadata.json").read_text())
    said["auc_matrix"] = [[0.1] * 4, [0.8] * 4, [0.9] * 4]
    (folder / "metadata.json").write_text(json.dumps(said))
    found = inspect(folder)
    assert found.as_dict()["held_out"] == {"validation_auc": {"mean": pytest.approx(0.85), "layers": [20, 21]}}
    assert "too high, since they were chosen by it" in line(found, "validated")
    said["auc_matrix"] = "none"
    (folder / "metadata.json").write_text(json.dumps(said))
    assert inspect(folder).problems[0].startswith("metadata.json: does not say what it should")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"layers": {}}', '{"layers": {"x": 1}}', "[" * 100_000,
                                     '{"layers": {"4": {"test": {"words": {"auc": NaN}}}}}'])  # fmt: skip
def test_damaged_analyses_are_a_problem_and_no_end(run: Path, content: str) -> None:
    (run / "analyses/probes.json").write_text(content)
    found = inspect(run)
    assert len(found.problems) == 1
    assert found.problems[0].startswith("analyses/probes.json: does not say what it should")
    assert "top1" in found.as_dict()["held_out"]


def test_what_cannot_be_read_is_a_problem(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        found = inspect(path)
        assert (found.ok, found.lines, len(found.problems)) == (False, [], 1)
        assert json.loads(json.dumps(found.as_dict()))["ok"] is False
    torch.save({"\x1b[2J": {1: torch.ones(2)}}, tmp_path / "v.pt")
    assert inspect(tmp_path / "v.pt").problems[0].isprintable()
