"""Near-duplicates are those that comparing all pairs finds; what is itself dropped takes nothing with it."""

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from affectome.corpus.screening.duplicates import near_duplicates

TEXT = "the kettle clicked off and nobody in the kitchen moved to pour the water"


def shingles(text: str) -> set[tuple[str, ...]]:
    words = text.split()
    return {tuple(words[start : start + 3]) for start in range(max(1, len(words) - 2))} if words else set()


def jaccard(one: set[tuple[str, ...]], other: set[tuple[str, ...]]) -> float:
    return len(one & other) / len(one | other) if one | other else 0.0


def by_all_pairs(texts: Sequence[str], threshold: float) -> list[int]:
    sets = [shingles(text) for text in texts]
    kept: list[int] = []
    nearest = []
    for number, one in enumerate(sets):
        found = next((earlier for earlier in kept if jaccard(one, sets[earlier]) >= threshold), -1)
        if found < 0:
            kept.append(number)
        nearest.append(found)
    return nearest


def altered(texts: int, words: int, seed: int) -> list[str]:
    """Random texts, half of them copies of earlier ones with up to a third of the words changed."""
    draw = random.Random(seed)
    vocabulary = [f"w{number}" for number in range(500)]
    made: list[list[str]] = []
    for number in range(texts):
        if number % 2 and made:
            copy = list(draw.choice(made))
            for _ in range(draw.randrange(words // 3)):
                copy[draw.randrange(len(copy))] = draw.choice(vocabulary)
            made.append(copy)
        else:
            made.append(draw.choices(vocabulary, k=words))
    return [" ".join(text) for text in made]


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.7, 0.9, 1.0])
def test_nearly_every_pair_is_found_that_comparing_all_pairs_finds(threshold: float) -> None:
    slipped = compared = 0
    for seed in range(4):
        texts = altered(120, 60, seed)
        expected, found = by_all_pairs(texts, threshold), near_duplicates(texts, threshold)
        compared += sum(number >= 0 for number in expected)
        slipped += sum(one != other for one, other in zip(expected, found, strict=True))
    assert compared > 5
    # One pair in a thousand may slip where it is just at the threshold, and may change what follows.
    assert slipped <= max(1, 0.002 * compared)


@given(st.lists(st.text(alphabet="ab ", max_size=12), max_size=12), st.sampled_from([0.3, 0.6, 1.0]))
def test_short_texts_are_compared_as_all_pairs_are(texts: list[str], threshold: float) -> None:
    found = near_duplicates(texts, threshold)
    for number, earlier in enumerate(found):
        if earlier >= 0:
            assert found[earlier] < 0
            assert earlier < number
            assert jaccard(shingles(texts[number]), shingles(texts[earlier])) >= threshold
    if threshold == 1:
        assert found == by_all_pairs(texts, threshold)


@pytest.mark.parametrize(("changed", "common"), [(1, 11), (2, 10), (5, 7)])
def test_the_similarity_that_decides_is_exact(changed: int, common: int) -> None:
    """Fourteen words have twelve shingles, and as many begin with a changed end as words are changed."""
    words = TEXT.split()
    copy = " ".join([*words[:-changed], *(f"x{number}" for number in range(changed))])
    exact = common / (24 - common)
    assert near_duplicates([TEXT, copy], exact) == [-1, 0]
    assert near_duplicates([TEXT, copy], exact + 1e-9) == [-1, -1]


def test_a_text_that_is_dropped_drops_no_other() -> None:
    words = [f"w{number}" for number in range(60)]
    drift = [" ".join([*(f"x{number}" for number in range(step)), *words[step:]]) for step in (0, 10, 20)]
    # Each is like the one before it (48 of 68 shingles, 46 of 70), the last is not like the first (38 of 78).
    assert near_duplicates(drift, 0.65) == [-1, 0, -1]


def test_the_earliest_that_is_kept_is_named() -> None:
    other = TEXT.replace("kettle", "radio")
    assert near_duplicates([TEXT, "something else altogether", TEXT, other, TEXT], 0.7) == [-1, -1, 0, 0, 0]


def test_case_and_punctuation_do_not_count() -> None:
    loud = "The kettle clicked off, and NOBODY in the kitchen moved: to pour the water!"
    assert near_duplicates([TEXT, loud], 1.0) == [-1, 0]


def test_texts_without_words_are_kept() -> None:
    assert near_duplicates([], 0.5) == []
    assert near_duplicates(["", "...", "", "a", "A!"], 0.5) == [-1, -1, -1, -1, 3]
