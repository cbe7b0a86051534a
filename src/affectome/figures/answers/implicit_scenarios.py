"""Implicit scenarios: which emotions the model holds in mind, scenario by scenario, and how sure that is by layer."""

import textwrap
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, MaxNLocator

from affectome.figures.style import ACCENT, COSINES, FAINT, INK, MUTED, VALENCE, canvas, note
from affectome.figures.wording import interval, number, p_equation

_SIGNIFICANT = 0.05
# Names that stand beside the matrix; of more emotions, every second or third is named.
_NAMED = 45
# Standard deviations at which colours end.
_DEEPEST = 2.5
# Inches left of the matrix.
_LEFT = 1.3


def draw_implicit_scenarios(found: dict[str, Any], table: pd.DataFrame | None, layer: int) -> Figure:
    """The standardised cosines of scenarios with their emotions at `layer`, and what comes of them at every layer."""
    n = found["n"]
    side = min(5.2, max(3.2, 0.2 * n["emotions"]))
    height = side + 2.2
    beneath = (
        f"{n['scenarios']} messages that imply one of {n['emotions']} emotions, read at the last token before the "
        f"reply, layer {layer}."
    )
    figure = canvas(10, height, "Emotions that users' messages imply", beneath)
    low, tall, beside = 1.15 / height, side / height, (_LEFT + side + 1.4) / 10
    ax = figure.add_axes((_LEFT / 10, low, side / 10, tall), title="Standardised cosine")
    bar = figure.add_axes(((_LEFT + side + 0.12) / 10, low + 0.2 * tall, 0.01, 0.6 * tall))
    upper, lower = (
        figure.add_axes((beside, low + bottom * tall, 0.985 - beside, 0.42 * tall), title=title)
        for bottom, title in ((0.58, "Own emotion first"), (0.0, "Own emotion's z"))
    )
    if not found["layers"] or table is None or table.empty:
        for each in (bar, upper, lower):
            each.remove()
        note(ax, textwrap.fill(_too_few(found), 36))
        ax.set(xticks=[], yticks=[])
        return figure
    _matrix(ax, bar, found, table)
    _by_layer(upper, found, "top1", layer, "share of scenarios")
    upper.axhline(1 / n["emotions"], color=MUTED, linewidth=1, linestyle="--")
    upper.set_ylim(0, None)
    upper.set_xlabel("")
    _by_layer(lower, found, "z", layer, "mean z")
    lower.axhline(0, color=MUTED, linewidth=1, linestyle="--")
    return figure


def _matrix(ax: Axes, beside: Axes, found: dict[str, Any], table: pd.DataFrame) -> None:
    names = [entry["emotion"] for entry in found["emotions"]]
    here = table[table["emotion"].isin(names)]
    z = here.pivot_table(index="scenario", columns="emotion", values="z", aggfunc="mean").loc[names, names].to_numpy()
    edges = np.arange(len(names) + 1) - 0.5
    mesh = ax.pcolormesh(
        edges, edges, z, cmap=f"{COSINES}_r", vmin=-_DEEPEST, vmax=_DEEPEST, rasterized=True, antialiased=False
    )
    ax.set(xlim=(-0.5, len(names) - 0.5), ylim=(len(names) - 0.5, -0.5))
    for index, row in enumerate(z):
        ax.add_patch(Rectangle((index - 0.5, index - 0.5), 1, 1, fill=False, edgecolor=INK, linewidth=0.9))
        ax.plot(row.argmax(), index, "o", color=ACCENT, markersize=max(2.5, min(5, 90 / len(names))))
    every = -(-len(names) // _NAMED)
    ticks = range(0, len(names), every)
    ax.set_xticks(ticks, names[::every], rotation=90)
    ax.set_yticks(ticks, names[::every])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_ylabel("implied")
    bar = beside.figure.colorbar(mesh, cax=beside, extend="both")
    bar.set_label("z over the scenarios")
    bar.outline.set_visible(False)


def _by_layer(ax: Axes, found: dict[str, Any], measure: str, headline: int, label: str) -> None:
    layers = sorted(map(int, found["layers"]))
    entries = [found["layers"][str(each)][measure] for each in layers]
    value, low, high = np.array([[entry["value"], *entry["ci"]] for entry in entries], dtype=float).T
    ax.fill_between(layers, low, high, color=VALENCE, alpha=0.15, linewidth=0)
    if len(layers) == 1:
        ax.vlines(layers, low, high, color=VALENCE, linewidth=1)
    ax.plot(layers, value, color=VALENCE, zorder=2.5)
    face = [VALENCE if entry["q"] < _SIGNIFICANT else "white" for entry in entries]
    ax.scatter(layers, value, s=14, c=face, edgecolors=VALENCE, linewidths=0.9, zorder=3)
    ax.axvline(headline, color=FAINT, linewidth=1, linestyle=(0, (1, 2)), zorder=0.8)
    ax.set(xlabel="layer", ylabel=label, xlim=(layers[0] - 0.7, layers[-1] + 0.7))
    ax.xaxis.set_major_locator(FixedLocator(layers) if len(layers) <= 8 else MaxNLocator(6, integer=True))


def numbers_implicit_scenarios(found: dict[str, Any], table: pd.DataFrame | None, layer: int) -> str:  # noqa: ARG001
    """The second line of the caption."""
    if not found["layers"]:
        return f"Here: {_too_few(found)}."
    n, here = found["n"], found["layers"][str(layer)]
    sure = sum(entry["q"] < _SIGNIFICANT for entry in found["emotions"])
    diagonal, z, cosine = here["diagonal"], here["z"], here["cosine"]
    return (
        f"Here, at layer {layer}: {n['scenarios']} scenarios of {n['emotions']} emotions, {n['vectors']} vectors"
        f"{_left_out(found)}. The own emotion comes first among the {n['emotions']} in {_measured(here['top1'])}, "
        f"among the first three in {_measured(here['top3'])}; its mean rank is {_measured(here['rank'], 1)}. Among all "
        f"{n['vectors']} emotions it comes first in {_measured(here['all']['top1'])}, mean rank "
        f"{_measured(here['all']['rank'], 1)}. Its mean z is {number(z['value'])} (95 % interval {interval(z['ci'])}, "
        f"{p_equation(z['p'])}), its mean cosine {number(cosine['value'])} ({interval(cosine['ci'])}). "
        f"{diagonal['value']} of {n['emotions']} emotions come first in the mean over their scenarios "
        f"({number(diagonal['shuffled'], 1)} with shuffled emotions, {p_equation(diagonal['p'])}); single emotions "
        f"with q < 0.05: {sure}."
    )


def _measured(entry: dict[str, Any], digits: int = 2) -> str:
    low, high = (number(bound, digits) for bound in entry["ci"])
    return (
        f"{number(entry['value'], digits)} (95 % interval {low} to {high}, chance {number(entry['chance'], digits)}, "
        f"{p_equation(entry['p'])})"
    )


def said(found: dict[str, Any], layer: int) -> str:
    """The answer in a sentence or two."""
    if not found["layers"]:
        return f"Whether the model holds implied emotions in mind cannot be said: {_too_few(found)}."
    n, here = found["n"], found["layers"][str(layer)]
    top, diagonal = here["top1"], here["diagonal"]
    first = (
        f"Of {n['emotions']} emotions, the one that a message implies lies nearest to what the model holds in mind in "
        f"{number(top['value'])} of {n['scenarios']} messages (95 % interval {interval(top['ci'])}; chance "
        f"{number(top['chance'])}; {p_equation(top['p'])})"
    )
    if not top["p"] < _SIGNIFICANT and not here["z"]["p"] < _SIGNIFICANT:
        return f"{first}, which is no more than chance would give at layer {layer}."
    return (
        f"{first}, and comes first for {diagonal['value']} of {n['emotions']} emotions in the mean over their "
        f"messages, at layer {layer}. The words of a message can give an emotion away too, which this does not tell "
        f"apart."
    )


def _too_few(found: dict[str, Any]) -> str:
    n = found["n"]
    return (
        f"{n['emotions']} of the list's emotions have vectors, and {found['min_emotions']} are needed{_left_out(found)}"
    )


def _left_out(found: dict[str, Any]) -> str:
    names = found["left_out"]
    if not names:
        return ""
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return f" (without vectors: {', '.join(names[:6])}{more})"
