"""What is dropped from a corpus is what should be, each text once and counted; the shipped corpora lose nothing."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from affectome.config import Screening
from affectome.corpus.importing import import_corpus
from affectome.corpus.screening import screen, screen_corpus
from affectome.corpus.screening.rules import REASONS
from affectome.corpus.tables import as_corpus, read_corpus, write_corpus
from affectome.errors import UserError
from affectome.identity import fingerprint

RESOURCES = Path(__file__).parents[2] / "resources"
EMOTIONS = (RESOURCES / "emotions" / "171.txt").read_text(encoding="utf-8").split("\n")[:-1]
EVERYTHING = Screening().model_dump()
RULES = EVERYTHING | {"min_words": 3, "max_words": 8}


def corpus(*texts: tuple[str, str]) -> pd.DataFrame:
    frame = pd.DataFrame(texts, columns=["emotion", "text"]).assign(topic="t")
    return as_corpus(frame, "w")


RAW = corpus(
    ("sad", "It rained on all of them."),
    ("glad", "He was glad and she knew."),  # leak
    ("glad", "It rained on all of them."),  # duplicate, though under another emotion
    ("sad", "Too short."),
    ("sad", "Sad."),  # leak before too short
    ("sad", "One two three four five six seven eight nine."),
    ("glad", "One two three four five six seven eight."),
    ("proud", "Not on the list at all."),
    ("proud", "It rained on all of them."),  # not listed before duplicate
    ("", "A story of nothing at all."),  # not listed either
    ("glad", "Three words here."),
    ("glad", "It rained, on all of them!"),  # near-duplicate
    ("glad", "Sure! Here is a story: He left."),
    ("glad", "I can't write that story."),
    ("glad", "He went to the"),
)
WHY = [
    *("", "leak", "duplicate", "too_short", "leak", "too_long", "", "not_listed", "not_listed", "not_listed", ""),
    *("near_duplicate", "preamble", "refusal", "truncated"),
]


def test_every_text_is_dropped_for_the_first_reason_that_applies() -> None:
    kept, reasons = screen(RAW, ["sad", "glad"], RULES)
    assert reasons.tolist() == WHY
    assert kept["text"].tolist() == [text for text, why in zip(RAW["text"], WHY, strict=True) if not why]
    assert kept.index.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("rule", "saved"),
    [
        ({"leaks": False}, 1),
        ({"max_words": 9}, 5),
        ({"min_words": 2}, 3),
        ({"near_duplicates": None}, 11),
        ({"preambles": False}, 12),
        ({"refusals": False}, 13),
        ({"truncated": False}, 14),
    ],
)
def test_every_rule_can_be_relaxed_alone(rule: dict[str, Any], saved: int) -> None:
    reasons = screen(RAW, ["sad", "glad"], RULES | rule)[1]
    assert [number for number, why in enumerate(WHY) if why and not reasons[number]] == [saved]


def test_exact_duplicates_are_near_ones_too() -> None:
    assert screen(RAW, ["sad", "glad"], RULES | {"duplicates": False})[1][2] == "near_duplicate"
    relaxed = RULES | {"duplicates": False, "near_duplicates": None}
    assert screen(RAW, ["sad", "glad"], relaxed)[1][2] == ""


def test_a_text_with_faults_takes_no_near_duplicate_with_it() -> None:
    raw = corpus(("sad", "It rained on all of the sad."), ("sad", "It rained on all of the roofs."))
    assert screen(raw, ["sad"], RULES | {"near_duplicates": 0.5})[1].tolist() == ["leak", ""]


def test_neither_word_of_a_dialogue_may_occur_and_other_columns_stay() -> None:
    raw = corpus(("sad", "Person: It rains.\n\nAI: Good."), ("sad", "Person: It rains.\n\nAI: I am glad."))
    kept, reasons = screen(raw.assign(other_emotion=["glad", "glad"]), ["sad"], RULES | {"near_duplicates": None})
    assert reasons.tolist() == ["", "leak"]
    assert kept["other_emotion"].tolist() == ["glad"]


def test_neutral_texts_have_no_word_to_give_away() -> None:
    raw = corpus(("", "I am sad and glad."), ("", "I am sad and glad."), ("", "Short."), ("", "# A title\n\nAnd more"))
    assert screen(raw, [""], RULES, "text")[1].tolist() == ["", "duplicate", "too_short", ""]
    assert screen(raw, [""], RULES, "dialogue")[1].tolist() == ["layout", "duplicate", "layout", "preamble"]


def test_a_table_without_rows_stays_one() -> None:
    kept, reasons = screen(RAW[:0], [""], RULES, "text")
    assert (len(kept), len(reasons)) == (0, 0)
    assert kept.columns.tolist() == RAW.columns.tolist()


def test_the_report_accounts_for_every_text(tmp_path: Path) -> None:
    parts = [tmp_path / f"raw-{number}.parquet" for number in range(3)]
    for part, rows in zip(parts, (RAW[:5], RAW[:0], RAW[5:]), strict=True):
        write_corpus(rows, part)
    neutral = tmp_path / "raw_neutral.parquet"
    write_corpus(corpus(("", "Water boils at 100 degrees."), ("", "No.")), neutral)
    files = [tmp_path / f"{name}.parquet" for name in ("stories", "neutral")]
    screen_corpus(parts, [neutral], *files, tmp_path / "report.json", ["sad", "glad"], RULES, [])
    report = json.loads((tmp_path / "report.json").read_text())
    stories = report["stories"]
    assert report["rules"] == RULES
    assert report["writing"] is None
    assert (stories["read"], stories["kept"], stories["dropped"]) == (15, 3, 12)
    assert list(stories["by_reason"]) == list(REASONS)
    assert stories["by_reason"] == dict.fromkeys(REASONS, 0) | {why: WHY.count(why) for why in WHY if why}
    assert stories["by_reason_and_emotion"] == {
        "not_listed": {"": 1, "proud": 2},
        "duplicate": {"glad": 1},
        "refusal": {"glad": 1},
        "preamble": {"glad": 1},
        "leak": {"glad": 1, "sad": 1},
        "truncated": {"glad": 1},
        "too_short": {"sad": 1},
        "too_long": {"sad": 1},
        "near_duplicate": {"glad": 1},
    }
    assert stories["ids"] == {why: RAW["id"][[w == why for w in WHY]].tolist() for why in REASONS if why in WHY}
    assert report["kept_by_emotion"] == {"sad": 1, "glad": 2}
    assert len(read_corpus(files[0])) == 3
    assert report["neutral"]["by_reason"]["too_short"] == 1
    assert read_corpus(files[1])["text"].tolist() == ["Water boils at 100 degrees."]
    for kind in ("stories", "neutral"):
        counts = report[kind]
        assert counts["read"] == counts["kept"] + counts["dropped"]
        assert counts["dropped"] == sum(counts["by_reason"].values())
        assert sum(map(len, counts["ids"].values())) == counts["dropped"]
        assert sum(sum(of.values()) for of in counts["by_reason_and_emotion"].values()) == counts["dropped"]


def account(kind: str, **changes: Any) -> dict[str, Any]:
    return {
        "kind": kind,
        "planned": 10,
        "asked": {"sad": 7, "glad": 5},
        "rejected": {"sad": {"leak": 2}, "glad": {}},
        "given_up": {},
        "tokens": {"read": 100, "written": 1000},
        "usd": 0.5,
        "seconds": 2.5,
        "prompts": {"story": {"file": "story.j2", "version": "2", "digest": "0123"}},
        "fingerprint": "4567",
    } | changes


def test_what_writers_were_asked_for_is_summed_over_jobs(tmp_path: Path) -> None:
    jobs = [
        account("stories"),
        account(
            "stories", asked={"sad": 4}, rejected={"sad": {"leak": 1, "loop": 1}}, given_up={"sad": {"blocked": 3}}
        ),
        account("neutral", asked={"": 3}, rejected={"": {"layout": 1}}, usd=None),
    ]
    written = [tmp_path / f"{number}.json" for number in range(3)]
    for path, job in zip(written, jobs, strict=True):
        path.write_text(json.dumps(job))
    write_corpus(RAW, tmp_path / "raw.parquet")
    write_corpus(corpus(("", "Person: How?\n\nAI: So."), ("", "How so, then?")), tmp_path / "raw_neutral.parquet")
    files = [tmp_path / f"{part}.parquet" for part in ("raw", "raw_neutral", "stories", "neutral")]
    report_file = tmp_path / "report.json"
    screen_corpus(files[:1], files[1:2], *files[2:], report_file, ["sad", "glad"], RULES, written)
    report = json.loads(report_file.read_text())
    assert report["writing"]["stories"] == {
        "planned": 20,
        "asked": {"texts": 16, "by_emotion": {"glad": 5, "sad": 11}},
        "rejected": {
            "texts": 4,
            "by_reason": {"leak": 3, "loop": 1},
            "by_reason_and_emotion": {"leak": {"sad": 3}, "loop": {"sad": 1}},
        },
        "given_up": {"texts": 3, "by_reason": {"blocked": 3}, "by_reason_and_emotion": {"blocked": {"sad": 3}}},
        "tokens": {"read": 200, "written": 2000},
        "usd": 1.0,
        "seconds": 5.0,
        "prompts": {"story": {"file": "story.j2", "version": "2", "digest": "0123"}},
        "fingerprint": fingerprint(["4567", "4567"]),
    }
    assert report["writing"]["neutral"]["rejected"]["by_reason"] == {"layout": 1}
    assert report["writing"]["neutral"]["usd"] is None
    # Neutral texts that a model wrote are dialogues.
    assert report["neutral"]["by_reason"]["layout"] == 1


def test_shards_may_differ_in_their_extra_columns(tmp_path: Path) -> None:
    raw = corpus(("sad", "Person: It rains.\n\nAI: I am glad."), ("sad", "It went well, I am glad."))
    write_corpus(raw[:1].assign(other_emotion="glad"), tmp_path / "first.parquet")
    write_corpus(raw[1:], tmp_path / "second.parquet")
    write_corpus(RAW[:0], tmp_path / "raw_neutral.parquet")
    files = [tmp_path / f"{part}.parquet" for part in ("first", "second", "raw_neutral", "stories", "neutral")]
    screen_corpus(files[:2], files[2:3], *files[3:], tmp_path / "report.json", ["sad"], RULES, [])
    kept = read_corpus(files[3])
    assert kept["text"].tolist() == ["It went well, I am glad."]
    assert kept["other_emotion"].tolist() == [""]
    assert len(read_corpus(files[4])) == 0


def test_an_emotion_without_a_story_left_is_named(tmp_path: Path) -> None:
    write_corpus(RAW, tmp_path / "raw.parquet")
    write_corpus(RAW[:0], tmp_path / "raw_neutral.parquet")
    files = [tmp_path / f"{name}.parquet" for name in ("raw", "raw_neutral", "stories", "neutral")]
    with pytest.raises(UserError, match=r"no story is left for calm \(dropped: .*not_listed"):
        screen_corpus(files[:1], files[1:2], *files[2:], tmp_path / "report.json", ["sad", "calm"], RULES, [])
    assert not files[2].exists()


@pytest.mark.parametrize("name", ["starter", "literary"])
def test_the_shipped_corpora_lose_nothing(tmp_path: Path, name: str) -> None:
    files = [tmp_path / f"{part}.parquet" for part in ("raw", "raw_neutral", "stories", "neutral")]
    described = [
        {"file": str(RESOURCES / "corpora" / where), "columns": {}, "table": None}
        for where in (f"{name}/stories.jsonl", "starter/neutral.jsonl")
    ]
    import_corpus(*described, *files[:2])
    screen_corpus(files[:1], files[1:2], *files[2:], tmp_path / "report.json", EMOTIONS, EVERYTHING, [])
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["stories"]["read"], report["stories"]["kept"]) == (1026, 1026)
    assert (report["neutral"]["read"], report["neutral"]["kept"]) == (72, 72)
    assert set(report["kept_by_emotion"].values()) == {6}
    assert len(EMOTIONS) == len(report["kept_by_emotion"]) == 171
    neutral = read_corpus(files[1])
    assert set(screen(neutral, [""], EVERYTHING, "dialogue")[1]) == {""}
