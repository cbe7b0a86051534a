"""Intensity: how what the model holds in mind follows a number in the prompt, template by template and over all."""

import textwrap
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from affectome.figures.style import AROUSAL, FAINT, INK, MUTED, VALENCE, canvas, note
from affectome.figures.wording import interval, number, p_equation

_SIGNIFICANT = 0.05
_ACROSS = 3
# Templates that are drawn; of more, the caption says so.
_DRAWN = 18
_COLOURS = {"rises": AROUSAL, "falls": VALENCE}
_ARROWS = {"rises": "↑", "falls": "↓"}
# Letters of a template shown on either side of its number, and per line.
_AROUND, _LINE = 34, 42
# Readouts are a few thousandths of a residual's norm.
_THOUSAND = 1000
_UNIT = "readout (‰ of residual norm)"


def draw_intensity(found: dict[str, Any], table: pd.DataFrame | None, layer: int) -> Figure:
    """Readouts over the numbers, together and for each template, at `layer`; and hits at every layer."""
    drawn = (found["templates"] or [])[:_DRAWN]
    down = -(-len(drawn) // _ACROSS)
    height = 4.15 + 2.75 * down
    n = found["n"]
    beneath = (
        f"Orange: emotions expected to rise with the number; blue: to fall. {n['tested']} pairs of a template and an "
        f"emotion, layer {layer}."
    )
    figure = canvas(10, height, "What the model holds in mind as a number in the message grows", beneath)
    top = figure.add_gridspec(
        1, 2, left=0.08, right=0.985, top=1 - 1.05 / height, bottom=1 - 3.35 / height, wspace=0.22, width_ratios=[1, 2]
    )
    together = figure.add_subplot(top[0], title="All templates")
    layers = figure.add_subplot(top[1], title="Pairs that follow as expected")
    if not found["layers"] or table is None or table.empty:
        for ax in (together, layers):
            note(ax, _nothing(found))
            ax.set(xticks=[], yticks=[])
        return figure
    _together(together, found["curves"])
    _by_layer(layers, found, layer)
    sheet = {"left": 0.08, "right": 0.975, "top": 1 - 4.75 / height, "bottom": 0.5 / height}
    rows = figure.add_gridspec(max(down, 1), _ACROSS, hspace=0.95, wspace=0.25, **sheet)
    for index, template in enumerate(drawn):
        ax = figure.add_subplot(rows[divmod(index, _ACROSS)])
        _template(ax, template, table[table["template"] == template["template"]])
        if index % _ACROSS == 0:
            ax.set_ylabel(_UNIT)
    return figure


def _together(ax: Axes, curves: dict[str, Any]) -> None:
    for name, colour in _COLOURS.items():
        curve = curves[name]
        if curve is None:
            continue
        x, mean, low, high = (np.array(curve[key], dtype=float) for key in ("position", "mean", "low", "high"))
        ax.fill_between(x, _THOUSAND * low, _THOUSAND * high, color=colour, alpha=0.15, linewidth=0)
        ax.plot(x, _THOUSAND * mean, color=colour, marker="o", markersize=3, label=f"{name}, {curve['pairs']} pairs")
    ax.axhline(0, color=FAINT, linewidth=0.8)
    ax.set_xticks([0, 1], ["smallest", "largest number"])
    ax.set(ylabel=_UNIT)
    ax.legend(loc="upper left", bbox_to_anchor=(0, -0.12), ncols=2, borderpad=0, handlelength=1.2, columnspacing=1)


def _by_layer(ax: Axes, found: dict[str, Any], headline: int) -> None:
    layers = sorted(map(int, found["layers"]))
    entries = [found["layers"][str(each)]["hits"] for each in layers]
    value, low, high = np.array([[entry["value"], *entry["ci"]] for entry in entries], dtype=float).T
    ax.fill_between(layers, low, high, color=INK, alpha=0.12, linewidth=0)
    if len(layers) == 1:
        ax.vlines(layers, low, high, color=INK, linewidth=1)
    ax.plot(layers, value, color=INK, zorder=2.5)
    face = [INK if entry["q"] < _SIGNIFICANT else "white" for entry in entries]
    ax.scatter(layers, value, s=16, c=face, edgecolors=INK, linewidths=0.9, zorder=3)
    ax.axhline(0.5, color=MUTED, linewidth=1, linestyle="--")
    ax.axvline(headline, color=MUTED, linewidth=1, linestyle=(0, (1, 2)), zorder=0.8)
    ax.set(xlabel="layer", ylabel="share of pairs", ylim=(0, 1), xlim=(layers[0] - 0.7, layers[-1] + 0.7))
    ax.xaxis.set_major_locator(FixedLocator(layers) if len(layers) <= 8 else MaxNLocator(10, integer=True))


def _template(ax: Axes, template: dict[str, Any], rows: pd.DataFrame) -> None:
    """One template: a line per expected emotion, and their means in bold."""
    values = sorted(set(template["values"]))
    beside = []
    for name, colour in _COLOURS.items():
        here = rows[rows["expected"] == name]
        readouts = here.pivot_table(index="value", columns="emotion", values="readout", aggfunc="mean") * _THOUSAND
        if readouts.empty:
            continue
        ax.plot(readouts.index, readouts.to_numpy(), color=colour, linewidth=0.9, alpha=0.45)
        ax.plot(readouts.index, readouts.mean(axis=1), color=colour, linewidth=2, marker="o", markersize=3)
        beside.append((f"{_ARROWS[name]} {', '.join(dict.fromkeys(here['emotion']))}", colour))
    for line, (text, colour) in enumerate(beside):
        ax.text(0, 1.17 - 0.12 * line, text, transform=ax.transAxes, fontsize=8, color=colour)
    ax.text(0, 1.31, _shown(template["wording"]), transform=ax.transAxes, fontsize=8, va="bottom", linespacing=1.25)
    ax.axhline(0, color=FAINT, linewidth=0.8)
    if not beside:
        note(ax, "no expected emotion\nhas a vector")
    if values[0] > 0:
        ax.set_xscale("log")
    ax.xaxis.set_major_locator(FixedLocator(_apart(values)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    tested = "not tested"
    if template["p"] is not None:
        tested = f"{template['hits']} of {template['n']}, q\u00a0=\u00a0{number(template['q'])}"
    ax.set_xlabel(f"{template['unit']} ({tested})")


def _apart(values: list[float]) -> list[float]:
    """Those of `values`, ascending, whose labels do not run into one another."""
    scale = np.log(values) if values[0] > 0 else np.array(values, dtype=float)
    span = (scale[-1] - scale[0]) or 1.0
    kept = [0]
    for index in range(1, len(values)):
        room = 0.04 * (len(f"{values[kept[-1]]:,.10g}") + len(f"{values[index]:,.10g}")) / 2 + 0.02
        if (scale[index] - scale[kept[-1]]) / span > room:
            kept.append(index)
    return [values[index] for index in kept]


def _shown(wording: str) -> str:
    """The words around the number, on two lines."""
    at = wording.index("{x}")
    before, after = wording[:at], wording[at:]
    if len(before) > _AROUND:
        before = "… " + before[-_AROUND:].split(" ", 1)[-1]
    room = 2 * _LINE - 8 - len(before)
    if len(after) > room:
        after = after[:room].rsplit(" ", 1)[0] + " …"
    return "\n".join(textwrap.wrap((before + after).replace("{x}", "X"), _LINE)[:2])


def numbers_intensity(found: dict[str, Any], table: pd.DataFrame | None, layer: int) -> str:  # noqa: ARG001
    """The second line of the caption."""
    if not found["layers"]:
        return f"Here: {_nothing(found)}."
    n, here = found["n"], found["layers"][str(layer)]
    hits, change = here["hits"], here["change"]
    sure = sum(pair["q"] < _SIGNIFICANT for pair in found["pairs"])
    drawn = f"; the first {_DRAWN} templates are drawn" if n["templates"] > _DRAWN else ""
    return (
        f"Here, at layer {layer}: {n['templates']} templates, {n['prompts']} prompts{drawn}. {hits['count']} of "
        f"{hits['n']} pairs follow as expected, {number(hits['value'])} (95 % interval {interval(hits['ci'])}, chance "
        f"0.50, {p_equation(hits['p'])}; were pairs independent, {p_equation(hits['p_binomial'])}); mean change from "
        f"the smallest to the largest number {number(change['value'], 4)} of the residual norm (95 % interval "
        f"{number(change['ci'][0], 4)} to {number(change['ci'][1], 4)}, {p_equation(change['p'])}); mean Spearman "
        f"correlation {number(here['spearman']['value'])} ({interval(here['spearman']['ci'])}). Single pairs with q < "
        f"0.05: {sure} of {n['tested']}.{_left_out(found)}"
    )


def said(found: dict[str, Any], layer: int) -> str:
    """The answer in a sentence or two."""
    if not found["layers"]:
        return f"Whether what the model holds in mind follows a number cannot be said: {_nothing(found)}."
    n, hits = found["n"], found["layers"][str(layer)]["hits"]
    first = (
        f"As a number in the message grows, {hits['count']} of {hits['n']} readouts move as expected "
        f"({number(hits['value'])}, 95 % interval {interval(hits['ci'])}; chance 0.50; {p_equation(hits['p'])}; "
        f"{n['templates']} templates) at layer {layer}"
    )
    if not hits["p"] < _SIGNIFICANT:
        return f"{first}: no more than chance would give."
    change = found["layers"][str(layer)]["change"]
    return (
        f"{first}, by {number(change['value'], 4)} of the residual norm from the smallest number to the largest on "
        f"average."
    )


def _nothing(found: dict[str, Any]) -> str:
    return f"no template has both a slope and an expected emotion with a vector{_left_out(found)}".rstrip(".")


def _left_out(found: dict[str, Any]) -> str:
    parts = []
    if found["left_out"]:
        names = found["left_out"]
        more = f" and {len(names) - 6} more" if len(names) > 6 else ""
        parts.append(f"without vectors: {', '.join(names[:6])}{more}")
    if found["no_slope"]:
        parts.append(f"templates without a slope: {', '.join(map(str, found['no_slope']))}")
    return f" ({'; '.join(parts)})." if parts else ""
