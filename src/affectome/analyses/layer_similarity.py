"""Whether the emotions are arranged alike in all layers, and between which layers the arrangement breaks.

Every two layers are compared by debiased linear CKA and by RSA (see `affectome.analyses.representational`), with a
95 % jackknife interval over emotions, a p value from permuted names and, over all pairs of a measure, q by
Benjamini-Hochberg. Plain CKA stands beside, with its chance level. Layers of one model are made of the same texts, so
that the texts' noise raises all of these: they say how alike the vectors are, not how alike the emotions behind them.

**Phase transitions.** A step is that from a layer to the next collected one. Its size is the angle between the two
profiles, arccos of their similarity (Williams et al. 2021, arXiv 2110.14739). It is compared with what the steps around
it, up to `AROUND` on either side, lead one to expect: the median of their angles, each scaled to the step's number of
blocks. Angles grow with the number of blocks g along a straight course and with its root where every block turns
elsewhere; the larger of the two is expected, so that uneven spacing of layers alone never makes a transition. A step is
a transition where its size is more than `RATIO` times the expected one beyond sampling error: one-sided test of the
logarithm of the ratio against that of `RATIO`, standard error by jackknife over emotions, q < `LEVEL` by
Benjamini-Hochberg over the steps. A sequence that changes fast but smoothly has none.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t

from affectome.analyses.representational import (
    MEASURES,
    MIN_EMOTIONS,
    delete_one_within,
    exceedance,
    gram,
    jackknife_error,
    jackknife_interval,
    null_similarities,
    plain_cka,
    stacked,
)
from affectome.analyses.statistics import benjamini_hochberg
from affectome.errors import UserError
from affectome.files import write_json, write_table
from affectome.randomness import generator
from affectome.vectors.store import read_all

RATIO, AROUND, LEVEL = 2.0, 2, 0.05
# Fewer layers than this have steps with a single one around them.
MIN_LAYERS = 4
# Radians. Smaller steps are not told apart: where nothing changes, a ratio of rounding errors says nothing.
_LEAST_ANGLE = 0.01
# The upper end of what permuted names give.
_TAIL = 0.95


def layer_similarity(
    vectors: list[str | Path], permutations: int, seed: int, table: str | Path, output: str | Path
) -> None:
    """Write the similarity of every two layers and the phase transitions.

    `table` (Parquet) has `layer_a, layer_b, measure, value, low, high, chance, chance_high, p, q, n`, each pair of
    layers once; `measure` is `cka` (debiased), `rsa` or `cka_plain`, `chance` the mean of permuted names and
    `chance_high` their 95th percentile. `output` (JSON) has `n` (emotions), `layers`, `pairs` (of layers),
    `permutations`, `rule` and, by measure, `least` and `most` alike pairs, `significant` (pairs with q < 0.05), `steps`
    and `transitions`. Fewer than `MIN_EMOTIONS` emotions are not compared. Raises UserError where layers have different
    emotions.
    """
    layers = read_all(vectors)
    numbers = list(layers)
    emotions = {each.emotions for each in layers.values()}
    if len(emotions) != 1:
        raise UserError("the layers' vector files hold different emotions; delete the run's vectors folder and rerun")
    n = len(emotions.pop())
    content: dict[str, Any] = {
        "n": n,
        "min_emotions": MIN_EMOTIONS,
        "layers": numbers,
        "pairs": len(numbers) * (len(numbers) - 1) // 2,
        "permutations": permutations,
        "rule": {"ratio": RATIO, "around": AROUND, "level": LEVEL, "min_layers": MIN_LAYERS},
    }
    frames = []
    if n >= MIN_EMOTIONS and len(numbers) > 1:
        arrays = [each.denoised for each in layers.values()]
        for measure in MEASURES:
            matrices = stacked(measure, arrays)
            profiles = measure.profiles(matrices)
            rng = generator(seed, "layer_similarity", measure.name)
            null = null_similarities(profiles, profiles, n, permutations, rng)
            similar = profiles @ profiles.T
            left_out = delete_one_within(measure, matrices)
            rows = _rows(numbers, similar, left_out, null).assign(measure=measure.name, n=n)
            frames.append(rows)
            content[measure.name] = _extremes(rows) | transitions(numbers, _adjacent(similar), _adjacent(left_out))
        frames.append(_plain(numbers, arrays).assign(measure="cka_plain", n=n))
    columns = ["layer_a", "layer_b", "measure", "value", "low", "high", "chance", "chance_high", "p", "q", "n"]
    found = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)
    write_table(table, found.reindex(columns=columns))
    write_json(output, content)


def transitions(layers: list[int], similar: np.ndarray, left_out: np.ndarray) -> dict[str, Any]:
    """Every step between neighbouring `layers` and those that are phase transitions, by the rule above.

    `similar` (steps,) are the similarities, `left_out` (emotions, steps) those with each emotion left out. Returns
    `steps`, each `from, to, similarity, degrees, expected, ratio, ci, p, q, transition` (angles in degrees), and
    `transitions`, the pairs of layers; a test is None in sequences of fewer than `MIN_LAYERS` layers.
    """
    gaps = np.diff(layers)
    angles = _angles(similar)
    steps = [
        {"from": layers[k], "to": layers[k + 1], "similarity": similar[k], "degrees": np.degrees(angles[k])}
        for k in range(len(gaps))
    ]
    if len(layers) < MIN_LAYERS:
        nothing = dict.fromkeys(("expected", "ratio", "ci", "p", "q", "transition"))
        return {"steps": [step | nothing for step in steps], "transitions": []}
    expected = _expected(angles, gaps)
    ratio = np.log(angles / expected)
    each = _angles(left_out)
    error = jackknife_error(np.log(each / _expected(each, gaps)))
    freedom = len(left_out) - 1
    beyond = ratio - np.log(RATIO)
    # Without sampling error a ratio is what it is.
    score = np.divide(beyond, error, out=np.copysign(np.inf, beyond), where=error > 0)
    p = t.sf(score, freedom)
    q = benjamini_hochberg(p)
    reach = t.ppf(1 - LEVEL / 2, freedom) * error
    for k, step in enumerate(steps):
        step |= {
            "expected": np.degrees(expected[k]),
            "ratio": np.exp(ratio[k]),
            "ci": [np.exp(ratio[k] - reach[k]), np.exp(ratio[k] + reach[k])],
            "p": p[k],
            "q": q[k],
            "transition": bool(q[k] < LEVEL),
        }
    return {"steps": steps, "transitions": [[step["from"], step["to"]] for step in steps if step["transition"]]}


def _angles(similar: np.ndarray) -> np.ndarray:
    return np.maximum(np.arccos(np.clip(similar, -1, 1)), _LEAST_ANGLE)


def _expected(angles: np.ndarray, gaps: np.ndarray) -> np.ndarray:
    """What the steps around each lead one to expect of `angles` (…, steps), for steps of `gaps` blocks."""
    found = np.empty_like(angles)
    for k in range(len(gaps)):
        others = [j for j in range(max(0, k - AROUND), min(len(gaps), k + AROUND + 1)) if j != k]
        longer = gaps[k] / gaps[others]
        found[..., k] = np.median(angles[..., others] * np.maximum(longer, np.sqrt(longer)), axis=-1)
    return found


def _adjacent(matrices: np.ndarray) -> np.ndarray:
    return np.diagonal(matrices, offset=1, axis1=-2, axis2=-1)


def _rows(layers: list[int], similar: np.ndarray, left_out: np.ndarray, null: np.ndarray) -> pd.DataFrame:
    first, second = np.triu_indices(len(layers), k=1)
    value, drawn = similar[first, second], null[:, first, second]
    low, high = jackknife_interval(value, left_out[:, first, second])
    p = exceedance(value, drawn)
    return pd.DataFrame(
        {
            "layer_a": np.array(layers)[first],
            "layer_b": np.array(layers)[second],
            "value": value,
            "low": low,
            "high": high,
            "chance": drawn.mean(axis=0),
            "chance_high": np.quantile(drawn, _TAIL, axis=0),
            "p": p,
            "q": benjamini_hochberg(p),
        }
    )


def _plain(layers: list[int], vectors: list[np.ndarray]) -> pd.DataFrame:
    grams = np.stack([gram(each) for each in vectors])
    value, chance = plain_cka(grams, grams)
    first, second = np.triu_indices(len(layers), k=1)
    pairs = {"layer_a": np.array(layers)[first], "layer_b": np.array(layers)[second]}
    return pd.DataFrame(pairs | {"value": value[first, second], "chance": chance[first, second]})


def _extremes(rows: pd.DataFrame) -> dict[str, Any]:
    def entry(index: int) -> dict[str, Any]:
        row = rows.loc[index]
        pair = {"a": int(row["layer_a"]), "b": int(row["layer_b"])}
        return pair | {"value": row["value"], "ci": [row["low"], row["high"]], "p": row["p"], "q": row["q"]}

    return {
        "least": entry(rows["value"].idxmin()),
        "most": entry(rows["value"].idxmax()),
        "significant": int((rows["q"] < LEVEL).sum()),
    }
