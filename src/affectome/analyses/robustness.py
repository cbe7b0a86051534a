"""How much the vectors and the headline numbers of a run depend on choices and on chance, at its headline layer.

- `split_half`: how well vectors from one half of the topics agree with those from the other half, mean over random
  halves (`split_half_reliability`, Spearman-Brown). Stored vector files have the same for halves of every second text,
  which share all topics.
- `jackknife`: vectors without one topic, compared with those of all, and what leaving topics out says of the
  uncertainty of the headline numbers (Tukey's jackknife: Efron & Tibshirani 1993, chapter 11).
- `denoising`: vectors from which the neutral components were not taken out.
- `pooling`: another reading of the same texts by the same model.
- `model`: the same reading by another entry of the same weights, say quantised.

A variant is compared over the texts that both it and the run have. Each has its own neutral texts and goes through the
run's own contrast and denoising. *Headline numbers* are the held-out correlations with the first norm's valence and
arousal (`ridge_leave_one_out`) and the top-1 of held-out recognition (`affectome.analyses.recognition`); what a variant
changes in them is a difference of pairs, with an interval over words or over topics.

Where there are more than 20 topics they are dealt into 20 blocks, which are then left out, or fall into a half, as a
whole; without topics, texts are.
"""

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.stats

from affectome.activations.store import each_block, open_layer, read_columns, rows_of
from affectome.analyses.norm_correlations import MIN_WORDS
from affectome.analyses.norms import read_norm, shared
from affectome.analyses.probes import gather
from affectome.analyses.recognition import Labels, balanced, balanced_draws, held_out, neutral_of, topic_interval
from affectome.analyses.sampling import place, spread_sample
from affectome.analyses.splits import held_out_groups, topic_folds
from affectome.analyses.statistics import (
    bootstrap_correlations,
    interval,
    paired_correlations,
    ridge_leave_one_out,
)
from affectome.errors import UserError
from affectome.files import write_json, write_table
from affectome.randomness import generator
from affectome.vectors.contrasts import Sums, contrast, group_sums, split_half_reliability, unit
from affectome.vectors.denoising import NeutralTexts, project_out

BLOCKS = 20

# Texts on which held-out recognition is tried, in all: it is done anew without every block.
_RECOGNISED = 6144

_DIMENSIONS = ("valence", "arousal")


@dataclass(frozen=True)
class Sample:
    """Texts that are looked at: arrays of one length (texts,).

    `blocks` are numbers of `names`, `groups` of topics, or of texts where there are none. `folds` are those of held-out
    recognition, −1 for a text that it leaves out.
    """

    ids: np.ndarray
    emotions: np.ndarray
    groups: np.ndarray
    blocks: np.ndarray
    folds: np.ndarray
    names: tuple[str, ...]
    held_out: str

    def only(self, which: np.ndarray) -> "Sample":
        """Those texts of which `which` (texts,) is true."""
        arrays = (self.ids, self.emotions, self.groups, self.blocks, self.folds)
        return Sample(*(array[which] for array in arrays), self.names, self.held_out)


@dataclass(frozen=True)
class Measured:
    """What a layer file says of a `Sample`, by the run's contrast with one denoising, whose directions are taken out.

    `sums` (emotions, blocks, width) and `counts` (emotions, blocks) are of all texts, `centre` (width,) is the mean of
    the neutral ones, and `activations` (texts, width) are those of the texts that have a fold.
    """

    sums: np.ndarray
    counts: np.ndarray
    centre: np.ndarray
    activations: np.ndarray
    reference: str

    def vectors(self, blocks: np.ndarray | None = None, emotions: np.ndarray | None = None) -> np.ndarray:
        """Emotion vectors (emotions, width) of all texts, or those of some `blocks` (blocks,) and `emotions` only.

        Both say so by true and false; NaN stands for an emotion without text and for one that is not wanted.
        """
        chosen = np.ones(self.counts.shape[1]) if blocks is None else blocks.astype(np.float64)
        counts = self.counts @ chosen
        wanted = counts > 0 if emotions is None else emotions & (counts > 0)
        found = np.full((len(counts), self.sums.shape[2]), np.nan)
        means = (chosen @ self.sums)[wanted] / counts[wanted, None]
        found[wanted] = contrast(means, self.reference, self.centre)
        return found


@dataclass(frozen=True)
class Study:
    """What all comparisons share: `ratings` (words, dimensions) are of the emotions at `positions` (words,)."""

    emotions: list[str]
    positions: np.ndarray
    ratings: pd.DataFrame
    bootstrap: int
    seed: int


@dataclass(frozen=True)
class Headline:
    """Headline numbers and what they rest on: `predicted` (words, dimensions) and `right` (texts with a fold,).

    NaN where a word has no vector, too few words are rated, or a text was not tested.
    """

    r: np.ndarray
    top1: float
    predicted: np.ndarray
    right: np.ndarray


def robustness(
    layer_file: str | Path,
    emotions: list[str],
    reference: str,
    denoising: dict[str, Any] | None,
    norm: dict[str, Any],
    norm_name: str,
    readings: dict[str, str | Path],
    models: dict[str, str | Path],
    folds: int,
    splits: int,
    bootstrap: int,
    seed: int,
    table: str | Path,
    output: str | Path,
) -> None:
    """Write, per kind, variant and emotion, cosines and reliabilities to `table`, and the rest to `output`.

    `readings` and `models` are layer files of the same layer by the names of other readings and of other models. Raises
    UserError where one is of another width or layer, or has no text in common with the run.
    """
    with open_layer(layer_file) as file:
        labels, layer = Labels.read(file, emotions), int(file.attrs["layer"])
    sample = sampled(labels, len(emotions), folds, seed)
    positions, rated = shared(read_norm(norm["file"], norm), tuple(emotions))
    ratings = rated[[name for name in _DIMENSIONS if name in rated]]
    base = measured(layer_file, sample, len(emotions), reference, denoising)
    study = Study(emotions, positions, ratings, bootstrap, seed)
    told = headline(base, sample, study)
    rows, halves_found = split_half(base, emotions, splits, seed)
    left, jackknifed = jackknife(base, told, sample, study)
    rows += left
    compared: dict[str, dict[str, Any]] = {"denoising": {}, "pooling": {}, "model": {}}
    if denoising is not None:
        raw = measured(layer_file, sample, len(emotions), reference, None)
        found, compared["denoising"]["raw"] = compare(base, told, raw, sample, study, "denoising", "raw")
        rows += found
    for kind, files in (("pooling", readings), ("model", models)):
        for name, path in files.items():
            both = np.isin(sample.ids, _ids(path, sample, layer))
            less, of_run = sample, (base, told)
            if not both.all():
                less = sample.only(both)
                again = measured(layer_file, less, len(emotions), reference, denoising)
                of_run = (again, headline(again, less, study))
            other = measured(path, less, len(emotions), reference, denoising)
            if other.sums.shape != base.sums.shape:
                raise UserError(f"{path}: its activations have another width than the run's; compare the same weights")
            found, compared[kind][name] = compare(*of_run, other, less, study, kind, name)
            compared[kind][name]["n_dropped"] = int((~both).sum())
            rows += found
    columns = ["kind", "variant", "emotion", "cosine", "reliability", "low", "high", "n"]
    write_table(table, pd.DataFrame(rows).reindex(columns=columns))
    write_json(
        output,
        {
            "layer": layer,
            "reference": reference,
            "denoising": denoising,
            "norm": norm_name,
            "n_emotions": len(emotions),
            "n_texts": len(sample.ids),
            "n_recognised": int((sample.folds >= 0).sum()),
            "n_words": len(positions),
            "n_blocks": len(sample.names),
            "n_groups": len(np.unique(sample.groups)),
            "held_out": sample.held_out,
            "bootstrap": bootstrap,
            "chance": {"top1": 1 / len(emotions), "identified": 1 / len(emotions), "r": 0.0},
            "headline": stated(told, sample, study),
            "split_half": halves_found,
            "jackknife": jackknifed,
            "variants": compared,
        },
    )


# ---------------------------------------------------------------- reading


def variants_by_name(files: Iterable[str | Path], layer: int, part: str) -> dict[str, str | Path]:
    """Those of `files`, `…/{model}/{corpus}/{reading}/layer_{L}.h5`, that are of `layer`, by `part` of their paths.

    `part` is `reading` or `model`.
    """
    folder = {"reading": 0, "model": 2}[part]
    return {Path(file).parents[folder].name: file for file in files if Path(file).stem == f"layer_{layer}"}


def sampled(labels: Labels, count: int, folds: int, seed: int) -> Sample:
    """The scored rows of `labels`, of `count` emotions, each id once, with their blocks and their folds."""
    rows = np.flatnonzero(labels.scored)
    rows = rows[np.unique(labels.ids[rows].astype(str), return_index=True)[1]]
    ids, emotions, topics = labels.ids[rows].astype(str), labels.emotions[rows], labels.topics[rows]
    groups, held_out = held_out_groups(topics)
    rng = generator(seed, "robustness", "blocks")
    if held_out == "topics" and groups.max() < BLOCKS:
        blocks, names = groups, tuple(np.unique(topics))
    else:
        # Texts without topics are dealt emotion by emotion, so that every block has as many of each.
        order = rng.permutation(len(ids))
        blocks = np.empty(len(ids), dtype=np.int64)
        blocks[order] = place(emotions[order]) % BLOCKS
        if held_out == "topics":
            blocks = topic_folds(topics, BLOCKS, rng)
        names = tuple(f"block {number + 1} of {blocks.max() + 1}" for number in range(blocks.max() + 1))
    most = max(2, _RECOGNISED // count)
    used = spread_sample(emotions, groups, ids, most, generator(seed, "robustness", "sample"))
    numbers = np.full(len(ids), -1)
    numbers[used] = topic_folds(groups[used], folds, generator(seed, "robustness", "folds"))
    return Sample(ids, emotions, groups, blocks, numbers, names, held_out)


def measured(
    path: str | Path, sample: Sample, count: int, reference: str, denoising: dict[str, Any] | None
) -> Measured:
    """What the layer file at `path` says of `sample`, of `count` emotions; one pass, a few rows at a time."""
    with open_layer(path) as file:
        activations = rows_of(file)
        ids, is_neutral = read_columns(file, "id", "neutral")
        row = _first_rows(ids, sample.ids)
        blocks, width = len(sample.names), activations.shape[1]
        labels = np.full(len(ids), -1)
        labels[row] = sample.emotions * blocks + sample.blocks
        sums, neutral = Sums.zeros(count * blocks, width), NeutralTexts(width)

        def part(rows: slice, values: np.ndarray) -> tuple[list, np.ndarray]:
            return group_sums(values, labels[rows]), values[is_neutral[rows]]

        for found, others in each_block(activations, part):
            sums.add(found)
            neutral.add(others)
        tested = row[sample.folds >= 0]
        order = np.argsort(tested)
        recognised = np.empty((len(tested), width))
        recognised[order] = gather(activations, tested[order])
    if not neutral.count and (denoising is not None or reference == "neutral"):
        raise UserError(f"{path}: has no neutral text, which denoising or the reference needs; choose another reading")
    basis = neutral.basis(**denoising) if denoising is not None else np.zeros((0, width))
    centre = neutral.mean if neutral.count else np.zeros(width)
    return Measured(
        project_out(sums.totals, basis).reshape(count, blocks, width),
        sums.counts.reshape(count, blocks),
        project_out(centre, basis),
        project_out(recognised, basis),
        reference,
    )


def _ids(path: str | Path, sample: Sample, layer: int) -> np.ndarray:
    """The ids in a variant's file; raises UserError where none is in `sample`, or it is of another layer."""
    with open_layer(path) as file:
        (ids,) = read_columns(file, "id")
        if int(file.attrs["layer"]) != layer:
            raise UserError(f"{path}: is layer {file.attrs['layer']}, and the run's headline layer is {layer}")
    ids = ids.astype(str)
    if not np.isin(sample.ids, ids).any():
        raise UserError(f"{path}: has no text in common with the run; compare readings and models of the same corpus")
    return ids


def _first_rows(ids: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The first row of `ids` (rows,) that has each of `wanted` (n,)."""
    first = pd.Series(np.arange(len(ids)), index=ids.astype(str))
    return first[~first.index.duplicated()].loc[wanted].to_numpy()


# ---------------------------------------------------------------- headline numbers


def headline(measured: Measured, sample: Sample, study: Study, left_out: int = -1) -> Headline:
    """Headline numbers of all texts, or of those outside the block `left_out`."""
    blocks = np.arange(len(sample.names)) != left_out
    positions, ratings = study.positions, study.ratings
    vectors = measured.vectors(blocks)[positions]
    rated = ratings.to_numpy()
    predicted = np.full(rated.shape, np.nan)
    known = np.isfinite(vectors).all(axis=1)
    r = np.full(rated.shape[1], np.nan)
    if known.sum() >= MIN_WORDS:
        predicted[known] = ridge_leave_one_out(vectors[known], rated[known])
        r = paired_correlations(predicted[known], rated[known])
    tested = sample.only(sample.folds >= 0)
    labels = np.where(blocks[tested.blocks], tested.emotions, -1)
    # The neutral components are out of the activations already, which changes no score.
    found = held_out(measured.activations, labels, tested.folds, neutral_of(measured.centre[None]), measured.reference)
    right = np.where(found.tested, found.ranks <= 1, np.nan)
    return Headline(r, _balanced_mean(right, tested.emotions), predicted, right)


def _balanced_mean(right: np.ndarray, emotions: np.ndarray) -> float:
    known = np.isfinite(right)
    return float(balanced(emotions[known]) @ right[known]) if known.any() else float("nan")


def stated(told: Headline, sample: Sample, study: Study) -> dict[str, Any]:
    """The headline numbers by name: `n`, of words or of texts, and, where that is enough, `value` and `ci`."""
    return {
        name: {key: found[key] for key in ("n", "value", "ci") if key in found}
        for name, found in paired(told, told, sample, study, "headline").items()
    }


def paired(base: Headline, other: Headline, sample: Sample, study: Study, *item: str) -> dict[str, Any]:
    """Each headline number of two readings of the same texts: `n`, `base`, `value` (the other's), and their difference.

    `ci` is of `value` and `difference_ci` of `difference`. Correlations resample words with their two predictions,
    which leaves out what other words would have changed and gives intervals that are too narrow (see
    `affectome.analyses.norm_correlations`): of 100 simulated pairs that differed by noise alone 89 % covered 0, and
    60 % where the ratings were chance and neither predicted them, so that no difference is to be read there. Top-1
    resamples topics with the vectors as they are (86 % of the same simulations).
    """
    found: dict[str, Any] = {}
    for number, dimension in enumerate(study.ratings):
        pair = np.column_stack([base.predicted[:, number], other.predicted[:, number]])
        known = np.isfinite(pair).all(axis=1)
        found[dimension] = {"n": int(known.sum())}
        if known.any():
            y = study.ratings[dimension].to_numpy()[known]
            rng = generator(study.seed, "robustness", *item, dimension)
            draws = bootstrap_correlations(pair[known], y, study.bootstrap, rng)
            values = paired_correlations(pair[known], np.column_stack([y, y]))
            found[dimension] |= _two(values, interval(draws[:, 1]), interval(draws[:, 1] - draws[:, 0]))
    tested = sample.only(sample.folds >= 0)
    right = np.column_stack([base.right, other.right])
    known = np.isfinite(right).all(axis=1)
    found["top1"] = {"n": int(known.sum())}
    if known.any():
        labels, groups = tested.emotions[known], tested.groups[known]
        rng = generator(study.seed, "robustness", *item, "top1")
        draws = balanced_draws(right[known], labels, groups, study.bootstrap, rng)
        count = len(np.unique(groups))
        values = balanced(labels) @ right[known]
        intervals = (topic_interval(draws[:, 1], count), topic_interval(draws[:, 1] - draws[:, 0], count))
        found["top1"] |= _two(values, *intervals)
    return found


def _two(values: np.ndarray, ci: list[float], difference_ci: list[float]) -> dict[str, Any]:
    return {
        "base": float(values[0]),
        "value": float(values[1]),
        "ci": ci,
        "difference": float(values[1] - values[0]),
        "difference_ci": difference_ci,
    }


# ---------------------------------------------------------------- chance


def jackknife_interval(value: float, left_out: np.ndarray) -> tuple[float, list[float]]:
    """Standard error of `value` from what it is without each of n blocks (n,), and its 95 % interval by Student's t."""
    n = len(left_out)
    error = float(np.sqrt((n - 1) / n * np.sum((left_out - left_out.mean()) ** 2)))
    reach = scipy.stats.t.isf(0.025, n - 1) * error
    return error, [float(value - reach), float(value + reach)]


def below_one(value: float, left_out: np.ndarray) -> list[float]:
    """The same interval of a correlation, taken on the scale log(1 − r), so that it stays below 1 (Bonett 2002)."""
    logs = np.log(np.clip(1 - np.append(left_out, value), 1e-12, None))
    low, high = jackknife_interval(logs[-1], logs[:-1])[1]
    return [float(1 - np.exp(high)), float(1 - np.exp(low))]


def halves(blocks: int, most: int, rng: np.random.Generator) -> np.ndarray:
    """Which of `blocks` are in the first half, in every way there is or, of more than `most`, in so many random ways.

    (ways, blocks), true and false. Of an odd number the first half has the smaller part.
    """
    half = blocks // 2
    if math.comb(blocks, half) <= 2 * most:
        ways = list(itertools.combinations(range(blocks), half))
        # Of an even number, a way and its complement are one.
        ways = ways[: len(ways) // 2] if blocks % 2 == 0 else ways
    else:
        ways = [rng.choice(blocks, half, replace=False) for _ in range(most)]
    found = np.zeros((len(ways), blocks), dtype=bool)
    for way, chosen in zip(found, ways, strict=True):
        way[list(chosen)] = True
    return found


def reliability(measured: Measured, present: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    """Split-half reliability (emotions,) of vectors of the blocks `present` (blocks,), mean over `halves`."""
    where = np.flatnonzero(present)
    found = []
    for way in halves(len(where), most, rng):
        first, second = np.zeros((2, len(present)), dtype=bool)
        first[where[way]] = second[where[~way]] = True
        both = (measured.counts @ first > 0) & (measured.counts @ second > 0)
        of_way = np.full(len(both), np.nan)
        if both.any():
            pair = (measured.vectors(half, both)[both] for half in (first, second))
            of_way[both] = split_half_reliability(*pair)
        found.append(of_way)
    known = np.isfinite(found)
    counts = known.sum(axis=0)
    return np.divide(np.where(known, found, 0).sum(axis=0), counts, out=np.full(len(counts), np.nan), where=counts > 0)


def split_half(measured: Measured, emotions: list[str], splits: int, seed: int) -> tuple[list[dict], dict[str, Any]]:
    """Rows of reliabilities with intervals by jackknife over blocks, and their mean; nothing for a single block.

    There are no intervals for two blocks.
    """
    n = measured.counts.shape[1]
    if n < 2:
        return [], {}
    every = np.ones(n, dtype=bool)
    found = reliability(measured, every, splits, generator(seed, "robustness", "halves"))
    left = np.array(
        [
            reliability(measured, np.arange(n) != block, BLOCKS, generator(seed, "robustness", "halves", block))
            for block in range(n if n > 2 else 0)
        ]
    )
    counts = measured.counts.sum(axis=1)
    rows = []
    for number, emotion in enumerate(emotions):
        low, high = _jackknifed(found[number], left[:, number]) if n > 2 else (np.nan, np.nan)
        rows.append(
            {"kind": "split_half", "variant": "halves", "emotion": emotion, "reliability": found[number]}
            | {"low": low, "high": high, "n": int(counts[number])}
        )
    mean = _mean(found)
    ci = _jackknifed(mean, np.array([_mean(of_block) for of_block in left])) if n > 2 else [np.nan, np.nan]
    ways = len(halves(n, splits, generator(seed, "robustness", "halves")))
    return rows, {"mean": mean, "ci": ci, "n": int(np.isfinite(found).sum()), "halves": ways} | _lowest(found, emotions)


def _jackknifed(value: float, left_out: np.ndarray) -> list[float]:
    """`below_one` of the blocks without which there is a value."""
    known = left_out[np.isfinite(left_out)]
    return below_one(value, known) if len(known) > 1 and np.isfinite(value) else [np.nan, np.nan]


def _mean(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def _lowest(values: np.ndarray, emotions: list[str]) -> dict[str, Any]:
    """The lowest of `values` (emotions,) and whose it is."""
    if not np.isfinite(values).any():
        return {"min": np.nan, "weakest": None}
    index = int(np.nanargmin(values))
    return {"min": float(values[index]), "weakest": emotions[index]}


def jackknife(base: Measured, told: Headline, sample: Sample, study: Study) -> tuple[list[dict], dict[str, Any]]:
    """Rows of cosines between the vectors without each block and all, and what they say; nothing for two blocks."""
    n = len(sample.names)
    if n < 3:
        return [], {}
    every, counts = base.vectors(), base.counts
    rows, cosines, others = [], [], []
    for block, name in enumerate(sample.names):
        left = np.arange(n) != block
        cosines.append(_cosines(base.vectors(left), every))
        others.append(headline(base, sample, study, block))
        rows += [
            {"kind": "jackknife", "variant": name, "emotion": emotion, "cosine": cosine, "n": int(count)}
            for emotion, cosine, count in zip(study.emotions, cosines[-1], counts @ left, strict=True)
        ]
    means = np.array([_mean(of_block) for of_block in cosines])
    most = int(np.argmin(means))
    numbers = dict(zip(study.ratings, np.array([other.r for other in others]).T, strict=True))
    numbers["top1"] = np.array([other.top1 for other in others])
    whole = dict(zip(study.ratings, told.r, strict=True)) | {"top1": told.top1}
    found: dict[str, Any] = {}
    for name, values in numbers.items():
        if np.isfinite(values).all():
            error, ci = jackknife_interval(whole[name], values)
            spread = {"low": float(values.min()), "high": float(values.max())}
            found[name] = {"value": float(whole[name]), "se": error, "ci": [max(-1.0, ci[0]), min(1.0, ci[1])]} | spread
    lowest = int(np.nanargmin(np.array(cosines).min(axis=1)))
    return rows, {
        "n": n,
        "mean": float(means.mean()),
        "without": {name: float(mean) for name, mean in zip(sample.names, means, strict=True)},
        "most_influential": sample.names[most],
        **_lowest(cosines[lowest], study.emotions),
        "min_without": sample.names[lowest],
        "headline": found,
    }


def _cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine of each row of `a` with that of `b` (n, width); NaN where one is missing or 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return (a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))


# ---------------------------------------------------------------- variants


def compare(
    base: Measured, told: Headline, other: Measured, sample: Sample, study: Study, kind: str, name: str
) -> tuple[list[dict], dict[str, Any]]:
    """Rows of cosines between the vectors of the run and of a variant, and what they say.

    `mean` has an interval by jackknife over blocks. `identified` is the share of emotions whose vector is more like
    their own in the variant than any other's, and `others` the mean cosine with those of other emotions: what a cosine
    would be that says nothing.
    """
    ours, theirs = base.vectors(), other.vectors()
    cosines = _cosines(ours, theirs)
    known = np.isfinite(cosines)
    rows = [
        {"kind": kind, "variant": name, "emotion": emotion, "cosine": cosine, "n": int(count)}
        for emotion, cosine, count in zip(study.emotions, cosines, other.counts.sum(axis=1), strict=True)
    ]
    matrix = unit(ours[known]) @ unit(theirs[known]).T
    off = matrix[~np.eye(len(matrix), dtype=bool)]
    n = len(sample.names)
    left = [
        _mean(_cosines(*(each.vectors(np.arange(n) != block) for each in (base, other))))
        for block in range(n if n > 2 else 0)
    ]
    return rows, {
        "n": int(known.sum()),
        "n_texts": len(sample.ids),
        "mean": _mean(cosines),
        "ci": _jackknifed(_mean(cosines), np.array(left)),
        **_lowest(cosines, study.emotions),
        "identified": float((matrix.argmax(axis=1) == np.arange(len(matrix))).mean()) if len(matrix) else np.nan,
        "others": _mean(off),
        "headline": paired(told, headline(other, sample, study), sample, study, kind, name),
    }
