"""What held-out recognition depends on: the number of stories, how much is denoised, and which tokens are read.

The sweeps that SteerLLM makes of its probes, by `affectome.analyses.recognition` at one layer and on the same folds.

- *Stories*: of each emotion so many stories are drawn at random from the other folds, several times; the fold that is
  tested stays whole. A bag of words learns from the same stories. Of a corpus of more than `MOST` stories as many of
  each emotion as make that number are used.
- *Denoising*: principal components of the neutral texts that explain a share of their variance are taken out.
- *Pooling*: the same texts as read in other ways (first token of the mean, framing), compared over the texts that both
  readings have.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from affectome.activations.store import open_layer, rows_of
from affectome.analyses.recognition import (
    MEASURES,
    Labels,
    Rows,
    balanced_draws,
    balanced_means,
    chance,
    held_out,
    neutral_texts,
    per_text,
    topic_interval,
)
from affectome.analyses.splits import held_out_groups, topic_folds
from affectome.analyses.story_holdout import paired_difference
from affectome.analyses.words import occurring, occurring_held_out, texts_of
from affectome.files import write_json, write_table
from affectome.randomness import generator
from affectome.vectors.denoising import NeutralTexts

MOST = 20_000

_OFF = "off"


def recognition_sweeps(
    layer_file: str | Path,
    stories: str | Path,
    reading: str,
    variants: dict[str, str | Path],
    emotions: list[str],
    reference: str,
    denoising: dict[str, Any] | None,
    folds: int,
    draws: int,
    shares: list[float],
    bootstrap: int,
    seed: int,
    table: str | Path,
    output: str | Path,
) -> None:
    """Write the sweeps described above to `output` (JSON) and every single draw to `table` (Parquet).

    `reading` is the name of the reading behind `layer_file`, `variants` are files of the same layer by the names of
    other readings, maybe none. `shares` of the neutral variance are swept besides taking nothing out, which is all
    there is without neutral texts. `output` holds `layer`, `held_out`, `n`, `draws`, `chance` and the lists `stories`
    (with `words`), `denoising` (with `components`, and `difference` from taking nothing out) and `pooling` (with
    `difference` from `reading`). Each entry has its `value`, `n` texts and `n_groups`, and for every measure `value`
    and `ci` of the mean over draws, by topic, and the `spread`, their standard deviation. `table` has a row per
    `factor`, `value`, `method`, `draw` and `measure`.
    """
    with open_layer(layer_file) as file:
        layer = int(file.attrs["layer"])
        texts = _Texts(Labels.read(file, emotions), folds, bootstrap, seed)
        neutral = neutral_texts(file, texts.labels)
        rows = rows_of(file)
        pool = texts.pool()
        occurs = occurring(texts_of(stories, texts.labels.ids[pool]))
        vectors = {"neutral": neutral, "reference": reference, "denoising": denoising}
        by_stories = _by_stories(texts, pool, rows[pool], occurs, vectors, draws)
        by_share = _by_share(texts, rows, neutral, reference, shares)
    by_reading = _by_reading(texts, {reading: layer_file, **variants}, emotions, reference, denoising)
    found = {"stories": by_stories, "denoising": by_share, "pooling": by_reading}
    write_table(table, pd.DataFrame([row for entries in found.values() for entry in entries for row in entry.rows]))
    write_json(
        output,
        {
            "layer": layer,
            "held_out": texts.kind,
            "n": {
                "texts": int(texts.labels.scored.sum()),
                "groups": len(np.unique(texts.groups[texts.labels.scored])),
                "emotions": len(emotions),
                "folds": int(texts.folds.max()) + 1,
                "pool": len(pool),
                "neutral": neutral.count,
            },
            "bootstrap": bootstrap,
            "draws": draws,
            "chance": chance(len(emotions)),
            **{factor: [entry.summary for entry in entries] for factor, entries in found.items()},
        },
    )


def sizes(emotions: np.ndarray, folds: np.ndarray) -> list[int]:
    """Numbers of stories per emotion to learn from: 1, 2, 4, … up to what at least half of the emotions have."""
    left = [np.bincount(emotions[(folds != fold) & (emotions >= 0)]) for fold in np.unique(folds[folds >= 0])]
    most = int(min(np.median(counts[counts > 0]) for counts in left))
    return sorted({most, *(2**power for power in range(most.bit_length()))})


def drawn(emotions: np.ndarray, folds: np.ndarray, fold: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """`emotions` (texts,) of `count` texts of each emotion, drawn from outside `fold`; −1 of all others.

    An emotion that has fewer gives all of them.
    """
    rows = rng.permutation(np.flatnonzero((folds != fold) & (emotions >= 0)))
    of = pd.Series(emotions[rows])
    taken = rows[of.groupby(of).cumcount().to_numpy() < count]
    learned = np.full(len(emotions), -1)
    learned[taken] = emotions[taken]
    return learned


@dataclass(frozen=True)
class _Entry:
    """What came of one value of a factor: its `summary` for JSON and its `rows`, one for every draw and measure."""

    summary: dict[str, Any]
    rows: list[dict[str, Any]]


class _Texts:
    """The texts of the layer, their folds, and how what came of them is summed up."""

    def __init__(self, labels: Labels, folds: int, bootstrap: int, seed: int) -> None:
        self.labels, self.bootstrap, self.seed = labels, bootstrap, seed
        scored = labels.scored
        here, self.kind = held_out_groups(labels.topics[scored])
        self.groups, self.folds = np.full(len(scored), -1), np.full(len(scored), -1)
        self.groups[scored] = here
        self.folds[scored] = topic_folds(here, folds, generator(seed, "recognition_sweeps", "folds"))

    def pool(self) -> np.ndarray:
        """Rows, ascending, of all stories, or as many of each emotion as make at most `MOST`."""
        rng = generator(self.seed, "recognition_sweeps", "pool")
        rows = rng.permutation(np.flatnonzero(self.labels.scored))
        if len(rows) > MOST:
            of = pd.Series(self.labels.emotions[rows])
            rows = rows[of.groupby(of).cumcount().to_numpy() < max(2, MOST // of.nunique())]
        return np.sort(rows)

    def summarised(self, ranks: np.ndarray, rows: np.ndarray | slice = slice(None)) -> dict[str, dict[str, Any]]:
        """By measure `value`, `ci` and `spread` of `ranks` (draws, texts) of the texts `rows`."""
        emotions, groups = self.labels.emotions[rows], self.groups[rows]
        tested = np.isfinite(ranks).all(axis=0)
        values = np.array([per_text(each) for each in ranks[:, tested]])
        of_draws = np.array([balanced_means(each, emotions[tested]) for each in values])
        rng = generator(self.seed, "recognition_sweeps", "bootstrap")
        of_topics = balanced_draws(values.mean(axis=0), emotions[tested], groups[tested], self.bootstrap, rng)
        count = len(np.unique(groups[tested]))
        return {
            name: {
                "value": float(of_draws[:, index].mean()),
                "ci": topic_interval(of_topics[:, index], count),
                "spread": float(of_draws[:, index].std(ddof=1)) if len(ranks) > 1 else float("nan"),
            }
            for index, name in enumerate(MEASURES)
        }

    def rows(
        self, factor: str, value: str, method: str, ranks: np.ndarray, rows: np.ndarray | slice = slice(None)
    ) -> list[dict[str, Any]]:
        """One row for every draw of `ranks` (draws, texts) and measure."""
        emotions, groups = self.labels.emotions[rows], self.groups[rows]
        found = []
        for draw, each in enumerate(ranks):
            tested = np.isfinite(each)
            means = balanced_means(per_text(each[tested]), emotions[tested])
            sizes = {"n": int(tested.sum()), "n_groups": len(np.unique(groups[tested]))}
            of = {"factor": factor, "value": value, "method": method, "draw": draw}
            found += [of | {"measure": name, "score": means[index], **sizes} for index, name in enumerate(MEASURES)]
        return found

    def difference(self, first: np.ndarray, second: np.ndarray) -> dict[str, dict[str, Any]]:
        """How much `first` is above `second`, both ranks (texts,), over the texts that have both."""
        both = np.isfinite(first) & np.isfinite(second)
        rng = generator(self.seed, "recognition_sweeps", "difference")
        given = (self.labels.emotions[both], self.groups[both], self.bootstrap, rng)
        return {"n": int(both.sum()), **paired_difference(first[both], second[both], *given)}


def _entry(
    texts: _Texts, factor: str, value: Any, ranks: np.ndarray, rows: np.ndarray | slice = slice(None), **more: Any
) -> _Entry:
    tested = np.isfinite(ranks).all(axis=0)
    sizes = {"n": int(tested.sum()), "n_groups": len(np.unique(texts.groups[rows][tested]))}
    summary = {"value": value, **sizes, **texts.summarised(ranks, rows), **more}
    return _Entry(summary, texts.rows(factor, str(value), "vectors", ranks, rows))


def _by_stories(
    texts: _Texts,
    pool: np.ndarray,
    activations: np.ndarray,
    occurs: sparse.csr_array,
    vectors: dict[str, Any],
    draws: int,
) -> list[_Entry]:
    """Recognition of the stories `pool` by vectors, and words, of so many stories per emotion."""
    labels, folds = texts.labels.emotions[pool], texts.folds[pool]
    entries = []
    for count in sizes(labels, folds):
        ranks = {name: np.full((draws, len(pool)), np.nan) for name in ("vectors", "words")}
        for draw in range(draws):
            rng = generator(texts.seed, "recognition_sweeps", "stories", count, draw)
            for fold in range(folds.max() + 1):
                # Only the stories that are drawn or tested are looked at.
                learned = drawn(labels, folds, fold, count, rng)
                here = np.flatnonzero((learned >= 0) | (folds == fold))
                given = (labels[here], np.where(folds[here] == fold, 0, -1))
                by_vectors = held_out(activations[here], *given, **vectors, learned=learned[here])
                by_words = occurring_held_out(occurs[here], *given, learned[here])
                inside = folds[here] == fold
                for name, found in (("vectors", by_vectors), ("words", by_words)):
                    ranks[name][draw, here[inside]] = found.ranks[inside]
        entry = _entry(texts, "stories", count, ranks["vectors"], pool, words=texts.summarised(ranks["words"], pool))
        entries.append(
            _Entry(entry.summary, entry.rows + texts.rows("stories", str(count), "words", ranks["words"], pool))
        )
    return entries


def _by_share(texts: _Texts, rows: Rows, neutral: NeutralTexts, reference: str, shares: list[float]) -> list[_Entry]:
    """Recognition by vectors of which a share of the neutral variance was taken out."""
    entries = []
    plain = None
    for share in (None, *sorted(shares)):
        if share is not None and neutral.count < 2:
            break
        denoising = None if share is None else {"variance": share}
        ranks = held_out(rows, texts.labels.emotions, texts.folds, neutral, reference, denoising).ranks
        plain = ranks if plain is None else plain
        more = {
            "components": 0 if denoising is None else len(neutral.basis(**denoising)),
            "difference": None if denoising is None else texts.difference(ranks, plain),
        }
        entries.append(_entry(texts, "denoising", _OFF if share is None else share, ranks[None], **more))
    return entries


def _by_reading(
    texts: _Texts,
    files: dict[str, str | Path],
    emotions: list[str],
    reference: str,
    denoising: dict[str, Any] | None,
) -> list[_Entry]:
    """Recognition from the layer files of readings, the first of which is the run's own, all on its folds."""
    row_of = {text: row for row, text in enumerate(texts.labels.ids)}
    entries = []
    own = None
    for name, path in files.items():
        with open_layer(path) as file:
            labels = Labels.read(file, emotions)
            # A text that the run's own reading has not is neither learned from nor tested.
            rows = np.array([row_of.get(text, -1) for text in labels.ids], dtype=np.int64)
            known = (rows >= 0) & labels.scored
            folds = np.where(known, texts.folds[rows], -1)
            neutral = neutral_texts(file, labels)
            found = held_out(rows_of(file), np.where(known, labels.emotions, -1), folds, neutral, reference, denoising)
        ranks = np.full(len(texts.labels.ids), np.nan)
        ranks[rows[known]] = found.ranks[known]
        difference = None if own is None else texts.difference(ranks, own)
        own = ranks if own is None else own
        entries.append(_entry(texts, "pooling", name, ranks[None], difference=difference))
    return entries
