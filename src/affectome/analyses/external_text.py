"""Which emotions stand out in texts from elsewhere, and whether corpora agree on them.

The baseline is the run's neutral texts, read in the same way: an emotion's `mean` is the mean projection of the
passages on its unit vector minus that of the neutral texts, in units of the mean residual norm of the layer.

- Its interval resamples passages and neutral texts (bootstrap), and so does that of its rank. `p` exchanges passages
  and neutral texts (permutations, two-sided), `q` corrects it for the number of emotions (Benjamini-Hochberg). As p is
  at least 1 / (1 + permutations), a few among many emotions cannot reach a small q with few permutations.
- Corpora differ from neutral texts in more than emotion, and any direction shows some of it. `mixtures` is the range of
  95 % of random mixtures of the emotion vectors, which mean nothing in particular: an emotion inside it stands out
  no more than they do.
- `highest` is the share of passages in which the emotion's projection is the highest of all, after the baseline was
  removed and each emotion divided by its standard deviation over the passages; chance is 1 / emotions.
- `tail` is the 95th percentile of the passages' projections, baseline removed, with an interval by order statistics
  (David & Nagaraja 2003, section 7.1).

Agreement of two corpora is Kendall's tau-b of the emotions' means. Comparing both with the same neutral texts makes
those texts' error an agreement by itself: two corpora of 5,000 passages in which there is nothing have a `tau` of about
.8 where 200 neutral texts are the baseline of both. Hence `tau_apart`, with half of the neutral texts for either
corpus, on which the p values rest. `p` permutes the emotions, which takes synonyms for independent and is too small for
it; `p_shift` compares with means as passages drawn with random weights have them, which keeps what emotions have in
common; `q` corrects it for the number of pairs.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import binom

from affectome.analyses.statistics import benjamini_hochberg, interval, p_value, permuted
from affectome.corpus.tables import PROJECTION
from affectome.errors import UserError
from affectome.files import read_json, read_table, write_json, write_table
from affectome.randomness import generator
from affectome.vectors.store import read_vectors

# Fewer texts have no distribution to speak of, and a half of the neutral ones no mean.
MIN_TEXTS = 10

# Characters of a passage that are quoted.
_QUOTED = 600

# Emotions named in the JSON at either end of a ranking.
_NAMED = 10

_TAIL = 0.95
_SIGNIFICANT = 0.05

# Resamples that are computed at once.
_BLOCK = 64


def external_text(
    projections: Sequence[str | Path],
    facts: Sequence[str | Path],
    vectors: str | Path,
    corpora: Sequence[str],
    passages: int,
    bootstrap: int,
    permutations: int,
    seed: int,
    table: str | Path,
    output: str | Path,
) -> None:
    """Write what is described above of `corpora`, the names of `projections` and `facts` in their order.

    Those are what `external_projections` wrote as its table and its JSON. `table` has a row for each corpus and
    emotion; `output` both ends of each ranking, the `passages` highest passages of every emotion, and the agreement of
    every two corpora. Raises UserError where a corpus has fewer than `MIN_TEXTS` passages or neutral texts.
    """
    unit = read_vectors(vectors).unit
    read = {name: Corpus(name, read_table(path)) for name, path in zip(corpora, projections, strict=True)}
    frames, found = [], {}
    for (name, corpus), path in zip(read.items(), facts, strict=True):
        rng = generator(seed, "external_text", name)
        rows = ranking(corpus, bootstrap, permutations, rng)
        frames.append(rows)
        low, high = mixtures(rows["mean"].to_numpy(), unit, permutations, generator(seed, "mixtures", name))
        ranked = rows.sort_values("rank")
        found[name] = {
            "n": len(corpus.passages),
            "n_neutral": len(corpus.neutral),
            "tokens": int(corpus.tokens),
            "read": read_json(path),
            "chance": {"mixtures": [low, high], "highest": 1 / len(corpus.emotions)},
            "outside_mixtures": int((~rows["mean"].between(low, high)).sum()),
            "significant": int((rows["q"] < _SIGNIFICANT).sum()),
            "top": _named(ranked.head(_NAMED)),
            "bottom": _named(ranked[::-1].head(_NAMED)),
            "passages": highest_passages(corpus, passages),
        }
    first = next(iter(found.values()))["read"]
    write_table(table, pd.concat(frames, ignore_index=True))
    write_json(
        output,
        {
            "layer": first["layer"],
            "n_emotions": len(unit),
            "unit": "mean residual norm of the run's stories at this layer",
            "residual_norm": first["residual_norm"],
            "baseline": "mean projection of the run's neutral texts, read as the passages are",
            "standardised": "for `highest`, by each emotion's standard deviation over the corpus's passages",
            "bootstrap": bootstrap,
            "permutations": permutations,
            "corpora": found,
            "agreement": agreements(list(read.values()), bootstrap, permutations, seed),
        },
    )


class Corpus:
    """A corpus read from its table: projections of `passages` and `neutral` texts (texts, emotions), float64."""

    def __init__(self, name: str, table: pd.DataFrame) -> None:
        columns = [column for column in table.columns if column.startswith(PROJECTION)]
        values = table[columns].to_numpy(dtype=np.float64)
        is_neutral = table["neutral"].to_numpy(dtype=bool)
        self.name = name
        self.emotions = [column.removeprefix(PROJECTION) for column in columns]
        self.passages, self.neutral = values[~is_neutral], values[is_neutral]
        self.ids, self.texts = (table[column].to_numpy(dtype=object)[~is_neutral] for column in ("id", "text"))
        self.tokens = table["n_tokens"].to_numpy()[~is_neutral].sum()
        for what, n in ((f"texts.{name}", len(self.passages)), ("the neutral corpus", len(self.neutral))):
            if n < MIN_TEXTS:
                raise UserError(f"{what}: {n} texts are too few to compare; it takes {MIN_TEXTS}")

    @property
    def halves(self) -> tuple[np.ndarray, np.ndarray]:
        """Two halves of the neutral texts, which were drawn in random order."""
        return self.neutral[::2], self.neutral[1::2]


def ranking(corpus: Corpus, bootstrap: int, permutations: int, rng: np.random.Generator) -> pd.DataFrame:
    """A row per emotion; see the module for what the columns mean."""
    passages, neutral = corpus.passages, corpus.neutral
    baseline = neutral.mean(axis=0)
    above = passages - baseline
    means = above.mean(axis=0)
    highest = _highest(above)
    draws = resampled_means(np.hstack([passages, highest]), bootstrap, rng)
    mean_draws = draws[:, : len(means)] - resampled_means(neutral, bootstrap, rng)
    null = np.abs(exchanged(passages, neutral, permutations, rng))
    p = [p_value(abs(mean), null[:, number]) for number, mean in enumerate(means)]
    low, high = interval_of_columns(mean_draws)
    rank_low, rank_high = interval_of_columns(_ranks(mean_draws))
    highest_low, highest_high = interval_of_columns(draws[:, len(means) :])
    tail, tail_low, tail_high = upper_tail(above)
    columns = {
        "mean": means, "low": low, "high": high, "rank": _ranks(means[None])[0], "rank_low": rank_low,
        "rank_high": rank_high, "p": p, "q": benjamini_hochberg(np.array(p)), "highest": highest.mean(axis=0),
        "highest_low": highest_low, "highest_high": highest_high, "tail": tail, "tail_low": tail_low,
        "tail_high": tail_high,
    }  # fmt: skip
    fixed = {"corpus": corpus.name, "emotion": corpus.emotions, "n": len(passages), "n_neutral": len(neutral)}
    return pd.DataFrame(fixed | columns)


def _highest(above: np.ndarray) -> np.ndarray:
    """1 for the emotion that is highest in each passage in standard deviations, else 0 (passages, emotions)."""
    spread = above.std(axis=0, ddof=1)
    standardised = np.divide(above, spread, out=np.zeros_like(above), where=spread > 0)
    return np.eye(above.shape[1])[standardised.argmax(axis=1)]


def _ranks(means: np.ndarray) -> np.ndarray:
    """Ranks along the last axis, 1 the largest; equal ones in the order in which they stand."""
    return 1 + np.argsort(np.argsort(-means, axis=-1, kind="stable"), axis=-1, kind="stable")


def interval_of_columns(draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper ends (k,) of the central 95 % of each column of `draws` (count, k)."""
    low, high = zip(*(interval(column) for column in draws.T), strict=True)
    return np.array(low), np.array(high)


def upper_tail(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The 95th percentile of each column of `values` (n, k), and a 95 % interval whatever the distribution.

    Its ends are the order statistics that a binomial count of values below the percentile leaves out with 2.5 % each;
    where so few values cannot hold it from above, that end is NaN.
    """
    n = len(values)
    ordered = np.sort(values, axis=0)
    low = int(binom.ppf(0.025, n, _TAIL))
    high = int(binom.ppf(0.975, n, _TAIL)) + 1
    missing = np.full(values.shape[1], np.nan)
    return (
        np.quantile(values, _TAIL, axis=0),
        ordered[low - 1] if low >= 1 else missing,
        ordered[high - 1] if high <= n else missing,
    )


def _weights(n: int, count: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """How often each of n rows is drawn in each of `count` resamples, some resamples (rows) at a time."""
    for start in range(0, count, _BLOCK):
        size = min(_BLOCK, count - start)
        drawn = rng.integers(0, n, size=(size, n)) + n * np.arange(size)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n).astype(np.float64)


def resampled_means(values: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Means (count, k) of `values` (n, k) in `count` resamples of its rows."""
    return np.concatenate([weights @ values for weights in _weights(len(values), count, rng)]) / len(values)


def exchanged(first: np.ndarray, second: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Differences (count, k) of the means of two groups as large as `first` and `second` (n, k), drawn from both."""
    pooled = np.concatenate([first, second])
    member = np.arange(len(pooled)) < len(first)
    total = pooled.sum(axis=0)
    differences = []
    for start in range(0, count, _BLOCK):
        drawn = rng.permuted(np.tile(member, (min(_BLOCK, count - start), 1)), axis=1).astype(np.float64)
        sums = drawn @ pooled
        differences.append(sums / len(first) - (total - sums) / len(second))
    return np.concatenate(differences)


def mixtures(means: np.ndarray, unit: np.ndarray, count: int, rng: np.random.Generator) -> list[float]:
    """The range of 95 % of what `count` random mixtures of `unit` (emotions, width) show where these show `means`.

    Mixtures have normal weights and length 1. Projections are linear, so theirs follow from those of the emotions.
    """
    weights = rng.normal(size=(count, len(unit)))
    lengths = np.linalg.norm(weights @ unit.astype(np.float64), axis=1)
    return interval(weights @ means / lengths)


def highest_passages(corpus: Corpus, count: int) -> dict[str, list[dict[str, Any]]]:
    """By emotion, the `count` passages with its highest projections, baseline removed: `id, projection, text`."""
    above = corpus.passages - corpus.neutral.mean(axis=0)
    order = np.argsort(-above, axis=0, kind="stable")[:count]
    return {
        emotion: [
            {"id": corpus.ids[row], "projection": above[row, column], "text": _quoted(corpus.texts[row])}
            for row in order[:, column]
        ]
        for column, emotion in enumerate(corpus.emotions)
    }


def _quoted(text: str) -> str:
    return text if len(text) <= _QUOTED else text[:_QUOTED].rstrip() + " …"


def _named(rows: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        {
            "emotion": row.emotion,
            "mean": row.mean,
            "ci": [row.low, row.high],
            "p": row.p,
            "q": row.q,
            "highest": row.highest,
            "highest_ci": [row.highest_low, row.highest_high],
        }
        for row in rows.itertuples()
    ]


# ------------------------------------------------------------ agreement of corpora


def kendall(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Kendall's tau-b (m,) of each row of `a` (m, k) with the same row of `b`; one of them may have one row for all.

    Kendall (1945), Biometrika 33, 239-251. NaN where a row does not vary.
    """
    first, second = np.triu_indices(a.shape[1], k=1)
    taus = []
    for start in range(0, max(len(a), len(b)), _BLOCK):
        rows = [values[start : start + _BLOCK] if len(values) > 1 else values for values in (a, b)]
        above, below = (np.sign(values[:, first] - values[:, second]) for values in rows)
        scale = np.sqrt((above**2).sum(axis=1) * (below**2).sum(axis=1))
        agreeing = (above * below).sum(axis=1)
        taus.append(np.divide(agreeing, scale, out=np.full(len(agreeing), np.nan), where=scale > 0))
    return np.concatenate(taus)


def agreements(corpora: list[Corpus], bootstrap: int, permutations: int, seed: int) -> list[dict[str, Any]]:
    """Agreement of every two corpora; see the module. Of fewer than three emotions there is none."""
    if len(corpora[0].emotions) < 3:
        return []
    pairs = list(combinations(corpora, 2))
    found = [agreement(a, b, bootstrap, permutations, generator(seed, "agreement", a.name, b.name)) for a, b in pairs]
    for entry, q in zip(found, benjamini_hochberg(np.array([entry["p_shift"] for entry in found])), strict=True):
        entry["q"] = q
    return found


def agreement(a: Corpus, b: Corpus, bootstrap: int, permutations: int, rng: np.random.Generator) -> dict[str, Any]:
    """`tau` with neutral texts in common and `tau_apart` without, intervals over texts, and p values (one-sided)."""
    baseline = a.neutral.mean(axis=0)
    one, other = (
        corpus.passages.mean(axis=0) - half.mean(axis=0) for corpus, half in zip((a, b), a.halves, strict=True)
    )
    tau = kendall(*((corpus.passages.mean(axis=0) - baseline)[None] for corpus in (a, b)))[0]
    apart = kendall(one[None], other[None])[0]
    draws = [resampled_means(corpus.passages, bootstrap, rng) for corpus in (a, b)]
    common = resampled_means(a.neutral, bootstrap, rng)
    halves = [resampled_means(half, bootstrap, rng) for half in a.halves]
    spread = b.passages - b.passages.mean(axis=0)
    shifts = rng.normal(size=(permutations, len(spread))) @ spread
    return {
        "a": a.name,
        "b": b.name,
        "n_emotions": len(a.emotions),
        "n": [len(a.passages), len(b.passages)],
        "n_neutral": len(a.neutral),
        "tau": tau,
        "ci": interval(kendall(*(means - common for means in draws))),
        "tau_apart": apart,
        "ci_apart": interval(kendall(*(means - half for means, half in zip(draws, halves, strict=True)))),
        "p": p_value(apart, kendall(one[None], permuted(other, permutations, rng).T)),
        "p_shift": p_value(apart, kendall(one[None], shifts)),
    }
