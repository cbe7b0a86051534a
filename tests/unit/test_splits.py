"""No topic is ever on two sides of a split, and every side gets its part."""

import numpy as np
import pytest

from affectome.analyses.splits import held_out_groups, set_aside, topic_folds
from affectome.errors import UserError
from affectome.randomness import generator


def uneven(seed: int, topics: int) -> np.ndarray:
    """Names of so many topics over some hundred texts, common and rare ones, in no order."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 40, topics)
    return rng.permutation(np.repeat([f"topic {number}" for number in range(topics)], sizes))


@pytest.mark.parametrize("topics", [2, 3, 5, 6, 23, 100])
def test_a_topic_is_in_one_fold(topics):
    for seed in range(20):
        names = uneven(seed, topics)
        folds = topic_folds(names, 10, generator(seed))
        assert folds.shape == names.shape
        assert sorted(set(folds)) == list(range(min(10, topics)))
        assert all(len(set(folds[names == name])) == 1 for name in set(names))


def test_folds_have_as_many_texts_as_topics_allow():
    even = np.repeat(np.arange(100), 12)
    assert set(np.bincount(topic_folds(even, 10, generator(0)))) == {120}
    for seed in range(20):
        names = uneven(seed, 60)
        sizes = np.bincount(topic_folds(names, 6, generator(seed)))
        # What was dealt last is at most one topic more than another fold has.
        assert np.ptp(sizes) <= max(np.unique(names, return_counts=True)[1])


def test_folds_are_drawn():
    names = np.repeat(np.arange(12), 3)
    drawn = {tuple(topic_folds(names, 3, generator(seed))) for seed in range(20)}
    assert len(drawn) > 15
    assert (topic_folds(names, 3, generator(7)) == topic_folds(names, 3, generator(7))).all()
    # Which texts are together does not depend on their order.
    order = np.random.default_rng(0).permutation(len(names))
    assert (topic_folds(names[order], 3, generator(7)) == topic_folds(names, 3, generator(7))[order]).all()


@pytest.mark.parametrize(("topics", "folds"), [(1, 10), (5, 1)])
def test_one_topic_or_fold_holds_nothing_out(topics, folds):
    with pytest.raises(UserError, match="needs two topics and two folds"):
        topic_folds(np.repeat(np.arange(topics), 4), folds, generator(0))


@pytest.mark.parametrize(("topics", "aside"), [(3, 1), (4, 1), (5, 2), (6, 2), (10, 2), (23, 5), (100, 20)])
def test_whole_topics_are_set_aside(topics, aside):
    for seed in range(20):
        names = uneven(seed, topics)
        kept = set_aside(names, generator(seed))
        assert len(set(names[kept])) == aside
        assert not set(names[kept]) & set(names[~kept])
    drawn = {tuple(set_aside(np.arange(topics), generator(seed))) for seed in range(30)}
    assert len(drawn) > 2


def test_two_topics_are_too_few_to_choose_and_to_test():
    with pytest.raises(UserError, match="takes three topics, and there are 2"):
        set_aside(np.array(["a", "b", "a"]), generator(0))


def test_where_there_are_no_topics_texts_are_held_out_and_it_is_said():
    topics = np.array(["b", "a", "b", "c"], dtype=object)
    groups, kind = held_out_groups(topics)
    assert kind == "topics"
    assert groups[0] == groups[2]
    assert len(set(groups)) == 3
    groups, kind = held_out_groups(topics, fewest=4)
    assert kind == "stories"
    assert len(set(groups)) == 4
