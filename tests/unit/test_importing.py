"""Corpora that exist come in whole: SQLite of unknown form, data sets, conversations, and GoEmotions in six groups.

Data sets are real ones of the shapes that the hub has, written by the library that reads them. The hub is a local
server that speaks as much of the protocol as that library needs.
"""

import hashlib
import json
import logging
import os
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import datasets
import pandas as pd
import pytest
import yaml

from affectome.config import load_config
from affectome.corpus.importing import import_corpus
from affectome.corpus.sources import grouping, hub
from affectome.corpus.sources.cells import Record, labels_of, text_of
from affectome.corpus.sources.files import peek
from affectome.corpus.tables import read_corpus, text_id
from affectome.errors import UserError
from tests.project import ROOT

DATASET = {"revision": None, "name": None, "split": "train", "columns": {}, "grouping": None, "limit": None}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def imported(tmp_path: Path, source: dict[str, Any], emotions: bool = True) -> pd.DataFrame:
    """The corpus table made of `source`, as stories or as neutral texts."""
    stories, neutral = tmp_path / "stories.parquet", tmp_path / "neutral.parquet"
    plain = tmp_path / "plain.jsonl"
    plain.write_text('{"emotion": "sad", "text": "It rained."}\n')
    other = {"file": str(plain), "columns": {}, "table": None}
    import_corpus(source if emotions else other, None if emotions else source, stories, neutral)
    return read_corpus(stories if emotions else neutral)


def rows(corpus: pd.DataFrame) -> list[tuple[str, str, str]]:
    return list(corpus[["emotion", "topic", "text"]].itertuples(index=False, name=None))


# ---------------------------------------------------------------- SQLite of unknown form

STORY = "She put the letter back into its envelope and listened to the rain, number {}."
STORIES = [(word, f"topic {n % 2}", STORY.format(n)) for n, word in enumerate(["sad", "calm", "sad", "proud"] * 3)]


def database(path: Path, **tables: list[tuple[Any, ...]]) -> str:
    """An SQLite file; the first row of each of `tables` names its columns."""
    with closing(sqlite3.connect(path)) as connection:
        for name, (header, *content) in tables.items():
            connection.execute(f'CREATE TABLE "{name}" ({", ".join(header)})')
            marks = ", ".join("?" * len(header))
            connection.executemany(f'INSERT INTO "{name}" VALUES ({marks})', content)
        connection.commit()
    return str(path)


DECOYS = {
    "runs": [("id", "model", "prompt"), *((n, "some-model", "Write a story. " * 30) for n in range(9))],
    "words": [
        ("emotion", "definition"),
        *((word, f"what {word} means, in a few plain words that anybody knows") for word in "abcdef"),
    ],
    "embeddings": [("id", "vector"), *((n, b"\0" * 900) for n in range(9))],
    "notes": [("status", "remark"), *(("done" if n % 2 else "open", "a long remark. " * 40) for n in range(9))],
    "empty": [("emotion", "text")],
}


@pytest.mark.parametrize(
    ("header", "columns"),
    [
        (("emotion", "topic", "text"), {}),
        (("feeling", "theme", "completion"), {}),
        (("emotionLabel", "topicName", "storyText"), {}),
        (("label", "scenario", "narrative"), {}),
        # Nothing in these names, but few short strings come back and the texts are long.
        (("a", "topic", "b"), {}),
        (("w", "subject", "t"), {"emotion": "w"}),
    ],
)
def test_the_table_of_stories_is_found_among_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, header: tuple[str, ...], columns: dict[str, str]
) -> None:
    # Where columns have no telling names, a table that has them would be taken for the one.
    decoys = {name: rows for name, rows in DECOYS.items() if header[0] not in "aw" or name not in ("words", "notes")}
    file = database(
        tmp_path / "dump.db", **decoys, unknown=[("id", *header), *((n, *s) for n, s in enumerate(STORIES))]
    )
    with caplog.at_level(logging.INFO):
        corpus = imported(tmp_path, {"file": file, "columns": columns, "table": None})
    assert rows(corpus) == STORIES
    assert corpus["id"].tolist() == [text_id(emotion, text) for emotion, _, text in STORIES]
    (said,) = [record.getMessage() for record in caplog.records if "reads table" in record.getMessage()]
    assert "\n" not in said
    assert all(repr(name) in said for name in ("unknown", *header))
    assert peek(file, columns, None) == ({"sad", "calm", "proud"}, [])


def test_what_config_says_of_columns_is_kept(tmp_path: Path) -> None:
    header = ("emotion", "mood", "story", "summary", "topic")
    content = [(word, "grey", text, text[:50], topic) for word, topic, text in STORIES]
    file = database(tmp_path / "dump.sqlite", unknown=[header, *content])
    corpus = imported(tmp_path, {"file": file, "columns": {"text": "summary", "emotion": "mood"}, "table": None})
    assert rows(corpus) == [("grey", topic, text[:50]) for _, topic, text in STORIES]
    # A column that is mapped to one thing is not taken for another.
    file = database(
        tmp_path / "labels.sqlite", unknown=[("category", "label", "story"), *((t, w, s) for w, t, s in STORIES)]
    )
    assert rows(imported(tmp_path, {"file": file, "columns": {"topic": "category"}, "table": None})) == STORIES


def test_of_a_named_table_the_columns_are_found(tmp_path: Path) -> None:
    one, other = ([("feeling", "story"), *((word, text + suffix) for word, _, text in STORIES)] for suffix in " ?")
    file = database(tmp_path / "dump.db", one=one, other=other)
    corpus = imported(tmp_path, {"file": file, "columns": {}, "table": "other"})
    assert corpus["text"].str.endswith("?").all()


def test_a_view_that_joins_is_read_and_one_that_repeats_is_not(tmp_path: Path) -> None:
    file = database(
        tmp_path / "dump.db",
        stories=[
            ("emotion_id", "story"),
            *(({"sad": 1, "calm": 2, "proud": 3}[word], text) for word, _, text in STORIES),
        ],
        names=[("id", "name"), (1, "sad"), (2, "calm"), (3, "proud")],
    )
    with closing(sqlite3.connect(file)) as connection:
        connection.execute(
            "CREATE VIEW told AS SELECT name AS emotion, story FROM stories JOIN names ON emotion_id = names.id"
        )
    corpus = imported(tmp_path, {"file": file, "columns": {}, "table": None})
    assert sorted(zip(corpus["emotion"], corpus["text"], strict=True)) == sorted((w, t) for w, _, t in STORIES)
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE kept AS SELECT * FROM told ORDER BY story DESC")
        connection.execute("CREATE VIEW again AS SELECT * FROM kept WHERE emotion = 'sad'")
        connection.commit()
    assert imported(tmp_path, {"file": file, "columns": {}, "table": None})["text"].is_monotonic_decreasing


def test_texts_come_in_the_order_of_rows_whatever_is_indexed(tmp_path: Path) -> None:
    stories = sorted(STORIES, reverse=True)
    content = [("emotion", "topic", "text", "answer"), *((*story, b"\0" * 5000) for story in stories)]
    file = database(tmp_path / "dump.db", unknown=content)
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE UNIQUE INDEX everything ON unknown (emotion, topic, text)")
        connection.commit()
    assert rows(imported(tmp_path, {"file": file, "columns": {}, "table": None})) == stories


def test_an_emotion_that_a_sorted_table_begins_with_is_not_all_there_is(tmp_path: Path) -> None:
    stories = [(word, STORY.format(n)) for word in ("calm", "sad", "tense") for n in range(600)]
    file = database(tmp_path / "dump.db", unknown=[("a", "b"), *stories])
    assert peek(file, {}, None) == ({"calm", "sad", "tense"}, [])


def test_neutral_texts_are_those_without_emotion(tmp_path: Path) -> None:
    neutral = [("id", "dialogue"), *((n, f"Person: How is bread made, step {n}? AI: With flour.") for n in range(5))]
    file = database(tmp_path / "dump.db", told=[("emotion", "topic", "text"), *STORIES], plain=neutral)
    corpus = imported(tmp_path, {"file": file, "columns": {}, "table": None}, emotions=False)
    assert corpus["text"].tolist() == [text for _, text in neutral[1:]]
    assert set(corpus["emotion"]) == {""}


TOLD = [("emotion", "text"), *((word, text) for word, _, text in STORIES)]


@pytest.mark.parametrize(
    ("tables", "columns", "words"),
    [
        (
            {"one": TOLD, "two": TOLD},
            {},
            ["table: 'one' and 'two' fit alike", "one (emotion, text; 12 rows)", "set table"],
        ),
        (
            {"one": [("feeling", "mood", "text"), *((w, w, t) for w, _, t in STORIES)]},
            {},
            ["columns.emotion: 'feeling' and 'mood' of table 'one' fit alike", "set columns.emotion"],
        ),
        (
            {"one": [("emotion", "story", "story_again"), *((w, t, t) for w, _, t in STORIES)]},
            {},
            ["columns.text: 'story' and 'story_again'", "set columns.text"],
        ),
        (
            {"one": [("emotion", "number"), ("sad", 1)], "two": [("text",), ("x",)]},
            {},
            ["table: none has", "one (emotion, number; 1 rows), two (text; 1 rows)", "set table and columns"],
        ),
        ({"one": TOLD}, {"emotion": "mood"}, ["columns.emotion: there is no column 'mood'", "emotion, text; 12 rows"]),
        ({}, {}, ["the file has no table"]),
    ],
)
def test_what_cannot_be_told_is_asked_in_one_line(
    tmp_path: Path, tables: dict[str, Any], columns: dict[str, str], words: list[str]
) -> None:
    file = database(tmp_path / "dump.db", **tables)
    with pytest.raises(UserError) as error:
        imported(tmp_path, {"file": file, "columns": columns, "table": None})
    assert str(error.value).startswith(f"{file}: ")
    assert all(each in str(error.value) for each in words), error.value
    assert "\n" not in str(error.value)
    assert str(error.value) == f"{file}: {''.join(peek(file, columns, None)[1])}"


# ---------------------------------------------------------------- cells


def test_a_conversation_is_one_text() -> None:
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": " What is lye? "},
        {"role": "assistant", "content": "Sodium hydroxide."},
        {"role": "user", "content": ""},
    ]
    assert text_of(turns) == "Be brief.\n\nPerson: What is lye?\n\nAI: Sodium hydroxide."
    assert text_of(None) == text_of(float("nan")) == text_of([]) == ""
    for wrong in ([1, 2], ["a"], {"role": "user"}, [{"from": "human", "value": "x"}]):
        with pytest.raises(ValueError, match=r"choose another|give the name"):
            text_of(wrong)


def test_labels_have_the_names_of_their_classes() -> None:
    assert labels_of([2, 0], ["a", "b", "c"]) == ("c", "a")
    assert labels_of(1, ["a", "b"]) == ("b",)
    assert labels_of(-1, ["a", "b"]) == labels_of(None) == labels_of("") == labels_of([]) == ()
    assert labels_of(["joy", "awe"]) == ("joy", "awe")
    assert labels_of(3) == ("3",)
    with pytest.raises(ValueError, match="label 2 has no name"):
        labels_of([2], ["a", "b"])


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_conversations_and_lists_of_labels_are_read_from_files_too(tmp_path: Path, suffix: str) -> None:
    content = [
        {"labels": ["joy"], "said": [{"role": "user", "content": "Look!"}]},
        {"labels": ["joy", "fear"], "said": [{"role": "user", "content": "Both."}]},
        {"labels": [], "said": [{"role": "assistant", "content": "None."}]},
    ]
    path = tmp_path / f"chats.{suffix}"
    if suffix == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in content))
    else:
        pd.DataFrame(content).to_parquet(path)
    corpus = imported(tmp_path, {"file": str(path), "columns": {"emotion": "labels", "text": "said"}, "table": None})
    assert rows(corpus) == [("joy", "", "Person: Look!"), ("", "", "AI: None.")]


# ---------------------------------------------------------------- GoEmotions

# As the data set numbers them.
NAMES = [
    *("admiration", "amusement", "anger", "annoyance", "approval", "caring", "confusion", "curiosity", "desire"),
    *("disappointment", "disapproval", "disgust", "embarrassment", "excitement", "fear", "gratitude", "grief", "joy"),
    *("love", "nervousness", "optimism", "pride", "realization", "relief", "remorse", "sadness", "surprise", "neutral"),
]

# Labels of a text, and the group it is in; None where it is in no one group.
COMMENTS: list[tuple[list[str], str | None]] = [
    (["anger"], "anger"),
    (["annoyance", "disapproval"], "anger"),
    (["disapproval"], "anger"),
    (["anger", "sadness"], None),
    (["disgust"], "disgust"),
    (["disgust", "neutral"], None),
    (["disgust"], "disgust"),
    (["fear", "nervousness"], "fear"),
    (["nervousness"], "fear"),
    (["neutral"], None),
    (["fear"], "fear"),
    (["love", "admiration", "relief"], "joy"),
    (["joy", "surprise"], None),
    (["optimism"], "joy"),
    (["pride"], "joy"),
    ([], None),
    (["grief"], "sadness"),
    (["embarrassment", "remorse", "disappointment"], "sadness"),
    (["neutral"], None),
    (["curiosity", "confusion"], "surprise"),
    (["realization"], "surprise"),
]


def go_emotions(folder: Path, form: str = "parquet") -> dict[str, Any]:
    """A folder with the data set in its simplified configuration, and how config describes it."""
    features = datasets.Features(
        {
            "text": datasets.Value("string"),
            "labels": datasets.List(datasets.ClassLabel(names=NAMES)),
            "id": datasets.Value("string"),
        }
    )
    content = {
        "text": [f"comment {number}" for number in range(len(COMMENTS))],
        "labels": [[NAMES.index(label) for label in labels] for labels, _ in COMMENTS],
        "id": [f"eebbq{number}" for number in range(len(COMMENTS))],
    }
    data = datasets.Dataset.from_dict(content, features=features)
    splits = datasets.DatasetDict(train=data, validation=data.select([0]), test=data.select([4, 0]))
    folder.mkdir()
    for split, part in splits.items():
        if form == "parquet":
            part.to_parquet(folder / "simplified" / f"{split}-00000-of-00001.parquet")
        elif form == "jsonl":
            part.to_json(folder / f"{split}.jsonl")
    if form == "saved":
        splits.save_to_disk(folder)
    return {**DATASET, "dataset": str(folder), "columns": {"emotion": "labels"}}


def test_every_label_is_in_its_group() -> None:
    expected = {
        "anger": "anger annoyance disapproval",
        "disgust": "disgust",
        "fear": "fear nervousness",
        "joy": "admiration amusement approval caring desire excitement gratitude joy love optimism pride relief",
        "sadness": "disappointment embarrassment grief remorse sadness",
        "surprise": "confusion curiosity realization surprise",
        "neutral": "neutral",
    }
    pairs = {(label, group) for group, labels in expected.items() for label in labels.split()}
    assert len(pairs) == 28
    assert {(label, *grouping.ekman_groups([label])) for label in NAMES} == pairs
    assert {(label, *grouping.ekman_groups([str(number)])) for number, label in enumerate(NAMES)} == pairs
    with pytest.raises(ValueError, match="no label 'boredom'"):
        grouping.ekman_groups(["boredom"])
    with pytest.raises(ValueError, match="no label '28'"):
        grouping.ekman_groups(["28"])


@pytest.mark.parametrize("form", ["parquet", "saved", "jsonl"])
def test_six_groups_of_two_comments_each(tmp_path: Path, caplog: pytest.LogCaptureFixture, form: str) -> None:
    source = go_emotions(tmp_path / "go_emotions", form) | {"grouping": "ekman"}
    with caplog.at_level(logging.INFO):
        corpus = imported(tmp_path, source)
    # Disgust, sadness and surprise have two each, which are all kept; of the three of each other group two are drawn.
    assert Counter(corpus["emotion"]) == dict.fromkeys(grouping.EKMAN, 2)
    numbers = [int(text.removeprefix("comment ")) for text in corpus["text"]]
    assert numbers == sorted(numbers)
    assert [COMMENTS[number][1] for number in numbers] == corpus["emotion"].tolist()
    assert {4, 6, 16, 17, 19, 20} <= set(numbers)
    assert rows(imported(tmp_path, source)) == rows(corpus)
    (said,) = [record.getMessage() for record in caplog.records if "grouping" in record.getMessage()][:1]
    assert "2 of each of anger (3), disgust (2), fear (3), joy (3), sadness (2), surprise (2) are kept" in said
    assert "3 of several groups" in said
    assert "2 neutral" in said
    assert "1 unlabelled" in said


def test_every_comment_of_a_group_can_be_drawn() -> None:
    records = [Record(("joy",), "", str(number // 400)) for number in range(4000)] + [Record(("fear",), "", "")] * 1000
    drawn = Counter(record.text for record in grouping.ekman(records) if record.labels == ("joy",))
    assert sum(drawn.values()) == 1000
    # Of each tenth 100 with a standard deviation of 8.2.
    assert set(drawn) == set("0123456789")
    assert 60 < min(drawn.values()) < max(drawn.values()) < 140


def test_neutral_comments_are_those_that_are_only_neutral(tmp_path: Path) -> None:
    source = go_emotions(tmp_path / "go_emotions") | {"grouping": "ekman"}
    assert rows(imported(tmp_path, source, emotions=False)) == [("", "", "comment 9"), ("", "", "comment 18")]


def test_without_a_grouping_comments_of_one_label_keep_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = go_emotions(tmp_path / "go_emotions")
    with caplog.at_level(logging.INFO):
        corpus = imported(tmp_path, source)
    expected = [("".join(labels), "", f"comment {n}") for n, (labels, _) in enumerate(COMMENTS) if len(labels) < 2]
    assert rows(corpus) == expected
    assert f"{len(COMMENTS) - len(expected)} texts with several labels are left out" in caplog.text


# ---------------------------------------------------------------- data sets


def probes(folder: Path, count: int = 30) -> dict[str, Any]:
    """Stories as in ryancodrai/emotion-probes, in two files."""
    folder.mkdir()
    content = [
        {"emotion": ["calm", "sad", "proud"][n % 3], "topic": f"topic {n // 3}", "story": STORY.format(n)}
        for n in range(count)
    ]
    frame = pd.DataFrame(content)
    for number, part in enumerate((frame[: count // 2], frame[count // 2 :])):
        part.to_parquet(folder / f"train-{number:05}-of-00002.parquet", index=False)
    return {**DATASET, "dataset": str(folder), "columns": {"text": "story"}}


@pytest.mark.parametrize(
    ("split", "limit", "kept"),
    [
        ("train", None, range(30)),
        ("train", 7, range(7)),
        ("train[:4]", None, range(4)),
        ("train[20:]", 3, range(20, 23)),
        ("train[14:16]", None, range(14, 16)),
        ("train[10%:50%]", None, range(3, 15)),
        ("train[-2:]", None, range(28, 30)),
        ("train[:2]+train[28:]", 3, (0, 1, 28)),
        ("train", 1000, range(30)),
    ],
)
def test_stories_come_in_their_order_whole_or_in_part(
    tmp_path: Path, split: str, limit: int | None, kept: range
) -> None:
    source = probes(tmp_path / "emotion-probes") | {"split": split, "limit": limit}
    corpus = imported(tmp_path, source)
    assert rows(corpus) == [(["calm", "sad", "proud"][n % 3], f"topic {n // 3}", STORY.format(n)) for n in kept]
    assert set(corpus["writer"]) == {"dataset:emotion-probes"}


def test_a_part_is_had_without_a_copy_of_the_rest(tmp_path: Path) -> None:
    source = probes(tmp_path / "emotion-probes")
    for part in ({}, {"limit": 3}, {"split": "train[5:9]"}):
        imported(tmp_path, source | part)
    assert not list((tmp_path / "cache").rglob("*.arrow"))
    imported(tmp_path, source | {"split": "train[50%:]"})
    assert list((tmp_path / "cache").rglob("*.arrow"))


def test_chats_are_neutral_texts(tmp_path: Path) -> None:
    """As in lmsys/lmsys-chat-1m, whose other columns nest too."""
    turns = datasets.List({"content": datasets.Value("string"), "role": datasets.Value("string")})
    flags = datasets.List({"flagged": datasets.Value("bool"), "scores": {"hate": datasets.Value("float64")}})
    features = {"conversation_id": datasets.Value("string"), "conversation": turns, "openai_moderation": flags}
    chats = [
        [{"role": "user", "content": "What is an ell?"}, {"role": "assistant", "content": "A measure of cloth."}],
        [{"role": "user", "content": "How long?\r\nIn metres."}, {"role": "assistant", "content": "About 1.1."}],
    ]
    content = {
        "conversation_id": ["a", "b"],
        "conversation": chats,
        "openai_moderation": [[{"flagged": False, "scores": {"hate": 0.0}}]] * 2,
    }
    data = datasets.Dataset.from_dict(content, features=datasets.Features(features))
    (tmp_path / "chats").mkdir()
    data.to_parquet(tmp_path / "chats" / "data" / "train-00000-of-00001.parquet")
    source = {**DATASET, "dataset": str(tmp_path / "chats"), "columns": {"text": "conversation"}}
    assert imported(tmp_path, source, emotions=False)["text"].tolist() == [
        "Person: What is an ell?\n\nAI: A measure of cloth.",
        "Person: How long?\nIn metres.\n\nAI: About 1.1.",
    ]


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_plain_texts_are_neutral_texts(tmp_path: Path, suffix: str) -> None:
    """As in NeelNanda/pile-10k."""
    frame = pd.DataFrame({"text": ["One.\n\nTwo.", "Three, four."], "meta": [{"pile_set_name": "ArXiv"}] * 2})
    folder = tmp_path / "pile"
    folder.mkdir()
    match suffix:
        case "jsonl":
            frame.to_json(folder / "train.jsonl", orient="records", lines=True)
        case "csv":
            frame.to_csv(folder / "train.csv", index=False)
        case _:
            frame.to_parquet(folder / "train.parquet")
    corpus = imported(tmp_path, {**DATASET, "dataset": str(folder)}, emotions=False)
    assert rows(corpus) == [("", "", "One.\n\nTwo."), ("", "", "Three, four.")]


def test_why_a_data_set_cannot_be_read_is_said_in_one_line(tmp_path: Path) -> None:
    source = go_emotions(tmp_path / "go_emotions")
    (tmp_path / "nothing").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "train.parquet").write_bytes(b"PAR1 this is no Parquet file PAR1")
    wrong: list[tuple[dict[str, Any], list[str]]] = [
        ({"split": "trian"}, ["split: there is no split 'trian'", "train", "validation", "test"]),
        ({"split": "trian[:50%]"}, ["split: ", "trian", "train"]),
        ({"split": "train[200%:]"}, ["split: "]),
        ({"name": "raw"}, ["name: ", "raw", "default"]),
        ({"columns": {}}, ["columns.emotion: there is no column 'emotion'", "id, labels, text"]),
        ({"columns": {"emotion": "labels", "text": "body"}}, ["columns.text: there is no column 'body'"]),
        ({"columns": {"emotion": "id"}, "grouping": "ekman"}, ["columns.emotion: GoEmotions has no label 'eebbq0'"]),
        ({"split": "train[3:4]", "grouping": "ekman"}, ["every text was left out"]),
        ({"split": "train[3:3]"}, ["is empty"]),
        ({"dataset": str(tmp_path / "nothing")}, ["contain any data files"]),
        ({"dataset": str(tmp_path / "broken")}, ["cannot be read"]),
    ]
    for change, words in wrong:
        with pytest.raises(UserError) as error:
            imported(tmp_path, source | change)
        assert str(error.value).startswith(
            (change | source)["dataset"] if "dataset" not in change else change["dataset"]
        )
        assert all(each in str(error.value) for each in words), error.value
        assert "\n" not in str(error.value)
        assert not (tmp_path / "stories.parquet").exists()


def test_a_token_is_in_no_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", f"{SECRET}\n")

    def refused() -> None:
        try:
            raise OSError(f"Authorization: Bearer {SECRET} was refused")
        except OSError as error:
            raise ValueError("nothing\ncame") from error

    with pytest.raises(UserError) as error, hub._explained("me/open"):
        refused()
    assert str(error.value) == (
        "me/open: cannot be read (ValueError: nothing came: Authorization: Bearer *** was refused)"
    )


def test_the_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    monkeypatch.setitem(sys.modules, "datasets.exceptions", None)
    with pytest.raises(UserError, match=r"pip install 'affectome\[datasets\]'"):
        imported(tmp_path, {**DATASET, "dataset": str(tmp_path)})


# ---------------------------------------------------------------- configuration


def described(stories: dict[str, Any]) -> list[str]:
    """What is wrong with a run whose stories are `stories`."""
    shipped = yaml.safe_load((ROOT / "workflow_config.yaml").read_text(encoding="utf-8"))
    shipped["corpora"]["starter"] |= {"stories": stories, "emotions": ["calm", "sad", "proud"]}
    shipped["run_definitions"]["demo"]["trials"] = []
    try:
        load_config(shipped)
    except UserError as error:
        return str(error).splitlines()
    return []


def test_a_source_is_checked_where_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    source = probes(tmp_path / "emotion-probes")
    folder, named = {"dataset": source["dataset"]}, {"dataset": "owner/name", "revision": "main"}
    for right in (source, folder, named, {**named, "split": "train[:5]+test"}, {**named, "grouping": "ekman"}):
        assert described(right) == []
    wrong = {
        "stories.dataset: there is no folder 'owner/name'; for a repository of the hub add its revision": {
            "dataset": "owner/name"
        },
        "stories: 'a/b/c' is not of the form owner/name": {"dataset": "a/b/c", "revision": "main"},
        "stories: 'train[5' is no split": {**named, "split": "train[5"},
        "stories.grouping: \"plutchik\" should be 'ekman'": {**named, "grouping": "plutchik"},
        "stories.limit: 0 should be greater": {**named, "limit": 0},
        "stories: {} needs one of the keys file, dataset": {},
        "stories: 'table' is for SQLite files only": {"file": "x.csv", "table": "t"},
    }
    for words, stories in wrong.items():
        (line,) = described(stories)
        assert words in line
    told = database(tmp_path / "dump.db", told=[("feeling", "story"), *((w, t) for w, _, t in STORIES)])
    assert described({"file": told}) == []
    tied = database(tmp_path / "tied.db", one=TOLD, two=TOLD)
    (line,) = described({"file": tied})
    assert line.startswith("corpora.starter.stories.table: 'one' and 'two' fit alike")
    happy = database(tmp_path / "happy.db", told=[("emotion", "text"), *(("happy", t) for _, _, t in STORIES)])
    assert all("no emotion" in line for line in described({"file": happy}))


# ---------------------------------------------------------------- the hub

COMMIT, LATER = "c0ffee" + "0" * 34, "decade" + "0" * 34
SECRET = "hf_" + "s" * 34


class Hub(ThreadingHTTPServer):
    """A hub with the data sets `me/open` and `me/gated`, whose files need the token; commit `LATER` it cannot serve."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), HubHandler)
        found = sorted(path for path in folder.rglob("*") if path.is_file())
        self.files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}
        self.tokens: set[str | None] = set()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class HubHandler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        path, query = urlsplit(self.path).path, parse_qs(urlsplit(self.path).query)
        token = self.headers.get("Authorization")
        self.server.tokens.add(token)
        files = self.server.files
        if "/datasets/me/gated" not in path and "/datasets/me/open" not in path:
            self.reply(401, b"", body, {"X-Error-Code": "RepoNotFound"})
        elif "/datasets/me/gated" in path and "/resolve/" in path and token != f"Bearer {SECRET}":
            self.reply(401, b"", body, {"X-Error-Code": "GatedRepo"})
        elif "/resolve/" in path and LATER in path:
            self.reply(400, b"", body)
        elif "/resolve/" in path:
            name = path.split(f"/resolve/{COMMIT}/")[-1]
            if name in files:
                etag = f'"{hashlib.sha256(files[name]).hexdigest()}"'
                self.reply(200, files[name], body, {"ETag": etag, "X-Repo-Commit": COMMIT})
            else:
                self.reply(404, b"", body, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        elif "/tree/" in path:
            folder = path.partition(f"/tree/{COMMIT}")[2].strip("/")
            folders = {str(parent) for name in files for parent in Path(name).parents} - {"."}
            tree = [{"type": "directory", "oid": "0", "size": 0, "path": name} for name in sorted(folders)]
            tree += [{"type": "file", "oid": "0", "size": len(files[name]), "path": name} for name in files]
            tree = [entry for entry in tree if entry["path"].startswith(f"{folder}/" if folder else "")]
            if query["recursive"] == ["false"]:
                tree = [entry for entry in tree if str(Path(entry["path"]).parent) == (folder or ".")]
            self.reply(200, json.dumps(tree).encode(), body)
        elif "no-such-revision" in path:
            self.reply(404, b"", body, {"X-Error-Code": "RevisionNotFound"})
        else:
            repo = "me/gated" if "gated" in path else "me/open"
            sha = LATER if LATER in path else COMMIT
            info = {"id": repo, "sha": sha, "siblings": [{"rfilename": name} for name in files], "tags": []}
            self.reply(200, json.dumps(info).encode(), body)

    def reply(self, status: int, data: bytes, body: bool, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {**(headers or {}), "Content-Length": str(len(data))}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Hub]:
    go_emotions(tmp_path / "repository")
    hub = Hub(tmp_path / "repository")
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    yield hub
    hub.shutdown()
    hub.server_close()


# The hub's address is read when its client is imported, so it is asked from a process of its own.
READ = """
import json, sys
from affectome.corpus.sources.hub import read_dataset
from affectome.errors import UserError
for wanted in json.loads(sys.argv[1]):
    try:
        writer, records = read_dataset(name=None, split="train", columns={"emotion": "labels"}, emotions=True, **wanted)
        print(json.dumps([writer, [record.text for record in records]]))
    except UserError as error:
        print(json.dumps(str(error)))
"""


def asked(tmp_path: Path, endpoint: str, wanted: list[tuple[str, str, int | None]], **variables: str) -> list[Any]:
    """What a process says that reads each data set, revision and number of rows; `variables` are its environment."""
    home = tmp_path / "home"
    home.mkdir(exist_ok=True)
    # A token that somebody logged in with once is not the one to use.
    (home / "token").write_text("hf_" + "o" * 34)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", **variables}
    jobs = [{"dataset": name, "revision": revision, "limit": limit} for name, revision, limit in wanted]
    command = [sys.executable, "-c", READ, json.dumps(jobs)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert SECRET not in done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_repository_is_read_and_its_commit_recorded(tmp_path: Path, server: Hub) -> None:
    comments = [f"comment {number}" for number in range(len(COMMENTS))]
    wanted = [("me/open", "main", None), ("me/open", COMMIT, 5), ("me/gated", "main", 3)]
    found = asked(tmp_path, server.url, wanted, HF_TOKEN=SECRET)
    writer = f"dataset:me/open@{COMMIT}"
    assert found == [[writer, comments], [writer, comments[:5]], [f"dataset:me/gated@{COMMIT}", comments[:3]]]
    assert server.tokens - {None} == {f"Bearer {SECRET}"}


def test_why_a_repository_cannot_be_had(tmp_path: Path, server: Hub) -> None:
    wanted = {
        ("me/gated", "main"): ["me/gated: is gated", "https://huggingface.co/datasets/me/gated", "HF_TOKEN"],
        ("me/none", "main"): ["me/none: does not exist", "HF_TOKEN"],
        ("me/open", "no-such-revision"): ["me/open: revision: "],
    }
    files = [*((*each, 1) for each in wanted), ("me/open", COMMIT, None)]
    *messages, read = asked(tmp_path, server.url, files)
    assert server.tokens == {None}
    # What is now in the cache is not taken for another revision.
    assert read[0].endswith(COMMIT)
    messages += asked(tmp_path, "http://127.0.0.1:9", [("me/open", COMMIT, None)], HF_TOKEN=SECRET)
    messages += asked(tmp_path, server.url, [("me/open", LATER, None)])
    messages += asked(tmp_path, server.url, [("me/open", COMMIT, None)], HF_HUB_OFFLINE="1")
    for message, words in zip(
        messages, [*wanted.values(), *[["cannot be had from the hub", "folder"]] * 3], strict=True
    ):
        assert all(each in message for each in words), message
        assert "\n" not in message
