"""What is dropped from a corpus is what should be, each text once and counted; the shipped corpora lose nothing."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from affectome.corpus.importing import import_corpus
from affectome.corpus.screening import REASONS, leak_pattern, screen, screen_corpus
from affectome.corpus.tables import as_corpus, read_corpus, write_corpus
from affectome.errors import UserError

RESOURCES = Path(__file__).parents[2] / "resources"
EMOTIONS = (RESOURCES / "emotions" / "171.txt").read_text(encoding="utf-8").split("\n")[:-1]
RULES = {"leaks": True, "duplicates": True, "min_words": 3, "max_words": 8}

# An emotion, the forms that give it away, and words that do not.
LEAKS = {
    "happy": (
        "happy happier happiest happily happiness HAPPY Happy's un-happy happy-go-lucky _happy_",
        "unhappy happen",
    ),
    "hope": ("hope hopes hoped hoping", "hopeful hopeless hop hopped hopping"),
    "mad": ("mad madder maddest madly madness", "made madam maid nomad"),
    "sad": ("sad sadder saddest sadly sadness", "saddle said"),
    "smug": ("smug smugger smugly smugness", "smuggle smuggling"),
    "safe": ("safe safer safest safely", "safety safes save"),
    "angry": ("angry angrier angriest angrily", "anger angered angering"),
    "lonely": ("lonely lonelier loneliness", "alone lone lonesome"),
    "miserable": ("miserable miserably", "misery"),
    "optimistic": ("optimistic optimistically", "optimism optimist"),
    "hysterical": ("hysterical hysterically", "hysteria"),
    "upset": ("upset upsets upsetting", "set upside"),
    "hurt": ("hurt hurts hurting", "hurtful"),
    "calm": ("calm calms calmed calming calmer calmly", "calmative"),
    "content": ("content contented contently", "contents contend"),
    "kind": ("kind kinder kindest kindly kindness", "kinds kindergarten kindle mankind"),
    "patient": ("patient patiently", "patients patience impatient"),
    "tired": ("tired tiredly tiredness tiring", "tire tires tirade tiresome"),
    "bored": ("bored boring bores", "bore board boredom born"),
    "pleased": ("pleased pleasing pleases", "please pleas pleasant pleasure"),
    "scared": ("scared scare scares scaring", "scar scars scarred scarf scary sacred"),
    "alarmed": ("alarmed alarm alarms alarming", "arm armed"),
    "amazed": ("amazed amaze amazes amazing", "maze amazement"),
    "worried": ("worried worry worries worrying", "worn worrisome"),
    "terrified": ("terrified terrify terrifies terrifying", "terrific terror"),
    "trapped": ("trapped trap traps trapping", "strapped trappings tram"),
    "panicked": ("panicked panic panicking", "panicky"),
    "fulfilled": ("fulfilled fulfil fulfill fulfils fulfilling", "filled full"),
    "loving": ("loving lovingly love loves loved", "lovely glove beloved"),
    "brooding": ("brooding broodingly brood broods brooded", "brook"),
    "furious": ("furious furiously furiousness", "fury"),
}


@pytest.mark.parametrize("emotion", LEAKS)
def test_inflections_are_found_and_other_words_are_not(emotion: str) -> None:
    forms, others = LEAKS[emotion]
    for form in forms.split():
        assert leak_pattern(emotion).search(f"They were ({form})."), form
    for word in others.split():
        assert not leak_pattern(emotion).search(f"They said “{word}”."), word


@pytest.mark.parametrize(
    ("emotion", "text"),
    [
        ("at ease", "Nobody is at EASE there"),
        ("at ease", "an at-ease posture"),
        ("at ease", "at\nease"),
        ("on edge", "She was on  edge."),
        ("worn out", "a worn\u2011out coat"),
        ("worn out", "worn\u00a0out"),
        ("grief-stricken", "a grief stricken man"),
        ("grief-stricken", "Grief\u2010Stricken"),
        ("self-conscious", "with self consciousness"),
    ],
)
def test_expressions_are_found_however_they_are_joined(emotion: str, text: str) -> None:
    assert leak_pattern(emotion).search(text)


@pytest.mark.parametrize(
    ("emotion", "text"),
    [
        ("at ease", "put at easel height"),
        ("at ease", "a great ease"),
        ("at ease", "it eased him"),
        ("worn out", "his worn outer coat"),
        ("worn out", "wornout"),
        ("on edge", "sat on edges"),
        ("grief-stricken", "stricken with grief"),
        ("self-conscious", "lost consciousness by itself"),
    ],
)
def test_other_expressions_pass(emotion: str, text: str) -> None:
    assert not leak_pattern(emotion).search(text)


@pytest.mark.parametrize("emotion", EMOTIONS)
def test_every_emotion_of_the_list_gives_itself_away_and_no_everyday_word_does(emotion: str) -> None:
    assert leak_pattern(emotion).search(f"so {emotion.upper()}, he")
    plain = (RESOURCES / "corpora" / "starter" / "neutral.jsonl").read_text(encoding="utf-8")
    everyday = "please will made tire tires bore contents kinds patients long outer scar pleas"
    assert not leak_pattern(emotion).search(everyday + plain)


@given(st.text(alphabet=st.characters(whitelist_categories=["L"]), min_size=1), st.sampled_from(EMOTIONS))
def test_a_letter_before_or_after_makes_it_another_word(letters: str, emotion: str) -> None:
    assert not leak_pattern(emotion).fullmatch(letters + emotion)
    assert not leak_pattern(emotion).search(f"{letters}x{emotion}x{letters}")


def corpus(*texts: tuple[str, str]) -> pd.DataFrame:
    frame = pd.DataFrame(texts, columns=["emotion", "text"]).assign(topic="t")
    return as_corpus(frame, "w")


RAW = corpus(
    ("sad", "It rained on all of them."),
    ("glad", "He was glad and she knew."),  # leak
    ("glad", "It rained on all of them."),  # duplicate, though under another emotion
    ("sad", "Too short."),
    ("sad", "sad"),  # leak before too short
    ("sad", "one two three four five six seven eight nine"),
    ("glad", "one two three four five six seven eight"),
    ("proud", "Not on the list at all."),
    ("proud", "It rained on all of them."),  # not listed before duplicate
    ("", "A story of nothing at all."),  # not listed either
    ("glad", "three words here"),
)
WHY = ["", "leak", "duplicate", "too_short", "leak", "too_long", "", "not_listed", "not_listed", "not_listed", ""]


def test_every_text_is_dropped_for_the_first_reason_that_applies() -> None:
    kept, reasons = screen(RAW, ["sad", "glad"], **RULES)
    assert reasons.tolist() == WHY
    assert kept["text"].tolist() == [text for text, why in zip(RAW["text"], WHY, strict=True) if not why]
    assert kept.index.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("rule", "saved"),
    [({"leaks": False}, 1), ({"duplicates": False}, 2), ({"max_words": 9}, 5), ({"min_words": 2}, 3)],
)
def test_every_rule_can_be_relaxed_alone(rule: dict[str, Any], saved: int) -> None:
    reasons = screen(RAW, ["sad", "glad"], **RULES | rule)[1]
    assert [number for number, why in enumerate(WHY) if why and not reasons[number]] == [saved]


def test_neutral_texts_are_screened_for_repetition_and_length_only() -> None:
    raw = corpus(("", "I am sad and glad."), ("", "I am sad and glad."), ("", "Short."))
    assert screen(raw, [""], **RULES)[1].tolist() == ["", "duplicate", "too_short"]


def test_the_report_accounts_for_every_text(tmp_path: Path) -> None:
    write_corpus(RAW, tmp_path / "raw.parquet")
    write_corpus(corpus(("", "Water boils at 100 degrees."), ("", "No.")), tmp_path / "raw_neutral.parquet")
    names = ("raw", "raw_neutral", "stories", "neutral")
    files = [tmp_path / f"{name}.parquet" for name in names]
    screen_corpus(*files, tmp_path / "report.json", ["sad", "glad"], RULES)
    report = json.loads((tmp_path / "report.json").read_text())
    stories = report["stories"]
    assert (stories["read"], stories["kept"], stories["dropped"]) == (11, 3, 8)
    assert stories["by_reason"] == {"not_listed": 3, "duplicate": 1, "leak": 2, "too_short": 1, "too_long": 1}
    assert stories["by_reason_and_emotion"] == {
        "not_listed": {"": 1, "proud": 2},
        "duplicate": {"glad": 1},
        "leak": {"glad": 1, "sad": 1},
        "too_short": {"sad": 1},
        "too_long": {"sad": 1},
    }
    assert stories["ids"] == {why: RAW["id"][[w == why for w in WHY]].tolist() for why in REASONS}
    assert report["kept_by_emotion"] == {"sad": 1, "glad": 2}
    assert len(read_corpus(files[2])) == 3
    assert report["neutral"]["by_reason"]["too_short"] == 1
    assert read_corpus(files[3])["text"].tolist() == ["Water boils at 100 degrees."]
    for kind in ("stories", "neutral"):
        counts = report[kind]
        assert counts["read"] == counts["kept"] + counts["dropped"]
        assert counts["dropped"] == sum(counts["by_reason"].values())
        assert sum(map(len, counts["ids"].values())) == counts["dropped"]
        assert sum(sum(of.values()) for of in counts["by_reason_and_emotion"].values()) == counts["dropped"]


def test_an_emotion_without_a_story_left_is_named(tmp_path: Path) -> None:
    write_corpus(RAW[RAW["text"] != "sad"], tmp_path / "raw.parquet")
    write_corpus(RAW[:0], tmp_path / "raw_neutral.parquet")
    files = [tmp_path / f"{name}.parquet" for name in ("raw", "raw_neutral", "stories", "neutral")]
    with pytest.raises(UserError, match=r"no story is left for calm \(dropped: .*not_listed"):
        screen_corpus(*files, tmp_path / "report.json", ["sad", "calm"], RULES)
    assert not files[2].exists()


@pytest.mark.parametrize("name", ["starter", "literary"])
def test_the_shipped_corpora_lose_nothing(tmp_path: Path, name: str) -> None:
    files = [tmp_path / f"{part}.parquet" for part in ("raw", "raw_neutral", "stories", "neutral")]
    described = [
        {"file": str(RESOURCES / "corpora" / where), "columns": {}, "table": None}
        for where in (f"{name}/stories.jsonl", "starter/neutral.jsonl")
    ]
    import_corpus(*described, *files[:2])
    rules = {"leaks": True, "duplicates": True, "min_words": 40, "max_words": 600}
    screen_corpus(*files, tmp_path / "report.json", EMOTIONS, rules)
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["stories"]["read"], report["stories"]["kept"]) == (1026, 1026)
    assert (report["neutral"]["read"], report["neutral"]["kept"]) == (72, 72)
    assert set(report["kept_by_emotion"].values()) == {6}
    assert len(EMOTIONS) == len(report["kept_by_emotion"]) == 171
