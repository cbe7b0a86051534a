"""Planted probes are found with the AUC that was put there, topics that only the test has earn nothing, noise is noise.

On Gaussian scores that differ by d standard deviations the AUC is Φ(d / √2), which is what the best probe can reach.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from scipy.special import expit
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, roc_auc_score
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from affectome.activations.store import Texts, write_layer, write_shard
from affectome.analyses import probes as module
from affectome.analyses.auc import held_out_auc
from affectome.analyses.calibration import reliability, wilson
from affectome.analyses.probes import Design, design, gather, held_out_scores, probes, standardised
from affectome.analyses.recognition import Labels
from affectome.analyses.statistics import bootstrap_means, interval
from affectome.corpus.importing import import_corpus
from affectome.corpus.tables import as_corpus, read_corpus, write_corpus
from affectome.errors import UserError
from affectome.figures.answers import probes as figures
from affectome.figures.style import house_style
from affectome.files import read_table
from tests.helpers import collect, collect_spec, tiny_model
from tests.planted import orthonormal, strict_json


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    with threadpool_limits(1):
        yield


EMOTIONS = ["angry", "calm", "happy"]
DEPTHS = {0: 0.0, 1: 1.0, 2: 2.5}


def corpus(topics: int, each: int, emotions: list[str] = EMOTIONS, named: bool = True) -> pd.DataFrame:
    """`each` texts of every emotion on every topic, no two alike."""
    rows = [
        (emotion, f"topic {topic}" if named else "", f"{emotion[0]}{topic} number {number} of the texts")
        for emotion in emotions
        for topic in range(topics)
        for number in range(each)
    ]
    return as_corpus(pd.DataFrame(rows, columns=["emotion", "topic", "text"]), "test")


def store(folder: Path, table: pd.DataFrame, activations: np.ndarray, layers: list[int]) -> dict[str, Any]:
    """A table of stories and layer files of `activations` (layers, texts, width) for it."""
    n = len(table)
    counts = np.full(n, 60, dtype=np.int32)
    columns = {name: table[name].to_numpy(dtype=object) for name in ("id", "emotion", "topic")}
    neutral, none = np.zeros(n, dtype=bool), np.array([], dtype=object)
    texts = Texts(**columns, neutral=neutral, n_tokens=counts, n_text=counts, n_pooled=counts, dropped=none,
                  dropped_tokens=np.array([], dtype=np.int32))  # fmt: skip
    made = {"basis": "b", "model": "m", "dtype": "float32", "device": "cpu", "tokens": 1, "seconds": 1.0, "cut": 0}
    norms = np.ones((len(layers), n), dtype=np.float32)
    write_shard(folder / "shard.h5", "key", texts, layers, activations.astype(np.float32), norms, **made)
    files = [folder / f"layer_{layer}.h5" for layer in layers]
    for layer, file in zip(layers, files, strict=True):
        write_layer(file, [folder / "shard.h5"], layer)
    write_corpus(table, folder / "stories.parquet")
    return {"layer_files": files, "stories": folder / "stories.parquet"}


def planted(
    table: pd.DataFrame, distances: list[float], width: int = 8, topic_scale: float = 0.0, seed: int = 0
) -> np.ndarray:
    """Activations (layers, texts, width): unit noise, an axis per emotion on which it lies `distance` higher.

    Topics have axes of their own, on which texts of a topic lie `topic_scale` higher.
    """
    rng = np.random.default_rng(seed)
    emotion = pd.get_dummies(table["emotion"]).to_numpy(dtype=float)
    topic = pd.get_dummies(table["topic"]).to_numpy(dtype=float)
    axes = orthonormal(rng, emotion.shape[1] + topic.shape[1], width)
    parts = [
        distance * emotion @ axes[: emotion.shape[1]] + topic_scale * topic @ axes[emotion.shape[1] :]
        for distance in distances
    ]
    return np.stack([part + rng.normal(size=part.shape) for part in parts])


def run(folder: Path, made: dict[str, Any], emotions: list[str] = EMOTIONS, **settings: Any) -> tuple[Any, Any]:
    spec = {"layer": 2, "folds": 3, "n_train": None, "n_val": None, "bootstrap": 300, "permutations": 199, "seed": 0}
    table, output = folder / "probes.parquet", folder / "probes.json"
    probes(**made, emotions=emotions, **(spec | settings), table=table, output=output)
    return strict_json(output), read_table(table)


# ---------------------------------------------------------------- planted


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, pd.DataFrame]:
    folder = tmp_path_factory.mktemp("found")
    table = corpus(6, 40)
    made = store(folder, table, planted(table, list(DEPTHS.values()), width=12, topic_scale=3.0, seed=1), list(DEPTHS))
    return run(folder, made)


def test_planted_aucs_come_back(found: tuple[Any, pd.DataFrame]) -> None:
    written, table = found
    assert written["held_out"] == "topics"
    assert written["n"] == {"train": 480, "test": 720}
    assert (written["n_texts"], written["n_groups"], written["folds"], written["left_out"]) == (720, 6, 3, 0)
    assert written["window"] is None
    for layer, distance in DEPTHS.items():
        part = written["layers"][str(layer)]["test"]
        # The best direction tells an emotion from the mean of the others, which lies √1.5 distances away.
        best = scipy.stats.norm.cdf(distance * np.sqrt(1.5) / np.sqrt(2))
        assert part["logistic"]["auc"] == pytest.approx(best, abs=0.05)
        assert part["mean_difference"]["auc"] == pytest.approx(best, abs=0.05)
        low, high = part["logistic"]["ci"]
        assert low < part["logistic"]["auc"] < high
    assert written["layers"]["2"]["test"]["logistic"]["significant"] == 3
    assert written["layers"]["0"]["test"]["logistic"]["significant"] == 0
    assert written["layers"]["0"]["test"]["accuracy"]["p"] > 0.05
    assert written["layers"]["2"]["test"]["accuracy"]["p"] == 1 / 200
    # Three normal variables, one of mean 2.5: the share in which that one is the largest.
    rng = np.random.default_rng(0)
    draws = rng.normal((2.5, 0.0, 0.0), size=(200_000, 3))
    accuracy = written["layers"]["2"]["test"]["accuracy"]
    assert accuracy["value"] == pytest.approx((draws.argmax(axis=1) == 0).mean(), abs=0.04)
    assert accuracy["ci"][0] < accuracy["value"] < accuracy["ci"][1]
    assert written["chance"] == {"auc": 0.5, "accuracy": 1 / 3}
    assert len(table) == 3 * 2 * 3
    assert (table["n_positive"] == 240).all()
    assert (table["n_negative"] == 480).all()


def test_q_is_over_emotions_and_layers_of_a_probe(found: tuple[Any, pd.DataFrame]) -> None:
    _, table = found
    for probe, rows in table.groupby("probe"):
        assert len(rows) == 9, probe
        np.testing.assert_allclose(rows["q"], scipy.stats.false_discovery_control(rows["p"]))


def test_runs_are_repeatable_and_the_order_of_the_corpus_changes_nothing_much(tmp_path: Path) -> None:
    table = corpus(4, 6)
    activations = planted(table, [0.0, 1.0, 2.0])
    as_it_is, mixed = np.arange(len(table)), np.random.default_rng(1).permutation(len(table))
    results = []
    for name, order in (("a", as_it_is), ("b", as_it_is), ("c", mixed)):
        (tmp_path / name).mkdir()
        made = store(tmp_path / name, table.iloc[order].reset_index(drop=True), activations[:, order], [0, 1, 2])
        written, rows = run(tmp_path / name, made, n_train=8)
        results.append((written["n_texts"], rows))
    assert results[0][1].equals(results[1][1])
    pd.testing.assert_frame_equal(results[0][1], results[2][1], atol=1e-4)


def test_a_window_is_chosen_by_validation_and_reported_on_the_test(tmp_path: Path) -> None:
    """Texts without topics, and a signal in layers 2 to 4."""
    table = corpus(1, 90, named=False)
    made = store(tmp_path, table, planted(table, [0, 0.2, 2.0, 2.2, 2.0, 0.2]), list(range(6)))
    written, rows = run(tmp_path, made, n_train=50, n_val=20)
    assert written["held_out"] == "stories"
    assert written["n"] == {"train": 150, "validation": 60, "test": 60}
    assert set(rows["evaluation"]) == {"validation", "test"}
    window = written["window"]["logistic"]
    assert window["layers"] == [2, 3, 4]
    of_layers = [written["layers"][str(layer)] for layer in window["layers"]]
    for part in ("validation", "test"):
        assert window[part] == pytest.approx(np.mean([layer[part]["logistic"]["auc"] for layer in of_layers]))
    assert window["ci"][0] < window["test"] < window["ci"][1]


def test_choosing_a_window_on_noise_flatters_validation_and_not_the_test(tmp_path: Path) -> None:
    chosen, kept = [], []
    for seed in range(6):
        (tmp_path / str(seed)).mkdir()
        table = corpus(1, 40, named=False)
        made = store(tmp_path / str(seed), table, planted(table, [0.0] * 7, seed=seed), list(range(7)))
        settings = {"n_train": 20, "n_val": 10, "seed": seed, "bootstrap": 20, "permutations": 9}
        window = run(tmp_path / str(seed), made, **settings)[0]["window"]
        chosen.append(window["mean_difference"]["validation"])
        kept.append(window["mean_difference"]["test"])
    assert np.mean(chosen) > 0.53
    assert abs(np.mean(kept) - 0.5) < 0.05


# ---------------------------------------------------------------- leakage


def labels_of(table: pd.DataFrame, emotions: list[str] = EMOTIONS) -> Labels:
    numbers = np.array([emotions.index(emotion) for emotion in table["emotion"]])
    topics = table["topic"].to_numpy(dtype=str)
    return Labels(table["id"].to_numpy(dtype=str), numbers, topics, np.zeros(len(table), dtype=bool))


@pytest.mark.parametrize("n_train", [None, 4, 7])
def test_no_topic_stands_on_both_sides(n_train: int | None) -> None:
    table = corpus(7, 5)
    plan = design(labels_of(table), table["text"].tolist(), 3, n_train, None, 0)
    for train, tested in plan.splits():
        assert not set(plan.groups[train]) & set(plan.groups[tested])
        if n_train:
            # As many as were asked for, but for folds that cannot be equal.
            assert abs(np.bincount(plan.emotions[train]) - n_train).max() <= 2
    assert plan.evaluations["test"].all()
    # Texts that are drawn are spread over the topics.
    per_topic = pd.crosstab(plan.emotions, plan.groups).to_numpy()
    assert np.ptp(per_topic, axis=1).max() <= 1


def test_a_copy_of_a_text_is_used_once() -> None:
    table = corpus(1, 30, named=False)
    copies = table.assign(text=table["text"].str.upper() + " ", emotion=np.roll(table["emotion"], 30))
    both = as_corpus(pd.concat([table, copies])[["emotion", "topic", "text"]], "test")
    plan = design(labels_of(both), both["text"].tolist(), 3, 12, 9, 0)
    used = both["text"].iloc[plan.rows].str.casefold().str.strip()
    assert not used.duplicated().any()
    assert plan.rows.max() < 90
    train, tested = next(iter(plan.splits()))
    assert not set(train) & set(tested)
    assert not (plan.evaluations["validation"] & plan.evaluations["test"]).any()
    for part in (plan.folds < 0, *plan.evaluations.values()):
        assert len(set(np.bincount(plan.emotions[part]))) == 1


def test_what_only_topics_or_the_test_texts_carry_earns_nothing() -> None:
    """Each emotion has topics of its own; beside them, a mark is put on one emotion's test texts alone."""
    rng = np.random.default_rng(0)
    n_topics, each = 12, 20
    topics = np.repeat(np.arange(n_topics), each)
    emotions = topics % 2
    activations = rng.normal(size=(len(topics), 30)) + 6 * np.eye(30)[topics]
    table = pd.DataFrame({"emotion": np.array(["angry", "calm"])[emotions], "topic": topics.astype(str)})
    table["text"] = [f"text {number}" for number in range(len(table))]
    table = as_corpus(table, "test")
    plan = design(labels_of(table, ["angry", "calm"]), table["text"].tolist(), 3, None, None, 0)
    scores, _ = held_out_scores(activations, plan, 2, 0)
    auc = held_out_auc(scores["logistic"][:, 0], plan.emotions == 0, plan.folds).value
    assert abs(auc - 0.5) < 0.15
    # The same probes judged on random folds would see the topics.
    mixed = Design(
        plan.rows, plan.emotions, np.arange(len(table)), rng.integers(0, 3, len(table)), plan.evaluations, ""
    )
    scores, _ = held_out_scores(activations, mixed, 2, 0)
    assert held_out_auc(scores["logistic"][:, 0], mixed.emotions == 0, mixed.folds).value > 0.95


def test_probes_of_a_fold_do_not_see_its_texts() -> None:
    rng = np.random.default_rng(0)
    table = corpus(6, 8)
    plan = design(labels_of(table), table["text"].tolist(), 3, None, None, 0)
    activations = rng.normal(size=(len(table), 10))
    before, chosen = held_out_scores(activations, plan, 3, 0)
    changed = activations.copy()
    of_fold = plan.folds == 1
    changed[of_fold] *= np.where(plan.emotions[of_fold] == 0, 50.0, -50.0)[:, None]
    after, again = held_out_scores(changed, plan, 3, 0)
    assert chosen[1] == again[1]
    # A linear score of the texts themselves: what they were multiplied with, and nothing else.
    factor = np.where(plan.emotions[of_fold] == 0, 50.0, -50.0)[:, None]
    mean = np.array(before["mean_difference"][of_fold])
    np.testing.assert_allclose(after["mean_difference"][of_fold], factor * mean)


# ---------------------------------------------------------------- against other libraries


def test_scores_are_those_of_scikit_learn_in_any_basis() -> None:
    """More columns than training texts, which are fitted in a basis of their span, and fewer."""
    rng = np.random.default_rng(3)
    table = corpus(3, 6)
    for width in (6, 80):
        activations = rng.normal(size=(len(table), width)) * rng.uniform(0.5, 20, width) + 5
        plan = design(labels_of(table), table["text"].tolist(), 3, None, None, 0)
        scores, penalties = held_out_scores(activations, plan, 3, 0)
        for fold, (train, tested) in enumerate(plan.splits()):
            scaler = StandardScaler().fit(activations[train])
            for emotion in range(3):
                fitted = LogisticRegression(C=penalties[fold], max_iter=5000, tol=1e-8).fit(
                    scaler.transform(activations[train]), plan.emotions[train] == emotion
                )
                expected = fitted.decision_function(scaler.transform(activations[tested]))
                np.testing.assert_allclose(scores["logistic"][tested, emotion], expected, atol=2e-2)
                own = activations[train][plan.emotions[train] == emotion].mean(axis=0)
                rest = activations[train][plan.emotions[train] != emotion].mean(axis=0)
                np.testing.assert_allclose(
                    scores["mean_difference"][tested, emotion], activations[tested] @ (own - rest), rtol=1e-9
                )


def test_the_basis_of_the_training_texts_keeps_all_products() -> None:
    rng = np.random.default_rng(1)
    train, tested = rng.normal(size=(9, 40)), rng.normal(size=(5, 40))
    scaler = StandardScaler().fit(train)
    rows, others = standardised(train, tested)
    assert rows.shape == (9, 9)
    np.testing.assert_allclose(rows @ rows.T, scaler.transform(train) @ scaler.transform(train).T, atol=1e-9)
    np.testing.assert_allclose(others @ rows.T, scaler.transform(tested) @ scaler.transform(train).T, atol=1e-9)


def test_auc_of_one_fold_is_that_of_scipy_and_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    for scores in (rng.normal(size=60), rng.integers(0, 5, 60).astype(float)):
        positive = rng.random(60) < 0.3
        found = held_out_auc(scores, positive, np.zeros(60))
        assert found.value == pytest.approx(roc_auc_score(positive, scores))
        test = scipy.stats.mannwhitneyu(
            scores[positive], scores[~positive], alternative="greater", use_continuity=False, method="asymptotic"
        )
        assert found.p == pytest.approx(test.pvalue)
        assert (found.positives, found.negatives) == (positive.sum(), (~positive).sum())
        assert found.deviations.sum() == pytest.approx(0, abs=1e-12)


def test_only_texts_of_a_fold_are_compared() -> None:
    """In each fold the order is right, over both it would not be; a fold without a positive text counts for nothing."""
    scores = np.array([1.0, 0.0, 11.0, 10.0, 5.0, np.nan])
    positive = np.array([True, False, True, False, False, True])
    found = held_out_auc(scores, positive, np.array([0, 0, 1, 1, 2, 2]))
    assert (found.value, found.positives, found.negatives) == (1.0, 2, 2)
    none = held_out_auc(scores, np.zeros(6, dtype=bool), np.zeros(6))
    assert np.isnan([none.value, none.p]).all()
    flat = held_out_auc(np.ones(4), np.array([True, True, False, False]), np.zeros(4))
    assert (flat.value, flat.p) == (0.5, 1.0)


def test_deviations_have_the_variance_of_delong() -> None:
    """DeLong, DeLong & Clarke-Pearson (1988), equation for one curve: S10 / m + S01 / n."""
    rng = np.random.default_rng(2)
    positive = np.arange(50) < 18
    scores = rng.normal(size=50) + positive
    found = held_out_auc(scores, positive, np.zeros(50))
    higher = (scores[positive][:, None] > scores[~positive]).astype(float)
    of_positive, of_negative = higher.mean(axis=1), higher.mean(axis=0)
    ours = [found.deviations[which] for which in (positive, ~positive)]
    np.testing.assert_allclose(ours[0], (of_positive - found.value) / 18)
    np.testing.assert_allclose(ours[1], (of_negative - found.value) / 32)


def test_reliability_by_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    probability = rng.random(3000)
    outcome = rng.random(3000) < probability**2
    found = reliability(probability, outcome, rng)
    assert found["brier"] == pytest.approx(brier_score_loss(outcome, probability))
    observed, predicted = calibration_curve(outcome, probability, n_bins=10)
    np.testing.assert_allclose([part["observed"] for part in found["bins"]], observed)
    np.testing.assert_allclose([part["predicted"] for part in found["bins"]], predicted)
    weights = np.array([part["n"] for part in found["bins"]]) / 3000
    assert found["ece"] == pytest.approx(weights @ np.abs(observed - predicted))
    assert found["p"] < 0.01
    interval_of_scipy = scipy.stats.binomtest(7, 40).proportion_ci(method="wilson")
    np.testing.assert_allclose(wilson(7, 40), [interval_of_scipy.low, interval_of_scipy.high])


# ---------------------------------------------------------------- null


def test_p_values_of_noise_are_uniform() -> None:
    rng = np.random.default_rng(5)
    folds = np.repeat([0, 1, 2], 40)
    p = [held_out_auc(rng.normal(size=120) + folds, rng.random(120) < 0.2, folds).p for _ in range(400)]
    assert scipy.stats.kstest(p, "uniform").pvalue > 0.01
    assert np.mean(np.array(p) < 0.05) < 0.09


def test_intervals_by_topic_cover_although_texts_of_a_topic_are_alike() -> None:
    """Topics shift the scores of the emotion's texts; intervals that take texts as independent would miss too often."""
    rng = np.random.default_rng(6)
    topics = np.repeat(np.arange(24), 12)
    positive = np.tile(np.arange(12) < 6, 24)
    covered, naive = [], []
    truth = scipy.stats.norm.cdf(1 / np.sqrt(6))
    for _ in range(150):
        scores = rng.normal(size=288) + positive * (1 + 2 * rng.normal(size=24)[topics])
        folds = topics % 3
        found = held_out_auc(scores, positive, folds)
        for hits, groups in ((covered, topics), (naive, np.arange(288))):
            draws = found.value + 288 * bootstrap_means(found.deviations[:, None], groups, 200, rng)[:, 0]
            low, high = interval(draws)
            hits.append(low <= truth <= high)
    assert 0.87 < np.mean(covered) <= 1
    assert np.mean(naive) < 0.8


def test_right_probabilities_are_called_calibrated() -> None:
    p = []
    for seed in range(60):
        rng = np.random.default_rng([8, seed])
        probability = expit(rng.normal(size=400) - 2)
        p.append(reliability(probability, rng.random(400) < probability, rng)["p"])
    assert scipy.stats.kstest(p, "uniform").pvalue > 0.01


def test_accuracy_of_noise_has_no_small_p(tmp_path: Path) -> None:
    p = []
    for seed in range(12):
        (tmp_path / str(seed)).mkdir()
        table = corpus(4, 5)
        made = store(tmp_path / str(seed), table, planted(table, [0.0], seed=seed), [2])
        part = run(tmp_path / str(seed), made, seed=seed, bootstrap=20, permutations=99)[0]["layers"]["2"]["test"]
        p.append(part["accuracy"]["p"])
    assert scipy.stats.kstest(p, "uniform").pvalue > 0.01


# ---------------------------------------------------------------- emotion-steering's way, on a file like GoEmotions

GROUPS = ["anger", "fear", "joy", "sadness"]


def go_emotions_file(folder: Path, each: int = 40) -> Path:
    """Comments with labels as lists of names, some of two groups or neutral; a group shows in how a comment ends."""
    ends = {"anger": "aaaa!", "fear": "ffff.", "joy": "~~~~", "sadness": "0000"}
    rng = np.random.default_rng(0)
    letters = np.array(list("bcdeghikmnoprstuvwxyz "))
    rows = [
        {"text": "".join(rng.choice(letters, 24)) + " it is so here in a way that " + end, "labels": [label]}
        for label, end in ends.items()
        for _ in range(each)
    ]
    rows += [{"text": f"Both of these at once, number {number}.", "labels": ["joy", "anger"]} for number in range(5)]
    rows += [{"text": f"Nothing much of any kind, {number}.", "labels": ["neutral"]} for number in range(5)]
    # The same comment once more, as threads quote each other.
    rows += rows[:3]
    path = folder / "comments.jsonl"
    pd.DataFrame(rows).to_json(path, orient="records", lines=True)
    return path


def test_comments_in_ekman_groups_by_the_last_token(tmp_path: Path) -> None:
    source = {"file": str(go_emotions_file(tmp_path)), "columns": {"emotion": "labels"}, "grouping": "ekman"}
    import_corpus(source, None, tmp_path / "raw.parquet", tmp_path / "neutral.parquet")
    stories = read_corpus(tmp_path / "raw.parquet")
    assert set(stories["emotion"]) == set(GROUPS)
    write_corpus(stories, tmp_path / "stories.parquet")
    model = tiny_model(tmp_path / "model")
    spec = collect_spec(range(3), pooling={"last": True})
    shard = collect(model, tmp_path / "stories.parquet", tmp_path / "neutral.parquet", tmp_path / "0.h5", spec)
    files = [tmp_path / f"layer_{layer}.h5" for layer in range(3)]
    for layer, file in enumerate(files):
        write_layer(file, [shard], layer)
    made = {"layer_files": files, "stories": tmp_path / "stories.parquet"}
    written, rows = run(tmp_path, made, GROUPS, n_train=20, n_val=8)
    assert written["held_out"] == "stories"
    assert written["n"] == {"train": 80, "validation": 32, "test": 32}
    assert (rows["n_positive"] == 8).all()
    assert (rows["n_negative"] == 24).all()
    # The last token is a group's own character.
    assert written["layers"]["2"]["test"]["logistic"]["auc"] > 0.97
    assert written["window"]["logistic"]["layers"] == [0, 1, 2]
    assert written["window"]["logistic"]["test"] > 0.97
    assert "test AUC" in figures.numbers_probes(written, rows, 2)
    with house_style():
        figures.draw_probes(written, rows, 2).canvas.draw()


# ---------------------------------------------------------------- what users can get wrong


def test_small_corpora_are_refused_or_made_do_with(tmp_path: Path) -> None:
    one = corpus(4, 3, emotions=["calm"])
    with pytest.raises(UserError, match="texts of two emotions"):
        design(labels_of(one, ["calm"]), one["text"].tolist(), 3, None, None, 0)
    few = corpus(1, 4, named=False)
    with pytest.raises(UserError, match="rarest emotion has 4 different texts"):
        design(labels_of(few), few["text"].tolist(), 3, 100, 20, 0)
    shrunk = corpus(1, 30, named=False)
    plan = design(labels_of(shrunk), shrunk["text"].tolist(), 3, 300, 100, 0)
    assert {name: int(which.sum()) for name, which in plan.evaluations.items()} == {"validation": 18, "test": 18}
    table = corpus(2, 3)
    made = store(tmp_path, table, planted(table, [1.0, 1.0]), [0, 1])
    with pytest.raises(UserError, match="layer 2 is not among the probed ones, 0, 1"):
        run(tmp_path, made)
    written, _ = run(tmp_path, made, layer=1)
    assert written["folds"] == 2


def test_an_emotion_on_a_single_topic_is_not_tested(tmp_path: Path) -> None:
    table = corpus(4, 4)
    table = table[(table["emotion"] != "calm") | (table["topic"] == "topic 1")].reset_index(drop=True)
    made = store(tmp_path, table, planted(table, [3.0]), [2])
    written, rows = run(tmp_path, made)
    calm = rows[rows["emotion"] == "calm"]
    assert calm["auc"].isna().all()
    assert calm["q"].isna().all()
    assert (calm["n_positive"] == 0).all()
    assert written["layers"]["2"]["test"]["accuracy"]["n"] == 32
    with house_style():
        figures.draw_probes(written, rows, 2).canvas.draw()
        figures.draw_calibration(written, rows, 2).canvas.draw()


def test_rows_are_gathered_across_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("affectome.activations.store._BYTES", 4 * 3 * 7)
    values = np.arange(60, dtype=np.float32).reshape(20, 3)
    rows = np.array([0, 6, 7, 8, 13, 19])
    np.testing.assert_array_equal(gather(values, rows), values[rows])


# ---------------------------------------------------------------- figures and words


def texts(figure: Any) -> list[str]:
    return [text.get_text() for text in [*figure.texts, *(text for ax in figure.axes for text in ax.texts)]]


def test_figures_show_what_was_found(found: tuple[Any, pd.DataFrame]) -> None:
    written, table = found
    with house_style():
        figure = figures.draw_probes(written, table, 2)
        figure.canvas.draw()
        auc, accuracy, hardest, _ = figure.axes
        assert [tick.get_text() for tick in hardest.get_yticklabels()] == table.query(
            "layer == 2 and probe == 'logistic'"
        ).sort_values("auc")["emotion"].tolist()
        drawn = auc.lines[0].get_ydata()
        np.testing.assert_allclose(drawn, [written["layers"][str(n)]["test"]["logistic"]["auc"] for n in DEPTHS])
        assert accuracy.get_title(loc="left") == "Which of the 3 emotions"
        legend = [text.get_text() for text in figure.legends[0].get_texts()]
        assert legend == ["logistic regression", "mean difference", "words alone", "chance"]
        calibration = figures.draw_calibration(written, table, 2)
        calibration.canvas.draw()
        counts = [part["n"] for part in written["calibration"]["each"]["bins"]]
        assert {f"{count:,}" for count in counts} <= set(texts(calibration))
    assert "720 texts tested by probes of 480 others" in figures.numbers_probes(written, table, 2)
    assert "over 9 tests" in figures.numbers_probes(written, table, 2)
    assert "each emotion (2,160 cases)" in figures.numbers_calibration(written, table, 2)


def test_many_emotions_and_one_layer_are_drawn(tmp_path: Path) -> None:
    names = [f"emotion number {number} of many" for number in range(40)]
    table = corpus(3, 2, emotions=names)
    table["text"] = [f"text {number}" for number in range(len(table))]
    table = as_corpus(table[["emotion", "topic", "text"]], "test")
    made = store(tmp_path, table, planted(table, [3.0], width=50), [2])
    written, rows = run(tmp_path, made, names)
    with house_style():
        figure = figures.draw_probes(written, rows, 2)
        figure.canvas.draw()
        inside = figure.bbox
        hardest = figure.axes[2]
        assert len(hardest.get_yticklabels()) == 16
        assert all(inside.containsx(tick.get_window_extent().x0) for tick in hardest.get_yticklabels())


def test_what_is_said_is_honest(found: tuple[Any, pd.DataFrame]) -> None:
    written, _ = found
    strong, null = figures.said(written, 2), figures.said(written, 0)
    assert "read the emotions off layer 2 on topics that they never saw" in strong
    assert "chance 0.5, 3 emotions, 720 test texts" in strong
    assert "do not reliably read" in null
    assert "understanding" not in null
    assert "more than the words alone allow" in strong
    # Where the words name as many texts.
    test = written["layers"]["2"]["test"]
    accuracy = test["accuracy"] | {"difference": {"value": -0.1, "ci": [-0.2, 0.0]}}
    equal = written | {"layers": {"2": {"test": test | {"accuracy": accuracy}}}}
    assert "no more than the words of the texts give away" in figures.said(equal, 2)
    accuracy["difference"] = {"value": -0.1, "ci": [-0.2, -0.01]}
    assert "That is less than the words of the texts give away" in figures.said(equal, 2)


def test_penalty_is_chosen_by_the_training_texts() -> None:
    """Noise is best predicted by a strong penalty, a clear direction by the weakest."""
    rng = np.random.default_rng(0)
    labels, groups = np.tile([0, 1], 60), np.repeat(np.arange(6), 20)
    noise = rng.normal(size=(120, 20))
    clear = noise + 8 * np.eye(20)[0] * labels[:, None]
    assert module.best_penalty(noise, labels, groups, np.random.default_rng(1)) <= module.PENALTIES[2]
    assert module.best_penalty(clear, labels, groups, np.random.default_rng(1)) == max(module.PENALTIES)
