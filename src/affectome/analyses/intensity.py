"""Does what a model holds in mind follow a number in the prompt, as the dose of a painkiller does its fear?

After Sofroniew et al. (2026, arXiv 2604.07729): a user's message is read with several numbers in the same place, at the
last token before the reply. A *readout* is the projection on an emotion's unit vector, in mean residual norms of the
layer, after the mean over the template's numbers has been subtracted. Per template and emotion:

- `slope`: least-squares slope of the readout on log2 of the number, that is, per doubling; none where a number is not
  positive or all are the same;
- `change`: that slope times the doublings from the smallest number to the largest, so that templates compare: a fever
  is a fifth of a doubling and a prize seventeen;
- `spearman`: rank correlation of the readout with the number.

A *pair* is a template with an emotion that its list expects to rise or to fall. A pair is a hit where its slope has the
expected sign; `change` over pairs is their mean, turned so that the expected direction is positive. Pairs of one
template share its handful of prompts and are no independent trials: the exact binomial test (`p_binomial`, one-sided,
half by chance) takes them for such and is too sure. `p` permutes the numbers within each template instead, for all its
pairs at once, and intervals resample templates. q values are by Benjamini and Hochberg: over layers, over templates
and, for single pairs (p one-sided too), over pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.stats

from affectome.activations.readout_store import read_readouts
from affectome.analyses.statistics import benjamini_hochberg, bootstrap_means, correlations, interval, p_value
from affectome.corpus.prompt_lists import JOINED
from affectome.errors import UserError
from affectome.files import write_json, write_table
from affectome.randomness import generator
from affectome.vectors.store import Vectors, read_all

_DIRECTIONS = {"rises": 1, "falls": -1}


def intensity(
    vectors: Sequence[str | Path],
    readouts: str | Path,
    permutations: int,
    bootstrap: int,
    seed: int,
    layer: int,
    table: str | Path,
    output: str | Path,
) -> None:
    """Write how readouts follow the numbers in the prompts of `readouts`, at every layer that has vectors too.

    The table has a row for each template, emotion of the run and number at the headline `layer`, with slope, Spearman
    correlation and number `n` of the numbers, and p and q where the emotion is expected to rise or fall. Raises
    UserError where readouts and vectors do not go together.
    """
    read = read_readouts(readouts)
    if not {"template", "value", "rises", "falls"} <= set(read.table):
        raise UserError(f"{read.path}: its prompts have no numbers; read a list of the kind intensity")
    found = read.beside(read_all(vectors), layer)
    names = next(iter(found.values())).emotions
    scales = scales_of(read.table, names, permutations, seed)
    expected = sorted({emotion for scale in scales for emotion in scale.named})
    left_out = [emotion for emotion in expected if emotion not in names]
    pairs = sum(len(scale.signs) for scale in scales)
    tested = sum(len(scale.signs) for scale in scales if scale.doublings is not None)
    result: dict[str, Any] = {
        "layer": layer,
        "n": {
            "templates": len(scales),
            "prompts": len(read.table),
            "pairs": pairs,
            "tested": tested,
            "emotions": len(expected) - len(left_out),
            "vectors": len(names),
            "left_out": len(left_out),
        },
        "left_out": left_out,
        "no_slope": [scale.number for scale in scales if scale.doublings is None],
        "template": read.template,
        "permutations": permutations,
        "bootstrap": bootstrap,
        "layers": None,
        "templates": None,
        "pairs": None,
        "curves": None,
    }
    layers: dict[int, Any] = {}
    for number, here in found.items():
        activations = read.at(number)
        measured = [Measured.of(scale, activations[scale.rows], here) for scale in scales]
        rng = generator(seed, "intensity", "bootstrap", number)
        if tested:
            layers[number] = summary(measured, bootstrap, rng)
        if number == layer:
            rows = _rows(layer, measured, names)
            if tested:
                result["templates"], result["pairs"] = by_template(measured), by_pair(measured)
                result["curves"] = curves(measured, bootstrap, generator(seed, "intensity", "curves"))
    for test in ("hits", "change"):
        q = benjamini_hochberg(np.array([entry[test]["p"] for entry in layers.values()]))
        for entry, value in zip(layers.values(), q, strict=True):
            entry[test]["q"] = value
    result["layers"] = layers or None
    write_table(table, rows)
    write_json(output, result)


@dataclass(frozen=True)
class Scale:
    """One template: its prompts' `rows` in the table, ascending by `values` (numbers,), and what is expected of whom.

    `columns` and `signs` (pairs,) are the expected emotions among the run's and ±1; `named` are all that the list
    names. `doublings` (numbers,) is log2 of the values less its mean, `deals` (permutations, numbers) its permutations;
    both are None where there is no such thing.
    """

    number: int
    wording: str
    unit: str
    rows: np.ndarray
    values: np.ndarray
    named: tuple[str, ...]
    columns: np.ndarray
    signs: np.ndarray
    doublings: np.ndarray | None
    deals: np.ndarray | None

    @property
    def span(self) -> float:
        """Doublings from the smallest number to the largest; NaN where there are none."""
        return float("nan") if self.doublings is None else self.doublings[-1] - self.doublings[0]


def scales_of(table: pd.DataFrame, names: Sequence[str], permutations: int, seed: int) -> list[Scale]:
    """The templates of a list's table, of which the run knows the emotions `names`."""
    scales = []
    for number, rows in table.groupby("template"):
        rows = rows.sort_values("value", kind="stable")
        values = rows["value"].to_numpy(dtype=np.float64)
        first = rows.iloc[0]
        signs = {
            emotion: sign for column, sign in _DIRECTIONS.items() for emotion in first[column].split(JOINED) if emotion
        }
        known = {emotion: sign for emotion, sign in signs.items() if emotion in names}
        doublings = deals = None
        if values[0] > 0 and values[0] < values[-1]:
            doublings = np.log2(values) - np.log2(values).mean()
            rng = generator(seed, "intensity", "permutations", number)
            deals = rng.permuted(np.tile(doublings, (permutations, 1)), axis=1)
        scales.append(
            Scale(
                int(number),
                str(first["wording"]),
                str(first["unit"]),
                rows.index.to_numpy(),
                values,
                tuple(signs),
                np.array([names.index(emotion) for emotion in known], dtype=int),
                np.array(list(known.values()), dtype=int),
                doublings,
                deals,
            )
        )
    return scales


@dataclass(frozen=True)
class Measured:
    """A template at one layer: `readouts` (numbers, emotions), `slopes` and `spearman` (emotions,), NaN for none.

    `null` (permutations, pairs) are the changes of its pairs under permuted numbers.
    """

    scale: Scale
    names: Sequence[str]
    readouts: np.ndarray
    slopes: np.ndarray
    spearman: np.ndarray
    null: np.ndarray

    @classmethod
    def of(cls, scale: Scale, activations: np.ndarray, vectors: Vectors) -> "Measured":
        """From the `activations` (numbers, width) of the template's prompts."""
        centred = activations.astype(np.float64)
        centred -= centred.mean(axis=0)
        readouts = centred @ vectors.unit.astype(np.float64).T / vectors.residual_norm
        ranked = scipy.stats.rankdata(scale.values)[:, None], scipy.stats.rankdata(readouts, axis=0)
        slopes, null = np.full(readouts.shape[1], np.nan), np.zeros((0, 0))
        if scale.doublings is not None:
            weights = scale.doublings @ scale.doublings
            slopes = scale.doublings @ readouts / weights
            null = scale.deals @ readouts[:, scale.columns] * scale.span / weights
        return cls(scale, vectors.emotions, readouts, slopes, correlations(*ranked)[0], null)

    @property
    def tested(self) -> bool:
        """Whether it has pairs with a slope."""
        return self.scale.doublings is not None and len(self.scale.signs) > 0

    @property
    def changes(self) -> np.ndarray:
        """Fitted changes (emotions,) from the smallest to the largest number."""
        return self.slopes * self.scale.span

    @property
    def signed(self) -> np.ndarray:
        """Changes (pairs,) turned so that the expected direction is positive."""
        return self.changes[self.scale.columns] * self.scale.signs

    @property
    def signed_null(self) -> np.ndarray:
        """The same (permutations, pairs) under permuted numbers."""
        return self.null * self.scale.signs


def summary(measured: Sequence[Measured], bootstrap: int, rng: np.random.Generator) -> dict[str, Any]:
    """What is written of one layer: `hits`, `change` and `spearman`, the latter two turned as expected, over pairs."""
    used = [one for one in measured if one.tested]
    signed, null = np.concatenate([one.signed for one in used]), np.hstack([one.signed_null for one in used])
    spearman = np.concatenate([one.spearman[one.scale.columns] * one.scale.signs for one in used])
    templates = np.repeat(np.arange(len(used)), [len(one.scale.signs) for one in used])
    # A slope of exactly 0, which real readouts do not have, is neither a hit nor a miss.
    each = np.column_stack([(np.sign(signed) + 1) / 2, signed, np.nan_to_num(spearman)])
    draws = bootstrap_means(each, templates, bootstrap, rng)
    hits = (np.sign(null) + 1).mean(axis=1) / 2
    decided = int(np.sum(signed != 0))
    won = int(np.sum(signed > 0))
    return {
        "hits": {
            "value": each[:, 0].mean(),
            "count": won,
            "n": decided,
            "ci": interval(draws[:, 0]),
            "p": p_value(each[:, 0].mean(), hits),
            "p_binomial": scipy.stats.binomtest(won, decided, alternative="greater").pvalue if decided else None,
            "chance": 0.5,
            "shuffled": hits.mean(),
        },
        "change": {
            "value": signed.mean(),
            "ci": interval(draws[:, 1]),
            "p": p_value(signed.mean(), null.mean(axis=1)),
            "n": len(signed),
        },
        "spearman": {"value": each[:, 2].mean(), "ci": interval(draws[:, 2]), "n": len(signed)},
    }


def by_template(measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """Each template: its text and numbers, and hits, mean change as expected, p and q over its pairs, if it has any."""
    found = []
    for one in measured:
        scale = one.scale
        found.append(
            {
                "template": scale.number,
                "wording": scale.wording,
                "unit": scale.unit,
                "values": scale.values,
                "n": len(scale.signs),
                "hits": int(np.sum(one.signed > 0)) if one.tested else None,
                "change": one.signed.mean() if one.tested else None,
                "p": p_value(one.signed.mean(), one.signed_null.mean(axis=1)) if one.tested else np.nan,
            }
        )
    return _with_q(found)


def by_pair(measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """Each pair: slope, change and Spearman correlation, as they are, and p of the expected direction, with q."""
    return _with_q(
        [
            {
                "template": one.scale.number,
                "emotion": one.names[column],
                "expected": _expected(sign),
                "n": len(one.scale.values),
                "slope": one.slopes[column],
                "change": one.changes[column],
                "spearman": one.spearman[column],
                "p": p_value(one.signed[pair], one.signed_null[:, pair]),
            }
            for one in measured
            if one.tested
            for pair, (column, sign) in enumerate(zip(one.scale.columns, one.scale.signs, strict=True))
        ]
    )


def _with_q(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    q = benjamini_hochberg(np.array([entry["p"] for entry in found], dtype=np.float64))
    return [entry | {"q": value} for entry, value in zip(found, q, strict=True)]


def _expected(sign: int) -> str:
    return next(name for name, each in _DIRECTIONS.items() if each == sign)


def curves(measured: Sequence[Measured], bootstrap: int, rng: np.random.Generator) -> dict[str, Any]:
    """The mean readout of pairs expected to rise, and to fall, from the smallest to the largest number.

    `position` runs from 0 to 1 over the numbers in order, as many steps as the longest template has; a shorter one is
    interpolated. Intervals resample templates.
    """
    used = [one for one in measured if one.scale.values[0] < one.scale.values[-1]]
    position = np.linspace(0, 1, max((len(one.scale.values) for one in used), default=2))
    found = {}
    for name, sign in _DIRECTIONS.items():
        rows = [
            (one.scale.number, np.interp(position, np.linspace(0, 1, len(one.scale.values)), one.readouts[:, column]))
            for one in used
            for column in one.scale.columns[one.scale.signs == sign]
        ]
        if not rows:
            found[name] = None
            continue
        templates, readouts = np.array([number for number, _ in rows]), np.array([readout for _, readout in rows])
        low, high = np.quantile(bootstrap_means(readouts, templates, bootstrap, rng), [0.025, 0.975], axis=0)
        found[name] = {
            "position": position,
            "mean": readouts.mean(axis=0),
            "low": low,
            "high": high,
            "pairs": len(rows),
            "templates": len(set(templates)),
        }
    return found


def _rows(layer: int, measured: Sequence[Measured], names: Sequence[str]) -> pd.DataFrame:
    """The table: every template, emotion and number."""
    tests = {(pair["template"], pair["emotion"]): pair for pair in by_pair(measured)}
    rows = []
    for one in measured:
        scale = one.scale
        signs = dict(zip(scale.columns, scale.signs, strict=True))
        for column, emotion in enumerate(names):
            test = tests.get((scale.number, emotion), {})
            shared = {
                "layer": layer,
                "template": scale.number,
                "unit": scale.unit,
                "emotion": emotion,
                "expected": _expected(signs[column]) if column in signs else "",
            }
            after = {
                "slope": one.slopes[column],
                "change": one.changes[column],
                "spearman": one.spearman[column],
                "n": len(scale.values),
                "p": test.get("p", np.nan),
                "q": test.get("q", np.nan),
            }
            rows += [
                shared | {"value": value, "readout": readout} | after
                for value, readout in zip(scale.values, one.readouts[:, column], strict=True)
            ]
    return pd.DataFrame(rows)
