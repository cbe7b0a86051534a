"""What was done to a variant comes back as a cosine, what changed nothing changes nothing, and topics that carry
everything show.

Vectors that differ by noise of known size have a known cosine; reliabilities follow from the ratio of variances.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from threadpoolctl import threadpool_limits

from affectome.activations.store import Texts, write_layer, write_shard
from affectome.analyses import robustness as module
from affectome.analyses.recognition import Labels, held_out, neutral_of
from affectome.analyses.robustness import (
    Measured,
    Study,
    below_one,
    halves,
    jackknife_interval,
    reliability,
    robustness,
    sampled,
    variants_by_name,
)
from affectome.analyses.statistics import ridge_leave_one_out
from affectome.errors import UserError
from affectome.figures.answers import robustness as figures
from affectome.figures.style import house_style
from affectome.figures.wording import number
from affectome.files import read_table
from affectome.vectors.compute import emotion_vectors
from affectome.vectors.store import read_vectors
from tests.planted import norm_file, orthonormal, strict_json

EMOTIONS = [f"word {number}" for number in range(30)]
TOPICS, EACH, WIDTH, NEUTRAL = 6, 4, 40, 30
ROWS = [
    (emotion, topic, number) for emotion in range(len(EMOTIONS)) for topic in range(TOPICS) for number in range(EACH)
]


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    with threadpool_limits(1):
        yield


def layer_file(
    folder: Path, activations: np.ndarray, keep: np.ndarray | None = None, topics: bool = True, layer: int = 7
) -> Path:
    """The layer file of `activations` (texts, width) of `ROWS`, or of `keep` alone, and then of neutral texts."""
    folder.mkdir(parents=True, exist_ok=True)
    n = len(ROWS)
    emotion = np.array([EMOTIONS[row[0]] for row in ROWS] + [""] * NEUTRAL, dtype=object)
    topic = np.array([f"topic {row[1]}" if topics else "" for row in ROWS] + [""] * NEUTRAL, dtype=object)
    ids = np.array([f"{number:016x}" for number in range(n + NEUTRAL)], dtype=object)
    rows = np.arange(n + NEUTRAL) if keep is None else np.append(keep, np.arange(n, n + NEUTRAL))
    counts, none = np.full(len(rows), 60, dtype=np.int32), np.array([], dtype=object)
    texts = Texts(id=ids[rows], emotion=emotion[rows], topic=topic[rows], neutral=rows >= n, n_tokens=counts,
                  n_text=counts, n_pooled=counts, dropped=none, dropped_tokens=none.astype(np.int32))  # fmt: skip
    made = {"basis": "b", "model": "m", "dtype": "float32", "device": "cpu", "tokens": 1, "seconds": 1.0, "cut": 0}
    pooled = activations[rows][None].astype(np.float32)
    write_shard(
        folder / "shard.h5", f"key {folder}", texts, [layer], pooled, np.ones((1, len(rows)), np.float32), **made
    )
    write_layer(folder / f"layer_{layer}.h5", [folder / "shard.h5"], layer)
    return folder / f"layer_{layer}.h5"


def spread(rng: np.random.Generator) -> np.ndarray:
    """A vector of about length 1 per emotion, all within six dimensions, so that they say something of each other."""
    return rng.normal(size=(len(EMOTIONS), 6)) @ orthonormal(rng, 6, WIDTH) / np.sqrt(6)


def planted(signal: float = 3.0, topic_noise: float = 0.0, noise: float = 1.0, seed: int = 0) -> np.ndarray:
    """Activations (texts, width): a direction per emotion, one per emotion and topic, noise; neutral texts lie along an
    axis of their own, along which everything else differs too.
    """
    rng = np.random.default_rng(seed)
    emotion, topic, _ = np.array(ROWS).T
    own = signal * spread(rng)
    per_topic = topic_noise * rng.normal(size=(len(EMOTIONS), TOPICS, WIDTH)) / np.sqrt(WIDTH)
    stories = own[emotion] + per_topic[emotion, topic] + noise * rng.normal(size=(len(ROWS), WIDTH)) / np.sqrt(WIDTH)
    neutral = 0.1 * rng.normal(size=(NEUTRAL, WIDTH))
    neutral[:, 0] += 20 * rng.normal(size=NEUTRAL)
    return np.concatenate([stories, neutral])


def ratings(folder: Path, activations: np.ndarray) -> dict[str, str]:
    """A norm whose valence is the first component of the emotions' means, and whose arousal is chance."""
    folder.mkdir(parents=True, exist_ok=True)
    means = activations[: len(ROWS)].reshape(len(EMOTIONS), -1, WIDTH).mean(axis=1)
    arousal = np.random.default_rng(5).normal(size=len(EMOTIONS))
    return norm_file(
        folder / "norm.csv", EMOTIONS, valence=np.linalg.svd(means - means.mean(axis=0))[0][:, 0], arousal=arousal
    )


def run(folder: Path, file: Path, norm: dict[str, str], emotions: list[str] = EMOTIONS, **settings: Any) -> Any:
    spec: dict[str, Any] = {
        "reference": "mean_of_means", "denoising": {"components": 1}, "norm": norm, "norm_name": "ours",
        "readings": {}, "models": {}, "folds": 3, "splits": 20, "bootstrap": 200, "seed": 0,
    }  # fmt: skip
    table, output = folder / "robustness.parquet", folder / "robustness.json"
    robustness(file, emotions, **(spec | settings), table=table, output=output)
    return strict_json(output), read_table(table)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, pd.DataFrame]:
    """A run and variants: the same activations, noisy ones, ones without a third of the texts, unlike ones."""
    folder = tmp_path_factory.mktemp("found")
    activations = planted()
    rng = np.random.default_rng(9)
    # Noise of the texts' own emotion, so that it does not average out: as large as the vectors are.
    means = activations[: len(ROWS)].reshape(len(EMOTIONS), -1, WIDTH).mean(axis=1)
    size = np.sqrt(((means - means.mean(axis=0)) ** 2).sum(axis=1).mean())
    beside = rng.normal(size=(len(EMOTIONS), WIDTH)) / np.sqrt(WIDTH) * size
    noisy = activations.copy()
    noisy[: len(ROWS)] += np.repeat(beside, TOPICS * EACH, axis=0)
    files = {
        "same": layer_file(folder / "same", activations),
        "noisy": layer_file(folder / "noisy", noisy),
        "fewer": layer_file(folder / "fewer", activations, keep=np.flatnonzero(np.arange(len(ROWS)) % 3 > 0)),
        "unlike": layer_file(folder / "unlike", planted(seed=77)),
    }
    models = {"turned": layer_file(folder / "turned", activations @ orthonormal(rng, WIDTH, WIDTH))}
    file = layer_file(folder / "base", activations)
    return run(folder, file, ratings(folder, activations), readings=files, models=models)


# ---------------------------------------------------------------- planted


def test_cosines_are_those_that_were_planted(found: tuple[Any, pd.DataFrame]) -> None:
    written, table = found
    pooling = written["variants"]["pooling"]
    assert pooling["same"]["mean"] == pytest.approx(1)
    assert pooling["same"]["identified"] == 1
    # Vector and noise of one length at right angles.
    assert pooling["noisy"]["mean"] == pytest.approx(np.sqrt(0.5), abs=0.06)
    assert abs(pooling["unlike"]["mean"]) < 0.15
    assert pooling["unlike"]["identified"] < 0.2
    assert abs(written["variants"]["model"]["turned"]["mean"]) < 0.15
    assert pooling["fewer"]["mean"] == pytest.approx(1)
    assert (pooling["fewer"]["n_texts"], pooling["fewer"]["n_dropped"]) == (480, 240)
    assert (table.query("variant == 'fewer'")["n"] == 16).all()
    assert set(table["kind"]) == {"split_half", "jackknife", "denoising", "pooling", "model"}
    assert len(table) == 30 * (1 + 6 + 1 + 4 + 1)
    for variant, part in pooling.items():
        rows = table[(table["kind"] == "pooling") & (table["variant"] == variant)]
        assert rows["cosine"].mean() == pytest.approx(part["mean"])
        assert rows.loc[rows["cosine"].idxmin(), "emotion"] == part["weakest"]


def test_what_changes_nothing_changes_no_headline_number(found: tuple[Any, pd.DataFrame]) -> None:
    written, _ = found
    for name in ("valence", "arousal", "top1"):
        same = written["variants"]["pooling"]["same"]["headline"][name]
        assert (same["difference"], same["difference_ci"]) == (0, [0, 0])
        assert same["base"] == same["value"] == pytest.approx(written["headline"][name]["value"])
        # A rotation turns vectors away and keeps everything that is within them.
        turned = written["variants"]["model"]["turned"]["headline"][name]
        assert turned["difference"] == pytest.approx(0, abs=0.01)
    assert written["headline"]["valence"]["value"] > 0.6
    assert written["headline"]["top1"]["value"] > 0.8
    assert (written["headline"]["valence"]["n"], written["headline"]["top1"]["n"]) == (30, 720)
    unlike = written["variants"]["pooling"]["unlike"]["headline"]
    assert unlike["valence"]["difference"] < -0.3
    assert abs(unlike["top1"]["difference"]) < 0.1


def test_vectors_are_those_of_the_run(tmp_path: Path) -> None:
    file = layer_file(tmp_path / "base", planted())
    emotion_vectors(file, tmp_path / "v.h5", EMOTIONS, "rest", {"variance": 0.5}, "code")
    stored = read_vectors(tmp_path / "v.h5")
    with module.open_layer(file) as opened:
        sample = sampled(Labels.read(opened, EMOTIONS), len(EMOTIONS), 3, 0)
    for denoising, name in (({"variance": 0.5}, "denoised"), (None, "raw")):
        found = module.measured(file, sample, len(EMOTIONS), "rest", denoising).vectors()
        np.testing.assert_allclose(found, getattr(stored, name), atol=1e-5)


def test_headline_numbers_are_those_of_their_functions(tmp_path: Path) -> None:
    activations = planted(signal=1.0)
    file, norm = layer_file(tmp_path / "base", activations), ratings(tmp_path, activations)
    written, _ = run(tmp_path, file, norm)
    emotion_vectors(file, tmp_path / "v.h5", EMOTIONS, "mean_of_means", {"components": 1}, "code")
    rated = pd.read_csv(norm["file"])[["valence", "arousal"]].to_numpy()
    predicted = ridge_leave_one_out(read_vectors(tmp_path / "v.h5").denoised, rated)
    for column, name in enumerate(("valence", "arousal")):
        r = scipy.stats.pearsonr(predicted[:, column], rated[:, column]).statistic
        assert written["headline"][name]["value"] == pytest.approx(r, abs=1e-4)
    with module.open_layer(file) as opened:
        labels = Labels.read(opened, EMOTIONS)
        sample = sampled(labels, len(EMOTIONS), 3, 0)
    ids = dict(zip(sample.ids, sample.folds, strict=True))
    folds = np.array([ids.get(text, -1) for text in labels.ids])
    neutral = neutral_of(activations[labels.neutral].astype(np.float32))
    ranks = held_out(activations, labels.emotions, folds, neutral, denoising={"components": 1}).ranks
    assert written["headline"]["top1"]["value"] == pytest.approx(np.mean(ranks[labels.scored] == 1))


def test_denoising_takes_out_what_neutral_texts_vary_along(tmp_path: Path) -> None:
    """Along the neutral axis every emotion differs as much as in all else: half of the square is lost."""
    activations = planted()
    rng = np.random.default_rng(3)
    means = activations[: len(ROWS)].reshape(len(EMOTIONS), -1, WIDTH).mean(axis=1)
    length = np.linalg.norm((means - means.mean(axis=0))[:, 1:], axis=1).mean()
    activations[: len(ROWS), 0] = np.repeat(length * rng.choice([-1, 1], len(EMOTIONS)), TOPICS * EACH)
    file = layer_file(tmp_path / "base", activations)
    written, _ = run(tmp_path, file, ratings(tmp_path, activations))
    assert written["variants"]["denoising"]["raw"]["mean"] == pytest.approx(np.sqrt(0.5), abs=0.08)
    off, table = run(tmp_path, file, ratings(tmp_path, activations), denoising=None)
    assert off["variants"]["denoising"] == {}
    assert "denoising" not in set(table["kind"])


def test_a_topic_that_carries_everything_shows(tmp_path: Path) -> None:
    activations = planted(signal=0.0)
    emotion, topic, _ = np.array(ROWS).T
    own = spread(np.random.default_rng(1))
    activations[: len(ROWS)][topic == 2] += 40 * own[emotion[topic == 2]]
    file = layer_file(tmp_path / "base", activations)
    written, table = run(tmp_path, file, ratings(tmp_path, activations))
    left = written["jackknife"]
    assert left["most_influential"] == "topic 2"
    assert abs(left["without"]["topic 2"]) < 0.2
    assert min(value for name, value in left["without"].items() if name != "topic 2") > 0.95
    assert left["min_without"] == "topic 2"
    rows = table.query("kind == 'jackknife'").groupby("variant")["cosine"].mean()
    assert rows.idxmin() == "topic 2"
    assert left["headline"]["valence"]["high"] - left["headline"]["valence"]["low"] > 0.5
    # Halves of which one has all of it and the other has none do not agree.
    assert written["split_half"]["mean"] < 0.3


def test_a_variant_with_fewer_texts_is_compared_over_those_that_both_have(tmp_path: Path) -> None:
    """Against vectors of the run made anew from the same texts; a variant's texts may stand in another order."""
    activations, other = planted(signal=1.0), planted(signal=1.0, seed=3)
    keep = np.random.default_rng(0).permutation(len(ROWS))[:500]
    file = layer_file(tmp_path / "base", activations)
    fewer = layer_file(tmp_path / "fewer", activations + 0.3 * other, keep=keep)
    written, table = run(tmp_path, file, ratings(tmp_path, activations), readings={"fewer": fewer}, denoising=None)
    emotion = np.array(ROWS)[keep, 0]
    vectors = []
    for values in (activations, activations + 0.3 * other):
        means = np.stack([values[keep[emotion == number]].mean(axis=0) for number in range(len(EMOTIONS))])
        vectors.append(means - means.mean(axis=0))
    expected = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(*vectors, strict=True)]
    rows = table[table["variant"] == "fewer"]
    np.testing.assert_allclose(rows["cosine"], expected, atol=1e-5)
    assert rows["n"].tolist() == np.bincount(emotion).tolist()
    assert written["variants"]["pooling"]["fewer"]["headline"]["top1"]["n"] == 500


# ---------------------------------------------------------------- formulas


def test_reliability_follows_from_variances_and_agrees_with_cronbach() -> None:
    """Vectors over 6 topics: r = s² / (s² + n² / 6), and, for every way to halve them, about Cronbach's alpha."""
    rng = np.random.default_rng(0)
    n_emotions, width = 30, 3000
    own = rng.normal(size=(n_emotions, 1, width))
    sums = own + 1.5 * rng.normal(size=(n_emotions, 6, width))
    measured = Measured(sums, np.ones((n_emotions, 6)), np.zeros(width), np.zeros((0, width)), "mean_of_means")
    found = reliability(measured, np.ones(6, dtype=bool), 100, rng)
    assert found.mean() == pytest.approx(1 / (1 + 1.5**2 / 6), abs=0.02)
    centred = sums - sums.mean(axis=0)
    of_topics = centred.var(axis=2, ddof=1).sum(axis=1)
    alpha = 6 / 5 * (1 - of_topics / centred.sum(axis=1).var(axis=1, ddof=1))
    np.testing.assert_allclose(found, alpha, atol=0.01)


def test_halves_are_all_there_are_or_as_many_as_asked_for() -> None:
    rng = np.random.default_rng(0)
    every = halves(6, 10, rng)
    assert every.shape == (10, 6)
    assert (every.sum(axis=1) == 3).all()
    both = np.concatenate([every, ~every])
    assert len(np.unique(both, axis=0)) == 20
    assert halves(5, 10, rng).shape == (10, 5)
    assert halves(2, 10, rng).tolist() == [[True, False]]
    some = halves(20, 15, rng)
    assert some.shape == (15, 20)
    assert (some.sum(axis=1) == 10).all()


def test_jackknife_of_a_mean_is_its_standard_error() -> None:
    values = np.random.default_rng(0).normal(size=9)
    left = (values.sum() - values) / 8
    error, (low, high) = jackknife_interval(values.mean(), left)
    assert error == pytest.approx(scipy.stats.sem(values))
    np.testing.assert_allclose([low, high], scipy.stats.t.interval(0.95, 8, values.mean(), scipy.stats.sem(values)))
    low, high = below_one(0.97, np.array([0.95, 0.99, 0.96, 0.98]))
    assert low < 0.97 < high < 1
    assert below_one(1.0, np.ones(4)) == pytest.approx([1, 1])


def test_intervals_of_the_reliability_cover() -> None:
    """Of one emotion over many new topics; the share over 80 studies."""
    held = []
    truth = 1 / (1 + 1.5**2 / 8)
    for seed in range(80):
        rng = np.random.default_rng([3, seed])
        sums = rng.normal(size=(6, 1, 60)) + 1.5 * rng.normal(size=(6, 8, 60))
        sums -= sums.mean(axis=0)
        measured = Measured(sums, np.ones((6, 8)), np.zeros(60), np.zeros((0, 60)), "mean_of_means")
        _, part = module.split_half(measured, EMOTIONS[:6], 12, seed)
        held.append(part["ci"][0] <= truth <= part["ci"][1])
    assert 0.85 < np.mean(held) <= 1


def test_differences_of_pairs_cover_zero_where_nothing_differs(tmp_path: Path) -> None:
    """Two noisy readings of the same emotions, neither of them better, in 24 studies.

    Ratings that neither predicts are the exception that the module states.
    """
    held: dict[str, list[bool]] = {"valence": [], "arousal": [], "top1": []}
    for seed in range(24):
        activations = planted(signal=1.0, noise=0.0, seed=seed)
        rng = np.random.default_rng([4, seed])
        rated = pd.read_csv(ratings(tmp_path, activations)["file"])[["valence", "arousal"]]
        study = Study(EMOTIONS, np.arange(len(EMOTIONS)), rated, 1000, seed)
        told = []
        for name in ("base", "other"):
            noisy = activations + 0.2 * rng.normal(size=activations.shape)
            file = layer_file(tmp_path / f"{seed}/{name}", noisy)
            with module.open_layer(file) as opened:
                sample = sampled(Labels.read(opened, EMOTIONS), len(EMOTIONS), 3, 0)
            one = module.measured(file, sample, len(EMOTIONS), "mean_of_means", {"components": 1})
            told.append(module.headline(one, sample, study))
        for name, part in module.paired(*told, sample, study, "pair").items():
            held[name].append(part["difference_ci"][0] <= 0 <= part["difference_ci"][1])
    assert np.mean(held["valence"]) > 0.75
    assert np.mean(held["top1"]) > 0.6
    assert np.mean(held["arousal"]) < 0.9


# ---------------------------------------------------------------- splits and other forms of corpora


def test_topics_are_held_out_as_a_whole_and_many_are_joined_in_blocks() -> None:
    rng = np.random.default_rng(0)
    for n_topics, blocks in ((6, 6), (45, 20)):
        topics = rng.permutation(np.repeat(np.arange(n_topics), 30)).astype(str)
        n = len(topics)
        labels = Labels(np.arange(n).astype(str), rng.integers(0, 5, n), topics, np.zeros(n, dtype=bool))
        sample = sampled(labels, 5, 4, 0)
        assert len(sample.names) == blocks
        of = pd.DataFrame({"group": sample.groups, "block": sample.blocks, "fold": sample.folds})
        assert (of.groupby("group").nunique() == 1).all().all()
        assert of["block"].nunique() == blocks
        assert sample.held_out == "topics"


def test_a_topic_only_signal_earns_no_recognition(tmp_path: Path) -> None:
    """Every emotion has a direction in every topic, another one each time: nothing carries over to a new topic."""
    activations = planted(signal=0.0, topic_noise=8.0)
    written, _ = run(tmp_path, layer_file(tmp_path / "base", activations), ratings(tmp_path, activations))
    assert written["headline"]["top1"]["value"] < 0.25
    assert abs(written["split_half"]["mean"]) < 0.35


def test_texts_without_topics_are_dealt_into_blocks(tmp_path: Path) -> None:
    activations = planted()
    file = layer_file(tmp_path / "base", activations, topics=False)
    written, table = run(tmp_path, file, ratings(tmp_path, activations))
    assert written["held_out"] == "stories"
    assert written["n_blocks"] == 20
    assert written["split_half"]["mean"] > 0.9
    assert set(table.query("kind == 'jackknife'")["variant"]) == {f"block {number} of 20" for number in range(1, 21)}
    with house_style():
        figures.draw_robustness(written, table, 7).canvas.draw()


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_few_texts_topics_and_words_are_made_do_with(tmp_path: Path) -> None:
    activations = planted()
    norm = norm_file(tmp_path / "few.csv", EMOTIONS[:3], valence=[1, 2, 3], arousal=[3, 1, 2])
    emotion, topic, _ = np.array(ROWS).T
    # Two topics, and one emotion on one of them only.
    keep = np.flatnonzero((topic < 2) & ((emotion != 4) | (topic == 1)))
    file = layer_file(tmp_path / "base", activations, keep=keep)
    lost = layer_file(tmp_path / "lost", activations, keep=keep[emotion[keep] != 5])
    written, table = run(tmp_path, file, norm, readings={"lost": lost})
    assert written["jackknife"] == {}
    assert written["split_half"]["ci"] == [None, None]
    assert written["split_half"]["n"] == 29
    assert written["headline"]["valence"] == {"n": 0}
    assert written["variants"]["pooling"]["lost"]["n"] == 29
    assert table.query("variant == 'lost' and emotion == 'word 5'")["cosine"].isna().all()
    with house_style():
        figures.draw_robustness(written, table, 7).canvas.draw()
    assert "half" in figures.numbers_robustness(written, table, 7)
    assert figures.said(written, 7)


def test_what_users_can_get_wrong_is_said(tmp_path: Path) -> None:
    activations = planted()
    file, norm = layer_file(tmp_path / "base", activations), ratings(tmp_path, activations)
    narrow = layer_file(tmp_path / "narrow", activations[:, :30])
    with pytest.raises(UserError, match="another width"):
        run(tmp_path, file, norm, models={"narrow": narrow})
    with pytest.raises(UserError, match="is layer 3, and the run's headline layer is 7"):
        run(tmp_path, file, norm, models={"deep": layer_file(tmp_path / "deep", activations, layer=3)})
    with pytest.raises(UserError, match="no text in common"):
        run(tmp_path, file, norm, models={"none": layer_file(tmp_path / "none", activations, keep=np.array([], int))})


def test_variants_are_found_by_their_folders() -> None:
    files = [f"results/activations/m{m}/c/r{r}/layer_{n}.h5" for m in (1, 2) for r in (1,) for n in (2, 20)]
    assert variants_by_name(files, 20, "model") == {"m1": files[1], "m2": files[3]}
    assert variants_by_name(files[:2], 2, "reading") == {"r1": files[0]}
    assert variants_by_name([], 2, "reading") == {}


def test_repetition_and_other_variants_change_nothing(tmp_path: Path) -> None:
    activations = planted()
    file, norm = layer_file(tmp_path / "base", activations), ratings(tmp_path, activations)
    other = layer_file(tmp_path / "other", planted(seed=4))
    first = run(tmp_path, file, norm, readings={"same": file})[0]
    assert run(tmp_path, file, norm, readings={"same": file})[0] == first
    beside = run(tmp_path, file, norm, readings={"other": other, "same": file})[0]
    assert beside["variants"]["pooling"]["same"] == first["variants"]["pooling"]["same"]
    assert beside["jackknife"] == first["jackknife"]


# ---------------------------------------------------------------- figures and words


def test_the_figure_has_a_row_per_comparison(found: tuple[Any, pd.DataFrame]) -> None:
    written, table = found
    with house_style():
        figure = figures.draw_robustness(written, table, 7)
        figure.canvas.draw()
        left, valence, *_ = figure.axes
        labels = [tick.get_text() for tick in left.get_yticklabels()]
        assert labels == [
            "half against half\n(reliability)", "without one of 6\ntopics", "not denoised", "reading\nsame",
            "reading\nnoisy", "reading\nfewer", "reading\nunlike", "model\nturned",
        ]  # fmt: skip
        assert all(figure.bbox.containsx(tick.get_window_extent().x0) for tick in left.get_yticklabels())
        dots = [collection.get_offsets() for collection in left.collections]
        assert [len(of_row) for of_row in dots] == [30] * 8
        assert valence.get_title(loc="left") == f"valence r {number(written['headline']['valence']['value'])}"
    numbers = figures.numbers_robustness(written, table, 7)
    assert "over 30 emotions and 10 ways to halve 6 topics" in numbers
    assert "reading fewer: mean cosine 1.000" in numbers
    assert "30 emotions and 480 texts" in numbers


def test_what_is_said_names_the_variant_that_differs_most(found: tuple[Any, pd.DataFrame]) -> None:
    written, _ = found
    said = figures.said(written, 7)
    assert "split-half reliability" in said
    assert "0 by chance, 30 emotions, 720 texts" in said
    assert "Of 6 variants, " in said
    only = written | {
        "variants": {"denoising": {}, "pooling": {"same": written["variants"]["pooling"]["same"]}, "model": {}}
    }
    assert "changes no headline number by more than chance" in figures.said(only, 7)
    # A correlation that was nothing before and after has not changed, whatever its interval says.
    same = written["variants"]["pooling"]["same"]
    arousal = {"value": 0.1, "ci": [-0.3, 0.4], "difference": 0.2, "difference_ci": [0.1, 0.3], "base": -0.1, "n": 30}
    moved = same | {"headline": same["headline"] | {"arousal": arousal}}
    only["variants"]["pooling"] = {"same": moved}
    weak_run = only | {"headline": written["headline"] | {"arousal": {"value": -0.1, "ci": [-0.4, 0.2], "n": 30}}}
    assert "no headline number" in figures.said(weak_run, 7)
    strong_run = only | {"headline": written["headline"] | {"arousal": {"value": 0.3, "ci": [0.1, 0.5], "n": 30}}}
    assert "changes arousal r by +0.200 (95 % interval 0.100 to 0.300, n = 30)" in figures.said(strong_run, 7)
    weak = written | {"split_half": written["split_half"] | {"mean": 0.1, "ci": [-0.2, 0.4]}}
    assert "do not agree reliably" in figures.said(weak, 7)
    nothing = written | {"split_half": {}, "jackknife": {}, "variants": {"denoising": {}, "pooling": {}, "model": {}}}
    assert "nothing can be compared" in figures.said(nothing, 7)
    with house_style():
        figures.draw_robustness(nothing, pd.DataFrame(columns=["kind", "variant", "emotion"]), 7).canvas.draw()
