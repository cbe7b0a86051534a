"""The profile repeats, layer by layer, what the vectors and the other analyses say; `best` becomes the size of r."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from affectome.analyses.geometry import geometry
from affectome.analyses.layer_profile import layer_profile
from affectome.analyses.norm_correlations import norm_correlations
from affectome.files import read_json, write_json, write_table
from affectome.vectors.compute import emotion_vectors
from affectome.vectors.store import read_vectors
from tests.planted import layer_files, norm_file, strict_json, vector_file

COLUMNS = ["layer", "measure", "norm", "dimension", "value", "low", "high", "p"]
OF_VECTORS = [
    "residual_norm",
    "vector_norm",
    "reliability",
    "neutral_components",
    "explained_variance_1",
    "explained_variance_2",
]


def result(r: float, ci: list[float]) -> dict[str, Any]:
    ridge = {"r": 0.3, "ci": [-0.1, 0.6], "p": 0.04}
    return {
        "components": [],
        "best": {"component": 2, "r": r, "ci": ci, "p": 0.01},
        "plane": {"r": 0.7, "p": 0.02},
        "ridge": ridge,
    }


def profile_of(folder: Path, files: list[Path], explained: dict, correlations: dict) -> pd.DataFrame:
    write_json(folder / "g.json", {"layers": {layer: {"explained_variance": of} for layer, of in explained.items()}})
    write_json(folder / "c.json", {"layers": correlations})
    layer_profile(files, folder / "g.json", folder / "c.json", folder / "p.parquet")
    return pd.read_parquet(folder / "p.parquet")


def test_every_measure_by_hand(tmp_path: Path) -> None:
    files = [
        vector_file(tmp_path / "5.h5", 5, ["a", "b"], np.array([[3.0, 4.0], [0.0, 1.0]]), 20.0),
        vector_file(tmp_path / "2.h5", 2, ["a", "b"], np.array([[6.0, 8.0], [0.0, 0.0]]), 10.0),
    ]
    related = {
        2: {"ours": {"n": 9, "valence": result(0.8, [0.5, 0.9])}, "few": {"n": 3}},
        5: {"ours": {"n": 9, "valence": result(-0.8, [-0.9, -0.5]), "arousal": result(0.1, [-0.4, 0.2])}},
    }
    table = profile_of(tmp_path, files, {2: [0.6, 0.4], 5: [0.9, 0.05, 0.05]}, related)
    assert list(table.columns) == COLUMNS
    plain = table[table["norm"].isna()]
    assert plain["dimension"].isna().all()
    assert plain["measure"].tolist() == OF_VECTORS * 2
    assert plain["layer"].tolist() == [2] * 6 + [5] * 6
    np.testing.assert_allclose(plain["value"], [10, 5, 0.5, 0, 0.6, 0.4, 20, 3, 0.5, 0, 0.9, 0.05])
    of_norm = table[table["norm"] == "ours"].set_index(["layer", "dimension", "measure"])
    assert len(of_norm) + len(plain) == len(table)
    assert of_norm.loc[(2, "valence", "best"), ["value", "low", "high", "p"]].tolist() == [0.8, 0.5, 0.9, 0.01]
    assert of_norm.loc[(5, "valence", "best"), ["value", "low", "high", "p"]].tolist() == [0.8, 0.5, 0.9, 0.01]
    assert of_norm.loc[(5, "arousal", "best"), ["value", "low", "high", "p"]].tolist() == [0.1, 0.0, 0.4, 0.01]
    assert of_norm.loc[(5, "arousal", "ridge"), ["value", "low", "high", "p"]].tolist() == [0.3, -0.1, 0.6, 0.04]
    assert of_norm.loc[(2, "valence", "plane"), ["value", "p"]].tolist() == [0.7, 0.02]
    assert of_norm.loc[(2, "valence", "plane"), ["low", "high"]].isna().all()


def test_one_component_and_no_reliability(tmp_path: Path) -> None:
    stories = np.random.default_rng(0).normal(size=(1, 2, 4))
    file = layer_files(tmp_path, ["a", "b"], stories)[0]
    emotion_vectors(file, tmp_path / "v.h5", ["a", "b"], "mean_of_means", None, "code")
    assert np.isnan(read_vectors(tmp_path / "v.h5").reliability).all()
    table = profile_of(tmp_path, [tmp_path / "v.h5"], {0: [1.0]}, {0: {"ours": {"n": 2}}})
    assert table["measure"].tolist() == OF_VECTORS[:-1]
    assert table.set_index("measure")["value"].isna().sum() == 1
    assert math.isnan(table.set_index("measure").loc["reliability", "value"])


def test_reliability_is_the_mean_of_the_emotions_that_have_one(tmp_path: Path) -> None:
    emotions = ["a", "b", "c", "a", "b"]
    file = layer_files(tmp_path, emotions, np.random.default_rng(1).normal(size=(1, 5, 6)))[0]
    emotion_vectors(file, tmp_path / "v.h5", ["a", "b", "c"], "mean_of_means", None, "code")
    reliability = read_vectors(tmp_path / "v.h5").reliability
    assert np.isnan(reliability).tolist() == [False, False, True]
    table = profile_of(tmp_path, [tmp_path / "v.h5"], {0: [0.7, 0.3]}, {0: {}})
    assert table.set_index("measure").loc["reliability", "value"] == pytest.approx(reliability[:2].mean())


def test_the_profile_of_a_real_chain(tmp_path: Path) -> None:
    words = [f"w{number}" for number in range(9)]
    rng = np.random.default_rng(2)
    files = layer_files(tmp_path, [*words * 3, "", "", ""], rng.normal(size=(2, 30, 12)), shards=3)
    vectors = [tmp_path / f"v{number}.h5" for number in range(2)]
    for file, output in zip(files, vectors, strict=True):
        emotion_vectors(file, output, words, "mean_of_means", {"variance": 0.5}, "code")
    norm = norm_file(tmp_path / "n.csv", words, valence=rng.normal(size=9), arousal=rng.normal(size=9))
    geometry(vectors, norm, "ours", 4, tmp_path / "t.parquet", tmp_path / "g.json")
    norm_correlations(vectors, tmp_path / "t.parquet", {"ours": norm}, 50, 19, 0, tmp_path / "c.json")
    layer_profile(vectors, tmp_path / "g.json", tmp_path / "c.json", tmp_path / "p.parquet")
    table = pd.read_parquet(tmp_path / "p.parquet")
    assert len(table) == 2 * (6 + 2 * 3)
    related = strict_json(tmp_path / "c.json")["layers"]
    for row in table[table["measure"].isin(["best", "plane", "ridge"])].itertuples():
        found = related[str(row.layer)][row.norm][row.dimension][row.measure]
        assert row.value == (abs(found["r"]) if row.measure == "best" else found["r"])
        assert row.p == found["p"]
    explained = strict_json(tmp_path / "g.json")["layers"]
    shares = table[table["measure"] == "explained_variance_1"].set_index("layer")["value"]
    assert shares.to_dict() == {layer: explained[str(layer)]["explained_variance"][0] for layer in (0, 1)}
    assert (table[table["measure"] == "neutral_components"]["value"] == 1).all()


def test_json_never_holds_what_json_does_not_know(tmp_path: Path) -> None:
    content = {
        1: np.float32("nan"),
        "list": [float("inf"), -float("inf"), (1, np.int64(2))],
        "array": np.array([[1.5, np.nan], [0, np.inf]]),
        np.int64(7): {"deep": np.nan, "flag": np.bool_(True), "none": None, "word": "ü"},
    }
    write_json(tmp_path / "x.json", content)
    assert strict_json(tmp_path / "x.json") == {
        "1": None,
        "list": [None, None, [1, 2]],
        "array": [[1.5, None], [0, None]],
        "7": {"deep": None, "flag": True, "none": None, "word": "ü"},
    }
    assert read_json(tmp_path / "x.json") == json.loads((tmp_path / "x.json").read_text())
    assert "ü" in (tmp_path / "x.json").read_text(encoding="utf-8")


def test_tables_come_back_as_they_were_written(tmp_path: Path) -> None:
    rows = pd.DataFrame({"a": [1, 2], "b": ["x", "y"], "c": [0.5, np.nan]}, index=[4, 9])
    write_table(tmp_path / "t.parquet", rows)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "t.parquet"), rows.reset_index(drop=True))
    assert [path.name for path in tmp_path.iterdir()] == ["t.parquet"]
