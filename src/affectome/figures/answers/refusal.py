"""Refusal: how well the three families' vectors tell pairs apart, what words and length reach, and their emotions."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator

from affectome.figures.style import FAINT, GROUPS, INK, MUTED, canvas
from affectome.figures.wording import interval, number, p_equation

_SIDES = {
    "request_risk": "risky against benign requests",
    "refusal_decision": "refusing against complying replies",
    "refusal_style": "curt against kind refusals",
}
_NAMES = {name: name.replace("_", " ") for name in _SIDES}
_COLOURS = dict(zip(_SIDES, (GROUPS[1], GROUPS[0], GROUPS[3]), strict=True))
_SIGNIFICANT = 0.05
_HEIGHT = 9.0


def draw_refusal(found: dict[str, Any], _table: pd.DataFrame | None, layer: int) -> Figure:
    """Pairs told apart by layer, beside words and length at the headline layer, and the nearest emotions."""
    n = found["n"]
    beneath = (
        f"{n['pairs']} pairs of each family on {n['topics']} topics, each topic held out in turn. Lines and bands: 95 "
        "% intervals. Chance is one half, dashed."
    )
    figure = canvas(10, _HEIGHT, "Directions of refusal: a risky request, the decision, the manner", beneath)
    top = figure.add_gridspec(1, 2, left=0.075, right=0.985, bottom=0.58, top=1 - 1.05 / _HEIGHT, wspace=0.42)
    _by_layer(figure.add_subplot(top[0]), found, layer)
    _beside(figure.add_subplot(top[1]), found, layer)
    below = figure.add_gridspec(1, 3, left=0.115, right=0.985, bottom=0.6 / _HEIGHT, top=0.465, wspace=0.62)
    for place, family in enumerate(_SIDES):
        _emotions(figure.add_subplot(below[place]), found["families"][family]["emotions"], family)
    return figure


def _by_layer(ax: Axes, found: dict[str, Any], layer: int) -> None:
    layers = sorted(map(int, found["layers"]))
    for family, colour in _COLOURS.items():
        cells = [found["layers"][str(at)][family] for at in layers]
        values = np.array([cell["pairs"]["value"] for cell in cells])
        ends = np.array([_bounds(cell["pairs"]) for cell in cells])
        ax.fill_between(layers, ends[:, 0], ends[:, 1], color=colour, alpha=0.13, linewidth=0)
        ax.plot(layers, values, color=colour, label=_NAMES[family])
        q = np.array([np.nan if cell["q"] is None else cell["q"] for cell in cells])
        face = np.where(q < _SIGNIFICANT, colour, "white")
        ax.scatter(layers, values, s=13, c=face, edgecolors=colour, linewidths=0.9, zorder=3)
    ax.axhline(0.5, color=MUTED, linestyle="--", linewidth=1)
    ax.axvline(layer, color=MUTED, linewidth=1, linestyle=(0, (1, 2)), zorder=0.8)
    ax.set(xlabel="layer", ylabel="share of pairs told apart", xlim=(layers[0] - 0.7, layers[-1] + 0.7))
    ax.set_ylim(min(0.28, ax.get_ylim()[0]), 1.04)
    ax.xaxis.set_major_locator(FixedLocator(layers) if len(layers) <= 8 else MaxNLocator(8, integer=True))
    ax.set_title("Pairs told apart at every layer")
    ax.legend(loc="lower right", handlelength=1.4)


def _beside(ax: Axes, found: dict[str, Any], layer: int) -> None:
    ways = (("vectors", "o"), ("words", "x"), ("length", "+"))
    for place, family in enumerate(_SIDES):
        here = found["families"][family]
        for shift, (way, mark) in zip((-0.2, 0.03, 0.26), ways, strict=True):
            cell = here["pairs"] if way == "vectors" else here[way]["pairs"]
            colour = _COLOURS[family] if way == "vectors" else INK if way == "words" else MUTED
            low, high = _bounds(cell)
            ax.hlines(place + shift, low, high, color=colour, linewidth=2 if way == "vectors" else 1)
            label = {"vectors": "vector", "words": "bag of words", "length": "number of words"}[way]
            ax.plot(cell["value"], place + shift, mark, color=colour, markersize=6.5,
                    label=label if place == 0 else None)  # fmt: skip
    ax.axvline(0.5, color=MUTED, linestyle="--", linewidth=1)
    ax.set_yticks(range(3), [name.replace(" ", "\n") for name in _NAMES.values()])
    ax.set(ylim=(2.55, -0.85), xlabel="share of pairs told apart")
    ax.set_xlim(min(0.28, ax.get_xlim()[0]), 1.03)
    ax.set_title(f"Beside words and length, layer {layer}")
    ax.legend(loc="upper left", ncols=3, columnspacing=1, handletextpad=0.2, bbox_to_anchor=(-0.03, 1.01))


def _emotions(ax: Axes, emotions: dict[str, Any], family: str) -> None:
    """The emotions most and least alike, each once where there are few."""
    rows = {row["emotion"]: row for row in (*emotions["most"], *emotions["least"])}
    ranked = sorted(rows.values(), key=lambda row: -row["cosine"])
    for place, row in enumerate(ranked):
        low, high = _bounds(row)
        colour = _COLOURS[family]
        called = row["q"] is not None and row["q"] < _SIGNIFICANT
        ax.hlines(place, low, high, color=colour, linewidth=1.5, alpha=0.6)
        ax.plot(row["cosine"], place, "o", color=colour, markerfacecolor=colour if called else "white", markersize=5)
    ax.axvline(0, color=FAINT, linewidth=1)
    ax.set_yticks(range(len(ranked)), [row["emotion"] for row in ranked])
    ax.set(ylim=(len(ranked) - 0.4, -0.6), xlabel="cosine with the emotion’s vector")
    ax.xaxis.set_major_locator(MaxNLocator(4))
    ax.set_title(_NAMES[family])


def _bounds(cell: dict[str, Any]) -> tuple[float, float]:
    low, high = (np.nan if end is None else float(end) for end in cell["ci"])
    return low, high


def numbers_refusal(found: dict[str, Any], _table: pd.DataFrame | None, layer: int) -> str:
    """Each family's share of pairs with interval and q, beside words and length, and the cosines between families."""
    parts = []
    for family, name in _NAMES.items():
        cell = found["families"][family]
        parts.append(
            f"{name} {number(cell['pairs']['value'])} ({interval(cell['pairs']['ci'])}, {p_equation(cell['p'])}; AUC "
            f"{number(cell['auc']['value'])}, words {number(cell['words']['pairs']['value'])}, length "
            f"{number(cell['length']['pairs']['value'])}, reliability {number(cell['reliability'])})"
        )
    between = [
        f"{_NAMES[row['a']]} and {_NAMES[row['b']]} {number(row['cosine'])} ({interval(row['ci'])}, "
        f"q\u00a0=\u00a0{number(row['q'])})"
        for row in found["between"]
    ]
    return (
        f"Here, at layer {layer}, share of {found['n']['pairs']} pairs told apart on topics held out: "
        + "; ".join(parts)
        + f". Cosines: {'; '.join(between)}."
    )


def said(found: dict[str, Any], layer: int) -> str:
    """Which of the three are found on topics that were held out, and whether words do as well."""
    n = found["n"]
    parts, equalled = [], []
    for family, sides in _SIDES.items():
        cell = found["families"][family]
        told = "" if cell["p"] < _SIGNIFICANT else ", which chance can explain"
        low, high = cell["pairs"]["ci"]
        parts.append(
            f"{sides} in {_percent(cell['pairs']['value'])} of pairs ({_percent(low)} to {_percent(high)}, "
            f"{p_equation(cell['p'])}{told})"
        )
        if cell["p"] < _SIGNIFICANT and not _bounds(cell["beyond_words"])[0] > 0:
            equalled.append((_NAMES[family], cell["words"]["pairs"]["value"]))
    text = (
        f"On held-out topics a direction at layer {layer} tells {'; '.join(parts)}; chance is 50\u00a0%, "
        f"n = {n['pairs']} pairs each on {n['topics']} topics."
    )
    if equalled:
        listed = ", ".join(f"{name} {_percent(share)}" for name, share in equalled)
        text += f" A bag of words does about as well, or cannot be told from it ({listed})."
    return text


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f}\u00a0%"
