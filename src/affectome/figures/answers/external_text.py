"""Which emotions stand out in texts from elsewhere: both ends of each corpus's ranking."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from affectome.figures.style import ACCENT, FAINT, INK, MUTED, VALENCE, canvas, note
from affectome.figures.wording import interval, number, p_equation

# Emotions at either end; of at most twice as many all are shown.
_ENDS = 10

# Panels side by side, and of so many corpora at most.
_ACROSS, _PANELS = 2, 8

_SIGNIFICANT = 0.05

# Inches of a row, and of what stands above and below the rows of a panel.
_ROW, _AROUND = 0.19, 1.05

# Inches of the figure's title, and of its sheet from left to right: emotion words, a panel, the shares beside it.
_HEAD, _SHEET = 0.85, (1.3, 3.1, 0.6)

# Corpora and pairs of them whose numbers are said one by one.
_LISTED = 4


def draw_external_text(found: dict[str, Any], table: pd.DataFrame | None, layer: int) -> Figure:
    """A panel per corpus with the emotions that stand out most and least: `table` is `external_text.parquet`."""
    names = list(found["corpora"])[:_PANELS]
    across = min(len(names), _ACROSS)
    down = -(-len(names) // across)
    rows = min(found["n_emotions"], 2 * _ENDS + 1)
    panel = _ROW * rows + _AROUND
    height = down * panel + _HEAD
    beneath = (
        f"Layer {layer}. Lines: 95 % intervals. Grey: 95 % of random mixtures of the vectors. Hollow marks: q ≥ 0.05.\n"
        "On the right of each row: share of passages in which the emotion is the highest of all."
    )
    if len(found["corpora"]) > len(names):
        beneath += f" The first {len(names)} of {len(found['corpora'])} corpora."
    figure = canvas(10, height, "Emotions that stand out in texts from elsewhere", beneath)
    words, wide, beside = _SHEET
    # One corpus has the whole sheet.
    wide += (_ACROSS - across) * (words + wide + beside) / 2
    for index, name in enumerate(names):
        left = words + (index % across) * (words + wide + beside)
        bottom = height - _HEAD - (index // across + 1) * panel + 0.6
        ax = figure.add_axes((left / 10, bottom / height, wide / 10, (panel - _AROUND + 0.15) / height))
        _panel(ax, table[table["corpus"] == name], found["corpora"][name], name)
    return figure


def _panel(ax: Axes, rows: pd.DataFrame, found: dict[str, Any], name: str) -> None:
    ax.set_title(f"{_short(name)}: {found['n']:,} passages")
    ax.set_xlabel("mean projection (share of residual norm)")
    shown = rows.sort_values("rank").reset_index(drop=True)
    gap = len(shown) > 2 * _ENDS
    if gap:
        shown = pd.concat([shown.head(_ENDS), shown.tail(_ENDS)], ignore_index=True)
    place = np.arange(len(shown), dtype=float)
    place[_ENDS:] += gap
    low, high = found["chance"]["mixtures"]
    ax.axvspan(low, high, color=FAINT, alpha=0.35, linewidth=0)
    ax.axvline(0, color=MUTED, linewidth=0.8)
    ax.hlines(place, shown["low"], shown["high"], color=VALENCE, linewidth=1.4)
    face = np.where(shown["q"] < _SIGNIFICANT, VALENCE, "white")
    ax.scatter(shown["mean"], place, s=20, c=face, edgecolors=VALENCE, linewidths=1.1, zorder=3)
    ax.set_yticks(place, shown["emotion"])
    ax.tick_params(axis="y", length=0, labelcolor=INK)
    ax.set_ylim(place[-1] + 0.7, -0.7)
    ax.locator_params(axis="x", nbins=5)
    if gap:
        middle = len(rows) - 2 * _ENDS
        ax.text(0.5, _ENDS, f"{middle} between", transform=ax.get_yaxis_transform(), ha="center", va="center",
                color=MUTED, fontsize=8, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5})  # fmt: skip
    for at, share in zip(place, shown["highest"], strict=True):
        ax.text(1.02, at, _percent(share), transform=ax.get_yaxis_transform(), va="center", fontsize=8, color=ACCENT)
    if not np.isfinite(shown["mean"]).any():
        note(ax, "no numbers")


def _short(name: str) -> str:
    return name if len(name) <= 24 else name[:23] + "…"


def _percent(share: float) -> str:
    return "" if not np.isfinite(share) else "<1 %" if 0 < share < 0.005 else f"{100 * share:.0f} %"


def numbers_external_text(found: dict[str, Any], _table: pd.DataFrame | None, layer: int) -> str:
    """The numbers of `draw_external_text`, from its arguments."""
    said = []
    for name, corpus in list(found["corpora"].items())[:_LISTED]:
        low, high = corpus["chance"]["mixtures"]
        said.append(
            f"{name}, {corpus['n']:,} passages against {corpus['n_neutral']} neutral texts: highest "
            f"{_one(corpus['top'][0])}, lowest {_one(corpus['bottom'][0])}; {corpus['significant']} of "
            f"{found['n_emotions']} emotions differ from neutral texts (q < 0.05), {corpus['outside_mixtures']} lie "
            f"outside the range of 95 % of mixtures ({number(low, 3)} to {number(high, 3)})"
        )
    more = len(found["corpora"]) - len(said)
    agreeing = "; ".join(_agreement(pair) for pair in found["agreement"][:_LISTED])
    return (
        f"Here, at layer {layer}: "
        + ". ".join(said)
        + (f"; and {more} more" if more else "")
        + (f". Agreement: {agreeing}" if agreeing else "")
        + "."
    )


def _one(entry: dict[str, Any]) -> str:
    low, high = entry["ci"]
    return f"{entry['emotion']} {number(entry['mean'], 3)} ({number(low, 3)} to {number(high, 3)})"


def _agreement(pair: dict[str, Any]) -> str:
    return (
        f"{pair['a']} and {pair['b']}, tau = {number(pair['tau_apart'])} ({interval(pair['ci_apart'])}) over "
        f"{pair['n_emotions']} emotions, {p_equation(pair['p_shift'])}"
    )


def said(found: dict[str, Any], layer: int) -> str:
    """What the texts showed, in a few sentences."""
    sentences = []
    for name, corpus in list(found["corpora"].items())[:_LISTED]:
        outside, total = corpus["outside_mixtures"], found["n_emotions"]
        if not corpus["significant"]:
            sentences.append(
                f"In {corpus['n']:,} passages of {name}, no emotion differs from {corpus['n_neutral']} neutral texts "
                f"at layer {layer} (q ≥ 0.05 for all {total})."
            )
            continue
        top = corpus["top"][0]
        low, high = corpus["chance"]["mixtures"]
        sentence = (
            f"In {corpus['n']:,} passages of {name}, {top['emotion']} stands out most at layer {layer}: "
            f"{number(top['mean'], 3)} of the residual norm above {corpus['n_neutral']} neutral texts (95 % interval "
            f"{number(top['ci'][0], 3)} to {number(top['ci'][1], 3)}; random mixtures of the vectors {number(low, 3)} "
            f"to {number(high, 3)}), the highest emotion in {_percent(top['highest'])} of passages (chance "
            f"{100 * corpus['chance']['highest']:.1f} %)."
        )
        if outside <= 0.05 * total:
            sentence += (
                f" But only {outside} of {total} emotions lie outside the range of 95 % of mixtures: the corpus "
                f"differs from neutral texts, and no more along emotions than along mixtures of them."
            )
        sentences.append(sentence)
    for pair in found["agreement"][:_LISTED]:
        agree = pair["q"] is not None and pair["q"] < _SIGNIFICANT and pair["tau_apart"] > 0
        verdict = "rank the emotions alike" if agree else "do not demonstrably rank the emotions alike"
        sentences.append(
            f"{pair['a']} and {pair['b']} {verdict}: Kendall's tau {number(pair['tau_apart'])} over "
            f"{pair['n_emotions']} emotions (95 % interval {interval(pair['ci_apart'])}, chance 0, "
            f"{p_equation(pair['p_shift'])}) with half of the neutral texts for each; {number(pair['tau'])} with the "
            f"same ones, whose error alone makes rankings agree."
        )
    return " ".join(sentences)
