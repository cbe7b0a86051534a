"""Recognition and agreement with human ratings at every layer, and which layer is best without having seen the test.

Layers are compared by held-out recognition (`affectome.analyses.recognition`). Some topics are set aside for the test.
The others choose: each in its turn is a validation topic, recognised by vectors made from the rest of them, and the
layer with the highest top-1 wins (then the lower mean rank, then the earlier layer). `choose` sees these validation
scores and nothing else, and they are computed with the test texts' emotions taken away, so no choice can depend on
the test. The layer that was chosen is then reported on the test topics, by vectors made from all the others.

A *window* is a run of neighbouring collected layers, scored by the mean over its layers of a text's standardised scores
(a text is read at all of them at once); the best window is chosen and reported in the same way.

The figures by layer, cross-validated over all topics, describe; they take no part in the choice.
"""

from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from affectome.activations.store import open_layer, rows_of
from affectome.analyses.recognition import (
    Labels,
    chance,
    held_out,
    neutral_texts,
    recognition,
    summarised,
)
from affectome.analyses.splits import held_out_groups, set_aside, topic_folds
from affectome.analyses.statistics import benjamini_hochberg
from affectome.analyses.story_holdout import paired_difference
from affectome.analyses.words import occurring, occurring_held_out, texts_of
from affectome.errors import UserError
from affectome.files import read_json, write_json, write_table
from affectome.randomness import generator

# Choosing and testing on different topics takes three of them.
_FEWEST_TOPICS = 3

Summary = dict[str, dict[str, Any]]


def layer_sweep(
    layer_files: Sequence[str | Path],
    stories: str | Path,
    correlations: str | Path,
    emotions: list[str],
    reference: str,
    denoising: dict[str, Any] | None,
    folds: int,
    window: int,
    bootstrap: int,
    seed: int,
    table: str | Path,
    output: str | Path,
) -> None:
    """Write recognition of `emotions` by layer and the layer and `window` of layers that are best.

    `layer_files` are the layers with activations per text; others are left out and listed as `without_texts`.
    `correlations` is norm_correlations.json, of which the first norm is taken. `output` (JSON) holds `best`, a layer,
    its `validation` and `test`, each with `value` and `ci` of every measure, and the same of `window` (`layers`, None
    where fewer layers were collected than it is long); what a bag of words gets on both splits (`words`), how much the
    best window is above the best layer in the test (`window_over_best`), `chance` and every `n`. `table` (Parquet) has
    a row per layer, `measure` and `split` (`cross-validated`, `validation`, or `norm`, with p of the held-out
    correlation and q by Benjamini-Hochberg over layers and dimensions), and rows of the test for the layer that was
    chosen.

    Holds the activations of some rows of one layer at a time. Raises UserError where no layer has activations per text.
    """
    files = {}
    without = []
    for path in layer_files:
        with open_layer(path) as file:
            if "activations" in file:
                files[int(file.attrs["layer"])] = path
            else:
                without.append(int(file.attrs["layer"]))
    if not files:
        raise UserError("no layer has activations per text; add some to the model's stored layers")
    layers = sorted(files)
    sweep = _Sweep(files, emotions, reference, denoising, folds, seed)

    summaries: dict[tuple[str, int], Summary] = {}
    validation: dict[int, Summary] = {}
    of_windows: dict[tuple[int, ...], Summary] = {}
    recent: deque[tuple[int, np.ndarray]] = deque(maxlen=window)
    for layer in layers:
        every, choosing = sweep.by_layer(layer)
        summaries["cross-validated", layer] = sweep.summarised(every, "cross-validated", bootstrap)
        summaries["validation", layer] = validation[layer] = sweep.summarised(
            recognition(choosing, sweep.choosing, sweep.inner).ranks, "validation", bootstrap
        )
        # float32: several layers' scores are held at once, and their differences are what ranks depend on.
        recent.append((layer, choosing.astype(np.float32)))
        if len(recent) == window:
            mean = np.mean([scores for _, scores in recent], axis=0)
            of_windows[tuple(each for each, _ in recent)] = sweep.summarised(
                recognition(mean, sweep.choosing, sweep.inner).ranks, "validation", bootstrap
            )

    best = choose(validation)
    tested = {best: sweep.test([best])}
    found: dict[str, Any] = {
        "layers": layers,
        "without_texts": sorted(without),
        "held_out": sweep.kind,
        "criterion": "top-1 in validation, then mean rank, then the earlier layer",
        "n": sweep.counts(),
        "bootstrap": bootstrap,
        "chance": chance(len(emotions)),
        "best": best,
        "validation": validation[best],
        "test": sweep.summarised(tested[best], "test", bootstrap),
        "window": None,
        "window_over_best": None,
    }
    summaries["test", best] = found["test"]
    if of_windows:
        chosen = choose(of_windows)
        ranks = sweep.test(chosen)
        here = sweep.aside & np.isfinite(ranks)
        found["window"] = {
            "layers": list(chosen),
            "validation": of_windows[chosen],
            "test": sweep.summarised(ranks, "test", bootstrap),
        }
        found["window_over_best"] = paired_difference(
            ranks[here],
            tested[best][here],
            sweep.labels.emotions[here],
            sweep.groups[here],
            bootstrap,
            generator(seed, "layer_sweep", "window"),
        )
    words = sweep.words(stories)
    found["words"] = {name: sweep.summarised(ranks, name, bootstrap) for name, ranks in words.items()}
    rows = [
        {"layer": layer, "split": split, "measure": measure, "value": entry["value"], "low": entry["ci"][0],
         "high": entry["ci"][1], **sweep.sizes(split)}
        for (split, layer), summary in summaries.items()
        for measure, entry in summary.items()
    ]  # fmt: skip
    name, related = _norm_rows(read_json(correlations), layers)
    found["norm"] = name
    write_table(table, pd.DataFrame([*rows, *related]).astype({"layer": "int64"}))
    write_json(output, found)


def choose(validation: dict[Any, Summary]) -> Any:
    """The layer, or run of layers, that is best by its validation scores, the only thing known of it here."""
    return min(
        validation, key=lambda each: (-validation[each]["top1"]["value"], validation[each]["rank"]["value"], each)
    )


class _Sweep:
    """The texts, which are the same at every layer, how they are split, and what is read of them."""

    def __init__(
        self,
        files: dict[int, str | Path],
        emotions: list[str],
        reference: str,
        denoising: dict[str, Any] | None,
        folds: int,
        seed: int,
    ) -> None:
        self.files, self.emotions, self.seed = files, emotions, seed
        self._vectors = {"reference": reference, "denoising": denoising}
        with open_layer(next(iter(files.values()))) as file:
            self.labels = Labels.read(file, emotions)
        scored = self.labels.scored
        here, self.kind = held_out_groups(self.labels.topics[scored], _FEWEST_TOPICS)
        self.groups, self.folds, self.inner = (np.full(len(scored), -1) for _ in range(3))
        self.aside = np.zeros(len(scored), dtype=bool)
        self.groups[scored] = here
        self.aside[scored] = set_aside(here, generator(seed, "layer_sweep", "test"))
        self.folds[scored] = topic_folds(here, folds, generator(seed, "layer_sweep", "folds"))
        rest = scored & ~self.aside
        self.inner[rest] = topic_folds(self.groups[rest], folds, generator(seed, "layer_sweep", "validation"))
        # The emotions as they are known where layers are chosen: none of a text that is set aside.
        self.choosing = np.where(self.aside, -1, self.labels.emotions)

    def by_layer(self, layer: int) -> tuple[np.ndarray, np.ndarray]:
        """Cross-validated ranks (texts,) over all topics, and validation scores (texts, emotions) without the test."""
        with open_layer(self.files[layer]) as file:
            rows, neutral = rows_of(file), neutral_texts(file, self.labels)
            every = held_out(rows, self.labels.emotions, self.folds, neutral, **self._vectors)
            return every.ranks, held_out(rows, self.choosing, self.inner, neutral, **self._vectors).scores

    def test(self, layers: Sequence[int]) -> np.ndarray:
        """Ranks (texts,) of the texts set aside by the mean of their scores at `layers`; NaN of the others."""
        fold = np.where(self.aside, 0, -1)
        total: np.ndarray | float = 0.0
        for layer in layers:
            with open_layer(self.files[layer]) as file:
                neutral = neutral_texts(file, self.labels)
                total = total + held_out(rows_of(file), self.labels.emotions, fold, neutral, **self._vectors).scores
        return recognition(total / len(layers), np.where(self.aside, self.labels.emotions, -1), fold).ranks

    def words(self, stories: str | Path) -> dict[str, np.ndarray]:
        """Ranks (texts,) by a bag of words, cross-validated and in the test."""
        scored = self.labels.scored
        occurs = occurring(texts_of(stories, self.labels.ids[scored]))
        found = {}
        for name, fold in (("cross-validated", self.folds), ("test", np.where(self.aside, 0, -1))):
            found[name] = np.full(len(scored), np.nan)
            found[name][scored] = occurring_held_out(occurs, self.labels.emotions[scored], fold[scored]).ranks
        return found

    def summarised(self, ranks: np.ndarray, split: str, bootstrap: int) -> Summary:
        """`summarised` with draws that are the same for all layers, so that differences between them are no luck."""
        rng = generator(self.seed, "layer_sweep", "bootstrap", split)
        return summarised(ranks, self.labels.emotions, self.groups, bootstrap, rng)

    def sizes(self, split: str) -> dict[str, int]:
        """How many texts and groups a split has."""
        inside = {
            "cross-validated": self.labels.scored,
            "validation": self.labels.scored & ~self.aside,
            "test": self.aside,
        }[split]
        return {"n": int(inside.sum()), "n_groups": len(np.unique(self.groups[inside]))}

    def counts(self) -> dict[str, Any]:
        """Texts and groups of all splits, and emotions."""
        splits = ("cross-validated", "validation", "test")
        return {"emotions": len(self.emotions), **{split: self.sizes(split) for split in splits}}


def _norm_rows(related: dict[str, Any], layers: Sequence[int]) -> tuple[str | None, list[dict[str, Any]]]:
    """The first norm's name and, by layer and dimension, the held-out correlation with its ratings."""
    by_layer = {layer: related["layers"].get(str(layer), {}) for layer in layers}
    name = next((name for norms in by_layer.values() for name in norms), None)
    rows = [
        {"layer": layer, "split": "norm", "measure": dimension, "value": entry["ridge"]["r"],
         "low": entry["ridge"]["ci"][0], "high": entry["ridge"]["ci"][1], "p": entry["ridge"]["p"],
         "n": norms[name]["n"]}
        for layer, norms in by_layer.items()
        if name in norms
        for dimension, entry in norms[name].items()
        if dimension in ("valence", "arousal")
    ]  # fmt: skip
    q = benjamini_hochberg(np.array([np.nan if row["p"] is None else row["p"] for row in rows]))
    return name, [row | {"q": float(value)} for row, value in zip(rows, q, strict=True)]
