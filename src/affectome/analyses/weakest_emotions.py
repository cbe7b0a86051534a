"""The emotions that are recognised worst, what they are taken for, and the stories that could keep them apart.

Emotions are ranked by their top-1 in `story_holdout` (then by mean rank). Of the weakest a request is written, a CSV
file of `emotion,unlike` that a written corpus takes as its `contrasts`: stories of the emotion that must not be
mistaken for those it was most often taken for.

The weakest of many are also the unluckiest, and look better when they are measured anew though nothing has changed. How
much is estimated in two ways. *Halves*: the topics are split in two at random, the weakest are chosen on one half and
measured on the other. Half of the texts leave more to luck than all of them do, so this is an upper estimate.
*Expected*: an emotion's score lies (1 − r) of the way from its true place to the mean of all, where r is the
reliability of the scores, stepped up from the correlation of the halves by Spearman-Brown (Kelley's formula), so the
weakest rise by (1 − r) × (mean of all − mean of the weakest).

With the results of an earlier run the emotions that were weakest *there* are shown before and after, beside all others,
which tells what new stories did from what another corpus does to any emotion.
"""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from affectome.analyses.recognition import topic_interval
from affectome.files import read_json, read_table, replacing, write_json, write_table
from affectome.randomness import generator

_HALVINGS = 200
_SCORES = ("top1", "rank")


def weakest_emotions(
    holdout: str | Path,
    emotions: str | Path,
    before: Sequence[str | Path],
    count: int,
    unlike: int,
    bootstrap: int,
    seed: int,
    request: str | Path,
    table: str | Path,
    output: str | Path,
) -> None:
    """Write the weakest emotions to `output` (JSON), all of them to `table`, and the CSV file `request`.

    `holdout` (JSON) and `emotions` (Parquet) are what `story_holdout` wrote; `before` is the same pair of an earlier
    run, or empty. The weakest are `count`, or a fifth of the emotions where that is fewer. The request names up to
    `unlike` others each that the emotion was taken for; an emotion never taken for another has no row, and the file may
    have none.

    `output` holds `weakest` (with intervals and confusions), their mean and that of all (`means`), `regression` (None
    for fewer than two groups) and `before_after`, None without `before`. `table` has a row per emotion of this run, the
    weakest first, with `n` texts.
    """
    found, rows = read_json(holdout), read_table(emotions)
    scores = _Scores(rows)
    order = scores.weakest_first()
    weakest = order[: _how_many(count, len(order))]
    emotion_rows = rows[(rows["kind"] == "emotion") & (rows["method"] == "vectors")].set_index(["emotion", "measure"])
    confusions = {
        emotion: some.sort_values(["value", "taken_for"], ascending=[False, True])
        for emotion, some in rows[rows["kind"] == "confusion"].groupby("emotion")
    }
    pairs = [
        (emotion, other)
        for emotion in weakest
        if emotion in confusions
        for other in confusions[emotion]["taken_for"].head(unlike)
    ]
    with replacing(request) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("emotion", "unlike"))
        writer.writerows(pairs)

    write_json(
        output,
        {
            "layer": found["layer"],
            "held_out": found["held_out"],
            "n": {**found["n"], "weakest": len(weakest)},
            "chance": found["chance"],
            "criterion": "top-1 of held-out stories, then mean rank",
            "weakest": [_described(emotion, emotion_rows, confusions) for emotion in weakest],
            "means": {
                name: {"weakest": scores.mean(name, weakest), "all": scores.mean(name, order)} for name in _SCORES
            },
            "regression": regression_to_the_mean(scores, count, generator(seed, "weakest_emotions", "halves")),
            "request": {"emotions": len({emotion for emotion, _ in pairs}), "pairs": len(pairs)},
            "before_after": before_after(_Scores(read_table(before[1])), scores, count, bootstrap, seed)
            if before
            else None,
        },
    )
    write_table(
        table,
        pd.DataFrame(
            [
                {
                    "emotion": emotion,
                    "place": place,
                    "weakest": emotion in weakest,
                    "top1": row["value"],
                    "low": row["low"],
                    "high": row["high"],
                    "rank": emotion_rows.loc[(emotion, "rank"), "value"],
                    "n": int(row["n"]),
                    "taken_for": ", ".join(confusions[emotion]["taken_for"].head(unlike))
                    if emotion in confusions
                    else "",
                }
                for place, emotion in enumerate(order, 1)
                for row in [emotion_rows.loc[(emotion, "top1")]]
            ]
        ),
    )


def _how_many(count: int, emotions: int) -> int:
    return max(1, min(count, emotions // 5))


class _Scores:
    """The scores of emotions in groups of texts: totals and `n`, arrays (emotions, groups), from `story_holdout`."""

    def __init__(self, rows: pd.DataFrame) -> None:
        here = rows[rows["kind"] == "group"]
        self.emotions = sorted(here["emotion"].unique())
        self.groups = sorted(here["group"].unique())
        by_measure = {
            name: here[here["measure"] == name]
            .pivot(index="emotion", columns="group", values=["value", "n"])
            .reindex(self.emotions)
            for name in _SCORES
        }
        self.n = by_measure["top1"]["n"].reindex(columns=self.groups).fillna(0).to_numpy(dtype=np.float64)
        self.totals = {
            name: found["value"].reindex(columns=self.groups).fillna(0).to_numpy(dtype=np.float64) * self.n
            for name, found in by_measure.items()
        }

    def means(self, name: str, groups: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Mean (emotions,) over the texts of some of the groups; NaN where there is none."""
        n = self.n[:, groups].sum(axis=1)
        return np.divide(self.totals[name][:, groups].sum(axis=1), n, out=np.full(len(n), np.nan), where=n > 0)

    def mean(self, name: str, emotions: list[str]) -> float:
        """Mean over some `emotions` of their means."""
        return float(self.means(name)[self.rows(emotions)].mean())

    def rows(self, emotions: list[str]) -> np.ndarray:
        """The rows of `emotions`."""
        return np.array([self.emotions.index(emotion) for emotion in emotions], dtype=np.int64)

    def order(self, groups: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Rows of emotions, the weakest first by what some of the groups say."""
        return np.lexsort((-self.means("rank", groups), self.means("top1", groups)))

    def weakest_first(self) -> list[str]:
        return [self.emotions[row] for row in self.order()]

    def draws(self, name: str, rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Means (resamples, rows) of emotions where group g counts `counts` (resamples, groups) times."""
        n = counts @ self.n[rows].T
        return np.divide(counts @ self.totals[name][rows].T, n, out=np.full(n.shape, np.nan), where=n > 0)


def regression_to_the_mean(scores: _Scores, count: int, rng: np.random.Generator) -> dict[str, Any] | None:
    """How much better the weakest would look if they were measured anew, by chance alone; None for one group.

    `halves` says, for top-1 and rank, what the weakest got where they were chosen and on the other half, averaged over
    random halvings, and `rise`, the difference; `reliability` (of the whole) and `expected`, the rise by Kelley's
    formula.
    """
    groups = len(scores.groups)
    if groups < 2:
        return None
    chosen_on, measured_on, agreement = (np.zeros((_HALVINGS, len(_SCORES))) for _ in range(3))
    for halving in range(_HALVINGS):
        order = rng.permutation(groups)
        one, other = order[: groups // 2], order[groups // 2 :]
        known = (scores.n[:, one].sum(axis=1) > 0) & (scores.n[:, other].sum(axis=1) > 0)
        weakest = [row for row in scores.order(one) if known[row]][: _how_many(count, int(known.sum()))]
        for index, name in enumerate(_SCORES):
            first, second = scores.means(name, one), scores.means(name, other)
            chosen_on[halving, index], measured_on[halving, index] = first[weakest].mean(), second[weakest].mean()
            agreement[halving, index] = _correlation(first[known], second[known])
    weakest = scores.order()[: _how_many(count, len(scores.emotions))]
    found: dict[str, Any] = {"halvings": _HALVINGS}
    for index, name in enumerate(_SCORES):
        half = max(0.0, float(agreement[:, index].mean()))
        reliability = 2 * half / (1 + half)
        means = scores.means(name)
        chosen, measured = float(chosen_on[:, index].mean()), float(measured_on[:, index].mean())
        found[name] = {
            "halves": {"chosen_on": chosen, "measured_on": measured, "rise": measured - chosen},
            "reliability": reliability,
            "expected": float((1 - reliability) * (means.mean() - means[weakest].mean())),
        }
    return found


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Pearson correlation; 0 where one does not vary."""
    a, b = first - first.mean(), second - second.mean()
    scale = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / scale) if scale > 0 else 0.0


def before_after(earlier: _Scores, later: _Scores, count: int, bootstrap: int, seed: int) -> dict[str, Any]:
    """The emotions that were weakest in `earlier`, before and after, and all others; with intervals by topic.

    Groups that are the same in both are drawn together, others on their own. `weakest` and `others` hold, by score,
    `before`, `after` and the `difference` with its `ci`; `apart` is how much more the weakest rose than the others;
    `expected` what chance alone lets them rise.
    """
    shared = [emotion for emotion in earlier.weakest_first() if emotion in later.emotions]
    weakest = shared[: _how_many(count, len(shared))]
    others = shared[len(weakest) :]
    rng = generator(seed, "weakest_emotions", "before_after")
    paired = earlier.groups == later.groups
    counts = [rng.multinomial(len(each.groups), np.full(len(each.groups), 1 / len(each.groups)), bootstrap)
              for each in (earlier, later)]  # fmt: skip
    if paired:
        counts[1] = counts[0]
    groups = min(len(earlier.groups), len(later.groups))
    draws = {
        (name, emotion): later.draws(name, later.rows([emotion]), counts[1])[:, 0]
        - earlier.draws(name, earlier.rows([emotion]), counts[0])[:, 0]
        for name in _SCORES
        for emotion in shared
    }

    def compared(name: str, emotions: list[str]) -> dict[str, Any]:
        before, after = earlier.mean(name, emotions), later.mean(name, emotions)
        of = np.nanmean([draws[name, emotion] for emotion in emotions], axis=0)
        ci = topic_interval(of[np.isfinite(of)], groups)
        return {"before": before, "after": after, "difference": after - before, "ci": ci}

    expected = regression_to_the_mean(earlier, count, generator(seed, "weakest_emotions", "earlier halves"))
    found: dict[str, Any] = {
        "n": {"weakest": len(weakest), "others": len(others), "groups_before": len(earlier.groups),
              "groups_after": len(later.groups), "same_groups": paired},
        "emotions": [
            {"emotion": emotion, "n_before": int(earlier.n[earlier.rows([emotion])].sum()),
             "n_after": int(later.n[later.rows([emotion])].sum()),
             **{name: compared(name, [emotion]) for name in _SCORES}}
            for emotion in weakest
        ],
    }  # fmt: skip
    for name in _SCORES:
        found[name] = {"weakest": compared(name, weakest), "others": None, "apart": None,
                       "expected": None if expected is None else expected[name]["expected"]}  # fmt: skip
        if others:
            found[name]["others"] = compared(name, others)
            apart = np.nanmean([draws[name, emotion] for emotion in weakest], axis=0) - np.nanmean(
                [draws[name, emotion] for emotion in others], axis=0
            )
            found[name]["apart"] = {
                "value": found[name]["weakest"]["difference"] - found[name]["others"]["difference"],
                "ci": topic_interval(apart[np.isfinite(apart)], groups),
            }
    return found


def _described(emotion: str, rows: pd.DataFrame, confusions: dict[str, pd.DataFrame]) -> dict[str, Any]:
    scores = {
        name: {"value": row["value"], "ci": [row["low"], row["high"]]}
        for name in ("top1", "top5", "rank")
        for row in [rows.loc[(emotion, name)]]
    }
    taken = confusions[emotion] if emotion in confusions else pd.DataFrame(columns=["taken_for", "value"])
    return {
        "emotion": emotion,
        "n": int(rows.loc[(emotion, "top1"), "n"]),
        **scores,
        "taken_for": [
            {"emotion": other, "count": int(value)}
            for other, value in zip(taken["taken_for"], taken["value"], strict=True)
        ],
    }
