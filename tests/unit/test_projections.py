"""Texts from elsewhere: which are drawn, what of them is read, and projections that a plain loop gives too."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from affectome.activations import projections
from affectome.activations.projections import draw, external_projections
from affectome.corpus.sources.cells import Record
from affectome.corpus.tables import PROJECTION, text_id
from affectome.errors import UserError
from affectome.vectors.store import read_vectors
from tests.helpers import NEUTRAL, TEXTS, plain_loop, tiny_model, write_corpora, write_manifest
from tests.planted import strict_json, vector_file

LAYER, WIDTH, NORM = 1, 16, 2.5
EMOTIONS = ["afraid", "calm", "id"]
TOPIC = "Tokens are bytes, so a passage of so many tokens has as many letters. "


def rows_file(path: Path, texts: list[Any], column: str = "text") -> dict[str, Any]:
    path.write_text("".join(json.dumps({column: text}) + "\n" for text in texts), encoding="utf-8")
    return {"file": str(path), "columns": {} if column == "text" else {"text": column}, "table": None}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def project(model, tmp_path):
    """Runs the job on a source; returns its table, its JSON and the vectors' file."""

    def run(source: dict[str, Any], neutral: list[str] = NEUTRAL, width: int = WIDTH, **settings: Any) -> tuple:
        directions = np.random.default_rng(3).normal(size=(len(EMOTIONS), width))
        vectors = vector_file(tmp_path / "layer_1.h5", LAYER, EMOTIONS, directions, NORM)
        _, others = write_corpora(tmp_path, [], neutral)
        table, output = tmp_path / "p.parquet", tmp_path / "p.json"
        spec = {"samples": 50, "min_tokens": 1, "max_tokens": 60, "dtype": "float32", "quantization": "none",
                "token_budget": 256, "trust_remote_code": False, "seed": 0, "code": "c", "threads": 1}  # fmt: skip
        external_projections(
            others, write_manifest(model), vectors, source, **spec | settings, table=table, output=output
        )
        return pd.read_parquet(table), strict_json(output), vectors

    return run


def test_projections_are_those_of_a_plain_loop(project, model, tmp_path):
    texts = [*TEXTS[:5], TOPIC[:60], "Für Elise, 你好 🙂."]
    table, found, vectors = project(rows_file(tmp_path / "t.jsonl", texts))
    unit = read_vectors(vectors).unit
    shown = table["text"].tolist()
    assert table["neutral"].tolist() == [False] * 7 + [True] * 2
    assert sorted(shown) == sorted([text[:60].rstrip() if len(text) > 60 else text for text in texts] + NEUTRAL)
    # The last passage's tokens are bytes: none of them is cut.
    expected = plain_loop(model, shown, first=0)[0][LAYER] @ unit.T / NORM
    written = table[[PROJECTION + emotion for emotion in EMOTIONS]]
    assert set(written.dtypes) == {np.dtype("float32")}
    np.testing.assert_allclose(written, expected, rtol=1e-4, atol=1e-5)
    assert table["n_tokens"].tolist() == [len(text.encode()) for text in shown]
    assert table["id"].tolist() == [text_id("", text) for text in shown]
    assert found["layer"] == LAYER
    assert found["residual_norm"] == NORM
    assert found["n"] == {"read": 7, "drawn": 7, "passages": 7, "neutral": 2}
    assert found["tokens"] == table["n_tokens"].sum() + len(table)
    assert not list(tmp_path.glob(".*"))


def test_batches_and_other_texts_change_nothing(project, tmp_path):
    source = rows_file(tmp_path / "t.jsonl", TEXTS[:5])
    first = project(source, token_budget=256)[0].set_index("id")
    other = project(rows_file(tmp_path / "u.jsonl", [*TEXTS[:5][::-1], "Another."]), token_budget=40)[0].set_index("id")
    columns = [PROJECTION + emotion for emotion in EMOTIONS]
    np.testing.assert_allclose(other.loc[first.index, columns], first[columns], rtol=1e-4, atol=1e-5)


def test_passages_end_after_so_many_tokens_and_come_once(project, tmp_path):
    starts = "x" * 20
    source = rows_file(tmp_path / "t.jsonl", [starts + "one", starts + "two", "ab", TOPIC, "你好" * 9])
    table, found, _ = project(source, max_tokens=20, min_tokens=3)
    passages = table.loc[~table["neutral"], "text"].tolist()
    # A character of which some bytes are read is part of what was read.
    assert sorted(passages) == sorted([starts, TOPIC[:20], ("你好" * 9)[:7]])
    assert found["n"] == {"read": 5, "drawn": 5, "passages": 3, "neutral": 2}
    assert found["dropped"] == {
        "passages": {"repeated": 1, "too_short": 1},
        "neutral": {"repeated": 0, "too_short": 0},
    }
    assert table["n_tokens"].max() <= 20


def test_what_cannot_be_compared_is_refused(project, tmp_path):
    source = rows_file(tmp_path / "t.jsonl", TEXTS)
    with pytest.raises(UserError, match="no neutral texts"):
        project(source, neutral=[])
    with pytest.raises(UserError, match=r"vectors have 12 numbers .* has 16"):
        project(source, width=12)
    with pytest.raises(UserError, match=r"file:t\.jsonl: no text has 100 tokens"):
        project(source, min_tokens=100)
    with pytest.raises(UserError, match="there is no column 'text'"):
        project(rows_file(tmp_path / "t.jsonl", TEXTS, "body") | {"columns": {}})


# ------------------------------------------------------------ which texts are drawn


def numbered(count: int) -> list[str]:
    return [f"Text {number}." for number in range(count)]


def test_a_file_gives_a_sample_by_seed_whatever_its_order(tmp_path):
    texts = numbered(300)
    drawn = draw(rows_file(tmp_path / "a.jsonl", texts), 40, 7, 100)
    assert len(set(drawn.texts)) == 40
    assert drawn.read == 300
    assert "seed 7" in drawn.rule
    again = draw(rows_file(tmp_path / "b.jsonl", [*texts[::-1], *texts, "", "  "]), 40, 7, 100)
    assert again.texts == drawn.texts
    assert again.read == 600
    assert draw(rows_file(tmp_path / "a.jsonl", texts), 40, 8, 100).texts != drawn.texts
    assert len(draw(rows_file(tmp_path / "a.jsonl", texts), 400, 7, 100).texts) == 300


def test_every_text_is_as_likely_to_be_drawn(tmp_path):
    source = rows_file(tmp_path / "a.jsonl", numbered(20))
    counts = pd.Series([text for seed in range(200) for text in draw(source, 5, seed, 100).texts]).value_counts()
    # 50 expected each, standard deviation 6.
    assert len(counts) == 20
    assert counts.between(27, 73).all()
    assert ((counts - 50) ** 2 / 50).sum() * 20 / 15 < 38.6


def test_texts_are_cut_before_they_are_told_apart(tmp_path):
    drawn = draw(rows_file(tmp_path / "a.jsonl", ["same beginning, one", "same beginning, two"]), 5, 0, 14)
    assert drawn.texts == ["same beginning"]


def test_conversations_are_read_turn_by_turn(tmp_path):
    turns = [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hello."}]
    source = rows_file(tmp_path / "a.jsonl", [turns, turns[:1]], "conversation")
    assert sorted(draw(source, 5, 0, 100).texts) == ["Person: Hi?", "Person: Hi?\n\nAI: Hello."]


def test_a_plain_text_file_is_read_by_paragraphs(tmp_path):
    (tmp_path / "a.txt").write_text("\ufeffFirst\nline.\n\n  \nSecond.\r\n\r\nSecond.\n", encoding="utf-8")
    drawn = draw({"file": str(tmp_path / "a.txt"), "columns": {}, "table": None}, 5, 0, 100)
    assert sorted(drawn.texts) == ["First\nline.", "Second."]
    assert drawn.read == 3
    with pytest.raises(UserError, match="does not exist"):
        draw({"file": str(tmp_path / "none.txt")}, 5, 0, 100)


@pytest.fixture
def streamed(monkeypatch):
    """A data set of repeated texts; tells how it was asked for and how many of its rows were read."""
    seen: dict[str, Any] = {"rows": 0}

    def read_dataset(**asked):
        def rows():
            for number in range(asked["limit"] or 1000):
                seen["rows"] += 1
                yield Record((), "", "" if number % 5 == 0 else f"Text {number // 2}.")

        seen.update(asked)
        return "dataset:owner/name@abc", rows()

    monkeypatch.setattr(projections.hub, "read_dataset", read_dataset)
    return seen


DATASET = {"dataset": "owner/name", "revision": "abc", "name": None, "split": "train", "columns": {}, "limit": None}


def test_of_a_data_set_on_the_hub_the_first_texts_are_taken(streamed):
    drawn = draw(DATASET | {"grouping": None}, 6, 0, 100)
    assert drawn.texts == [f"Text {number}." for number in range(6)]
    assert drawn.origin == "dataset:owner/name@abc"
    assert drawn.rule.startswith("its first texts")
    assert streamed["limit"] == 60
    assert streamed["rows"] < 20
    assert streamed["emotions"] is False
    assert "grouping" not in streamed


@pytest.mark.parametrize(("settings", "rows"), [({"limit": 100}, 100), ({"revision": None}, 1000)])
def test_of_what_is_at_hand_a_sample_is_drawn(streamed, settings, rows):
    drawn = draw(DATASET | settings, 6, 0, 100)
    assert streamed["rows"] == rows
    assert streamed["limit"] == settings.get("limit")
    assert "seed 0" in drawn.rule
    assert drawn.texts != [f"Text {number}." for number in range(6)]
