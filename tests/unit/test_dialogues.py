"""The shipped dialogues and refusal pairs are what they claim to be; mistakes in a user's own are said in a line."""

import json
import re
from collections import Counter
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

from affectome.corpus.dialogues import FAMILIES, refusal_prompts, speakers_prompts
from affectome.corpus.prompt_lists import prompts_of
from affectome.corpus.screening.leaks import leaks
from affectome.errors import UserError

PROMPTS = Path(__file__).resolve().parents[2] / "resources" / "prompts"
LISTED = (PROMPTS.parent / "emotions" / "171.txt").read_text(encoding="utf-8").split("\n")


def lines(name: str) -> list[dict]:
    return [json.loads(line) for line in (PROMPTS / name).read_text(encoding="utf-8").splitlines()]


DIALOGUES, PAIRS = lines("speakers.jsonl"), lines("refusal_pairs.jsonl")


def dialogue(**changes: object) -> dict:
    turns = ["Hello there.", "Good day.", "How much?", "Two."]
    return {"topic": "tea", "person": "sad", "ai": "calm", "turns": turns} | changes


def pair(**changes: object) -> dict:
    texts = {key: f"The text {key}." for sides in FAMILIES.values() for key in sides}
    return {"topic": "tea", "request": "Do it?"} | texts | changes


# ---------------------------------------------------------------- shipped lists


def test_emotions_of_the_two_speakers_are_fully_crossed_and_balanced_over_topics() -> None:
    emotions = sorted({row["person"] for row in DIALOGUES})
    assert len(emotions) == 8
    assert set(emotions) <= set(LISTED)
    assert Counter((row["person"], row["ai"]) for row in DIALOGUES) == Counter(permutations(emotions, 2))
    for topic, count in Counter(row["topic"] for row in DIALOGUES).items():
        here = [row for row in DIALOGUES if row["topic"] == topic]
        assert count == 7
        for role in ("person", "ai"):
            assert len({row[role] for row in here}) == 7


def test_no_dialogue_names_an_emotion_that_is_asked_for() -> None:
    emotions = {row["person"] for row in DIALOGUES}
    for row in DIALOGUES:
        text = " ".join(row["turns"])
        assert not [emotion for emotion in emotions if leaks(emotion, text)], row["turns"]
    # The check can fail.
    assert leaks("sad", "He spoke sadly.")


def test_every_turn_is_a_sentence_or_two_and_no_one_twice() -> None:
    turns = [turn for row in DIALOGUES for turn in row["turns"]]
    assert all(len(row["turns"]) == 4 for row in DIALOGUES)
    assert len(set(turns)) == len(turns)
    assert all(len(re.findall(r"[.!?](?=\s|$)", turn)) <= 4 and turn[-1] in ".!?" for turn in turns)


def test_refusal_pairs_are_eight_of_each_of_eight_topics_and_all_texts_differ() -> None:
    assert set(Counter(row["topic"] for row in PAIRS).values()) == {8}
    assert len(PAIRS) == 64
    for key in set(PAIRS[0]) - {"topic"}:
        assert len({row[key] for row in PAIRS}) == 64


@pytest.mark.parametrize("family", FAMILIES)
def test_length_does_not_tell_the_sides_of_a_family_apart(family: str) -> None:
    first, second = (np.array([len(row[side].split()) for row in PAIRS]) for side in FAMILIES[family])
    assert abs(first.mean() / second.mean() - 1) < 0.08
    longer = (first > second).mean() + 0.5 * (first == second).mean()
    assert 0.4 < longer < 0.6


def test_requests_of_a_pair_begin_alike() -> None:
    same = [row["risky"].split()[:3] == row["benign"].split()[:3] for row in PAIRS]
    assert np.mean(same) > 0.8


# ---------------------------------------------------------------- prompts


def test_a_dialogue_is_read_at_each_turn_after_what_was_said_before() -> None:
    table, prompts = speakers_prompts([dialogue(), dialogue(turns=["A.", "B.", "C.", "D.", "E.", "F."], ai="proud")])
    assert table["dialogue"].tolist() == [1] * 4 + [2] * 6
    assert table["speaker"].tolist() == ["person", "ai"] * 5
    assert table["turn"].tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 4, 5]
    assert table["ai"].tolist() == ["calm"] * 4 + ["proud"] * 6
    assert [prompt.turn for prompt in prompts] == table["turn"].tolist()
    assert prompts[2].messages == [
        {"role": "user", "content": "Hello there."},
        {"role": "assistant", "content": "Good day."},
        {"role": "user", "content": "How much?"},
    ]
    assert [prompt.messages[-1]["content"] for prompt in prompts] == table["text"].tolist()


def test_requests_are_read_before_the_reply_and_replies_over_their_tokens() -> None:
    table, prompts = refusal_prompts([pair()])
    assert list(zip(table["family"], table["side"], strict=True)) == [
        (family, side) for family, sides in FAMILIES.items() for side in sides
    ]
    for row, prompt in zip(table.itertuples(), prompts, strict=True):
        if row.family == "request_risk":
            assert (prompt.turn, [message["role"] for message in prompt.messages]) == (None, ["user"])
        else:
            assert (prompt.turn, prompt.messages[0]["content"]) == (1, "Do it?")
            assert prompt.messages[1]["role"] == "assistant"
        assert prompt.messages[-1]["content"] == row.text == f"The text {row.side}."


def test_shipped_lists_are_read_as_their_kinds() -> None:
    table, prompts = prompts_of("speakers", PROMPTS / "speakers.jsonl")
    assert len(table) == len(prompts) == 224
    table, prompts = prompts_of("refusal", PROMPTS / "refusal_pairs.jsonl")
    assert len(table) == len(prompts) == 384


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([dialogue(ai="sad")], "line 1: person, ai: both are 'sad'"),
        ([dialogue(), dialogue(topic="x", turns=["a", "b", "c", "d", "e"])], "line 2: turns: are 5"),
        ([dialogue(turns=["a", "b"])], "line 1: turns"),
        ([dialogue(turns=["a", " ", "c", "d"])], "line 1: turns.1"),
        ([dialogue(mood="x")], "unknown key 'mood'"),
        ([{"topic": "tea"}], "key 'person' is missing"),
        ([dialogue(), dialogue(topic="other")], "line 2: said: is that of line 1"),
    ],
)
def test_mistakes_in_dialogues_are_said_with_line_and_key(rows: list[dict], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        speakers_prompts(rows)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([pair(curt="Same.", kind="Same.")], "line 1: curt, kind: are the same text"),
        ([pair(), pair()], "line 2: risky: is that of line 1"),
        ([pair(), pair(risky="Other?", refused="")], "line 2: refused: "),
        ([{key: value for key, value in pair().items() if key != "request"}], "key 'request' is missing"),
    ],
)
def test_mistakes_in_pairs_are_said_with_line_and_key(rows: list[dict], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        refusal_prompts(rows)
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    with pytest.raises(UserError, match=re.escape(f"{file} line")):
        prompts_of("refusal", file)
