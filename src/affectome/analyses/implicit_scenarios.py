"""Does a model hold the emotion in mind that a user's message implies and never names?

Sofroniew et al. (2026, arXiv 2604.07729) read the residual at the last token before the reply and take its cosine with
each emotion's vector; so does this, after the mean readout of all scenarios has been subtracted, which the template and
the scene of a user in trouble share. A scenario is one message. The cosines with each emotion are then standardised
over the scenarios (mean 0, standard deviation 1), or emotions whose vectors lie near everything would win every row.

A scenario's own emotion is ranked among the scenarios' emotions (`top1`, `top3`, `rank`) and among all emotions that
the run has vectors of (`all`), from 1; emotions that tie share the mean of their ranks and are not the first. `z` is
the standardised cosine with the own emotion. `diagonal` counts emotions that come first in the mean over their own
scenarios.

p values are one-sided and come from dealing the emotions out to the scenarios anew, the same deals at every layer;
`shuffled` is the mean over them, which is the level of chance where the run's other emotions are less like the
scenarios than these. Intervals resample emotions with all their scenarios, since these share a vector. q values are by
Benjamini and Hochberg, over layers and, for single emotions, over emotions.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from affectome.activations.readout_store import read_readouts
from affectome.analyses.statistics import benjamini_hochberg, bootstrap_means, interval, p_value
from affectome.errors import UserError
from affectome.files import write_json, write_table
from affectome.randomness import generator
from affectome.vectors.store import Vectors, read_all

# Fewer scenario emotions cannot be told from chance.
MIN_EMOTIONS = 3

_COLUMNS = ("layer", "number", "scenario", "emotion", "cosine", "projection", "z", "n")


def implicit_scenarios(
    vectors: Sequence[str | Path],
    readouts: str | Path,
    permutations: int,
    bootstrap: int,
    seed: int,
    layer: int,
    table: str | Path,
    output: str | Path,
) -> None:
    """Write how well the emotions of the scenarios in `readouts` are found, at every layer that has vectors too.

    The table has a row for each scenario and emotion of the run at the headline `layer`: `cosine`, `projection` (on the
    unit vector, in mean residual norms of the layer), `z`, and `n`, the scenarios of the same emotion. Emotions without
    a vector are left out and named; of fewer than `MIN_EMOTIONS` nothing is said but how many there are. Raises
    UserError where readouts and vectors do not go together.
    """
    read = read_readouts(readouts)
    found = read.beside(read_all(vectors), layer)
    if "emotion" not in read.table:
        raise UserError(f"{read.path}: its prompts imply no emotion; read a list of the kind implicit")
    wanted = read.table["emotion"].to_numpy(dtype=object)
    names = next(iter(found.values())).emotions
    known = np.isin(wanted, names)
    emotions = list(dict.fromkeys(wanted[known]))
    left_out = sorted(set(wanted[~known]))
    result: dict[str, Any] = {
        "layer": layer,
        "n": {
            "scenarios": int(known.sum()),
            "emotions": len(emotions),
            "vectors": len(names),
            "left_out": len(left_out),
        },
        "left_out": left_out,
        "template": read.template,
        "min_emotions": MIN_EMOTIONS,
        "permutations": permutations,
        "bootstrap": bootstrap,
        "layers": None,
        "emotions": None,
    }
    rows = pd.DataFrame(columns=list(_COLUMNS))
    if len(emotions) >= MIN_EMOTIONS:
        own = np.array([emotions.index(emotion) for emotion in wanted[known]])
        rng = generator(seed, "implicit_scenarios", "permutations")
        deals = rng.permuted(np.tile(own, (permutations, 1)), axis=1)
        columns = np.array([names.index(emotion) for emotion in emotions])
        layers = {}
        for number, here in found.items():
            cosines, projections = similarities(read.at(number)[known], here)
            rng = generator(seed, "implicit_scenarios", "bootstrap", number)
            layers[number] = summary(cosines, own, columns, deals, bootstrap, rng)
            if number == layer:
                result["emotions"] = by_emotion(cosines, projections, own, columns, deals, names)
                rows = _rows(layer, np.flatnonzero(known) + 1, wanted[known], names, cosines, projections)
        for measure in ("top1", "z"):
            q = benjamini_hochberg(np.array([entry[measure]["p"] for entry in layers.values()]))
            for entry, value in zip(layers.values(), q, strict=True):
                entry[measure]["q"] = value
        result["layers"] = layers
    write_table(table, rows)
    write_json(output, result)


def similarities(readouts: np.ndarray, vectors: Vectors) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and projections (scenarios, emotions) of `readouts` (scenarios, width) less their mean with the vectors.

    Projections are on unit vectors, in units of the layer's mean residual norm. A zero readout has cosine 0.
    """
    centred = readouts.astype(np.float64)
    centred -= centred.mean(axis=0)
    projections = centred @ vectors.unit.astype(np.float64).T
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    return projections / np.where(lengths > 0, lengths, 1.0), projections / vectors.residual_norm


def standardised(values: np.ndarray) -> np.ndarray:
    """Each column of `values` with mean 0 and standard deviation 1 over its rows; 0 where it does not vary."""
    spread = values.std(axis=0)
    # 1e-12: what rounding leaves of cosines that are all the same.
    return (values - values.mean(axis=0)) / np.where(spread > 1e-12, spread, np.inf)


def ranks(z: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Rank from 1 of each of `columns` among all columns of `z`, row by row → (rows, columns); ties share the mean."""
    order = np.sort(z, axis=1)
    found = np.empty((len(z), len(columns)))
    for row, (values, ascending) in enumerate(zip(z, order, strict=True)):
        below = np.searchsorted(ascending, values[columns], side="left")
        upto = np.searchsorted(ascending, values[columns], side="right")
        found[row] = z.shape[1] - (below + upto - 1) / 2
    return found


def outcomes(z: np.ndarray, columns: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Measures (scenarios, scenario emotions) that pairing a scenario with an emotion would give, by name.

    `z` is (scenarios, emotions), of which `columns` are the scenarios' emotions. The first mapping ranks among these
    and has `z` too, the second ranks among all.
    """
    among, overall = ranks(z[:, columns], np.arange(len(columns))), ranks(z, columns)
    # Emotions that share first place have a rank above 1.
    first, second = (
        {"top1": (rank <= 1).astype(float), "top3": (rank <= 3).astype(float), "rank": rank}
        for rank in (among, overall)
    )
    return {**first, "z": z[:, columns]}, second


def chances(emotions: int) -> dict[str, float]:
    """What guessing among `emotions` gives of each measure."""
    return {"top1": 1 / emotions, "top3": min(3, emotions) / emotions, "rank": (emotions + 1) / 2, "z": 0.0}


def tested(
    outcome: np.ndarray, own: np.ndarray, deals: np.ndarray, sign: int, bootstrap: int, rng: np.random.Generator
) -> dict[str, Any]:
    """Mean of `outcome` (scenarios, emotions) over scenarios, each with its `own` emotion, and what tests say of it.

    `deals` (permutations, scenarios) give them others; `sign` is −1 where less is better.
    """
    each = outcome[np.arange(len(own)), own]
    null = outcome[np.arange(len(own)), deals].mean(axis=1)
    draws = bootstrap_means(each[:, None], own, bootstrap, rng)
    return {
        "value": each.mean(),
        "ci": interval(draws[:, 0]),
        "p": p_value(sign * each.mean(), sign * null),
        "shuffled": null.mean(),
    }


def summary(
    cosines: np.ndarray,
    own: np.ndarray,
    columns: np.ndarray,
    deals: np.ndarray,
    bootstrap: int,
    rng: np.random.Generator,
) -> dict[str, Any]:
    """What is written of one layer; `cosines` is (scenarios, emotions), the rest as in `outcomes` and `tested`."""
    z = standardised(cosines)
    among, overall = outcomes(z, columns)

    def of(measures: dict[str, np.ndarray], emotions: int) -> dict[str, Any]:
        return {
            name: tested(outcome, own, deals, -1 if name == "rank" else 1, bootstrap, rng)
            | {"chance": chances(emotions)[name]}
            for name, outcome in measures.items()
        }

    here = cosines[np.arange(len(own)), columns[own]]
    first = on_diagonal(among["z"], np.vstack([own, deals]))
    return {
        **of(among, len(columns)),
        "diagonal": {"value": first[0], "p": p_value(first[0], first[1:]), "shuffled": first[1:].mean()},
        "cosine": {
            "value": here.mean(),
            "ci": interval(bootstrap_means(here[:, None], own, bootstrap, rng)[:, 0]),
        },
        "all": of(overall, z.shape[1]),
    }


def on_diagonal(z: np.ndarray, deals: np.ndarray) -> np.ndarray:
    """How many emotions come first in the mean of `z` (scenarios, emotions) over their scenarios, deal by deal.

    `deals` (deals, scenarios) are the numbers of the scenarios' emotions, each as often as in every other deal.
    """
    first = np.zeros(len(deals), dtype=int)
    for emotion in range(z.shape[1]):
        member = deals == emotion
        means = member @ z / member.sum(axis=1, keepdims=True)
        first += means[:, emotion] > np.delete(means, emotion, axis=1).max(axis=1)
    return first


def by_emotion(
    cosines: np.ndarray,
    projections: np.ndarray,
    own: np.ndarray,
    columns: np.ndarray,
    deals: np.ndarray,
    names: Sequence[str],
) -> list[dict[str, Any]]:
    """Each scenario emotion: means over its `n` scenarios of cosine, projection, z and ranks, p and q, and what won."""
    z = standardised(cosines)
    among, overall = outcomes(z, columns)
    found = []
    for number, column in enumerate(columns):
        mine = own == number
        null = (deals == number) @ z[:, column] / mine.sum()
        means = z[mine][:, columns].mean(axis=0)
        found.append(
            {
                "emotion": names[column],
                "n": int(mine.sum()),
                "cosine": cosines[mine, column].mean(),
                "projection": projections[mine, column].mean(),
                "z": means[number],
                "rank": among["rank"][mine, number].mean(),
                "rank_all": overall["rank"][mine, number].mean(),
                "highest": names[columns[means.argmax()]],
                "p": p_value(means[number], null),
            }
        )
    q = benjamini_hochberg(np.array([entry["p"] for entry in found]))
    return [entry | {"q": value} for entry, value in zip(found, q, strict=True)]


def _rows(
    layer: int,
    numbers: np.ndarray,
    wanted: np.ndarray,
    names: Sequence[str],
    cosines: np.ndarray,
    projections: np.ndarray,
) -> pd.DataFrame:
    """The table: `numbers` (scenarios,) are the prompts' in the list, counted from 1, `wanted` their emotions."""
    scenarios, emotions = cosines.shape
    counts = pd.Series(wanted).map(pd.Series(wanted).value_counts()).to_numpy()
    return pd.DataFrame(
        {
            "layer": layer,
            "number": np.repeat(numbers, emotions),
            "scenario": np.repeat(wanted, emotions),
            "emotion": np.tile(np.array(names, dtype=object), scenarios),
            "cosine": cosines.ravel(),
            "projection": projections.ravel(),
            "z": standardised(cosines).ravel(),
            "n": np.repeat(counts, emotions),
        }
    )
