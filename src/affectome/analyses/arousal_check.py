"""Whether the vectors follow human arousal beyond what the stories' own words carry of it.

Stories of aroused emotions are written with aroused words, so that vectors made from them follow arousal even if the
model only passes on its input. A lexicon, a norm of many words that the user supplies, gives every story the mean
rating of its words: exact words, as they stand or in lower case; what it does not rate is left out and counted. An
emotion's *word-level* rating is the mean of its stories'.

Per norm and dimension, over the words that it rates:

- `text`: Pearson r of the word-level rating with the human one;
- `ridge` and `pc`: the correlation of human ratings with their held-out prediction from the vectors
  (`ridge_leave_one_out`) and with a component (PC2 for arousal, PC1 for valence): `plain`, and as partial correlations
  without the word-level rating of the `same` dimension or of `both`.

A partial correlation is that of the residuals of two least-squares fits on the covariates (Fisher 1924). Its p is
Freedman and Lane's (1983, J. Bus. Econ. Stat. 1, 292-298): residuals of the human ratings on the covariates are
permuted and added to the fit, and the whole procedure, held-out prediction included, is repeated; one-sided for
`ridge`, two-sided else. Without covariates this is the plain permutation test. q are Benjamini-Hochberg's over all
partial correlations. Intervals resample words with their predictions, so they leave out what other training words would
change (see `norm_correlations`).

Words are a crude measure of what a text says. What is left after they are taken out need not be the model's own, and
what goes with them need not be their doing.
"""

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from affectome.analyses.norm_correlations import MIN_WORDS
from affectome.analyses.norms import read_norm, shared
from affectome.analyses.statistics import (
    benjamini_hochberg,
    bootstrap_correlations,
    correlations,
    interval,
    p_value,
    paired_correlations,
    permuted,
    ridge_leave_one_out,
)
from affectome.errors import UserError
from affectome.files import read_table, write_json, write_table
from affectome.randomness import generator
from affectome.vectors.store import read_vectors

# The component that stands for each dimension, as `geometry` orients them.
COMPONENTS = {"arousal": "PC2", "valence": "PC1"}
COVARIATES = ("plain", "same", "both")

# Two covariates take two more words.
_LEAST = MIN_WORDS + 2

# Letters, joined by apostrophes and hyphens.
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")


# ---------------------------------------------------------------- words


def word_level(texts: Iterable[str], lexicon: pd.DataFrame) -> pd.DataFrame:
    """Per text: `n_words`, `n_rated` of them, and the mean rating of those by each column of `lexicon` (NaN of none).

    `lexicon` has words as its index. A word that occurs twice counts twice.
    """
    columns = list(lexicon.columns)
    ratings = dict(zip(lexicon.index, lexicon.to_numpy(dtype=np.float64), strict=True))
    rows = []
    for text in texts:
        total, rated, words = np.zeros(len(columns)), 0, 0
        for word, count in Counter(_WORD.findall(text)).items():
            words += count
            rating = ratings.get(word)
            if rating is None:
                rating = ratings.get(word.lower())
            if rating is not None:
                rated += count
                total += count * rating
        rows.append([words, rated, *(total / rated if rated else np.full(len(columns), np.nan))])
    return pd.DataFrame(rows, columns=["n_words", "n_rated", *columns]).astype({"n_words": int, "n_rated": int})


def by_emotion(stories: pd.DataFrame, lexicon: pd.DataFrame, emotions: tuple[str, ...]) -> pd.DataFrame:
    """Word-level ratings `text_{dimension}` by emotion: means over its stories that have a rated word.

    `n_stories` counts all stories, `n_unrated` those without a rated word, `n_words` and `n_rated` words, `coverage` is
    their ratio. Emotions are the index, in the order given; one without stories has NaN and zeros.
    """
    levels = word_level(stories["text"], lexicon)
    emotion = stories["emotion"].to_numpy()
    grouped = levels.groupby(emotion)
    table = grouped[list(lexicon.columns)].mean().add_prefix("text_")
    counts = grouped[["n_words", "n_rated"]].sum()
    counts.insert(0, "n_stories", grouped.size())
    counts.insert(1, "n_unrated", (levels["n_rated"] == 0).groupby(emotion).sum())
    counts = counts.reindex(emotions, fill_value=0)
    coverage = (counts["n_rated"] / counts["n_words"]).rename("coverage")
    return pd.concat([counts, coverage, table.reindex(emotions)], axis=1).rename_axis("emotion")


# ---------------------------------------------------------------- partial correlation


def residuals(values: np.ndarray, covariates: np.ndarray) -> np.ndarray:
    """What least squares on `covariates` (…, n, k), which may be none, and a constant leaves of `values` (…, n, b).

    Covariates that follow from one another do no harm. What rounding alone leaves is 0.
    """
    ones = np.ones((*covariates.shape[:-1], 1))
    centred = covariates - covariates.mean(axis=-2, keepdims=True)
    scale = np.linalg.norm(centred, axis=-2, keepdims=True)
    design = np.concatenate([ones, centred / np.where(scale > 0, scale, 1.0)], axis=-1)
    left = values - design @ (np.linalg.pinv(design) @ values)
    size = np.linalg.norm(values - values.mean(axis=-2, keepdims=True), axis=-2, keepdims=True)
    return np.where(np.linalg.norm(left, axis=-2, keepdims=True) > 1e-9 * size, left, 0.0)


def partial_correlations(x: np.ndarray, y: np.ndarray, covariates: np.ndarray) -> np.ndarray:
    """Partial correlations of column i of `x` with column i of `y`, both (n, b), given `covariates` (n, k) → (b,).

    0 where one does not vary beside the covariates.
    """
    return paired_correlations(residuals(x, covariates), residuals(y, covariates))


def bootstrap_partial(
    x: np.ndarray, y: np.ndarray, covariates: np.ndarray, count: int, rng: np.random.Generator
) -> np.ndarray:
    """Partial correlations (count,) of `x` with `y` (n,) given `covariates` (n, k), in resamples of the n words."""
    rows = rng.integers(0, len(y), size=(count, len(y)))
    both = residuals(np.stack([x, y], axis=-1)[rows], covariates[rows])
    sizes = np.linalg.norm(both, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.einsum("bn,bn->b", both[..., 0], both[..., 1]) / (sizes[:, 0] * sizes[:, 1])


def freedman_lane(y: np.ndarray, covariates: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` columns (n, count) of `y` (n,) whose residuals on `covariates` (n, k) are permuted."""
    left = residuals(y[:, None], covariates)
    return (y[:, None] - left) + permuted(left[:, 0], count, rng)


# ---------------------------------------------------------------- the question


def arousal_check(
    vectors: str | Path,
    scores: str | Path,
    stories: str | Path,
    lexicon: dict[str, Any],
    lexicon_name: str,
    norms: dict[str, dict[str, Any]],
    bootstrap: int,
    permutations: int,
    seed: int,
    table: str | Path,
    output: str | Path,
) -> None:
    """Write what is described above for the vector file `vectors`.

    `scores` is geometry.parquet, `stories` the corpus; `lexicon`, of name `lexicon_name`, and `norms` say how norms are
    read (`read_norm`). `table` (Parquet) has a row for each norm and emotion: `layer, norm, emotion`,
    what `by_emotion` gives, the human ratings `valence, arousal`, their held-out predictions `predicted_…`, `PC1, PC2`.
    `output` (JSON) has `n` and by norm `n` and by dimension `text{r, ci, p}`, `ridge` and `pc{plain, same, both: {r,
    ci, p, q}}`, which norms that rate fewer than `least` of the emotions lack. Raises UserError where the lexicon rates
    none of the stories' words.
    """
    found = read_vectors(vectors)
    axes = read_table(scores, filters=[("layer", "==", found.layer)]).set_index("emotion").loc[list(found.emotions)]
    ratings = read_norm(lexicon["file"], lexicon)
    ratings = ratings[[dimension for dimension in COMPONENTS if dimension in ratings]]
    texts = read_table(stories, columns=["emotion", "text"])
    texts = texts[texts["emotion"].isin(found.emotions)].reset_index(drop=True)
    levels = by_emotion(texts, ratings, found.emotions)
    if "arousal" not in ratings:
        raise UserError(f"{lexicon['file']}: has no arousal, which the check is about; name another lexicon")
    if not levels["n_rated"].any():
        raise UserError(
            f"{lexicon['file']}: rates none of the words of {stories}; name a lexicon of the stories' language"
        )
    frames, answers = [], {}
    for name, norm in norms.items():
        positions, rated = shared(read_norm(norm["file"], norm), found.emotions)
        human = rated.reindex(columns=list(COMPONENTS))
        frame = levels.join(human).reset_index()
        known = frame.loc[positions, [f"text_{dimension}" for dimension in ratings]].notna().all(axis=1).to_numpy()
        positions = positions[known]
        answers[name] = {"n": len(positions)}
        for dimension in ratings if len(positions) >= _LEAST else ():
            y = frame.loc[positions, dimension].to_numpy()
            covariates = frame.loc[positions, [f"text_{each}" for each in ratings]].to_numpy()
            own = list(ratings).index(dimension)
            if not np.ptp(y) > 0:
                continue
            component = COMPONENTS[dimension]
            answers[name][dimension], predicted = check(
                found.denoised[positions],
                axes[component].to_numpy()[positions] if component in axes else np.full(len(y), np.nan),
                y,
                {"plain": covariates[:, :0], "same": covariates[:, [own]], "both": covariates},
                bootstrap,
                permutations,
                generator(seed, "arousal_check", found.layer, name, dimension),
            )
            frame.loc[positions, f"predicted_{dimension}"] = predicted
        frames.append(frame.assign(layer=found.layer, norm=name))
    _correct(answers)
    rows = pd.concat(frames, ignore_index=True)
    for component in ("PC1", "PC2"):
        rows[component] = rows["emotion"].map(axes.get(component, {}))
    predictions = [f"predicted_{dimension}" for dimension in COMPONENTS]
    columns = ["layer", "norm", *levels.reset_index().columns, *COMPONENTS, *predictions, "PC1", "PC2"]
    write_table(table, rows.reindex(columns=columns))
    total = levels[["n_stories", "n_unrated", "n_words", "n_rated"]].sum().to_dict()
    n = {"emotions": len(found.emotions), "lexicon": len(ratings), **total}
    made = {"coverage": total["n_rated"] / total["n_words"], "least": _LEAST}
    drawn = {"bootstrap": bootstrap, "permutations": permutations}
    write_json(output, {"layer": found.layer, "lexicon": lexicon_name, "n": n, **made, **drawn, "norms": answers})


def check(
    vectors: np.ndarray,
    component: np.ndarray,
    y: np.ndarray,
    covariates: dict[str, np.ndarray],
    bootstrap: int,
    permutations: int,
    rng: np.random.Generator,
) -> tuple[dict[str, Any], np.ndarray]:
    """Results for the human ratings `y` (n,), and their held-out predictions (n,) from `vectors` (n, width).

    `component` is (n,), NaN where there is none; `covariates` holds arrays (n, k) by name, `same` the word-level rating
    of this dimension.
    """
    null = {name: freedman_lane(y, each, permutations, rng) for name, each in covariates.items()}
    columns = np.hstack([y[:, None], *null.values()])
    # All permutations share the vectors, so they are predicted in one go.
    predictions = ridge_leave_one_out(vectors, columns)
    predicted = predictions[:, 0]
    text = covariates["same"][:, 0]
    r = correlations(text[:, None], y[:, None])[0, 0]
    shuffled = np.abs(correlations(text[:, None], null["plain"]))[0]
    draws = bootstrap_correlations(text[:, None], y, bootstrap, rng)
    found: dict[str, Any] = {"text": {"r": r, "ci": interval(draws), "p": p_value(abs(r), shuffled)}, "ridge": {}}
    for number, (name, given) in enumerate(covariates.items()):
        start = 1 + number * permutations
        drawn = slice(start, start + permutations)
        r = partial_correlations(predicted[:, None], y[:, None], given)[0]
        null_r = partial_correlations(predictions[:, drawn], columns[:, drawn], given)
        draws = bootstrap_partial(predicted, y, given, bootstrap, rng)
        found["ridge"][name] = {"r": r, "ci": interval(draws), "p": p_value(r, null_r)}
    if np.isfinite(component).all():
        found["pc"] = {}
        for name, given in covariates.items():
            repeated = np.repeat(component[:, None], permutations, axis=1)
            r = partial_correlations(component[:, None], y[:, None], given)[0]
            null_r = np.abs(partial_correlations(repeated, null[name], given))
            draws = bootstrap_partial(component, y, given, bootstrap, rng)
            found["pc"][name] = {"r": r, "ci": interval(draws), "p": p_value(abs(r), null_r)}
    return found, predicted


def _correct(answers: dict[str, Any]) -> None:
    """Add q to every partial correlation of all norms."""
    tests = [
        found[predictor][name]
        for norm in answers.values()
        for dimension, found in norm.items()
        if dimension != "n"
        for predictor in ("ridge", "pc")
        if predictor in found
        for name in COVARIATES[1:]
    ]
    for test, q in zip(tests, benjamini_hochberg(np.array([test["p"] for test in tests])), strict=True):
        test["q"] = float(q)
