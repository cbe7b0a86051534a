"""The emotions that are recognised worst: what they are taken for, how much of it is luck, and what new stories did."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, PercentFormatter

from affectome.figures.style import ACCENT, FAINT, INK, MUTED, VALENCE, canvas, note
from affectome.figures.wording import interval, number

# Emotions that are drawn, and what each is taken for, at most.
_DRAWN, _OTHERS = 40, 4
_EARLIER = "#7A5C00"
_ARROW = {"arrowstyle": "->", "color": MUTED, "linewidth": 1, "shrinkA": 4, "shrinkB": 4}


def draw_weakest_emotions(found: dict[str, Any], table: pd.DataFrame, layer: int) -> Figure:
    """The weakest emotions with what they are taken for; all emotions; luck; and an earlier run, if there is one."""
    weakest = found["weakest"][:_DRAWN]
    compared = found["before_after"]
    changed = compared["emotions"][:_DRAWN] if compared else []
    rows, below = max(len(weakest), 4), max(len(changed) + 3, 7)
    height = 2.05 + 0.26 * rows + 0.22 * below + 0.75
    beneath = (
        f"{found['n']['weakest']} of {len(table)} emotions, layer {layer}; {found['n']['texts']:,} held-out stories. "
        "Lines: 95 % intervals."
    )
    figure = canvas(10, height, "The emotions that are recognised worst", beneath)
    upper = 1 - 1.05 / height
    middle = upper - 0.26 * rows / height
    ax = figure.add_axes((0.14, middle, 0.3, upper - middle), title="Top-1 of held-out stories")
    _weakest(ax, weakest, found["chance"]["top1"])
    lower = middle - 1.0 / height
    bottom = 0.75 / height
    all_of = figure.add_axes((0.07, bottom, 0.19, lower - bottom), title="All emotions")
    _spread(all_of, table)
    luck = figure.add_axes((0.44, bottom, 0.19, lower - bottom), title="Chosen by luck?")
    _luck(luck, found)
    new = figure.add_axes((0.79, bottom, 0.19, lower - bottom), title="Before and after")
    if compared:
        _changed(new, compared, changed)
    else:
        note(new, "no earlier run\nwas given")
        new.set(xticks=[], yticks=[])
    return figure


def _weakest(ax: Axes, weakest: list[dict[str, Any]], chance: float) -> None:
    y = np.arange(len(weakest))
    ax.axvline(chance, color=MUTED, linewidth=1, linestyle=(0, (1, 2)), zorder=0.8)
    for row, entry in zip(y, weakest, strict=True):
        if None not in entry["top1"]["ci"]:
            ax.plot(entry["top1"]["ci"], [row, row], color=VALENCE, linewidth=1.2)
        taken = [f"{other['emotion']} ({other['count']})" for other in entry["taken_for"]]
        more = f" and {len(taken) - _OTHERS} more" if len(taken) > _OTHERS else ""
        text = f"of {entry['n']:,} taken for {', '.join(taken[:_OTHERS])}{more}" if taken else "never taken for another"
        ax.text(1.06, row, text, transform=ax.get_yaxis_transform(), va="center", fontsize=8.5)
    ax.scatter([entry["top1"]["value"] for entry in weakest], y, s=22, color=VALENCE, zorder=3, clip_on=False)
    ax.set_yticks(y, [entry["emotion"] for entry in weakest])
    ax.tick_params(axis="y", length=0)
    _shares(ax)
    ax.set(ylim=(max(len(weakest), 4) - 0.4, -0.6))


def _shares(ax: Axes) -> None:
    ax.set_xlim(-0.02, 1.02)
    ax.xaxis.set_major_locator(FixedLocator([0, 0.5, 1]))
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))


def _spread(ax: Axes, table: pd.DataFrame) -> None:
    bins = np.linspace(0, 1, 13)
    # A score of 1 belongs to the last bin, and exact sixths to the bin they begin.
    where = np.clip(np.floor(table["top1"].to_numpy() * 12 + 1e-9).astype(int), 0, 11)
    for chosen, colour, label in ((~table["weakest"], FAINT, "others"), (table["weakest"], VALENCE, "weakest")):
        counts = np.bincount(where[chosen.to_numpy(dtype=bool)], minlength=12)
        base = np.bincount(where[~table["weakest"].to_numpy(dtype=bool)], minlength=12) if label == "weakest" else 0
        ax.bar(bins[:-1] + 1 / 24, counts, width=0.076, bottom=base, color=colour, label=label)
    _shares(ax)
    ax.set(xlabel="top-1", ylabel="emotions")
    ax.legend(loc="upper left")


def _luck(ax: Axes, found: dict[str, Any]) -> None:
    regression = found["regression"]
    if regression is None:
        note(ax, "needs two topics")
        ax.set(xticks=[], yticks=[])
        return
    halves, means = regression["top1"]["halves"], found["means"]["top1"]
    expected = means["weakest"] + regression["top1"]["expected"]
    rows = [
        ("chosen on one half", halves["chosen_on"], VALENCE, "o"),
        ("measured on the other", halves["measured_on"], ACCENT, "o"),
        ("chosen on all", means["weakest"], VALENCE, "D"),
        ("measured anew, expected", expected, ACCENT, "D"),
        ("mean of all emotions", means["all"], INK, "s"),
    ]
    for first, second in ((0, 1), (2, 3)):
        ax.annotate("", (rows[second][1], second), (rows[first][1], first), arrowprops=_ARROW)
    for row, (_label, value, colour, marker) in enumerate(rows):
        ax.plot([value], [row], marker=marker, color=colour, markersize=6, clip_on=False)
        ax.text(value + 0.05 if value < 0.7 else value - 0.05, row, f"{100 * value:.0f} %", fontsize=8, color=colour,
                va="center", ha="left" if value < 0.7 else "right")  # fmt: skip
    ax.set_yticks(range(len(rows)), [label for label, *_ in rows])
    ax.tick_params(axis="y", length=0)
    _shares(ax)
    ax.set(ylim=(len(rows) - 0.5, -0.5), xlabel="mean top-1")


def _changed(ax: Axes, compared: dict[str, Any], changed: list[dict[str, Any]]) -> None:
    of = compared["top1"]
    rows = [(entry["emotion"], entry["top1"]) for entry in changed]
    rows += [("these together", of["weakest"])] + ([("all others", of["others"])] if of["others"] else [])
    for row, (_name, entry) in enumerate(rows):
        ax.plot([entry["before"], entry["after"]], [row, row], color=FAINT, linewidth=2, zorder=1)
        ax.plot([entry["before"]], [row], marker="o", color=_EARLIER, markerfacecolor="white", markersize=5)
        ax.plot([entry["after"]], [row], marker="o", color=_EARLIER, markersize=5)
    if of["expected"] is not None:
        place = of["weakest"]["before"] + of["expected"]
        ax.plot([place], [len(changed)], marker="|", color=ACCENT, markersize=14, markeredgewidth=2)
    ax.axhline(len(changed) - 0.5, color=FAINT, linewidth=0.8)
    ax.set_yticks(range(len(rows)), [name for name, _ in rows])
    ax.tick_params(axis="y", length=0)
    _shares(ax)
    ax.set(
        ylim=(len(rows) - 0.4, -0.6), xlabel="top-1: hollow before, filled after;\nstroke: what luck alone would give"
    )


def numbers_weakest_emotions(found: dict[str, Any], table: pd.DataFrame, layer: int) -> str:
    """Numbers of `draw_weakest_emotions`, from its arguments."""
    names = "; ".join(
        f"{entry['emotion']} {number(entry['top1']['value'])} ({interval(entry['top1']['ci'])}, n = {entry['n']:,})"
        for entry in found["weakest"][:5]
    )
    means, request = found["means"]["top1"], found["request"]
    parts = [
        f"Here, at layer {layer}: of {len(table)} emotions the {found['n']['weakest']} weakest have a mean top-1 of "
        f"{number(means['weakest'])}, all of them {number(means['all'])} (chance "
        f"{number(found['chance']['top1'], 3)}); {names}. The request names "
        f"{request['pairs']} pairs for {request['emotions']} emotions."
    ]
    if found["regression"]:
        halves = found["regression"]["top1"]["halves"]
        parts.append(
            f"Chosen on half of the {found['held_out']} the weakest have {number(halves['chosen_on'])} there and "
            f"{number(halves['measured_on'])} on the other half ({found['regression']['halvings']} halvings)."
        )
    if found["before_after"]:
        of, n = found["before_after"]["top1"], found["before_after"]["n"]
        parts.append(
            f"The {n['weakest']} emotions that were weakest before went from {number(of['weakest']['before'])} to "
            f"{number(of['weakest']['after'])} ({interval(of['weakest']['ci'])} more)"
            + (f", the {n['others']} others changed by {number(of['others']['difference'])}" if of["others"] else "")
            + (f"; chance alone lets them rise by {number(of['expected'])}." if of["expected"] is not None else ".")
        )
    return " ".join(parts)


def said(found: dict[str, Any], layer: int) -> str:
    """The answer in words."""
    names = [entry["emotion"] for entry in found["weakest"][:5]]
    means, regression = found["means"]["top1"], found["regression"]
    listed = f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]
    start = (
        f"Told apart worst at layer {layer}, of {found['n']['emotions']} emotions, {'are' if len(names) > 1 else 'is'} "
        f"{listed}: top-1 of the {found['n']['weakest']} weakest is {number(means['weakest'])}, of all "
        f"{number(means['all'])} (chance {number(found['chance']['top1'], 3)}, {found['n']['texts']:,} stories)."
    )
    if found["before_after"]:
        of = found["before_after"]["top1"]
        low, high = of["weakest"]["ci"]
        rise = of["weakest"]["difference"]
        expected = of["expected"]
        told = (
            f" The {found['before_after']['n']['weakest']} that were weakest in the earlier run changed by "
            f"{number(rise)} ({interval([low, high])})"
        )
        if expected is None or low is None:
            return start + told + "."
        beyond = "more than" if low > expected else "less than" if high < expected else "not clearly other than"
        return f"{start}{told}, {beyond} the {number(expected)} that chance alone gives the weakest of many."
    if regression:
        start += (
            f" The weakest of many are partly unlucky: measured anew they would rise by about "
            f"{number(regression['top1']['expected'])} without any new story."
        )
    return start
