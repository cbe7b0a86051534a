"""Recognition by layer, the layer and window that are best on topics kept for choosing, and what the test says."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, MaxNLocator, PercentFormatter

from affectome.figures.style import ACCENT, AROUSAL, FAINT, INK, MUTED, VALENCE, canvas, note
from affectome.figures.wording import interval, number, p_equation

_DIMENSIONS = {"valence": VALENCE, "arousal": AROUSAL}
_SIGNIFICANT = 0.05
_CHOSEN = "#117733"
# Shares are told apart by whole percents.
_SAME = 0.005


def draw_layer_sweep(found: dict[str, Any], table: pd.DataFrame, layer: int) -> Figure:
    """Top-1 and mean rank by layer, with what was chosen and its test, and held-out agreement with ratings."""
    height = 8.3
    beneath = (
        f"Dotted upright line: layer {layer}, the headline layer. Bands and lines: 95 % intervals. Orange line "
        "across: bag of words."
    )
    figure = canvas(10, height, "Recognition of held-out stories, layer by layer", beneath)
    sheet = figure.add_gridspec(
        2, 2, left=0.07, right=0.985, top=1 - 1.35 / height, bottom=0.5 / height, hspace=0.36, wspace=0.2,
        height_ratios=[1.35, 1],
    )  # fmt: skip
    layers = found["layers"]
    for place, (measure, title) in enumerate((("top1", "Top-1"), ("rank", "Mean rank (1 is best)"))):
        ax = figure.add_subplot(sheet[0, :] if place == 0 else sheet[1, 0], title=title)
        _recognition(ax, found, table, measure)
        _by_layer(ax, layers, layer)
    title = f"Held-out r with ratings: {found['norm']}" if found["norm"] else "Ratings"
    ax = figure.add_subplot(sheet[1, 1], title=title)
    _agreement(ax, table[table["split"] == "norm"])
    _by_layer(ax, layers, layer)
    handles = [
        Line2D([], [], color=INK, marker="o", markersize=3, label="all topics, cross-validated"),
        Line2D([], [], color=_CHOSEN, linestyle="--", label="validation: topics that choose"),
        Line2D([], [], color=ACCENT, marker="D", linestyle="none", label=f"test of the chosen layer {found['best']}"),
    ]
    if found["window"]:
        label = f"test of the chosen window {_window(found)}"
        band = {"linewidth": 5, "alpha": 0.45}
        handles.append(Line2D([], [], color=ACCENT, marker="s", markerfacecolor="white", label=label, **band))
    figure.legend(handles=handles, loc="upper left", bbox_to_anchor=(0.06, 1 - 0.6 / height), ncols=4)
    return figure


def _window(found: dict[str, Any]) -> str:
    layers = found["window"]["layers"]
    return f"{layers[0]} to {layers[-1]}" if len(layers) > 1 else str(layers[0])


def _recognition(ax: Axes, found: dict[str, Any], table: pd.DataFrame, measure: str) -> None:
    rows = table[table["measure"] == measure].sort_values("layer")
    every, validation = (rows[rows["split"] == split] for split in ("cross-validated", "validation"))
    words = found["words"]["cross-validated"][measure]
    ax.axhline(words["value"], color=AROUSAL, linewidth=1.2, zorder=1)
    if None not in words["ci"]:
        ax.axhspan(*words["ci"], color=AROUSAL, alpha=0.12, linewidth=0)
    x = every["layer"].to_numpy()
    if len(x) > 1:
        ax.fill_between(x, every["low"], every["high"], color=INK, alpha=0.13, linewidth=0)
    else:
        ax.vlines(x, every["low"], every["high"], color=INK, linewidth=1)
    ax.plot(x, every["value"], color=INK, marker="o", markersize=3, zorder=2.4)
    ax.plot(
        validation["layer"], validation["value"], color=_CHOSEN, linestyle="--", marker=".", markersize=4, zorder=2.3
    )
    chance = found["chance"][measure]
    if measure == "top1":
        ax.axhline(chance, color=MUTED, linewidth=1, linestyle=(0, (1, 2)))
        ax.text(0.99, chance + 0.012, f"chance {number(100 * chance, 1)} %", transform=ax.get_yaxis_transform(),
                ha="right", va="bottom", fontsize=8, color=MUTED)  # fmt: skip
        ax.set_ylim(-0.02, 1.04)
        ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        ax.set_ylabel("share of stories")
    else:
        ax.set_ylabel(f"of {found['n']['emotions']} (chance {number(chance, 0)})")
        highest = np.nanmax([every["high"].max(), every["value"].max(), validation["value"].max(), words["value"]])
        ax.set_ylim(0.9, 1.05 * max(highest, 1.2))
    shift = 0.16
    _tested(ax, found["best"] + shift, found["test"][measure], "D", ACCENT)
    if found["window"]:
        chosen = found["window"]["layers"]
        entry = found["window"]["test"][measure]
        ax.plot([chosen[0] - 0.3, chosen[-1] + 0.3], [entry["value"]] * 2, color=ACCENT, linewidth=5, alpha=0.35)
        _tested(ax, float(np.mean(chosen)) - shift, entry, "s", "white")


def _tested(ax: Axes, x: float, entry: dict[str, Any], marker: str, face: str) -> None:
    if None not in entry["ci"]:
        ax.plot([x, x], entry["ci"], color=ACCENT, linewidth=1.3, zorder=3)
    ax.plot([x], [entry["value"]], marker=marker, color=ACCENT, markerfacecolor=face, markersize=6, zorder=3.2)


def _agreement(ax: Axes, rows: pd.DataFrame) -> None:
    ax.axhline(0, color=FAINT, linewidth=0.8)
    ax.set(ylabel="correlation with ratings", ylim=(-0.35, 1.02))
    if rows.empty:
        note(ax, "no norm rates enough words")
        return
    for name, colour in _DIMENSIONS.items():
        here = rows[rows["measure"] == name].sort_values("layer")
        if here.empty:
            continue
        x = here["layer"].to_numpy()
        if len(x) > 1:
            ax.fill_between(x, here["low"], here["high"], color=colour, alpha=0.13, linewidth=0)
        else:
            ax.vlines(x, here["low"], here["high"], color=colour, linewidth=1)
        ax.plot(x, here["value"], color=colour, label=name)
        face = np.where(here["q"] < _SIGNIFICANT, colour, "white")
        ax.scatter(x, here["value"], s=13, c=face, edgecolors=colour, linewidths=0.9, zorder=3)
    ax.set_ylim(min(-0.05, float(np.nanmin([rows["low"].min(), rows["value"].min()])) - 0.05), 1.02)
    ax.legend(loc="lower right", ncols=2)


def _by_layer(ax: Axes, layers: list[int], headline: int) -> None:
    ax.axvline(headline, color=MUTED, linewidth=1, linestyle=(0, (1, 2)), zorder=0.8)
    ax.set(xlabel="layer", xlim=(min(layers) - 0.7, max(layers) + 0.7))
    ax.xaxis.set_major_locator(FixedLocator(layers) if len(layers) <= 8 else MaxNLocator(10, integer=True))


def numbers_layer_sweep(found: dict[str, Any], table: pd.DataFrame, layer: int) -> str:
    """Numbers of `draw_layer_sweep`, from its arguments."""
    n, test, words = found["n"], found["test"], found["words"]["test"]
    unit = found["held_out"]
    parts = [
        f"Here: {len(found['layers'])} layers, {n['emotions']} emotions; {n['validation']['n']:,} stories on "
        f"{n['validation']['n_groups']:,} {unit} chose layer {found['best']} (validation top-1 "
        f"{number(found['validation']['top1']['value'])}), and {n['test']['n']:,} on {n['test']['n_groups']:,} others "
        f"tested it: top-1 {_stated(test['top1'])}, top-5 {_stated(test['top5'])}, mean rank {_stated(test['rank'])}; "
        f"bag of words top-1 {_stated(words['top1'])}; chance {number(found['chance']['top1'], 3)}."
    ]
    if found["window"]:
        apart = found["window_over_best"]["top1"]
        parts.append(
            f"Layers {_window(found)} together: test top-1 {_stated(found['window']['test']['top1'])}, "
            f"a difference of {number(apart['value'])} from layer {found['best']} ({interval(apart['ci'])})."
        )
    here = table[(table["split"] == "cross-validated") & (table["measure"] == "top1") & (table["layer"] == layer)]
    if len(here):
        row = here.iloc[0]
        ci = interval([row["low"], row["high"]])
        parts.append(
            f"Cross-validated over all {n['cross-validated']['n_groups']:,} {unit}, layer {layer}: top-1 "
            f"{number(row['value'])} ({ci}), {n['cross-validated']['n']:,} stories."
        )
    rated = table[(table["split"] == "norm") & (table["layer"] == layer)]
    parts += [
        f"{row.measure} r = {number(row.value)} ({interval([row.low, row.high])}), {row.n} words, {p_equation(row.p)}, "
        f"q = {number(row.q, 3)}."
        for row in rated.itertuples()
    ]
    return " ".join(parts)


def _stated(entry: dict[str, Any]) -> str:
    return f"{number(entry['value'])} ({interval(entry['ci'])})"


def said(found: dict[str, Any], layer: int) -> str:
    """The answer in words."""
    n, test, words = found["n"], found["test"]["top1"], found["words"]["test"]["top1"]
    others = f"{n['test']['n_groups']:,} other {found['held_out']}"
    start = (
        f"Of {len(found['layers'])} layers, layer {found['best']} recognises emotions best on the {found['held_out']} "
        f"kept for choosing; on {others} ({n['test']['n']:,} stories) it names {number(100 * test['value'], 0)} %"
        if len(found["layers"]) > 1
        else f"There is one layer, {found['best']}; on {others} ({n['test']['n']:,} stories) it names "
        f"{number(100 * test['value'], 0)} %"
    )
    chance = f"95 % interval {interval(test['ci'])}, chance {number(found['chance']['top1'], 3)}"
    beaten = (
        "as much"
        if abs(words["value"] - test["value"]) < 0.005
        else "more"
        if words["value"] > test["value"]
        else "less"
    )
    ending = f"a bag of words names {number(100 * words['value'], 0)} %, {beaten}."
    if None not in test["ci"] and test["ci"][0] <= found["chance"]["top1"]:
        return f"{start} ({chance}), which may be no more than chance; {ending}"
    at = " That is the headline layer." if found["best"] == layer else ""
    return f"{start} ({chance}); {ending}{at}"
