"""The same rows make the same corpus table whatever file they come in, and an unusable file is refused in one line."""

import csv
import hashlib
import json
import re
import sqlite3
import unicodedata
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from affectome.corpus.importing import import_corpus
from affectome.corpus.sources.files import peek, read_records
from affectome.corpus.tables import (
    COLUMNS,
    as_corpus,
    clean,
    empty_corpus,
    read_corpus,
    text_id,
    write_batches,
    write_corpus,
)
from affectome.errors import UserError

HOSTILE = 'x"; DROP TABLE "y"; --'
ROWS = [
    {"emotion": "afraid", "topic": "night, and day", "text": 'He said "no",\nand ran.\tAway; NULL.'},
    {"emotion": "at ease", "topic": "", "text": "  A cafe\u0301 by the sea.\r\nNo one spoke. \r"},
    {"emotion": "grief-stricken", "topic": "NA", "text": "nan"},
    {"emotion": "afraid", "topic": "7", "text": "Ünïcode – 悲しい 😀, and a comma"},
]
EXPECTED = [
    ("afraid", "night, and day", 'He said "no",\nand ran.\tAway; NULL.', 7),
    ("at ease", "", "A caf\u00e9 by the sea.\nNo one spoke.", 8),
    ("grief-stricken", "NA", "nan", 1),
    ("afraid", "7", "Ünïcode – 悲しい 😀, and a comma", 7),
]


def write(path: Path, rows: list[dict[str, Any]], table: str = "stories") -> tuple[str, str | None]:
    """`rows` in the format of the file's suffix, and what `read_records` wants to know to read them."""
    frame = pd.DataFrame(rows)
    match path.suffix:
        case ".jsonl":
            path.write_text("".join(json.dumps(row) + "\n\n" for row in rows), encoding="utf-8")
        case ".csv" | ".tsv":
            with open(path, "w", encoding="utf-8", newline="") as handle:
                writer = csv.DictWriter(handle, list(frame), delimiter="\t" if path.suffix == ".tsv" else ",")
                writer.writeheader()
                writer.writerows(rows)
        case ".parquet":
            frame.to_parquet(path)
        case _:
            with closing(sqlite3.connect(path)) as connection:
                frame.to_sql(table, connection, index=False)
            return str(path), table
    return str(path), None


def read_texts(file: str, columns: dict[str, str], table: str | None, emotions: bool = True) -> pd.DataFrame:
    """What is read of a file, cleaned, as a table."""
    records = read_records(file, columns, table, emotions)
    rows = [(clean("+".join(labels)), clean(topic), clean(text)) for labels, topic, text in records]
    return pd.DataFrame(rows, columns=["emotion", "topic", "text"], dtype=object)


SUFFIXES = [".jsonl", ".csv", ".tsv", ".parquet", ".sqlite", ".db"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format_gives_the_same_corpus(tmp_path: Path, suffix: str) -> None:
    file, table = write(tmp_path / f"corpus{suffix}", ROWS)
    corpus = as_corpus(read_texts(file, {}, table), "someone")
    assert list(corpus.columns) == list(COLUMNS)
    assert [tuple(row) for row in corpus[["emotion", "topic", "text", "n_words"]].to_numpy()] == EXPECTED
    hashed = [hashlib.sha256(f"{emotion}\0{text}".encode()).hexdigest()[:16] for emotion, _, text, _ in EXPECTED]
    assert corpus["id"].tolist() == hashed
    assert set(corpus["writer"]) == {"someone"}
    if suffix != ".parquet":
        assert peek(file, {}, table) == ({"afraid", "at ease", "grief-stricken"}, [])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_columns_are_found_under_the_names_they_have(tmp_path: Path, suffix: str) -> None:
    theirs = {"emotion": 'feel"ing', "text": "story of mine"}
    rows = [{theirs.get(ours, ours): value for ours, value in row.items() if ours != "topic"} for row in ROWS]
    file, table = write(tmp_path / f"corpus{suffix}", rows)
    texts = read_texts(file, theirs, table)
    assert texts["emotion"].tolist() == [emotion for emotion, *_ in EXPECTED]
    assert texts["text"].tolist() == [text for *_, text, _ in EXPECTED]
    assert texts["topic"].tolist() == [""] * 4
    if suffix != ".parquet":
        assert peek(file, theirs, table)[0] == {"afraid", "at ease", "grief-stricken"}


def test_an_id_is_the_hash_of_emotion_and_text() -> None:
    # printf 'sad\0It rained.' | sha256sum
    assert text_id("sad", "It rained.") == "4c84ab179effc3ce"
    assert text_id("sadI", "t rained.") != text_id("sad", "It rained.")


@given(st.text())
def test_cleaning_is_normal_and_final(text: str) -> None:
    once = clean(text)
    assert clean(once) == once
    assert unicodedata.is_normalized("NFC", once)
    assert "\r" not in once
    assert once == once.strip()


def test_half_a_surrogate_pair_can_be_stored() -> None:
    assert clean(json.loads('"cut \\ud83d"')) == "cut ?"


@pytest.mark.parametrize("missing", [{"topic": "t", "text": "x"}, {"emotion": None, "topic": "t", "text": "x"}])
def test_a_row_without_emotion_is_read_with_none(tmp_path: Path, missing: dict[str, Any]) -> None:
    file, _ = write(tmp_path / "some.jsonl", [ROWS[0], missing])
    assert read_texts(file, {}, None)["emotion"].tolist() == ["afraid", ""]
    assert peek(file, {}, None) == ({"afraid"}, [])


def test_numbers_are_read_as_they_are_written(tmp_path: Path) -> None:
    rows = [{"emotion": 3, "text": "a"}, {"emotion": None, "text": 1.5}, {"emotion": 10**17, "text": "c"}]
    file, _ = write(tmp_path / "numbers.jsonl", rows)
    texts = read_texts(file, {}, None)
    assert texts["emotion"].tolist() == ["3", "", "1" + "0" * 17]
    assert texts["text"].tolist() == ["a", "1.5", "c"]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_byte_order_mark_is_not_part_of_the_first_column(tmp_path: Path, suffix: str) -> None:
    file, _ = write(tmp_path / f"excel{suffix}", ROWS)
    Path(file).write_bytes(b"\xef\xbb\xbf" + Path(file).read_bytes())
    assert read_texts(file, {}, None)["emotion"].tolist() == [emotion for emotion, *_ in EXPECTED]


@pytest.mark.parametrize("name", [HOSTILE, "order", "a b", "stories'", "ta-ble"])
def test_any_name_of_a_table_can_be_read(tmp_path: Path, name: str) -> None:
    file, table = write(tmp_path / "x.sqlite", ROWS, name)
    assert len(read_texts(file, {}, table)) == 4
    assert peek(file, {}, table)[0] == {"afraid", "at ease", "grief-stricken"}


def unusable(folder: Path) -> dict[str, tuple[str, str | None, str]]:
    """Files that cannot be read, by what is wrong with them: path, table, and words the message must hold."""
    contents = {
        "empty.jsonl": (b"", "empty"),
        "blank.jsonl": (b"\n \n", "empty"),
        "empty.csv": (b"", "empty"),
        "header.csv": (b"emotion,text\n", "empty"),
        "empty.parquet": (b"", "empty"),
        "broken.jsonl": (b'{"emotion": "sad", "text": "x"}\n\n{"emotion": "sad", "te\n', "line 3 is not JSON"),
        "list.jsonl": (b'{"emotion": "sad", "text": "x"}\n["sad", "x"]\n', "line 2 is not a JSON object"),
        "column.jsonl": (b'{"feeling": "sad", "text": "x"}\n', "columns.emotion: there is no column 'emotion'"),
        "column.tsv": (b"emotion\tstory\nsad\tx\n", "columns.text: there is no column 'text'"),
        "long.csv": (b"emotion,text\nsad,one, two\n", "line 2 has not as many fields"),
        "short.csv": (b"emotion,text\nsad,x\nsad\n", "line 3 has not as many fields"),
        "huge.csv": (b"emotion,text\nsad," + b"x" * 200_000 + b"\n", "field larger than field limit"),
        "latin.csv": ("emotion,text\nsad,caf\u00e9\n".encode("latin-1"), "utf-8"),
        "no.parquet": (b"this is no parquet file", "cannot be read as .parquet"),
        "no.sqlite": (b"this is no database, though it is long enough", "not a database"),
    }
    found = {}
    for name, (content, words) in contents.items():
        (folder / name).write_bytes(content)
        found[name] = (str(folder / name), "stories" if name.endswith("sqlite") else None, words)
    pd.DataFrame({"emotion": ["sad"], "story": ["x"]}).to_parquet(folder / "column.parquet")
    found["column.parquet"] = (str(folder / "column.parquet"), None, "no column 'text'; the file has emotion, story")
    pd.DataFrame({"emotion": [], "text": []}).to_parquet(folder / "rows.parquet")
    found["rows.parquet"] = (str(folder / "rows.parquet"), None, "empty")
    with closing(sqlite3.connect(folder / "some.sqlite")) as connection:
        connection.execute("CREATE TABLE mine (emotion, tale)")
        connection.execute("CREATE TABLE none (emotion, text)")
        connection.execute("INSERT INTO mine VALUES ('sad', 'x')")
        connection.commit()
    some = str(folder / "some.sqlite")
    found["wrong table"] = (some, "theirs", "there is no table 'theirs'; it has mine, none")
    found["hostile table"] = (some, HOSTILE, f"there is no table {HOSTILE!r}; it has mine, none")
    found["empty table"] = (some, "none", "empty")
    found["column of table"] = (some, "mine", "the file has mine (emotion, tale; 1 rows); set table and columns")
    found["missing"] = (str(folder / "missing.jsonl"), None, "does not exist")
    found["folder"] = (str(folder), None, "does not exist")
    return found


def test_a_file_that_cannot_be_read_is_refused_in_one_line(tmp_path: Path) -> None:
    for name, (file, table, words) in unusable(tmp_path).items():
        with pytest.raises(UserError) as error:
            read_texts(file, {}, table)
        message = str(error.value)
        assert words in message, name
        assert file in message, name
        assert "\n" not in message, name
        if not name.endswith("parquet"):
            assert words in "".join(peek(file, {}, table)[1]), name


def test_texts_without_emotion_need_no_emotion_column(tmp_path: Path) -> None:
    file, _ = write(tmp_path / "neutral.jsonl", [{"text": "plain"}])
    assert peek(file, {}, None, emotions=False) == (None, [])
    assert read_texts(file, {}, None, emotions=False).to_dict("list") == {
        "emotion": [""],
        "topic": [""],
        "text": ["plain"],
    }
    with pytest.raises(UserError, match=r"columns\.emotion"):
        read_texts(file, {}, None)


def test_importing_keeps_order_and_takes_emotions_from_neutral_texts(tmp_path: Path) -> None:
    stories, _ = write(tmp_path / "s.csv", ROWS)
    neutral, _ = write(tmp_path / "n.csv", ROWS[:2])
    plain = {"columns": {}, "table": None}
    import_corpus(
        {"file": stories, **plain}, {"file": neutral, **plain}, tmp_path / "s.parquet", tmp_path / "n.parquet"
    )
    told, calm = read_corpus(tmp_path / "s.parquet"), read_corpus(tmp_path / "n.parquet")
    assert told["text"].tolist() == [text for *_, text, _ in EXPECTED]
    assert told["writer"].unique().tolist() == ["file:s.csv"]
    assert calm["emotion"].tolist() == ["", ""]
    assert calm["id"].tolist() == [text_id("", text) for *_, text, _ in EXPECTED[:2]]


def test_a_corpus_without_neutral_texts_has_an_empty_table(tmp_path: Path) -> None:
    stories, _ = write(tmp_path / "s.jsonl", ROWS)
    import_corpus({"file": stories, "columns": {}, "table": None}, None, tmp_path / "s.parquet", tmp_path / "n.parquet")
    pd.testing.assert_frame_equal(read_corpus(tmp_path / "n.parquet"), empty_corpus(), check_dtype=False)
    assert list(empty_corpus().columns) == list(COLUMNS)


def test_a_corpus_table_comes_back_as_it_was_written(tmp_path: Path) -> None:
    file, _ = write(tmp_path / "s.jsonl", ROWS)
    corpus = as_corpus(read_texts(file, {}, None), "w")
    write_corpus(corpus, tmp_path / "deep" / "c.parquet")
    pd.testing.assert_frame_equal(read_corpus(tmp_path / "deep" / "c.parquet"), corpus, check_dtype=False)
    assert re.fullmatch(r"[0-9a-f]{16}", corpus["id"][0])


def test_batches_make_the_table_that_the_whole_makes(tmp_path: Path) -> None:
    file, _ = write(tmp_path / "s.jsonl", ROWS)
    corpus = as_corpus(read_texts(file, {}, None), "w")
    assert write_batches((corpus[start : start + 3] for start in (0, 3)), tmp_path / "deep" / "b.parquet") == 4
    pd.testing.assert_frame_equal(read_corpus(tmp_path / "deep" / "b.parquet"), corpus, check_dtype=False)

    def broken() -> Any:
        yield corpus
        raise UserError("no more")

    with pytest.raises(UserError):
        write_batches(broken(), tmp_path / "deep" / "c.parquet")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["b.parquet"]
