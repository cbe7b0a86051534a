"""Linear probes: can a text's emotion be read off its activation, layer by layer, on topics that were not learned from?

Two probes per emotion and layer, each emotion against the rest:

- `logistic`: scikit-learn's logistic regression with an L2 penalty, on activations standardised by the training texts;
- `mean_difference`: the projection on mean(emotion) − mean(rest) of the training texts, as activations are.

Each is judged by the AUC of its scores on texts that were held out (`held_out_auc`). The emotion that a text is said to
have is the one with the highest score of the logistic probes; its probability is theirs divided by their sum, as
scikit-learn's one-vs-rest does.

How texts are split is decided by the corpus. With two topics or more, whole topics are held out in turn, and every text
is tested once, by probes of the other folds (the evaluation `test`). Without topics, as in GoEmotions, the texts of
each emotion are split at random into training, validation and test, as many of each emotion, as `n_train` and `n_val`
say: emotion-steering's way (figures to compare with: Qwen3-8B on the last token, six Ekman groups, validation AUC .80,
.85 and .86 at layers 4, 20 and 32), with a test set beside it. The best window of `WINDOW` layers is the one of highest
mean validation AUC. That figure is too high, since it was looked at to choose; the window's AUC on the test texts, of
which no choice knows, is the one to report.

A text that occurs several times in the corpus is used once: with its copy in the training texts it would be no test.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from affectome.activations.store import open_layer, parts, rows_of
from affectome.analyses.auc import held_out_auc
from affectome.analyses.calibration import reliability
from affectome.analyses.recognition import (
    Labels,
    Recognition,
    Rows,
    balanced,
    balanced_draws,
    per_text,
    recognition,
    topic_interval,
)
from affectome.analyses.sampling import place, spread_sample
from affectome.analyses.splits import held_out_groups, topic_folds
from affectome.analyses.statistics import benjamini_hochberg, bootstrap_means, p_value, permuted
from affectome.analyses.words import texts_of, words_held_out
from affectome.errors import UserError
from affectome.files import write_json, write_table
from affectome.randomness import generator

PROBES = ("logistic", "mean_difference")
WINDOW = 3

# Inverse penalties (scikit-learn's C) that are tried, for columns of variance 1.
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
# How many emotions choose among them, at random: every one costs as many fits as there are penalties.
_CHOOSING = 20

# Training texts in all where their number is not set. A fit takes time in proportion to texts × width, and there is one
# for each emotion, layer and fold.
_TRAINING = 4096

_SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Design:
    """Which texts are used, and how; arrays of one length (texts,).

    `rows` are rows of the layer files, ascending; `emotions` and `groups` are numbers. A text of fold f is tested by
    probes that learned from all texts of other folds, one of fold −1 never. The texts of an evaluation are the true
    ones of its array in `evaluations`. `held_out` says what groups are: `topics`, or single `stories`.
    """

    rows: np.ndarray
    emotions: np.ndarray
    groups: np.ndarray
    folds: np.ndarray
    evaluations: dict[str, np.ndarray]
    held_out: str

    def splits(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Positions of the training texts and of the tested ones, fold by fold."""
        for fold in range(int(self.folds.max()) + 1):
            yield np.flatnonzero(self.folds != fold), np.flatnonzero(self.folds == fold)


def probes(
    layer_files: Sequence[str | Path],
    stories: str | Path,
    emotions: list[str],
    layer: int,
    folds: int,
    n_train: int | None,
    n_val: int | None,
    bootstrap: int,
    permutations: int,
    seed: int,
    table: str | Path,
    output: str | Path,
) -> None:
    """Write the AUC of every probe to `table`, and to `output` what they come to: both described in the module.

    `layer_files` are of one store, the one of the headline `layer` among them; `stories` the corpus they were read
    from. `folds`, `n_train` and `n_val` are those of `design`. Raises UserError where the corpus is too small.
    """
    with open_layer(layer_files[0]) as file:
        labels = Labels.read(file, emotions)
    texts = texts_of(stories, labels.ids[labels.scored])
    plan = design(labels, texts, folds, n_train, n_val, seed)
    chosen_texts = pd.Series(texts, index=np.flatnonzero(labels.scored)).loc[plan.rows].tolist()
    words = words_held_out(chosen_texts, plan.emotions, plan.folds)
    frames, layers, deviations, calibration = [], {}, {}, None
    for path in layer_files:
        with open_layer(path) as file:
            number = int(file.attrs["layer"])
            activations = gather(rows_of(file), plan.rows)
        scores, penalties = held_out_scores(activations, plan, len(emotions), seed)
        rows, summary, deviations[number] = evaluated(scores, words, plan, emotions, bootstrap, permutations, seed)
        frames.append(rows.assign(layer=number))
        layers[number] = summary | {"C": penalties}
        if number == layer:
            calibration = calibrated(scores["logistic"], plan, seed)
    if calibration is None:
        raise UserError(f"layer {layer} is not among the probed ones, {', '.join(map(str, sorted(layers)))}; add it")
    found = _with_q(pd.concat(frames, ignore_index=True), layers)
    training = np.mean([len(train) for train, _tested in plan.splits()])
    write_table(table, found)
    write_json(
        output,
        {
            "layer": layer,
            "n_emotions": len(emotions),
            "n_texts": len(plan.rows),
            "n": {"train": round(training)} | {name: int(which.sum()) for name, which in plan.evaluations.items()},
            "n_groups": len(np.unique(plan.groups)),
            "held_out": plan.held_out,
            "folds": int(plan.folds.max()) + 1,
            "left_out": int(labels.scored.sum()) - len(plan.rows),
            "chance": {"auc": 0.5, "accuracy": 1 / len(emotions)},
            "bootstrap": bootstrap,
            "permutations": permutations,
            "layers": dict(sorted(layers.items())),
            "window": best_window(layers, deviations, plan, bootstrap, seed)
            if "validation" in plan.evaluations
            else None,
            "calibration": calibration,
        },
    )


# ---------------------------------------------------------------- which texts


def design(labels: Labels, texts: list[str], folds: int, n_train: int | None, n_val: int | None, seed: int) -> Design:
    """How the scored rows of `labels`, whose `texts` these are, are used.

    With topics, they are dealt to `folds` folds, and of an emotion with more texts than it takes for `n_train` training
    texts so many are drawn, spread over the topics; `n_val` says nothing. Without, `n_train` texts of each emotion are
    for training and `n_val` each for validation and test; where the rarest emotion has fewer in all, all three shrink
    alike. Training takes what makes 4,096 texts over all emotions, or three fifths of the rarest emotion's, where
    `n_train` is None; `n_val` is a third of it where None. Raises UserError for fewer than two texts of an emotion in
    any of the three.
    """
    rows = np.flatnonzero(labels.scored)
    plain = pd.Series([" ".join(text.casefold().split()) for text in texts], dtype=object)
    rows = rows[~plain.duplicated().to_numpy()]
    emotions, count = labels.emotions[rows], int(labels.emotions.max(initial=-1)) + 1
    if len(np.unique(emotions)) < 2:
        raise UserError("probes need texts of two emotions; add some to the corpus or emotions to the run")
    groups, held_out = held_out_groups(labels.topics[rows])
    ids = labels.ids[rows].astype(str)
    each = n_train or max(2, _TRAINING // count)
    if held_out == "topics":
        folds = min(folds, len(np.unique(groups)))
        most = -(-each * folds // (folds - 1))
        used = spread_sample(emotions, groups, ids, most, generator(seed, "probes", "sample"))
        numbers = topic_folds(labels.topics[rows[used]], folds, generator(seed, "probes", "folds"))
        evaluations = {"test": np.ones(len(used), dtype=bool)}
    else:
        sizes = _sizes(int(np.bincount(emotions)[np.unique(emotions)].min()), each, n_val or -(-each // 3))
        # In the order of ids, so that the order of the corpus decides nothing.
        order = np.argsort(ids, kind="stable")[generator(seed, "probes", "split").permutation(len(ids))]
        number = np.empty(len(ids), dtype=np.int64)
        number[order] = place(emotions[order])
        used = np.flatnonzero(number < sum(sizes))
        part = np.searchsorted(np.cumsum(sizes), number[used], side="right")
        numbers = np.where(part > 0, 0, -1)
        evaluations = {"validation": part == 1, "test": part == 2}
    return Design(rows[used], emotions[used], groups[used], numbers, evaluations, held_out)


def _sizes(rarest: int, n_train: int, n_val: int) -> tuple[int, int, int]:
    """Training, validation and test texts of each emotion, of which the rarest has `rarest`."""
    share = min(1.0, rarest / (n_train + 2 * n_val))
    held = int(n_val * share)
    train = min(n_train, rarest - 2 * held) if share < 1 else n_train
    if min(train, held) < 2:
        raise UserError(
            f"the rarest emotion has {rarest} different texts, too few to train, to choose and to test on; add "
            "texts to the corpus, or topics, by which texts can be held out in turn"
        )
    return train, held, held


# ---------------------------------------------------------------- fitting


def gather(activations: Rows, rows: np.ndarray) -> np.ndarray:
    """The ascending `rows` of `activations` (texts, width) as float64, read some at a time."""
    found = np.empty((len(rows), activations.shape[1]))
    for part in parts(*activations.shape):
        first, end = np.searchsorted(rows, [part.start, part.stop])
        if end > first:
            found[first:end] = activations[part][rows[first:end] - part.start]
    return found


def held_out_scores(
    activations: np.ndarray, plan: Design, count: int, seed: int
) -> tuple[dict[str, np.ndarray], list[float]]:
    """Scores (texts, `count` emotions) of both probes, NaN where not tested or nothing was learned; and each fold's C.

    C is chosen for every fold by the mean log-loss of 20 emotions, or all if fewer, on a third of its training topics,
    or texts, by probes of the others.
    """
    scores = {probe: np.full((len(activations), count), np.nan) for probe in PROBES}
    penalties = []
    for fold, (train, tested) in enumerate(plan.splits()):
        labels = plan.emotions[train]
        rng = generator(seed, "probes", "penalty", fold)
        penalty = best_penalty(activations[train], labels, plan.groups[train], rng)
        rows, others = standardised(activations[train], activations[tested])
        present, directions = mean_differences(activations[train], labels)
        scores["mean_difference"][np.ix_(tested, present)] = activations[tested] @ directions.T
        for emotion in present:
            scores["logistic"][tested, emotion] = logistic(rows, labels == emotion, others, penalty)
        penalties.append(penalty)
    return scores, penalties


def mean_differences(activations: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The emotions among `labels` (texts,), and of each mean(emotion) − mean(rest) of `activations` (texts, width)."""
    present, of, counts = np.unique(labels, return_inverse=True, return_counts=True)
    sums = np.zeros((len(present), activations.shape[1]))
    np.add.at(sums, of, activations)
    rest = (sums.sum(axis=0) - sums) / (len(labels) - counts)[:, None]
    return present, sums / counts[:, None] - rest


def logistic(train: np.ndarray, positive: np.ndarray, tested: np.ndarray, penalty: float) -> np.ndarray:
    """Log-odds (tested texts,) by a logistic regression of `positive` (training texts,) on `train` (texts, width)."""
    return LogisticRegression(C=penalty, max_iter=1000).fit(train, positive).decision_function(tested)


def best_penalty(activations: np.ndarray, labels: np.ndarray, groups: np.ndarray, rng: np.random.Generator) -> float:
    """The one of `PENALTIES` of least mean log-loss; see `held_out_scores`."""
    inner = topic_folds(held_out_groups(groups)[0], 3, rng)
    train, tested = inner > 0, inner == 0
    rows, others = standardised(activations[train], activations[tested])
    present = np.intersect1d(labels[train], labels[tested])
    losses = np.zeros(len(PENALTIES))
    for emotion in rng.permutation(present)[:_CHOOSING]:
        sign = np.where(labels[tested] == emotion, -1, 1)
        for number, penalty in enumerate(PENALTIES):
            odds = logistic(rows, labels[train] == emotion, others, penalty)
            losses[number] += np.logaddexp(0, sign * odds).mean()
    return PENALTIES[int(losses.argmin())]


def standardised(train: np.ndarray, tested: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both (texts, width) standardised by the training texts, and turned so that they have no more columns than those.

    An L2 penalty keeps the weights in the span of the training texts and does not see a rotation, so that fitting in
    coordinates of that span gives the same scores for less.
    """
    scaler = StandardScaler().fit(train)
    train, tested = scaler.transform(train), scaler.transform(tested)
    if len(train) >= train.shape[1]:
        return train, tested
    basis, coordinates = np.linalg.qr(train.T)
    return coordinates.T, tested @ basis


# ---------------------------------------------------------------- judging


def evaluated(
    scores: dict[str, np.ndarray],
    words: Recognition,
    plan: Design,
    emotions: list[str],
    bootstrap: int,
    permutations: int,
    seed: int,
) -> tuple[pd.DataFrame, dict[str, Any], dict[str, np.ndarray]]:
    """One row per evaluation, probe and emotion; by evaluation, mean AUC and accuracy, those of the words beside them.

    Intervals resample groups. That of a difference is of the same texts, resampled together. Last, the deviations (see
    `Auc`) of the test texts from the mean AUC of each probe.
    """
    rows, summary, deviations = [], {}, {}
    named = recognition(scores["logistic"], plan.emotions, plan.folds)
    for name, which in plan.evaluations.items():
        labels, groups, folds = plan.emotions[which], plan.groups[which], plan.folds[which]
        means, deviations = {}, {}  # those of the test, the last evaluation, are given back
        for probe, matrix in {**scores, "words": words.scores}.items():
            found = [held_out_auc(column, labels == number, folds) for number, column in enumerate(matrix[which].T)]
            known = [auc for auc in found if np.isfinite(auc.value)]
            means[probe] = np.mean([auc.value for auc in known]) if known else np.nan
            deviations[probe] = np.mean([auc.deviations for auc in known], axis=0) if known else np.zeros(len(labels))
            if probe in PROBES:
                rows += [
                    {"evaluation": name, "probe": probe, "emotion": emotion, "auc": auc.value, "p": auc.p}
                    | {"n_positive": auc.positives, "n_negative": auc.negatives}
                    for emotion, auc in zip(emotions, found, strict=True)
                ]
        rng = generator(seed, "probes", name)
        count = len(np.unique(groups))
        columns = np.column_stack(list(deviations.values()))
        draws = np.array(list(means.values())) + len(labels) * bootstrap_means(columns, groups, bootstrap, rng)
        at = {probe: index for index, probe in enumerate(deviations)}
        summary[name] = {
            probe: {"auc": means[probe], "ci": topic_interval(draws[:, at[probe]], count)} for probe in PROBES
        }
        summary[name]["words"] = {"auc": means["words"], "ci": topic_interval(draws[:, at["words"]], count)}
        summary[name]["differences"] = {
            f"logistic - {other}": {
                "auc": means["logistic"] - means[other],
                "ci": topic_interval(draws[:, at["logistic"]] - draws[:, at[other]], count),
            }
            for other in ("mean_difference", "words")
        }
        summary[name]["accuracy"] = _accuracy(named, words, which, plan, bootstrap, permutations, rng)
    return pd.DataFrame(rows), summary, deviations


def _accuracy(
    named: Recognition,
    words: Recognition,
    which: np.ndarray,
    plan: Design,
    bootstrap: int,
    permutations: int,
    rng: np.random.Generator,
) -> dict[str, Any]:
    """Label-balanced shares of the tested texts in `which` (texts,) named right, by the probes and by the words."""
    which = which & named.tested
    labels, groups, folds = plan.emotions[which], plan.groups[which], plan.folds[which]
    right = np.column_stack([per_text(each.ranks[which])[:, 0] for each in (named, words)])
    weights = balanced(labels)
    value, by_words = weights @ right
    draws = balanced_draws(right, labels, groups, bootstrap, rng)
    count = len(np.unique(groups))
    # What a permutation gets: labels change hands within a fold, and each takes its weight along.
    null = np.zeros(permutations)
    of_label = np.bincount(labels, weights) / np.maximum(np.bincount(labels), 1)
    for fold in np.unique(folds):
        shuffled = permuted(labels[folds == fold], permutations, rng)
        hit = shuffled == named.predicted[which][folds == fold][:, None]
        null += (of_label[shuffled] * hit).sum(axis=0)
    return {
        "value": value,
        "ci": topic_interval(draws[:, 0], count),
        "p": p_value(value, null),
        "n": len(labels),
        "words": {"value": by_words, "ci": topic_interval(draws[:, 1], count)},
        "difference": {"value": value - by_words, "ci": topic_interval(draws[:, 0] - draws[:, 1], count)},
    }


def calibrated(odds: np.ndarray, plan: Design, seed: int) -> dict[str, Any]:
    """How far the probabilities of the logistic probes can be trusted on the test texts (`reliability`).

    `odds` (texts, emotions) are their scores. `each` takes every probability of every text as a case; `named` the
    probability of the emotion that a text is said to have, which is right or wrong.
    """
    which = plan.evaluations["test"]
    known = np.isfinite(odds[which])
    probability = expit(odds[which])
    truth = plan.emotions[which][:, None] == np.arange(odds.shape[1])
    share = np.where(known, probability, 0)
    share = share / share.sum(axis=1, keepdims=True)
    best = share.argmax(axis=1)
    confidence = share[np.arange(len(share)), best]
    right = best == plan.emotions[which]
    return {
        "each": reliability(probability[known], truth[known], generator(seed, "probes", "each")),
        "named": reliability(confidence, right, generator(seed, "probes", "named")),
    }


def best_window(
    layers: dict[int, Any], deviations: dict[int, dict[str, np.ndarray]], plan: Design, bootstrap: int, seed: int
) -> dict[str, Any]:
    """The `WINDOW` neighbours among the probed layers, or all if fewer, of highest mean validation AUC, by probe.

    Gives their `layers`, that mean as `validation`, and their mean AUC on the test texts as `test` with its `ci`.
    """
    order = sorted(layers)
    size = min(WINDOW, len(order))
    windows = [order[start : start + size] for start in range(len(order) - size + 1)]
    groups = plan.groups[plan.evaluations["test"]]
    found = {}
    for probe in PROBES:
        means = [np.mean([layers[number]["validation"][probe]["auc"] for number in window]) for window in windows]
        best = windows[int(np.argmax(means))]
        test = np.mean([layers[number]["test"][probe]["auc"] for number in best])
        apart = np.mean([deviations[number][probe] for number in best], axis=0)
        rng = generator(seed, "probes", "window", probe)
        draws = test + len(groups) * bootstrap_means(apart[:, None], groups, bootstrap, rng)[:, 0]
        ci = topic_interval(draws, len(np.unique(groups)))
        found[probe] = {"layers": best, "validation": float(max(means)), "test": float(test), "ci": ci}
    return found


def _with_q(found: pd.DataFrame, layers: dict[int, Any]) -> pd.DataFrame:
    """`found` in order with `q` over the emotions and layers of an evaluation and probe; `layers` get their counts."""
    columns = ["layer", "evaluation", "probe", "emotion", "auc", "p", "q", "n_positive", "n_negative"]
    found["q"] = np.nan
    for (evaluation, probe), part in found.groupby(["evaluation", "probe"]):
        found.loc[part.index, "q"] = benjamini_hochberg(part["p"].to_numpy())
        for number, of_layer in found.loc[part.index].groupby("layer"):
            layers[number][evaluation][probe]["significant"] = int((of_layer["q"] < _SIGNIFICANT).sum())
    return found[columns].sort_values(columns[:3], kind="stable", ignore_index=True)
