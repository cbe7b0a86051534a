"""What held-out recognition depends on: stories per emotion, what is taken out as neutral, and what is read."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator, PercentFormatter

from affectome.figures.style import AROUSAL, VALENCE, canvas, note
from affectome.figures.wording import interval, number

_MEASURES = {"top1": "top-1, share of stories", "rank": "mean rank (1 is best)"}
_SHIFT = 1.035
# Characters of a reading's name on a line.
_NAME = 14


def draw_recognition_sweeps(found: dict[str, Any], table: pd.DataFrame, layer: int) -> Figure:
    """Top-1, and below it mean rank, by number of stories, share of denoising and reading."""
    height = 6.9
    n = found["n"]
    beneath = (
        f"{n['texts']:,} stories, {n['emotions']} emotions, layer {layer}. Lines: 95 % intervals by {_unit(found)}; "
        f"small dots: single draws of stories, {found['draws']} each."
    )
    figure = canvas(10, height, "What recognition of held-out stories depends on", beneath)
    sheet = figure.add_gridspec(
        2, 3, left=0.075, right=0.985, top=1 - 1.3 / height, bottom=0.75 / height, hspace=0.3, wspace=0.26
    )
    columns = ("Stories per emotion", "Neutral variance taken out", "Reading")
    for row, (measure, label) in enumerate(_MEASURES.items()):
        axes = [figure.add_subplot(sheet[row, column]) for column in range(3)]
        _stories(axes[0], found["stories"], table, measure)
        _categories(
            axes[1], found["denoising"], measure, lambda value: value if value == "off" else f"{100 * value:g} %"
        )
        _categories(axes[2], found["pooling"], measure, _folded)
        if len(found["pooling"]) == 1:
            axes[2].text(0.97, 0.06, "no other reading was given", transform=axes[2].transAxes, fontsize=8, ha="right")
        axes[0].set_ylabel(label)
        if measure == "top1":
            _same_range(axes, [*found["stories"], *found["denoising"], *found["pooling"]], table)
            for ax, title in zip(axes, columns, strict=True):
                ax.set_title(title)
                ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    handles = [Line2D([], [], color=colour, marker="o", markersize=4, label=label)
               for colour, label in ((VALENCE, "emotion vectors"), (AROUSAL, "bag of words"))]  # fmt: skip
    figure.legend(handles=handles, loc="upper left", bbox_to_anchor=(0.065, 1 - 0.6 / height), ncols=2)
    return figure


def _unit(found: dict[str, Any]) -> str:
    return found["held_out"].replace("topics", "topic").replace("stories", "story")


def _stories(ax: Axes, entries: list[dict[str, Any]], table: pd.DataFrame, measure: str) -> None:
    rows = table[(table["factor"] == "stories") & (table["measure"] == measure)]
    for method, colour, shift in (("vectors", VALENCE, 1 / _SHIFT), ("words", AROUSAL, _SHIFT)):
        of = [entry[measure] if method == "vectors" else entry["words"][measure] for entry in entries]
        x = np.array([entry["value"] for entry in entries], dtype=float)
        here = rows[rows["method"] == method]
        ax.scatter(here["value"].astype(float) * shift, here["score"], s=5, color=colour, alpha=0.45, linewidths=0)
        _whiskers(ax, x * shift, of, colour)
        ax.plot(x * shift, [entry["value"] for entry in of], color=colour, marker="o", markersize=4)
    counts = [entry["value"] for entry in entries]
    ax.set_xscale("log", base=2)
    ax.set_xlim(counts[0] / 1.25, counts[-1] * 1.25)
    # The last number stands in for a power of two that is close to it.
    ticks = [count for count in counts[:-1] if count * 1.3 < counts[-1]] + counts[-1:]
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
    ax.xaxis.set_minor_locator(NullLocator())


def _whiskers(ax: Axes, x: np.ndarray, entries: list[dict[str, Any]], colour: str) -> None:
    for place, entry in zip(x, entries, strict=True):
        if None not in entry["ci"]:
            ax.plot([place, place], entry["ci"], color=colour, linewidth=1.3)


def _categories(ax: Axes, entries: list[dict[str, Any]], measure: str, label: Any) -> None:
    if not entries:
        note(ax, "nothing to compare")
        return
    x = np.arange(len(entries))
    of = [entry[measure] for entry in entries]
    _whiskers(ax, x, of, VALENCE)
    ax.plot(x, [entry["value"] for entry in of], color=VALENCE, marker="o", markersize=4,
            linestyle="-" if isinstance(entries[-1]["value"], float) else "none")  # fmt: skip
    ax.set_xticks(x, [label(entry["value"]) for entry in entries])
    ax.set_xlim(-0.6, len(entries) - 0.4)


def _folded(name: str) -> str:
    """The name of a reading on as many lines as it takes."""
    return "\n".join(name[start : start + _NAME] for start in range(0, len(name), _NAME))


def _same_range(axes: list[Axes], entries: list[dict[str, Any]], table: pd.DataFrame) -> None:
    low = [
        bound for entry in entries for bound in (entry["top1"]["ci"][0], entry["top1"]["value"]) if bound is not None
    ]
    scores = table.loc[(table["factor"] == "stories") & (table["measure"] == "top1"), "score"]
    lowest = float(np.nanmin([*low, scores.min() if len(scores) else np.nan]))
    for ax in axes:
        ax.set_ylim(max(-0.02, lowest - 0.06), 1.02)


def numbers_recognition_sweeps(found: dict[str, Any], _table: pd.DataFrame, layer: int) -> str:
    """Numbers of `draw_recognition_sweeps`, from its arguments."""
    n = found["n"]
    few, many = found["stories"][0], found["stories"][-1]
    parts = [
        f"Here, at layer {layer}: {n['texts']:,} stories on {n['groups']:,} {_groups(found)} in {n['folds']} folds; "
        f"top-1 with {few['value']} per emotion {_stated(few['top1'])}, bag of words {_stated(few['words']['top1'])}, "
        f"with {many['value']} {_stated(many['top1'])}, bag of words {_stated(many['words']['top1'])} "
        f"({many['n']:,} stories tested, {found['draws']} draws each; chance {number(found['chance']['top1'], 3)})"
    ]
    for factor, name in (("denoising", "taking out"), ("pooling", "reading")):
        parts += [
            f"{name} {_named(entry['value'])} changes top-1 by {number(entry['difference']['top1']['value'], 3)} "
            f"({_fine(entry['difference']['top1']['ci'])}; {entry['difference']['n']:,} stories)"
            for entry in found[factor]
            if entry["difference"]
        ]
    return "; ".join(parts) + "."


def _groups(found: dict[str, Any]) -> str:
    return "topics" if found["held_out"] == "topics" else "groups of one"


def _named(value: Any) -> str:
    return f"{100 * value:g} % of the neutral variance" if isinstance(value, float) else str(value)


def _stated(entry: dict[str, Any]) -> str:
    return f"{number(entry['value'])} ({interval(entry['ci'])})"


def _fine(bounds: list[float | None]) -> str:
    return interval(bounds) if None in bounds else f"{number(bounds[0], 3)} to {number(bounds[1], 3)}"


def said(found: dict[str, Any], layer: int) -> str:
    """The answer in words."""
    few, many = found["stories"][0], found["stories"][-1]
    words = many["words"]["top1"]["value"]
    parts = [
        f"At layer {layer} top-1 goes from {_stated(few['top1'])} with {few['value']} "
        f"{'story' if few['value'] == 1 else 'stories'} per emotion to {_stated(many['top1'])} with {many['value']} "
        f"({many['n']:,} stories tested, chance {number(found['chance']['top1'], 3)}); a bag of words of as many names "
        f"{number(words)}."
        if len(found["stories"]) > 1
        else f"At layer {layer} top-1 is {_stated(many['top1'])} ({many['n']:,} stories tested); a bag of words names "
        f"{number(words)}."
    ]
    telling = [
        entry
        for factor in ("denoising", "pooling")
        for entry in found[factor]
        if entry["difference"] and None not in (ci := entry["difference"]["top1"]["ci"]) and not ci[0] <= 0 <= ci[1]
    ]
    if telling:
        most = max(telling, key=lambda entry: abs(entry["difference"]["top1"]["value"]))
        apart = most["difference"]["top1"]
        what = (
            f"taking out {_named(most['value'])}"
            if isinstance(most["value"], float)
            else f"the reading {most['value']}"
        )
        parts.append(
            f"Of the other choices {what} changes it most, by {number(apart['value'], 3)} ({_fine(apart['ci'])})."
        )
    elif any(entry["difference"] for factor in ("denoising", "pooling") for entry in found[factor]):
        parts.append("Neither denoising nor another reading changes it clearly: every interval of the change holds 0.")
    return " ".join(parts)
