"""Does a model keep the emotion of whoever speaks apart from that of the one who listens?

Sofroniew et al. (2026, arXiv 2604.07729) make two times two probes from dialogues in which a person and an AI feel
different emotions: from the turns of the user or of the assistant, for the emotion of the speaker who is heard
(`present`) or of the other one (`other`). So does this, and with the turns of both roles together.

**Rows.** One activation per dialogue and role: the mean over its turns in which the other speaker has been heard. The
person's first turn comes before the AI has said anything, so that what it holds of the AI's emotion can only be what
the writer of the dialogues put there; it is tested beside the others as `opening`.

**The crossed design.** No dialogue has one emotion on both sides, so the two labels depend on each other: plain means
over the turns with another speaker who is, say, sad hold every present emotion but sad, and would point away from the
present vector of sad without any trace of the other speaker. Vectors are therefore the effects of an additive model
fitted by least squares, activation = topic + present emotion + other emotion, each centred over the emotions. A turn is
given one of the k − 1 emotions that the other speaker does not have, so that chance is 1 / (k − 1). p values permute
the residuals of the model without the emotion that is asked for and add them to its fit (Freedman & Lane 1983, J. Bus.
Econ. Stat. 1, 292-298): the null keeps the topics, the design and all effects of the emotion that is not asked for. In
both roles together, the two rows of a dialogue move together.

**Recognition.** Each row is tested with vectors from dialogues on other topics in which the emotion that is not asked
for is another one too. (With it, every wrong answer would have been met beside it in training and the right one never,
and a present emotion that is shown more strongly in one dialogue than in another would make the other one be missed
more often than by chance.) The row, minus the mean of its role on other topics, goes to the vector with the highest
cosine. Intervals resample topics, and are Wilson's over rows where that is wider (`share_interval`). `words` does the
same with the words of the turns themselves, and `words_so_far` with all those of the dialogue up to the last of these
turns, which the model has read.

**Orthogonality.** Noise makes any two vectors nearly orthogonal, and the least-squares errors of the present and the
other vector of one emotion correlate (by about 2 / k). `cosine` is free of both: products of vectors from one half of
the topics with vectors from the other half, averaged over ways of halving and summed over emotions, over the root of
the same products of present with present and of other with other. It estimates the cosine of the true vectors, can
leave [−1, 1], and is missing where either has no reliable length. Its interval is a jackknife over topics; its p,
two-sided, permutes the emotions of one side. `absolute` is the mean |cosine| of the vectors from all topics,
`absolute_others` that of vectors of different emotions, `absolute_permuted` what it is on average where the dialogues'
labels are permuted, which shows how alike mere errors are, and `ceiling` the root of the product of the two
reliabilities (split-half by topic, stepped up), about what vectors that are the same but for noise would reach.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import factorial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.stats

from affectome.activations.readout_store import Readouts, read_readouts
from affectome.analyses.recognition import topic_interval
from affectome.analyses.statistics import LEVEL, benjamini_hochberg, bootstrap_means, p_value
from affectome.corpus.surface import occurrence, words_of
from affectome.errors import UserError
from affectome.files import write_json, write_table
from affectome.randomness import generator
from affectome.vectors.contrasts import contrast, split_half_reliability, unit
from affectome.vectors.store import Vectors, read_all

ROLES = ("user", "assistant", "both")
KINDS = ("present", "other")

# Fewer emotions or topics leave nothing to tell apart or to learn from.
FEWEST = 3

# Ways of halving the topics: all of eight.
_HALVINGS = 35
# Permutations worked on at once, and those made at most where no p of the headline layer rests on them.
_AT_ONCE = 50
_SWEEP = 199
# What rounding leaves of a singular value that is 0.
_SINGULAR = 1e-9
# Emotions of the run that are named for the difference between the roles.
_EXTREMES = 5

_COLUMNS = (
    "part", "layer", "learned_from", "learned", "tested_on", "asked", "emotion", "measure",
    "value", "low", "high", "chance", "p", "q", "n",
)  # fmt: skip


@dataclass(frozen=True)
class Turns:
    """A row for each dialogue of a role, or for each dialogue of the user and then for each of the assistant.

    `person`, `ai` and `topic` (rows,) are numbers, `ai_speaks` (rows,) says whose turns they are.
    """

    person: np.ndarray
    ai: np.ndarray
    topic: np.ndarray
    ai_speaks: np.ndarray

    def label(self, kind: str) -> np.ndarray:
        """Numbers (rows,) of the emotions of the speaker who is heard, `present`, or of the `other` one."""
        return np.where(self.ai_speaks == (kind == "present"), self.ai, self.person)

    @property
    def place(self) -> np.ndarray:
        """Numbers (rows,) of role and topic together, each of which has a mean of its own."""
        return 2 * self.topic + self.ai_speaks


@dataclass(frozen=True)
class Dialogues:
    """What the readouts' table says: names, one `Turns` by role, and which of the readouts are averaged into a row."""

    emotions: list[str]
    topics: list[str]
    turns: dict[str, Turns]
    averaged: dict[str, list[np.ndarray]]
    words: dict[str, list[str]]
    words_so_far: dict[str, list[str]]

    @classmethod
    def of(cls, read: Readouts) -> "Dialogues":
        """Take the table of `read` apart; UserError where it is none of dialogues, or they are too few."""
        table = read.table
        needed = ("dialogue", "topic", "person", "ai", "speaker", "turn", "text")
        missing = [name for name in needed if name not in table]
        if missing:
            raise UserError(f"{read.path}: has no {', '.join(missing)}; give the readouts of a list of dialogues")
        emotions = sorted({*table["person"], *table["ai"]})
        topics = sorted(set(table["topic"]))
        if len(emotions) < FEWEST or len(topics) < FEWEST:
            raise UserError(
                f"{read.path}: has dialogues of {len(emotions)} emotions on {len(topics)} topics, and the analysis "
                f"takes {FEWEST} of each; add some to the list of dialogues"
            )
        averaged: dict[str, list[np.ndarray]] = {name: [] for name in ("opening", "user", "assistant")}
        firsts = []
        for _number, rows in table.groupby("dialogue"):
            rows = rows.sort_values("turn")
            firsts.append(rows.iloc[0])
            averaged["opening"].append(rows.index[:1].to_numpy())
            averaged["user"].append(rows.index[2::2].to_numpy())
            averaged["assistant"].append(rows.index[1::2].to_numpy())
        averaged["both"] = averaged["user"] + averaged["assistant"]
        one = pd.DataFrame(firsts)
        number = {name: [emotions.index(word) for word in one[name]] for name in ("person", "ai")}
        person, ai = (np.array(number[name]) for name in ("person", "ai"))
        topic = np.array([topics.index(name) for name in one["topic"]])
        none = np.zeros(len(one), dtype=bool)
        turns = {
            "opening": Turns(person, ai, topic, none),
            "user": Turns(person, ai, topic, none),
            "assistant": Turns(person, ai, topic, ~none),
            "both": Turns(*(np.tile(values, 2) for values in (person, ai, topic)), np.concatenate([none, ~none])),
        }
        text = table["text"].to_numpy(dtype=object)
        dialogue = table["dialogue"].to_numpy()
        turn = table["turn"].to_numpy()
        words, so_far = {}, {}
        for role, parts in averaged.items():
            words[role] = [" ".join(text[rows]) for rows in parts]
            so_far[role] = [
                " ".join(text[(dialogue == dialogue[rows[-1]]) & (turn <= turn[rows[-1]])]) for rows in parts
            ]
        return cls(emotions, topics, turns, averaged, words, so_far)

    def values(self, activations: np.ndarray, role: str) -> np.ndarray:
        """The rows (rows, width) of a role in float64, from the readouts (prompts, width)."""
        return np.array([activations[rows].mean(axis=0, dtype=np.float64) for rows in self.averaged[role]])


# ---------------------------------------------------------------- the additive model


def indicators(numbers: np.ndarray, count: int | None = None) -> np.ndarray:
    """A column (rows, count) of zeros and ones for each number; without `count`, for each that occurs."""
    names = np.unique(numbers) if count is None else np.arange(count)
    return (numbers[:, None] == names[None, :]).astype(np.float64)


def effects(turns: Turns, rows: np.ndarray, emotions: int) -> np.ndarray | None:
    """Weights (2, emotions, all rows) that make the present and the other vectors from activations, by least squares.

    Only `rows` weigh; an emotion that no speaker of a kind has in them weighs nothing there. None where these dialogues
    do not tell the effects apart.
    """
    place = indicators(turns.place[rows])
    columns = [indicators(turns.label(kind)[rows], emotions) for kind in KINDS]
    occur = [column.any(axis=0) for column in columns]
    design = np.hstack([place, *columns])
    # Each set of columns adds up to the same constant in every role, so each emotion's set loses one.
    left, singular, right = np.linalg.svd(design, full_matrices=False)
    rank = place.shape[1] + sum(int(kind.sum()) - 1 for kind in occur)
    if len(singular) < rank or singular[rank - 1] < _SINGULAR * singular[0]:
        return None
    inverse = (right[:rank].T / singular[:rank]) @ left[:, :rank].T
    solved = inverse[place.shape[1] :].reshape(2, emotions, -1)
    found = np.zeros((2, emotions, len(turns.place)))
    for kind, here in enumerate(occur):
        found[np.ix_([kind], here, rows)] = solved[kind, here] - solved[kind, here].mean(axis=0)
    return found


def without(turns: Turns, asked: str) -> np.ndarray:
    """The projection (rows, rows) onto the model that knows all but the emotion that is `asked` for."""
    design = np.hstack([indicators(turns.place), indicators(turns.label(_not(asked)))])
    return design @ np.linalg.pinv(design)


def coordinates(*values: np.ndarray) -> list[np.ndarray]:
    """`values`, arrays (rows, width), in at most as many coordinates as there are rows, all products kept."""
    stacked = np.concatenate(values)
    left, singular, _ = np.linalg.svd(stacked, full_matrices=False)
    starts = np.cumsum([len(each) for each in values])[:-1]
    return np.split(left * singular, starts)


# ---------------------------------------------------------------- recognition


@dataclass(frozen=True)
class Cell:
    """What is learned from which role, and which emotion it is asked for on the turns of which role.

    Learned from `story`, the vectors are the run's own.
    """

    learned_from: str
    learned: str
    tested_on: str
    asked: str


class Recogniser:
    """Names the emotions of rows by vectors from other rows, as often as activations are permuted."""

    def __init__(self, cell: Cell, learn: Turns, test: Turns, emotions: int) -> None:
        """Fix what each row is tested with; UserError where its dialogues do not tell the emotions apart."""
        self.same = cell.learned_from == cell.tested_on
        self.question = Question(test, cell.asked)
        # The same speaker's emotion: in the other role, who is present there is the other one here.
        beside = learn.label(_not(cell.asked) if self.same else cell.asked)
        weights: dict[tuple[int, int], np.ndarray] = {}
        pairs = list(zip(test.topic.tolist(), self.question.given.tolist(), strict=True))
        for topic, given in pairs:
            if (topic, given) not in weights:
                rows = np.flatnonzero((learn.topic != topic) & (beside != given))
                found = effects(learn, rows, emotions)
                here = None if found is None else found[KINDS.index(cell.learned)]
                if here is None or not np.delete(here, given, axis=0).any(axis=1).all():
                    raise UserError(
                        "the dialogues do not tell the emotions of the two speakers apart once a topic and an emotion "
                        "are left out; cross the emotions more evenly over the topics"
                    )
                weights[topic, given] = here
        self.weights = np.array([weights[pair] for pair in pairs])

    def vectors(self, learn: np.ndarray) -> np.ndarray:
        """Unit vectors (…, rows, emotions, coordinates) from activations (…, rows, coordinates)."""
        found = self.weights.reshape(-1, self.weights.shape[2]) @ learn
        length = np.linalg.norm(found, axis=-1, keepdims=True)
        found /= np.where(length > 0, length, 1.0)
        return found.reshape(*learn.shape[:-2], *self.weights.shape[:2], learn.shape[-1])


class Question:
    """Which emotion of the rows of `test` is asked for, and what is an answer."""

    def __init__(self, test: Turns, asked: str) -> None:
        """Ask for one of `KINDS`."""
        self.test, self.kind = test, asked
        self.asked, self.given = test.label(asked), test.label(_not(asked))
        others = (test.ai_speaks[:, None] == test.ai_speaks) & (test.topic[:, None] != test.topic)
        self._centring = np.eye(len(others)) - others / others.sum(axis=1, keepdims=True)

    def hits(self, vectors: np.ndarray, tested: np.ndarray) -> np.ndarray:
        """1 where the emotion is named (…, rows) in activations (…, rows, coordinates).

        `vectors` are (…, rows, emotions, coordinates), or without rows where they are the same for all.
        """
        centred = self._centring @ tested
        scores = (vectors @ centred[..., None])[..., 0] if vectors.ndim > 2 else centred @ vectors.T
        scores[..., np.arange(len(self.given)), self.given] = -np.inf
        return scores.argmax(axis=-1) == self.asked

    def permuted(self, values: np.ndarray, orders: np.ndarray) -> Iterator[np.ndarray]:
        """Activations (permutations, rows, coordinates) under the null, some permutations at a time."""
        fitted = without(self.test, self.kind) @ values
        residuals = values - fitted
        for start in range(0, len(orders), _AT_ONCE):
            order = orders[start : start + _AT_ONCE]
            # Of both roles, the rows of the user come first and those of the assistant in the same order after them.
            moved = np.hstack([order + shift for shift in range(0, len(values), orders.shape[1])])
            yield fitted + residuals[moved]


def share_interval(values: np.ndarray, topic: np.ndarray, bootstrap: int, rng: np.random.Generator) -> list[float]:
    """The 95 % interval of the mean of `values` (rows,) between 0 and 1, topics resampled.

    Widened to Wilson's over single rows where that is wider: a share that is the same on all topics does not vary.
    """
    draws = bootstrap_means(values[:, None], topic, bootstrap, rng)[:, 0]
    low, high = topic_interval(draws, len(np.unique(topic)))
    wilson = scipy.stats.binomtest(round(float(values.sum())), len(values)).proportion_ci(LEVEL, "wilson")
    return [min(low, float(wilson.low)), max(high, float(wilson.high))]


def _not(kind: str) -> str:
    return KINDS[1 - KINDS.index(kind)]


def recognise(
    cell: Cell, learn: tuple[Turns, np.ndarray], test: tuple[Turns, np.ndarray], orders: np.ndarray, emotions: int
) -> tuple[np.ndarray, np.ndarray]:
    """Hits (rows,) of a cell, and the share of hits (permutations,) under its null.

    `learn` and `test` are the turns with their activations in common coordinates; `orders` (permutations, dialogues)
    are orders of the dialogues. Where the two are the same turns, they are permuted as one.
    """
    model = Recogniser(cell, learn[0], test[0], emotions)
    vectors = model.vectors(learn[1])
    shares = [
        model.question.hits(model.vectors(drawn) if model.same else vectors, drawn).mean(axis=-1)
        for drawn in model.question.permuted(test[1], orders)
    ]
    return model.question.hits(vectors, test[1]).astype(np.float64), np.concatenate(shares)


def by_words(texts: list[str], turns: Turns, asked: str) -> np.ndarray:
    """Hits (rows,) of a bag of words that learns from the same rows and chooses among the same emotions.

    The classifier of `affectome.analyses.words`; emotions that tie share the hit.
    """
    label, given = turns.label(asked), turns.label(_not(asked))
    occurs = occurrence(words_of(texts), np.arange(len(texts))).toarray()
    found = np.zeros(len(label))
    for topic, emotion in sorted(set(zip(turns.topic.tolist(), given.tolist(), strict=True))):
        learned = (turns.topic != topic) & (given != emotion)
        rows = np.flatnonzero((turns.topic == topic) & (given == emotion))
        having = occurs[learned].sum(axis=0)
        weights = np.where(having > 0, np.log(learned.sum() / np.maximum(having, 1)), 0.0)
        answers = np.delete(np.arange(label.max() + 1), emotion)
        vectors = unit(occurs[learned] * weights)
        centroids = unit(np.array([vectors[label[learned] == answer].mean(axis=0) for answer in answers]))
        scores = unit(occurs[rows] * weights) @ centroids.T
        first = scores >= scores.max(axis=1, keepdims=True) - 1e-12
        found[rows] = (first & (answers == label[rows, None])).sum(axis=1) / first.sum(axis=1)
    return found


# ---------------------------------------------------------------- vectors of the two kinds side by side


def halvings(topics: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Ways to halve numbered topics, as the numbers of the first half: all, or `_HALVINGS` drawn without repetition."""
    half = topics // 2
    if topics <= 8:
        # With an even number of topics, a half and the rest are one way.
        return [
            np.array(chosen) for chosen in itertools.combinations(range(topics), half) if topics % 2 or chosen[0] == 0
        ]
    drawn = {tuple(sorted(rng.permutation(topics)[:half])) for _ in range(_HALVINGS)}
    return [np.array(chosen) for chosen in sorted(drawn)]


@dataclass(frozen=True)
class Halves:
    """The weights (halvings, 2 halves, 2 kinds, emotions, rows) of all ways of halving that tell the effects apart."""

    weights: np.ndarray

    @classmethod
    def of(cls, turns: Turns, emotions: int, rng: np.random.Generator) -> "Halves":
        topics = np.unique(turns.topic)
        weights = []
        for chosen in halvings(len(topics), rng):
            first = np.isin(turns.topic, topics[chosen])
            pair = [effects(turns, np.flatnonzero(part), emotions) for part in (first, ~first)]
            if pair[0] is not None and pair[1] is not None:
                weights.append(pair)
        return cls(np.array(weights).reshape(-1, 2, 2, emotions, len(turns.topic)))

    def products(self, values: np.ndarray) -> np.ndarray:
        """Mean products (kind, kind, emotion, emotion) of vectors of one half with those of the other."""
        found = np.einsum("sher,rc->shec", self.weights.reshape(len(self.weights), 2, -1, len(values)), values)
        first, second = found[:, 0], found[:, 1]
        emotions = self.weights.shape[3]
        sums = np.einsum("sec,sfc->ef", first, second) / max(len(self.weights), 1)
        sums = (sums + sums.T) / 2
        return sums.reshape(2, emotions, 2, emotions).transpose(0, 2, 1, 3)

    def reliability(self, values: np.ndarray) -> list[float]:
        """Mean split-half reliability over emotions and ways of halving, of the two kinds."""
        found = np.einsum("shker,rc->shkec", self.weights, values)
        return [
            float(np.mean([split_half_reliability(pair[0, kind], pair[1, kind]).mean() for pair in found]))
            if len(found)
            else float("nan")
            for kind in (0, 1)
        ]


def cosine(products: np.ndarray) -> float:
    """The cosine described above from mean products (2, 2, emotions, emotions); NaN where a length is not positive."""
    between, first, second = (np.trace(products[kinds]) for kinds in ((0, 1), (0, 0), (1, 1)))
    return float(between / np.sqrt(first * second)) if min(first, second) > 0 else float("nan")


def jackknife(whole: float, parts: Sequence[float]) -> list[float]:
    """The 95 % interval of an estimate of which `parts` leave out one group each (Efron & Tibshirani 1993, ch. 11)."""
    values = np.array(parts)
    n = len(values)
    error = np.sqrt((n - 1) / n * np.sum((values - values.mean()) ** 2))
    reach = scipy.stats.t.isf((1 - LEVEL) / 2, n - 1) * error
    return [float(whole - reach), float(whole + reach)]


def matched(products: np.ndarray, permutations: int, rng: np.random.Generator) -> np.ndarray:
    """The traces (n,) of a matrix (emotions, emotions) with its columns permuted: the null of what is on the diagonal.

    All permutations but the one that changes nothing where these are no more than `permutations`, else that many.
    """
    k = len(products)
    if factorial(k) - 1 <= permutations:
        order = np.array([each for each in itertools.permutations(range(k)) if each != tuple(range(k))])
    else:
        order = rng.permuted(np.tile(np.arange(k), (permutations, 1)), axis=1)
    return products[np.arange(k), order].sum(axis=1)


def orthogonality(
    turns: Turns, values: np.ndarray, emotions: int, permutations: int, rng: np.random.Generator, seed_rng: Any
) -> dict[str, Any]:
    """How present and other vectors of the same emotion lie to each other; see the module."""
    halves = Halves.of(turns, emotions, seed_rng())
    products = halves.products(values)
    estimate = cosine(products)
    weights = effects(turns, np.arange(len(values)), emotions)
    if weights is None:
        raise UserError("the dialogues do not tell the emotions of the two speakers apart; cross them more evenly")
    present, other = (unit(weights[kind] @ values) for kind in (0, 1))
    cosines = np.abs(present @ other.T)
    # Of both roles, a dialogue has two rows.
    dialogues = len(values) // len(np.unique(turns.ai_speaks))
    permuted = []
    for _ in range(min(permutations, _SWEEP)):
        order = rng.permutation(dialogues)
        moved = values[np.concatenate([order + shift for shift in range(0, len(values), dialogues)])]
        drawn = [unit(weights[kind] @ moved) for kind in (0, 1)]
        permuted.append(np.abs((drawn[0] * drawn[1]).sum(axis=1)).mean())
    same = np.eye(emotions, dtype=bool)
    between = products[0, 1]
    parts = []
    for topic in np.unique(turns.topic):
        rows = turns.topic != topic
        left = Turns(turns.person[rows], turns.ai[rows], turns.topic[rows], turns.ai_speaks[rows])
        parts.append(cosine(Halves.of(left, emotions, seed_rng()).products(values[rows])))
    reliability = halves.reliability(values)
    return {
        "cosine": estimate,
        "ci": jackknife(estimate, parts) if np.isfinite([estimate, *parts]).all() else None,
        "p": p_value(abs(np.trace(between)), np.abs(matched(between, permutations, rng)))
        if len(halves.weights)
        else None,
        "absolute": float(cosines[same].mean()),
        "absolute_others": float(cosines[~same].mean()),
        "absolute_permuted": float(np.mean(permuted)),
        "signed": float((present * other).sum(axis=1).mean()),
        "reliability": dict(zip(KINDS, reliability, strict=True)),
        "ceiling": float(np.sqrt(np.prod(np.clip(reliability, 0, None)))),
        "halvings": len(halves.weights),
        "n_emotions": emotions,
    }


# ---------------------------------------------------------------- with the run's vectors


def agreement(
    turns: Turns, values: np.ndarray, names: list[str], run: Vectors, permutations: int, rng: np.random.Generator
) -> dict[str, Any]:
    """Cosine of present and other vectors with the run's, emotion by emotion, over those of which both have one.

    Both are centred over these emotions first. p is one-sided: emotions permuted.
    """
    shared = [name for name in names if name in run.emotions]
    if len(shared) < FEWEST:
        return {"n_emotions": len(shared)}
    rows = [names.index(name) for name in shared]
    stories = unit(contrast(run.denoised[[run.emotions.index(name) for name in shared]].astype(np.float64)))
    weights = effects(turns, np.arange(len(values)), len(names))
    found: dict[str, Any] = {"n_emotions": len(shared)}
    for kind in (0, 1):
        cosines = unit(contrast(weights[kind][rows] @ values)) @ stories.T
        found[KINDS[kind]] = {
            "cosine": float(np.trace(cosines) / len(shared)),
            "others": float((cosines.sum() - np.trace(cosines)) / (len(shared) * (len(shared) - 1))),
            "p": p_value(float(np.trace(cosines)), matched(cosines, permutations, rng)),
            "by_emotion": {name: float(cosines[row, row]) for row, name in enumerate(shared)},
        }
    return found


def role_difference(
    dialogues: Dialogues, activations: np.ndarray, run: Vectors, bootstrap: int, permutations: int, seed: int
) -> pd.DataFrame:
    """Assistant's minus user's readout of each emotion of the run, in standard deviations over all turns.

    The readout is the projection on the unit vector. One row per emotion: `emotion, value, low, high, p, q, n`; the
    interval resamples topics, p flips the sign of each dialogue's difference, two-sided.
    """
    user, assistant = (dialogues.values(activations, role) @ run.unit.T.astype(np.float64) for role in ROLES[:2])
    spread = np.concatenate([user, assistant]).std(axis=0)
    difference = (assistant - user) / np.where(spread > 0, spread, 1.0)
    topic = dialogues.turns["user"].topic
    rng = generator(seed, "speakers", "role_difference")
    draws = bootstrap_means(difference, topic, bootstrap, rng)
    ends = np.array([topic_interval(draws[:, i], len(dialogues.topics)) for i in range(draws.shape[1])])
    signs = rng.choice([-1.0, 1.0], size=(permutations, len(difference)))
    mean = difference.mean(axis=0)
    null = np.abs(signs @ difference / len(difference))
    p = np.array([p_value(abs(value), null[:, i]) for i, value in enumerate(mean)])
    columns = {"emotion": run.emotions, "value": mean, "low": ends[:, 0], "high": ends[:, 1]}
    return pd.DataFrame(columns | {"p": p, "q": benjamini_hochberg(p), "n": len(difference)})


# ---------------------------------------------------------------- the question


def speakers(
    readouts: str | Path,
    vectors: Sequence[str | Path],
    bootstrap: int,
    permutations: int,
    seed: int,
    layer: int,
    table: str | Path,
    output: str | Path,
) -> None:
    """Write the answers described above, of the dialogues in `readouts`, at every layer and in detail at `layer`.

    The JSON holds `probes.{role}.{kind}` and `opening.{kind}` at the headline layer (`top1, ci, p, null, words,
    words_so_far, n`), `transfer` (a list: vectors of one kind and role asked for another), `stories` (the run's own
    vectors asked the same), `orthogonality.{role}`, `agreement.{role}`, `roles` (emotions read more on one role's
    turns), and `layers.{L}.{role}.{kind}` for the two roles apart, with `q` over layers, roles and kinds; layers other
    than the headline have at most `_SWEEP` permutations. Raises UserError where the readouts
    are none of dialogues, do not go with the vectors, or have too few dialogues.
    """
    read = read_readouts(readouts)
    run = read.beside(read_all(vectors), layer)
    dialogues = Dialogues.of(read)
    k, count = len(dialogues.emotions), len(dialogues.averaged["user"])
    orders = generator(seed, "speakers", "orders").permuted(np.tile(np.arange(count), (permutations, 1)), axis=1)
    draw = _Draws(dialogues, bootstrap, seed)
    layers: dict[int, Any] = {}
    for number in read.layers:
        activations = read.at(number)
        some = orders if number == layer else orders[:_SWEEP]
        layers[number] = {
            role: {kind: draw.share(*_own(dialogues, activations, role, kind, some, k), role) for kind in KINDS}
            for role in ROLES[:2]
        }
    _add_q([layers[number][role][kind] for number in layers for role in ROLES[:2] for kind in KINDS])
    activations = read.at(layer)
    both = {kind: draw.share(*_own(dialogues, activations, "both", kind, orders, k), "both") for kind in KINDS}
    opening = {kind: draw.share(*_own(dialogues, activations, "opening", kind, orders, k), "opening") for kind in KINDS}
    probes = {
        role: {kind: found[kind] | draw.words(role, kind) for kind in KINDS}
        for role, found in {**layers[layer], "both": both, "opening": opening}.items()
    }
    opening = probes.pop("opening")
    transfer = _transfer(dialogues, activations, orders, draw, k)
    stories = _stories(dialogues, activations, run[layer], orders, draw)
    lying, agreeing = {}, {}
    for role in ROLES:
        values = _centred(dialogues.values(activations, role), dialogues.turns[role])
        rng = generator(seed, "speakers", "orthogonality", role)
        lying[role] = orthogonality(
            dialogues.turns[role], values, k, permutations, rng, lambda: generator(seed, "speakers", "halvings")
        )
        agreeing[role] = agreement(
            dialogues.turns[role], values, dialogues.emotions, run[layer], permutations,
            generator(seed, "speakers", "agreement", role),
        )  # fmt: skip
    roles = role_difference(dialogues, activations, run[layer], bootstrap, permutations, seed)
    ranked = roles.sort_values("value", ascending=False, kind="stable")
    result = {
        "layer": layer,
        "n": {"dialogues": count, "topics": len(dialogues.topics), "emotions": k, "vectors": len(run[layer].emotions)},
        "emotions": dialogues.emotions,
        "topics": dialogues.topics,
        "template": read.template,
        "chance": 1 / (k - 1),
        "bootstrap": bootstrap,
        "permutations": permutations,
        "null": "residuals of the model without the emotion asked for, permuted over dialogues (Freedman-Lane)",
        "probes": probes,
        "opening": opening,
        "transfer": transfer,
        "stories": stories,
        "orthogonality": lying,
        "agreement": agreeing,
        "roles": {
            "assistant": ranked.head(_EXTREMES).to_dict("records"),
            "user": ranked.tail(_EXTREMES)[::-1].to_dict("records"),
        },
        "layers": layers,
    }
    write_json(output, result)
    write_table(table, pd.DataFrame(_rows(result, roles), columns=list(_COLUMNS)))


def _centred(values: np.ndarray, turns: Turns) -> np.ndarray:
    """`values` minus the mean of their role: least squares gives the same vectors, with fewer digits lost."""
    means = np.array([values[turns.ai_speaks == role].mean(axis=0) if (turns.ai_speaks == role).any() else
                      np.zeros(values.shape[1]) for role in (False, True)])  # fmt: skip
    return values - means[turns.ai_speaks.astype(int)]


def _own(
    dialogues: Dialogues, activations: np.ndarray, role: str, kind: str, orders: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    turns = dialogues.turns[role]
    (values,) = coordinates(_centred(dialogues.values(activations, role), turns))
    return recognise(Cell(role, kind, role, kind), (turns, values), (turns, values), orders, k)


class _Draws:
    """Shares of hits with their intervals."""

    def __init__(self, dialogues: Dialogues, bootstrap: int, seed: int) -> None:
        self._dialogues, self._bootstrap, self._seed = dialogues, bootstrap, seed

    def _share(self, hits: np.ndarray, role: str) -> tuple[float, list[float]]:
        topic = self._dialogues.turns[role].topic[: len(hits)]
        # The same resamples everywhere, so that differences are not those of the draws.
        rng = generator(self._seed, "speakers", "bootstrap")
        return float(hits.mean()), share_interval(hits, topic, self._bootstrap, rng)

    def share(self, hits: np.ndarray, null: np.ndarray, role: str) -> dict[str, Any]:
        top1, ci = self._share(hits, role)
        return {"top1": top1, "ci": ci, "p": p_value(top1, null), "null": float(null.mean()), "n": len(hits)}

    def words(self, role: str, kind: str) -> dict[str, Any]:
        found = {}
        for name in ("words", "words_so_far"):
            texts = getattr(self._dialogues, name)[role]
            top1, ci = self._share(by_words(texts, self._dialogues.turns[role], kind), role)
            found[name] = {"top1": top1, "ci": ci, "n": len(texts)}
        return found


def _transfer(
    dialogues: Dialogues, activations: np.ndarray, orders: np.ndarray, draw: _Draws, k: int
) -> list[dict[str, Any]]:
    """Every kind and role of vectors asked for every emotion of every role, the two roles apart."""
    pair = ROLES[:2]
    values = coordinates(*(_centred(dialogues.values(activations, role), dialogues.turns[role]) for role in pair))
    known = {role: (dialogues.turns[role], here) for role, here in zip(pair, values, strict=True)}
    found = []
    for cell in _cells(pair):
        share = draw.share(*recognise(cell, known[cell.learned_from], known[cell.tested_on], orders, k), cell.tested_on)
        found.append(vars(cell) | share)
    _add_q(found)
    return found


def _add_q(cells: list[dict[str, Any]]) -> None:
    for cell, q in zip(cells, benjamini_hochberg(np.array([cell["p"] for cell in cells])), strict=True):
        cell["q"] = float(q)


def _cells(roles: Sequence[str]) -> Iterator[Cell]:
    for learned_from in roles:
        for learned in KINDS:
            for tested_on in roles:
                for asked in KINDS:
                    yield Cell(learned_from, learned, tested_on, asked)


def _stories(
    dialogues: Dialogues, activations: np.ndarray, run: Vectors, orders: np.ndarray, draw: _Draws
) -> dict[str, Any]:
    """Emotions named by the run's own vectors, which no dialogue went into; nothing where it lacks some of them."""
    missing = [name for name in dialogues.emotions if name not in run.emotions]
    if missing:
        return {"missing": missing}
    places = [run.emotions.index(name) for name in dialogues.emotions]
    found: dict[str, Any] = {"missing": []}
    for role in ROLES:
        turns = dialogues.turns[role]
        centred = _centred(dialogues.values(activations, role), turns)
        stories = unit(contrast(run.denoised[places].astype(np.float64)))
        values, directions = coordinates(centred, stories)
        found[role] = {}
        for kind in KINDS:
            asked = Question(turns, kind)
            null = [asked.hits(directions, drawn).mean(axis=-1) for drawn in asked.permuted(values, orders)]
            found[role][kind] = draw.share(asked.hits(directions, values).astype(float), np.concatenate(null), role)
    return found


def _rows(result: dict[str, Any], roles: pd.DataFrame) -> list[dict[str, Any]]:
    """The table: `part` is the part of the JSON that a row is from."""
    rows: list[dict[str, Any]] = []
    layer, chance = result["layer"], result["chance"]

    def add(part: str, share: dict[str, Any], cell: Cell, at: int = layer, measure: str = "top1") -> None:
        low, high = share["ci"]
        about = vars(cell) | {"part": part, "layer": at, "measure": measure, "value": share["top1"]}
        rows.append(about | {"low": low, "high": high, "chance": chance} | {n: share.get(n) for n in ("p", "q", "n")})

    for at, found in result["layers"].items():
        for role in ROLES[:2]:
            for kind in KINDS:
                add("layers", found[role][kind], Cell(role, kind, role, kind), at)
    for role, found in (("opening", result["opening"]), *result["probes"].items()):
        for kind in KINDS:
            cell = Cell(role, kind, role, kind)
            if role not in ROLES[:2]:
                add("probes", found[kind], cell)
            for name in ("words", "words_so_far"):
                add("words", found[kind][name], cell, measure=name)
    for share in result["transfer"]:
        add("transfer", share, Cell(*(share[name] for name in ("learned_from", "learned", "tested_on", "asked"))))
    for role in ROLES:
        for kind in KINDS if role in result["stories"] else ():
            add("stories", result["stories"][role][kind], Cell("stories", "stories", role, kind))
        for kind in KINDS:
            agreeing = result["agreement"][role].get(kind, {"by_emotion": {}})
            for emotion, value in agreeing["by_emotion"].items():
                rows.append(
                    {"part": "agreement", "layer": layer, "learned_from": role, "learned": kind, "emotion": emotion}
                    | {"measure": "cosine", "value": value, "n": result["n"]["dialogues"]}
                )
    for row in roles.to_dict("records"):
        rows.append(row | {"part": "roles", "layer": layer, "measure": "assistant minus user, in deviations"})
    return rows
