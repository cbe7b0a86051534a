"""Planted present and other vectors come back apart from each other, and what is not there is not found.

Dialogues have the design of the shipped list: 56 ordered pairs of 8 emotions on 8 topics, never one emotion twice.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from threadpoolctl import threadpool_limits

from affectome.activations.readout_store import read_readouts, write_readouts
from affectome.analyses.speakers import (
    KINDS,
    Cell,
    Dialogues,
    Halves,
    Question,
    Recogniser,
    Turns,
    by_words,
    cosine,
    effects,
    halvings,
    jackknife,
    matched,
    orthogonality,
    recognise,
    speakers,
    without,
)
from affectome.analyses.statistics import p_value
from affectome.analyses.words import words_held_out
from affectome.corpus.dialogues import speakers_prompts
from affectome.errors import UserError
from affectome.figures.answers.speakers import draw_speakers, numbers_speakers, said
from affectome.figures.style import house_style
from affectome.vectors.contrasts import unit
from tests.planted import orthonormal, strict_json, vector_file

LIST = Path(__file__).resolve().parents[2] / "resources" / "prompts" / "speakers.jsonl"
ROWS = [json.loads(line) for line in LIST.read_text(encoding="utf-8").splitlines()]
EMOTIONS = sorted({row["person"] for row in ROWS})
TOPICS = sorted({row["topic"] for row in ROWS})
TABLE = speakers_prompts(ROWS)[0]
PERSON, AI = (np.array([EMOTIONS.index(row[key]) for row in ROWS]) for key in ("person", "ai"))
TOPIC = np.array([TOPICS.index(row["topic"]) for row in ROWS])
USER = Turns(PERSON, AI, TOPIC, np.zeros(56, dtype=bool))
ASSISTANT = Turns(PERSON, AI, TOPIC, np.ones(56, dtype=bool))


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    with threadpool_limits(1):
        yield


def planted(rng: np.random.Generator, present: float, other: float, width: int = 40, topic: float = 1.0) -> np.ndarray:
    """Rows (56, width) of the user: noise, topics, and effects of the present and of the other emotion."""
    x = rng.normal(size=(56, width)) + topic * rng.normal(size=(8, width))[TOPIC]
    of_present, of_other = orthonormal(rng, 8, width), orthonormal(rng, 8, width)
    return x + present * of_present[PERSON] + other * of_other[AI]


def orders(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.permuted(np.tile(np.arange(56), (count, 1)), axis=1)


def readouts(path: Path, rng: np.random.Generator, present: float, other: float, width: int = 48) -> dict[str, Any]:
    """Readouts of the shipped list with planted vectors, and a file of the run's, which are the present ones."""
    basis = orthonormal(rng, 24, width)
    heard, beside, topics = basis[:8], basis[8:16], basis[16:24]
    speaks = (TABLE["speaker"] == "ai").to_numpy()
    labels = {name: np.array([EMOTIONS.index(word) for word in TABLE[name]]) for name in ("person", "ai")}
    own, others = (np.where(speaks == flip, labels["ai"], labels["person"]) for flip in (True, False))
    x = 0.3 * rng.normal(size=(len(TABLE), width)) + 3 * topics[[TOPICS.index(name) for name in TABLE["topic"]]]
    x += present * heard[own] + np.where(TABLE["turn"] > 0, other, 0.0)[:, None] * beside[others] + 2 * speaks[:, None]
    noise = rng.normal(size=x.shape)
    write_readouts(path, TABLE, {3: x, 5: noise}, "key", template="model")
    words = [*EMOTIONS, "bright", "dull"]
    extra = np.vstack([heard, rng.normal(size=(2, width)) / 7])
    return {"file": vector_file(path.with_suffix(".v3.h5"), 3, words, extra), "present": heard, "other": beside}


def answer(folder: Path, made: dict[str, Any], layer: int = 3, seed: int = 0) -> tuple[dict, pd.DataFrame]:
    out = folder / "s.json", folder / "s.parquet"
    speakers(folder / "r.h5", [made["file"]], 200, 99, seed, layer, out[1], out[0])
    return strict_json(out[0]), pd.read_parquet(out[1])


@pytest.fixture(scope="module")
def strong(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, pd.DataFrame]:
    folder = tmp_path_factory.mktemp("strong")
    return answer(folder, readouts(folder / "r.h5", np.random.default_rng(0), 4.0, 3.0))


# ---------------------------------------------------------------- planted truth


def test_planted_vectors_of_both_kinds_come_back() -> None:
    rng = np.random.default_rng(1)
    heard, beside = orthonormal(rng, 8, 60), orthonormal(rng, 8, 60)
    x = 5 * heard[PERSON] + 4 * beside[AI] + 9 * rng.normal(size=(8, 60))[TOPIC] + 0.05 * rng.normal(size=(56, 60))
    weights = effects(USER, np.arange(56), 8)
    for kind, true in enumerate((heard, beside)):
        found = unit(weights[kind] @ x)
        assert ((found * unit(true - true.mean(axis=0))).sum(axis=1) > 0.99).all()


def test_present_alone_leaves_nothing_in_the_other_vectors_where_plain_means_turn_it_round() -> None:
    rng = np.random.default_rng(2)
    heard = orthonormal(rng, 8, 60)
    x = heard[PERSON]
    other = effects(USER, np.arange(56), 8)[1] @ x
    np.testing.assert_allclose(other, 0, atol=1e-12)
    plain = np.array([x[emotion == AI].mean(axis=0) for emotion in range(8)])
    cosines = unit(plain - plain.mean(axis=0)) @ unit(heard - heard.mean(axis=0)).T
    np.testing.assert_allclose(np.diag(cosines), -1, atol=1e-9)


def test_least_squares_is_that_of_numpy() -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(56, 5))
    # Sum-to-zero coding: the coefficients are the effects of all emotions but the last.
    coded = [np.eye(8)[label][:, :7] - np.eye(8)[label][:, 7:] for label in (PERSON, AI)]
    design = np.hstack([np.eye(8)[TOPIC], *coded])
    solved = np.linalg.lstsq(design, x, rcond=None)[0][8:].reshape(2, 7, 5)
    np.testing.assert_allclose((effects(USER, np.arange(56), 8) @ x)[:, :7], solved, atol=1e-10)
    # In the off-diagonal design without topics there is a closed form (see Searle 1971): (v + w / 7) / (1 − 1 / 49).
    one = Turns(PERSON, AI, np.zeros(56, dtype=int), np.zeros(56, dtype=bool))
    v, w = (np.array([x[label == e].mean(axis=0) for e in range(8)]) - x.mean(axis=0) for label in (PERSON, AI))
    np.testing.assert_allclose(effects(one, np.arange(56), 8)[0] @ x, (v + w / 7) / (1 - 1 / 49), atol=1e-10)


def test_everything_planted_is_found(strong: tuple[dict, pd.DataFrame]) -> None:
    found, table = strong
    assert found["n"] == {"dialogues": 56, "topics": 8, "emotions": 8, "vectors": 10}
    assert found["chance"] == pytest.approx(1 / 7)
    for role in ("user", "assistant", "both"):
        for kind in KINDS:
            cell = found["probes"][role][kind]
            assert cell["top1"] > 0.95
            assert cell["p"] == 0.01
            assert cell["n"] == (112 if role == "both" else 56)
            assert cell["ci"][0] <= cell["top1"] <= cell["ci"][1]
    # Nothing of the AI's emotion is in what was said before the AI spoke.
    assert found["opening"]["present"]["top1"] > 0.95
    assert found["opening"]["other"]["p"] > 0.05
    # Layer 5 is noise.
    assert all(found["layers"]["5"][role][kind]["q"] > 0.05 for role in ("user", "assistant") for kind in KINDS)
    transfer = {(row["learned_from"], row["learned"], row["tested_on"], row["asked"]): row for row in found["transfer"]}
    assert len(transfer) == 16
    for (_, learned, _, asked), row in transfer.items():
        assert row["top1"] > 0.95 if learned == asked else row["top1"] < 0.4
    for role in ("user", "assistant"):
        assert found["agreement"][role]["present"]["cosine"] > 0.97
        assert abs(found["agreement"][role]["other"]["cosine"]) < 0.3
        assert found["stories"][role]["present"]["top1"] > 0.95
        assert abs(found["orthogonality"][role]["cosine"]) < 0.1
        assert found["orthogonality"][role]["ceiling"] > 0.9
    assert set(table["part"]) == {"layers", "probes", "words", "transfer", "stories", "agreement", "roles"}
    assert table["n"].notna().all()
    row = table.query("part == 'layers' and layer == 3 and tested_on == 'user' and asked == 'other'").iloc[0]
    assert row["value"] == found["probes"]["user"]["other"]["top1"]


def test_shared_vectors_of_the_two_kinds_are_called_shared() -> None:
    rng = np.random.default_rng(4)
    directions = orthonormal(rng, 8, 60)
    for sign in (1, -1):
        x = 3 * directions[PERSON] + 2 * sign * directions[AI] + 0.3 * rng.normal(size=(56, 60))
        found = orthogonality(USER, x, 8, 99, np.random.default_rng(0), lambda: np.random.default_rng(0))
        assert found["cosine"] == pytest.approx(sign, abs=0.05)
        assert found["p"] == 0.01
        assert found["absolute"] > 0.9 * found["ceiling"]
        assert found["absolute_others"] < 0.3


# ---------------------------------------------------------------- nothing there


def smoothed(observed: float, null: np.ndarray, rng: np.random.Generator) -> float:
    """The p value with ties, which shares of 56 often have, broken at random: uniform where the null holds."""
    ties = np.sum(np.abs(null - observed) < 1e-9)
    return float((np.sum(null > observed + 1e-9) + rng.uniform() * (1 + ties)) / (1 + len(null)))


@pytest.mark.parametrize(
    ("present", "other", "asked"), [(0, 0, "present"), (0, 0, "other"), (6, 0, "other"), (0, 6, "present")]
)
def test_p_values_are_uniform_without_a_signal_whatever_the_other_emotion_does(
    present: float, other: float, asked: str
) -> None:
    p, shares, nulls = [], [], []
    for seed in range(80):
        rng = np.random.default_rng([5, seed])
        x = planted(rng, present, other, width=20)
        cell = Cell("user", asked, "user", asked)
        hits, null = recognise(cell, (USER, x), (USER, x), orders(rng, 19), 8)
        assert p_value(hits.mean(), null) >= 1 / 20
        p.append(smoothed(hits.mean(), null, rng))
        shares.append(hits.mean())
        nulls.append(null.mean())
    # Effects of the other kind make the test a little conservative.
    assert scipy.stats.kstest(p, "uniform", alternative="greater").pvalue > 0.01
    assert np.mean(np.array(p) <= 0.05) < 0.11
    assert np.mean(p) == pytest.approx(0.5, abs=0.1)
    assert np.mean(shares) == pytest.approx(1 / 7, abs=0.02)
    assert np.mean(nulls) == pytest.approx(1 / 7, abs=0.01)


def test_unevenly_shown_emotions_do_not_push_the_other_below_chance() -> None:
    shares = []
    for seed in range(80):
        rng = np.random.default_rng([6, seed])
        strength = 3 * (1 + rng.normal(size=56))
        x = rng.normal(size=(56, 20)) + strength[:, None] * orthonormal(rng, 8, 20)[PERSON]
        model = Recogniser(Cell("user", "other", "user", "other"), USER, USER, 8)
        shares.append(model.question.hits(model.vectors(x), x).mean())
    assert np.mean(shares) > 0.12


def test_the_cosine_of_independent_vectors_is_zero_on_average_and_covered() -> None:
    held, values, plain = [], [], []
    for seed in range(12):
        rng = np.random.default_rng([7, seed])
        x = planted(rng, 4, 4, width=100, topic=0.5)
        found = orthogonality(USER, x, 8, 39, rng, lambda: np.random.default_rng(0))
        values.append(found["cosine"])
        plain.append(found["signed"])
        if found["ci"]:
            held.append(found["ci"][0] <= 0 <= found["ci"][1])
    assert abs(np.mean(values)) < 0.1
    # Errors of least squares do correlate, so that the plain cosine is above 0.
    assert np.mean(plain) > 0.05
    assert np.mean(held) > 0.8
    # And so they do where nothing is planted, which the permuted labels show.
    x = np.random.default_rng(1).normal(size=(56, 100))
    found = orthogonality(USER, x, 8, 99, rng, lambda: np.random.default_rng(0))
    assert found["absolute_permuted"] == pytest.approx(found["absolute"], abs=0.05)
    assert found["absolute_permuted"] > found["absolute_others"] + 0.05


def test_agreement_of_unrelated_vectors_has_uniform_p() -> None:
    p = []
    for seed in range(200):
        rng = np.random.default_rng([8, seed])
        products = rng.normal(size=(8, 8))
        p.append(p_value(np.trace(products), matched(products, 99, rng)))
    assert scipy.stats.kstest(p, "uniform").pvalue > 0.01
    # Few emotions have few permutations, and each counts once.
    assert sorted(matched(np.diag([1.0, 2.0, 4.0]), 99, np.random.default_rng(0))) == [0, 0, 1, 2, 4]


# ---------------------------------------------------------------- no leak


def test_neither_topic_nor_dialogues_with_the_given_emotion_are_learned_from() -> None:
    for learned_from, learn in (("user", USER), ("assistant", ASSISTANT)):
        for asked in KINDS:
            model = Recogniser(Cell(learned_from, "present", "user", asked), learn, USER, 8)
            # The emotion that is given, as a speaker's, whoever's turns are learned from.
            speaker = PERSON if asked == "other" else AI
            for row in range(56):
                used = np.flatnonzero(np.abs(model.weights[row]).max(axis=0) > 1e-12)
                assert len(used) > 30
                assert TOPIC[row] not in TOPIC[used]
                assert speaker[row] not in speaker[used]


def test_what_is_in_one_topic_only_earns_nothing() -> None:
    rng = np.random.default_rng(9)
    # Each dialogue has a mark of its own, which names it if its own topic is learned from.
    x = 0.01 * rng.normal(size=(56, 80)) + np.hstack([np.eye(56), np.zeros((56, 24))])
    hits, _null = recognise(Cell("user", "other", "user", "other"), (USER, x), (USER, x), orders(rng, 1), 8)
    assert hits.mean() < 0.35


def test_words_of_the_labels_are_found_and_random_ones_are_not() -> None:
    rng = np.random.default_rng(10)
    names = [f"word{number}" for number in range(8)]
    noise = [" ".join(rng.choice(["a", "b", "c", "d", "e", "f"], 6)) for _ in range(56)]
    told = [f"{text} {names[label]}" for text, label in zip(noise, AI, strict=True)]
    assert by_words(told, USER, "other").mean() > 0.9
    assert by_words(told, USER, "present").mean() < 0.35
    assert by_words([""] * 56, USER, "present").mean() == pytest.approx(1 / 7)


def test_the_bag_of_words_is_that_of_other_questions() -> None:
    texts = [row["turns"][2] for row in ROWS]
    found = by_words(texts, USER, "present")
    for given in range(8):
        rows = np.flatnonzero(given == AI)
        scores = words_held_out(texts, PERSON, TOPIC, np.where(given == AI, -1, PERSON)).scores[rows].copy()
        scores[:, given] = -1
        np.testing.assert_array_equal(found[rows], scores.argmax(axis=1) == PERSON[rows])


def test_turns_are_averaged_once_the_other_has_been_heard(tmp_path: Path) -> None:
    x = np.arange(len(TABLE), dtype=float)[:, None] * np.ones((1, 3))
    write_readouts(tmp_path / "r.h5", TABLE, {0: x}, "key", template="model")
    read = read_readouts(tmp_path / "r.h5")
    dialogues = Dialogues.of(read)
    assert dialogues.values(read.at(0), "user")[:2, 0].tolist() == [2, 6]
    assert dialogues.values(read.at(0), "assistant")[:2, 0].tolist() == [2, 6]
    assert dialogues.values(read.at(0), "opening")[:2, 0].tolist() == [0, 4]
    assert dialogues.words["user"][0] == ROWS[0]["turns"][2]
    assert dialogues.words_so_far["user"][0] == " ".join(ROWS[0]["turns"][:3])
    assert dialogues.words["both"][56] == f"{ROWS[0]['turns'][1]} {ROWS[0]['turns'][3]}"
    np.testing.assert_array_equal(dialogues.turns["user"].label("present"), PERSON)
    np.testing.assert_array_equal(dialogues.turns["assistant"].label("other"), PERSON)
    np.testing.assert_array_equal(dialogues.turns["both"].label("present"), [*PERSON, *AI])


# ---------------------------------------------------------------- parts


def test_the_reduced_model_keeps_topic_and_the_other_emotion() -> None:
    hat = without(USER, "other")
    np.testing.assert_allclose(hat @ hat, hat, atol=1e-10)
    for kept in (TOPIC, PERSON):
        np.testing.assert_allclose(hat @ np.eye(8)[kept], np.eye(8)[kept], atol=1e-10)
    assert np.abs(hat @ np.eye(8)[AI] - np.eye(8)[AI]).max() > 0.1


def test_permuted_activations_keep_topics_and_the_other_effect_and_lose_the_one_asked_for() -> None:
    rng = np.random.default_rng(12)
    kept = rng.normal(size=(8, 10))[TOPIC] + rng.normal(size=(8, 10))[PERSON]
    question = Question(USER, "other")
    (drawn,) = question.permuted(kept, orders(rng, 5))
    np.testing.assert_allclose(drawn, np.tile(kept, (5, 1, 1)), atol=1e-10)
    (drawn,) = question.permuted(kept + 9 * orthonormal(rng, 8, 10)[AI], orders(rng, 5))
    lost = effects(USER, np.arange(56), 8)[1] @ drawn
    assert np.linalg.norm(lost, axis=-1).mean() < 9 / 2


def test_ways_of_halving() -> None:
    assert len(halvings(8, np.random.default_rng(0))) == 35
    assert len(halvings(7, np.random.default_rng(0))) == 35
    assert sorted(map(tuple, halvings(3, np.random.default_rng(0)))) == [(0,), (1,), (2,)]
    assert all(len(chosen) == 6 for chosen in halvings(12, np.random.default_rng(0)))
    assert len(Halves.of(USER, 8, np.random.default_rng(0)).weights) == 35


def test_jackknife_of_a_mean_is_students_interval() -> None:
    values = np.random.default_rng(0).normal(size=9)
    parts = [np.delete(values, i).mean() for i in range(9)]
    expected = scipy.stats.t.interval(0.95, 8, values.mean(), scipy.stats.sem(values))
    np.testing.assert_allclose(jackknife(values.mean(), parts), expected)


def test_a_cosine_without_reliable_length_is_missing() -> None:
    products = np.zeros((2, 2, 3, 3))
    products[0, 0], products[1, 1], products[0, 1] = np.eye(3), 4 * np.eye(3), np.eye(3)
    assert cosine(products) == pytest.approx(0.5)
    products[1, 1] *= -1
    assert np.isnan(cosine(products))


def test_repetition_changes_nothing(strong: tuple[dict, pd.DataFrame], tmp_path: Path) -> None:
    found, table = answer(tmp_path, readouts(tmp_path / "r.h5", np.random.default_rng(0), 4.0, 3.0))
    assert found == strong[0]
    pd.testing.assert_frame_equal(table, strong[1])


def test_a_run_without_these_emotions_says_so(tmp_path: Path) -> None:
    made = readouts(tmp_path / "r.h5", np.random.default_rng(3), 1.0, 0.5)
    words = ["afraid", "proud", "odd"]
    made["file"] = vector_file(tmp_path / "v.h5", 3, words, np.random.default_rng(0).normal(size=(3, 48)))
    found, _table = answer(tmp_path, made)
    assert found["stories"] == {"missing": [name for name in EMOTIONS if name not in words]}
    assert found["agreement"]["user"] == {"n_emotions": 2}


def test_what_cannot_be_answered_is_refused_in_words(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(len(TABLE), 6))
    file = vector_file(tmp_path / "v.h5", 0, EMOTIONS, np.random.default_rng(0).normal(size=(8, 6)))
    cases = [
        (TABLE.drop(columns="speaker"), "has no speaker"),
        (TABLE[TABLE["topic"].isin(TOPICS[:2])].reset_index(drop=True), "8 emotions on 2 topics"),
        (TABLE[TABLE["topic"].isin(TOPICS[:3])].reset_index(drop=True), "do not tell the emotions"),
    ]
    for table, message in cases:
        write_readouts(tmp_path / "r.h5", table, {0: x[: len(table)]}, "key", template="model")
        with pytest.raises(UserError, match=message):
            speakers(tmp_path / "r.h5", [file], 10, 9, 0, 0, tmp_path / "t.parquet", tmp_path / "o.json")


# ---------------------------------------------------------------- figures


def texts_of(figure: Any) -> str:
    return "\n".join(text.get_text() for ax in figure.axes for text in ax.texts)


def test_the_figure_shows_the_answer(strong: tuple[dict, pd.DataFrame]) -> None:
    found, table = strong
    with house_style():
        figure = draw_speakers(found, table, 3)
        figure.canvas.draw()
    probes, layers, transfer, lying = figure.axes
    assert [line.get_xdata()[0] for line in probes.lines[:3]] == [
        found["probes"]["user"]["present"][name] if name == "top1" else found["probes"]["user"]["present"][name]["top1"]
        for name in ("top1", "words", "words_so_far")
    ]
    assert [label.get_text() for label in layers.get_legend().get_texts()] == [
        "user, present", "user, other", "assistant, present", "assistant, other",
    ]  # fmt: skip
    assert len(transfer.texts) == 16
    assert transfer.texts[0].get_text().endswith("*")
    assert lying.get_xlim()[0] == 0
    numbers = numbers_speakers(found, table, 3)
    assert numbers.startswith("Here, at layer 3, n = 56 dialogues, chance 0.14: user, present 1.00")
    assert "the other's are read above chance" in said(found, 3)
    assert "have a cosine of" in said(found, 3)


def test_a_null_result_is_said_and_drawn_as_one(tmp_path: Path) -> None:
    made = readouts(tmp_path / "r.h5", np.random.default_rng(11), 0.0, 0.0)
    found, table = answer(tmp_path, made)
    assert "neither is told from chance" in said(found, 3)
    assert "cannot be said" in said(found, 3)
    for role in ("user", "assistant", "both"):
        found["orthogonality"][role] |= {
            "absolute": None,
            "absolute_others": None,
            "absolute_permuted": None,
            "ceiling": None,
            "cosine": None,
        }
    del found["layers"]["5"]
    with house_style():
        figure = draw_speakers(found, table, 3)
        figure.canvas.draw()
    assert "too few dialogues" in texts_of(figure)
    assert numbers_speakers(found, table, 3)


def test_words_that_do_as_well_are_named(strong: tuple[dict, pd.DataFrame]) -> None:
    found = json.loads(json.dumps(strong[0]))
    found["probes"]["assistant"]["present"]["words"]["top1"] = 1.0
    found["probes"]["assistant"]["other"]["words"]["top1"] = 0.1
    found["probes"]["assistant"]["other"]["words_so_far"]["top1"] = 0.1
    assert "the speaker's own no better than words do" in said(found, 3)
