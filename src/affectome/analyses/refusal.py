"""Directions of refusal: what a risky request, a reply that declines and a curt manner add, each to a twin without it.

Three families of matched texts (`affectome.corpus.dialogues.FAMILIES`), each with a vector per layer, the mean of its
first side minus the mean of its second: `request_risk` (risky, benign; read at the last token before the reply),
`refusal_decision` (refused, complied) and `refusal_style` (curt, kind; both the mean over the reply). They are made as
the emotion vectors are: raw, without the run's neutral components (`denoised`), and at length 1.

**Held-out test.** Each topic in turn is left out and the vector made from the others. `pairs` is the share of left-out
pairs of which the first side projects further along it than the second (ties count half), `auc` the same share over all
first and second sides on one topic, `accuracy` the share of texts on the right side of the middle between the two
training means. Intervals resample topics, and are Wilson's over pairs where that is wider. p, one-sided, swaps the
sides within pairs at random, everything made anew; `binomial` is the exact test of the pairs, which takes them for
independent. q is by Benjamini and Hochberg over families and layers. Beside it, on the same pairs, stand a bag of words
(`affectome.analyses.words`) and the number of words alone, shorter or longer as on the other topics.

**Cosines**, between the families and with the run's emotion vectors, are of the denoised unit vectors. Their p,
two-sided, asks whether the two sides differ along the other vector at all: it swaps the sides of pairs at random and
compares the mean difference. Between two families either can be the one that is swapped, and the larger p stands.
Intervals are jackknives over topics. `reliability` is split-half by topic, stepped up
(`contrasts.split_half_reliability`).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.stats
from safetensors.numpy import save

from affectome.activations.readout_store import Readouts, read_readouts
from affectome.analyses.recognition import topic_interval
from affectome.analyses.speakers import halvings, jackknife, share_interval
from affectome.analyses.statistics import benjamini_hochberg, bootstrap_means, p_value
from affectome.analyses.words import words_held_out
from affectome.corpus.dialogues import FAMILIES
from affectome.errors import UserError
from affectome.files import replacing, write_json, write_table
from affectome.identity import fingerprint
from affectome.randomness import generator
from affectome.vectors.contrasts import contrast, split_half_reliability, unit
from affectome.vectors.denoising import project_out
from affectome.vectors.export import FORMS, in_order
from affectome.vectors.store import Vectors, read_all

MEASURES = ("pairs", "auc", "accuracy")

# Fewer topics leave nothing to halve and to resample.
FEWEST_TOPICS = 3
# Emotions that are named as the most and the least alike.
_EXTREMES = 5

_COLUMNS = ("part", "layer", "family", "with", "measure", "value", "low", "high", "chance", "p", "q", "n", "n_topics")


@dataclass(frozen=True)
class Pairs:
    """The pairs of a family: rows of the readouts of the first and of the second side, numbers of topics, and texts."""

    first: np.ndarray
    second: np.ndarray
    topic: np.ndarray
    texts: tuple[list[str], list[str]]

    @classmethod
    def of(cls, read: Readouts, family: str) -> "Pairs":
        """Take the pairs of `family` out of the table of `read`; UserError where it has none, or too few topics."""
        table = read.table
        missing = [name for name in ("pair", "topic", "family", "side", "text") if name not in table]
        if missing:
            raise UserError(f"{read.path}: has no {', '.join(missing)}; give the readouts of a list of refusal pairs")
        sides = [table[(table["family"] == family) & (table["side"] == side)] for side in FAMILIES[family]]
        first, second = (side.sort_values("pair", kind="stable") for side in sides)
        if not len(first) or first["pair"].tolist() != second["pair"].tolist():
            raise UserError(f"{read.path}: not every pair has both sides of {family}; read the whole list again")
        names, topic = np.unique(first["topic"].to_numpy(dtype=str), return_inverse=True)
        if len(names) < FEWEST_TOPICS:
            raise UserError(
                f"{read.path}: has pairs on {len(names)} topics, and to leave topics out takes {FEWEST_TOPICS}; add "
                "pairs on others"
            )
        texts = tuple(side["text"].tolist() for side in (first, second))
        return cls(first.index.to_numpy(), second.index.to_numpy(), topic, texts)

    @property
    def topics(self) -> int:
        """How many topics there are."""
        return int(self.topic.max()) + 1

    def sides(self, activations: np.ndarray) -> np.ndarray:
        """The two sides (2, pairs, width) in float64, of readouts (prompts, width)."""
        return activations[np.array([self.first, self.second])].astype(np.float64)


def family_vector(sides: np.ndarray, basis: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The raw and the denoised vector (width,) of `sides` (2, pairs, width), first minus second."""
    raw = contrast(sides.mean(axis=1), "rest")[0]
    return raw, project_out(raw[None], basis)[0]


# ---------------------------------------------------------------- held-out test


def left_out(sides: np.ndarray, topic: np.ndarray, basis: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Projections (2, pairs) of each pair on the unit vector from other topics, and the middle (pairs,) of those."""
    scores = np.empty(sides.shape[:2])
    middle = np.empty(sides.shape[1])
    for number in np.unique(topic):
        here = topic == number
        means = sides[:, ~here].mean(axis=1)
        direction = unit(family_vector(sides[:, ~here], basis)[1][None])[0]
        scores[:, here] = sides[:, here] @ direction
        middle[here] = means.mean(axis=0) @ direction
    return scores, middle


def per_pair(scores: np.ndarray, topic: np.ndarray, middle: np.ndarray | None = None) -> np.ndarray:
    """What each pair adds to the mean of `MEASURES`: an array (pairs, 3) of shares, of `scores` (2, pairs).

    Without `middle` there is no accuracy. A pair's part of the AUC is its first side against all second sides on its
    topic, so that the mean over pairs is the share of all such comparisons where topics have as many pairs.
    """
    won = _beats(scores[0], scores[1])
    auc = np.array([_beats(scores[0, i], scores[1, topic == topic[i]]).mean() for i in range(len(topic))])
    if middle is None:
        return np.column_stack([won, auc])
    right = (_beats(scores[0], middle) + _beats(middle, scores[1])) / 2
    return np.column_stack([won, auc, right])


def _beats(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return (first > second) + 0.5 * (first == second)


def swapped(sides: np.ndarray, topic: np.ndarray, basis: np.ndarray, signs: np.ndarray) -> np.ndarray:
    """The share of pairs won (permutations,), sides swapped where `signs` (permutations, pairs) are −1.

    The vector from the other topics is the mean of their differences, so that all that counts is products of two.
    """
    difference = project_out(sides[0] - sides[1], basis)
    products = difference @ difference.T
    others = topic[:, None] != topic
    margins = signs * (signs @ np.where(others, products, 0.0))
    return _beats(margins, np.zeros(1)).mean(axis=1)


# ---------------------------------------------------------------- what needs no vector


def by_words(pairs: Pairs) -> np.ndarray:
    """Scores (2, pairs) of a bag of words from other topics: how much nearer the first sides' centroid a text is."""
    texts = [*pairs.texts[0], *pairs.texts[1]]
    side = np.repeat([0, 1], len(pairs.topic))
    scores = words_held_out(texts, side, np.tile(pairs.topic, 2)).scores
    return (scores[:, 0] - scores[:, 1]).reshape(2, -1)


def by_length(pairs: Pairs) -> np.ndarray:
    """Scores (2, pairs) of the number of words, positive where first sides on other topics are longer."""
    lengths = np.array([[len(text.split()) for text in side] for side in pairs.texts], dtype=np.float64)
    longer = lengths[0] - lengths[1]
    others = [np.sign(longer[pairs.topic != number].mean()) for number in range(pairs.topics)]
    return lengths * np.array(others)[pairs.topic]


# ---------------------------------------------------------------- vectors side by side


def compared(
    sides: np.ndarray, topic: np.ndarray, basis: np.ndarray, against: np.ndarray, signs: np.ndarray
) -> list[dict[str, Any]]:
    """`cosine`, `ci` and `p` of a family's denoised vector with each of the unit rows of `against` (n, width)."""
    difference = project_out(sides[0] - sides[1], basis)
    along = difference @ against.T

    def cosines(rows: np.ndarray) -> np.ndarray:
        length = np.linalg.norm(difference[rows].mean(axis=0))
        return along[rows].mean(axis=0) / (length if length > 0 else 1.0)

    whole = cosines(np.full(len(topic), True))
    parts = np.array([cosines(topic != number) for number in np.unique(topic)])
    observed, null = np.abs(along.sum(axis=0)), np.abs(signs @ along)
    return [
        {"cosine": float(value), "ci": jackknife(value, parts[:, i]), "p": p_value(observed[i], null[:, i])}
        for i, value in enumerate(whole)
    ]


def reliability(sides: np.ndarray, topic: np.ndarray, basis: np.ndarray, rng: np.random.Generator) -> float:
    """Split-half reliability of the denoised vector, mean over ways of halving the topics."""
    found = []
    for chosen in halvings(int(topic.max()) + 1, rng):
        first = np.isin(topic, chosen)
        halves = [family_vector(sides[:, part], basis)[1][None] for part in (first, ~first)]
        found.append(split_half_reliability(*halves)[0])
    return float(np.mean(found))


# ---------------------------------------------------------------- the question


def refusal(
    readouts: str | Path,
    vectors: Sequence[str | Path],
    bootstrap: int,
    permutations: int,
    seed: int,
    layer: int,
    table: str | Path,
    output: str | Path,
    vectors_output: str | Path,
) -> None:
    """Write how well the three families' vectors do at every layer, in detail at `layer`, and the vectors themselves.

    The JSON has, by family, `families.{family}` at the headline layer: the measures with `value` and `ci`, `p`, `q`,
    `binomial`, `reliability`, the baselines `words` and `length`, `beyond_words` (the share of pairs minus that of the
    bag of words, with its interval), `emotions` (the most and the least alike) and `n`; `between`, a list of cosines of
    two families; and `layers.{L}.{family}`. `vectors_output` is a file of safetensors as `affectome.vectors.export`
    writes them, the families in the place of emotions, at every layer that has both readouts and vectors. Raises
    UserError where the readouts are none of such pairs or do not go with the vectors.
    """
    read = read_readouts(readouts)
    run = read.beside(read_all(vectors), layer)
    pairs = {family: Pairs.of(read, family) for family in FAMILIES}
    signs = {
        family: generator(seed, "refusal", family).choice([-1.0, 1.0], size=(permutations, len(of.topic)))
        for family, of in pairs.items()
    }
    layers: dict[int, dict[str, Any]] = {}
    made: dict[int, dict[str, np.ndarray]] = {}
    for number, here in run.items():
        activations = read.at(number)
        basis = here.neutral_basis.astype(np.float64)
        layers[number] = {
            family: _tested(of, of.sides(activations), basis, signs[family], bootstrap, seed)
            for family, of in pairs.items()
        }
        both = [family_vector(of.sides(activations), basis) for of in pairs.values()]
        raw, denoised = (np.array([pair[form] for pair in both]) for form in (0, 1))
        made[number] = {"raw": raw, "denoised": denoised, "unit": unit(denoised)}
    _add_q([found for at in layers.values() for found in at.values()])
    families, between, emotions = _in_detail(read.at(layer), pairs, run[layer], layers[layer], signs, bootstrap, seed)
    result = {
        "layer": layer,
        "n": {
            "pairs": len(next(iter(pairs.values())).topic),
            "topics": next(iter(pairs.values())).topics,
            "vectors": len(run[layer].emotions),
            "neutral_components": len(run[layer].neutral_basis),
        },
        "template": read.template,
        "chance": 0.5,
        "bootstrap": bootstrap,
        "permutations": permutations,
        "families": families,
        "between": between,
        "layers": layers,
    }
    write_json(output, result)
    write_table(table, pd.DataFrame(_rows(result, emotions), columns=list(_COLUMNS)))
    _write_vectors(vectors_output, made, run, read)


def _tested(
    pairs: Pairs, sides: np.ndarray, basis: np.ndarray, signs: np.ndarray, bootstrap: int, seed: int
) -> dict[str, Any]:
    scores, middle = left_out(sides, pairs.topic, basis)
    values = per_pair(scores, pairs.topic, middle)
    found: dict[str, Any] = _summary(values, pairs, bootstrap, seed)
    found["p"] = p_value(found["pairs"]["value"], swapped(sides, pairs.topic, basis, signs))
    found["reliability"] = reliability(sides, pairs.topic, basis, generator(seed, "refusal", "halvings"))
    return found | {"n": len(pairs.topic), "n_topics": pairs.topics}


def _summary(values: np.ndarray, pairs: Pairs, bootstrap: int, seed: int) -> dict[str, dict[str, Any]]:
    # The same resamples everywhere, so that differences are not those of the draws.
    return {
        name: {
            "value": float(values[:, i].mean()),
            "ci": share_interval(values[:, i], pairs.topic, bootstrap, generator(seed, "refusal", "bootstrap")),
        }
        for i, name in enumerate(MEASURES[: values.shape[1]])
    }


def _binomial(won: np.ndarray) -> dict[str, Any]:
    """The exact one-sided test of more than half of the pairs, those that tie left out."""
    decided = won[won != 0.5]
    p = scipy.stats.binomtest(int(decided.sum()), len(decided), alternative="greater").pvalue if len(decided) else 1.0
    return {"won": int(decided.sum()), "n": len(decided), "p": float(p)}


def _in_detail(
    activations: np.ndarray,
    pairs: dict[str, Pairs],
    run: Vectors,
    tested: dict[str, Any],
    signs: dict[str, np.ndarray],
    bootstrap: int,
    seed: int,
) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, pd.DataFrame]]:
    """What is said of the headline layer: by family, between families, and the cosines with emotions by family."""
    basis = run.neutral_basis.astype(np.float64)
    sides = {family: of.sides(activations) for family, of in pairs.items()}
    directions = {family: unit(family_vector(here, basis)[1][None]) for family, here in sides.items()}
    families, emotions, between = {}, {}, []
    for family, of in pairs.items():
        won = {"vectors": per_pair(*left_out(sides[family], of.topic, basis)[:1], of.topic)}
        for name, scores in (("words", by_words(of)), ("length", by_length(of))):
            won[name] = per_pair(scores, of.topic)
        beyond = won["vectors"][:, 0] - won["words"][:, 0]
        draws = bootstrap_means(beyond[:, None], of.topic, bootstrap, generator(seed, "refusal", "bootstrap"))
        found = tested[family] | {
            "binomial": _binomial(won["vectors"][:, 0]),
            "words": _summary(won["words"], of, bootstrap, seed) | {"binomial": _binomial(won["words"][:, 0])},
            "length": _summary(won["length"], of, bootstrap, seed),
            "beyond_words": {"value": float(beyond.mean()), "ci": topic_interval(draws[:, 0], of.topics)},
        }
        rows = compared(sides[family], of.topic, basis, run.unit.astype(np.float64), signs[family])
        emotions[family] = pd.DataFrame({"emotion": run.emotions}).join(pd.DataFrame(rows))
        families[family] = found
        for other in list(FAMILIES)[list(FAMILIES).index(family) + 1 :]:
            cosine = compared(sides[family], of.topic, basis, directions[other], signs[family])[0]
            back = compared(sides[other], pairs[other].topic, basis, directions[family], signs[other])[0]
            between.append({"a": family, "b": other} | cosine | {"p": max(cosine["p"], back["p"]), "n": len(of.topic)})
    q = benjamini_hochberg(np.array([rows["p"] for rows in emotions.values()]))
    for rows, here in zip(emotions.items(), q, strict=True):
        family, frame = rows
        frame["q"] = here
        ranked = frame.sort_values("cosine", ascending=False, kind="stable")
        families[family]["emotions"] = {
            "most": ranked.head(_EXTREMES).to_dict("records"),
            "least": ranked.tail(_EXTREMES)[::-1].to_dict("records"),
            "n": len(frame),
        }
    _add_q(between)
    return families, between, emotions


def _add_q(cells: list[dict[str, Any]]) -> None:
    for cell, q in zip(cells, benjamini_hochberg(np.array([cell["p"] for cell in cells])), strict=True):
        cell["q"] = float(q)


def _rows(result: dict[str, Any], emotions: dict[str, pd.DataFrame]) -> list[dict[str, Any]]:
    """The table: `part` is `layers`, `words`, `length`, `between` or `emotions`."""
    rows: list[dict[str, Any]] = []
    headline, size = result["layer"], {"n_topics": result["n"]["topics"]}

    def add(part: str, found: dict[str, Any], family: str, layer: int, measures: Sequence[str]) -> None:
        for name in measures:
            low, high = found[name]["ci"]
            tested = {key: found.get(key) for key in ("p", "q")} if part == "layers" and name == "pairs" else {}
            about = {"part": part, "layer": layer, "family": family, "measure": name, "value": found[name]["value"]}
            rows.append(about | {"low": low, "high": high, "chance": 0.5, "n": result["n"]["pairs"]} | size | tested)

    for layer, at in result["layers"].items():
        for family, found in at.items():
            add("layers", found, family, layer, MEASURES)
            about = {"part": "layers", "layer": layer, "family": family, "measure": "reliability"}
            rows.append(about | size | {"value": found["reliability"], "n": found["n"]})
    for family, found in result["families"].items():
        for part in ("words", "length"):
            add(part, found[part], family, headline, MEASURES[:2])
        for row in emotions[family].to_dict("records"):
            about = {"part": "emotions", "layer": headline, "family": family, "with": row["emotion"]}
            rows.append(about | _cosine_row(row) | size | {"n": result["n"]["pairs"]})
    for row in result["between"]:
        about = {"part": "between", "layer": headline, "family": row["a"], "with": row["b"]}
        rows.append(about | _cosine_row(row) | size | {"n": row["n"]})
    return rows


def _cosine_row(row: dict[str, Any]) -> dict[str, Any]:
    low, high = row["ci"]
    return {"measure": "cosine", "value": row["cosine"], "low": low, "high": high, "p": row["p"], "q": row["q"]}


def _write_vectors(
    path: str | Path, made: dict[int, dict[str, np.ndarray]], run: dict[int, Vectors], read: Readouts
) -> None:
    arrays = {
        f"layer_{layer}/{form}": forms[form].astype(np.float32) for layer, forms in made.items() for form in FORMS
    }
    texts = read.table.to_dict("list")
    metadata = {
        "format": "affectome.vectors",
        "emotions": json.dumps(list(FAMILIES)),
        "residual_norm": json.dumps({layer: run[layer].residual_norm for layer in made}),
        "fingerprints": json.dumps({layer: fingerprint([run[layer].fingerprint, texts]) for layer in made}),
    }
    with replacing(path) as temporary:
        temporary.write_bytes(in_order(save(arrays, metadata)))
