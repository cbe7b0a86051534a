"""Synonyms, antonyms and unrelated words: their cosines, and how well cosine tells them apart, layer by layer."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator

from affectome.figures.style import FAINT, INK, MUTED, canvas, note
from affectome.figures.wording import interval, number, p_equation

_COLOURS = {"synonym": "#5E3C99", "antonym": "#B35806", "unrelated": "#6E6E6E"}
_PLURAL = {"synonym": "synonyms", "antonym": "antonyms", "unrelated": "unrelated pairs"}
_LISTED = 6


def draw_relations(found: dict[str, Any], table: pd.DataFrame, layer: int) -> Figure:
    """Cosines of the listed pairs at `layer`; below, mean cosines and AUC by layer; beside, pairs out of line."""
    counts = found["n"]
    kinds = ", ".join(f"{counts[kind]:,} {_PLURAL[kind]}" for kind in _COLOURS)
    beneath = f"{found['words']} listed words: {kinds}. Bands and bars: 95 % intervals over words."
    figure = canvas(10, 8.2, f"Cosines of words that mean the same or the opposite, layer {layer}", beneath)
    here = found["layers"][str(layer)]
    _pairs(figure.add_axes((0.1, 0.555, 0.43, 0.325)), table[table["layer"] == layer], here, found)
    _exceptions(figure, here)
    layers = [int(each) for each in found["layers"]]
    ax = figure.add_axes((0.07, 0.075, 0.4, 0.345), title="Mean cosine", ylabel="cosine")
    ax.axhline(0, color=FAINT, linewidth=0.8)
    _by_layer(ax, found, layers, "means", layer)
    ax = figure.add_axes((0.57, 0.075, 0.41, 0.345), title="Told apart from unrelated pairs", ylabel="AUC")
    ax.axhline(found["chance"], color=FAINT, linewidth=0.8)
    ax.set_ylim(0, 1.02)
    _by_layer(ax, found, layers, "auc", layer)
    return figure


def _pairs(ax: Axes, rows: pd.DataFrame, here: dict[str, Any], found: dict[str, Any]) -> None:
    ax.set(title="Every listed pair", xlabel="cosine", ylim=(2.6, -0.6))
    ax.axvline(0, color=FAINT, linewidth=0.8)
    for row, kind in enumerate(_COLOURS):
        mean = here["means"].get(kind)
        cosines = rows.loc[rows["relation"] == kind, "cosine"].sort_values().to_numpy()
        # Evenly spread by rank: no two pairs of one kind can hide each other without chance.
        height = row + 0.26 * np.sin(2.4 * np.arange(len(cosines)))
        ax.scatter(cosines, height, s=13, color=_COLOURS[kind], alpha=0.55, linewidths=0)
        if mean:
            ax.plot(mean["ci"], [row, row], color=INK, linewidth=2.2, zorder=4)
            ax.plot(mean["value"], row, "D", color=INK, markersize=5.5, zorder=5)
        elif not len(cosines):
            ax.text(0, row, "too few pairs", ha="center", va="center", color=MUTED, fontsize=8)
    ax.set_yticks(range(3), [f"{_PLURAL[kind]}\n(n = {found['n'][kind]:,})" for kind in _COLOURS])
    ax.tick_params(axis="y", length=0, colors=INK)
    ax.set_xlim(min(-0.6, *ax.get_xlim()), 1.0)


def _exceptions(figure: Figure, here: dict[str, Any]) -> None:
    lists = {
        "Synonyms least alike": "weakest_synonyms",
        "Antonyms most alike": "closest_antonyms",
        "Most alike, not listed": "similar_unlisted",
        "Most opposed, not listed": "opposed_unlisted",
    }
    for index, (title, name) in enumerate(lists.items()):
        x, y = 0.565 + 0.222 * (index % 2), 0.885 - 0.187 * (index // 2)
        figure.text(x, y, title, fontsize=9, fontweight="bold", va="top")
        shown = [f"{number(pair['cosine'])}  {pair['a']}, {pair['b']}" for pair in here[name][:_LISTED]]
        text = "\n".join(shown) or "none"
        figure.text(x, y - 0.026, text, fontsize=8, va="top", linespacing=1.35, color=INK if shown else MUTED)


def _by_layer(ax: Axes, found: dict[str, Any], layers: list[int], part: str, layer: int) -> None:
    drawn = False
    for kind, colour in _COLOURS.items():
        rows = [(each, found["layers"][str(each)][part].get(kind)) for each in layers]
        rows = [(each, entry) for each, entry in rows if entry]
        if not rows:
            continue
        drawn = True
        x, values = [each for each, _ in rows], [entry["value"] for _, entry in rows]
        low, high = (np.array([entry["ci"][side] for _, entry in rows], dtype=float) for side in (0, 1))
        ax.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
        if len(rows) == 1:
            ax.vlines(x, low, high, color=colour, linewidth=1)
        ax.plot(x, values, color=colour, label=_PLURAL[kind])
        face = ["white" if entry.get("q", 0) >= 0.05 else colour for _, entry in rows]
        ax.scatter(x, values, s=13, c=face, edgecolors=colour, linewidths=0.9, zorder=3)
    if drawn:
        ax.legend(loc="best", ncols=1)
    else:
        note(ax, f"needs {found['min_pairs']} pairs of a kind")
    ax.axvline(layer, color=MUTED, linewidth=1, linestyle=(0, (1, 2)), zorder=0.8)
    ax.set(xlabel="layer", xlim=(min(layers) - 0.7, max(layers) + 0.7))
    ax.xaxis.set_major_locator(FixedLocator(layers) if len(layers) <= 8 else MaxNLocator(8, integer=True))


def numbers_relations(found: dict[str, Any], table: pd.DataFrame, layer: int) -> str:
    """Means and AUC at `layer`, and the published pair."""
    here = found["layers"][str(layer)]
    means = [
        f"{_PLURAL[kind]} {number(mean['value'])} (95 % interval {interval(mean['ci'])}, n = {found['n'][kind]:,})"
        for kind, mean in here["means"].items()
    ]
    told = f"mean cosine of {'; '.join(means)}." if means else f"fewer than {found['min_pairs']} pairs of any kind."
    text = f"Here, {found['words']} listed words at layer {layer}: {told}"
    areas = [_area(kind, area) for kind, area in here["auc"].items()]
    if areas:
        text += f" AUC against unrelated pairs, chance 0.5: {'; '.join(areas)}."
    published = found["published"]
    if here["published"]:
        pairs = int(table["n"].max())
        text += (
            f" {published['a']} and {published['b']} have a cosine of {number(here['published']['cosine'])} here, "
            "above "
            f"{number(here['published']['percentile'], 1)} % of all {pairs:,} pairs; {published['source']} reports "
            f"{number(published['cosine'], 3)}."
        )
    return text


def _area(kind: str, area: dict[str, Any]) -> str:
    return (
        f"{_PLURAL[kind]} {number(area['value'])} (95 % interval {interval(area['ci'])}, {p_equation(area['p'])}, "
        f"q = {number(area['q'], 3)})"
    )


def said(found: dict[str, Any], layer: int) -> str:
    """Whether meaning shows in the cosines at `layer`."""
    here = found["layers"][str(layer)]
    if not here["auc"]:
        return f"Too few synonyms and antonyms are among the emotions to judge: {found['min_pairs']} pairs are needed."
    sentences = []
    for kind, area in here["auc"].items():
        more = "more alike" if kind == "synonym" else "more opposed"
        if area["q"] < 0.05 and area["value"] > found["chance"]:
            start = f"{_PLURAL[kind].capitalize()} have {more} vectors than unrelated words"
        elif area["q"] < 0.05:
            start = f"{_PLURAL[kind].capitalize()} are, against expectation, not {more} than unrelated words but less"
        else:
            start = f"Nothing shows that {_PLURAL[kind]} are {more} than unrelated words"
        sentences.append(
            f"{start}: AUC {number(area['value'])} at layer {layer} (95 % interval {interval(area['ci'])}, chance 0.5, "
            f"{p_equation(area['p'])}, {found['n'][kind]} pairs of {found['words']} words)."
        )
    return " ".join(sentences)
