"""Held-out recognition: how often vectors, and words alone, name the emotion of a story, and what is taken for what."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator, PercentFormatter
from scipy.cluster.hierarchy import leaves_list, linkage, optimal_leaf_ordering

from affectome.figures.style import AROUSAL, FAINT, INK, MUTED, SHARES, VALENCE, canvas, note
from affectome.figures.wording import interval, number, p_equation

_COLOURS = {"vectors": VALENCE, "words": AROUSAL}
_NAMES = {"vectors": "emotion vectors", "words": "bag of words"}
_SIGNIFICANT = 0.05
# Emotions below one another, and inches for each.
_DOWN, _ROW = 57, 0.165
_PAIRS, _INVOLVED, _NAMES_IN_ERROR = 30, 24, 8
_BAR = "#6B93BA"
_OUTCOMES = {
    "both": ("both right", "#5B7C99"),
    "vectors_only": ("vectors only", VALENCE),
    "words_only": ("words only", AROUSAL),
    "neither": ("neither", FAINT),
}


def draw_recognition(found: dict[str, Any], table: pd.DataFrame, layer: int) -> Figure:
    """Top-1, top-5 and the first k overall, and top-1 of every emotion, of vectors and of words."""
    emotions = _by_emotion(table)
    across = max(1, min(4, -(-len(emotions) // _DOWN)))
    down = -(-len(emotions) // across)
    height = 4.9 + _ROW * max(down, 8)
    n = found["n"]
    beneath = (
        f"{n['texts']:,} stories of {n['emotions']} emotions, each named by what was learned from other "
        f"{found['held_out']}; layer {layer}. Lines: 95 % intervals."
    )
    figure = canvas(10, height, "How well the emotion of a held-out story is recognised", beneath)
    top = figure.add_gridspec(
        1, 3, left=0.065, right=0.985, top=1 - 1.25 / height, bottom=1 - 3.35 / height, wspace=0.3,
        width_ratios=[1, 1.5, 1.2],
    )  # fmt: skip
    legend = [Line2D([], [], color=colour, marker="o", markersize=4, label=_NAMES[name])
              for name, colour in _COLOURS.items()]  # fmt: skip
    legend.append(Line2D([], [], color=MUTED, linestyle=(0, (1, 2)), label="chance"))
    figure.legend(handles=legend, loc="upper left", bbox_to_anchor=(0.055, 1 - 0.58 / height), ncols=3)
    _overall(figure.add_subplot(top[0], title="All stories"), found)
    _first_k(figure.add_subplot(top[1], title="Emotion among the first k"), found)
    _beside(figure.add_subplot(top[2], title="Named right by"), found["beside_words"])
    sheet = figure.add_gridspec(
        1, across, left=0.12 if across > 1 else 0.16, right=0.985, top=1 - 4.35 / height, bottom=0.45 / height,
        wspace=0.62,
    )  # fmt: skip
    figure.text(0.012, 1 - 3.75 / height, "Top-1 of every emotion", fontsize=10, fontweight="bold", va="top")
    key = "Blue: emotion vectors, filled where the mean rank is better than by chance (q < 0.05). Orange: bag of words."
    figure.text(0.012, 1 - 3.98 / height, key, fontsize=8.5, color=MUTED, va="top")
    for column in range(across):
        part = emotions.iloc[column * down : (column + 1) * down]
        _emotions(figure.add_subplot(sheet[column]), part, down, found["chance"]["top1"])
    return figure


def _overall(ax: Axes, found: dict[str, Any]) -> None:
    for place, measure in enumerate(("top1", "top5")):
        for shift, name in ((-0.14, "vectors"), (0.14, "words")):
            entry = found[name][measure]
            _whisker(ax, place + shift, entry, _COLOURS[name])
        chance = found["chance"][measure]
        ax.plot([place - 0.3, place + 0.3], [chance] * 2, color=MUTED, linestyle=(0, (1, 2)))
    ax.set_xticks([0, 1], ["top-1", "top-5"])
    ax.set(xlim=(-0.5, 1.5), ylim=(-0.02, 1.03), ylabel="share of stories")
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))


def _whisker(ax: Axes, x: float, entry: dict[str, Any], colour: str) -> None:
    if None not in entry["ci"]:
        ax.plot([x, x], entry["ci"], color=colour, linewidth=1.6)
    if entry["value"] is not None:
        ax.plot([x], [entry["value"]], marker="o", color=colour, markersize=5)


def _first_k(ax: Axes, found: dict[str, Any]) -> None:
    count = len(found["within"]["vectors"])
    k = np.arange(1, count + 1)
    for name, colour in _COLOURS.items():
        ax.plot(k, found["within"][name], color=colour, marker="o" if count <= 12 else None, markersize=3)
    ax.plot(k, k / count, color=MUTED, linestyle=(0, (1, 2)))
    ax.set_xscale("log")
    ticks = [tick for tick in (1, 2, 3, 5, 10, 20, 50, 100, 200) if tick <= count]
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.set(xlabel=f"k, of {count} emotions", xlim=(0.93, count * 1.07), ylim=(-0.02, 1.03))


def _beside(ax: Axes, beside: dict[str, Any]) -> None:
    for place, (name, (_label, colour)) in enumerate(_OUTCOMES.items()):
        entry = beside[name]
        ax.barh(place, entry["value"], color=colour, height=0.62)
        if None not in entry["ci"]:
            ax.plot(entry["ci"], [place, place], color=INK, linewidth=1)
        reach = max(entry["value"], entry["ci"][1] or 0.0)
        inside = reach > 0.75
        ax.text(
            0.02 if inside else reach + 0.02, place, f"{100 * entry['value']:.0f} %", va="center", fontsize=8,
            color="white" if inside else INK,
        )  # fmt: skip
    ax.set_yticks(range(len(_OUTCOMES)), [label for label, _ in _OUTCOMES.values()])
    ax.set(xlim=(0, 1.02), ylim=(len(_OUTCOMES) - 0.5, -0.5), xlabel="share of stories")
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.tick_params(axis="y", length=0)


def _by_emotion(table: pd.DataFrame) -> pd.DataFrame:
    """A row per emotion, the best recognised first, with what vectors and words get."""
    rows = table[table["kind"] == "emotion"]
    top = rows[rows["measure"] == "top1"].set_index("emotion")
    ranks = rows[(rows["measure"] == "rank") & (rows["method"] == "vectors")].set_index("emotion")
    found = top[top["method"] == "vectors"][["value", "low", "high", "n"]].assign(
        words=top[top["method"] == "words"]["value"], rank=ranks["value"], q=ranks["q"]
    )
    return found.reset_index().sort_values(["value", "rank", "emotion"], ascending=[False, True, True])


def _emotions(ax: Axes, rows: pd.DataFrame, down: int, chance: float) -> None:
    y = np.arange(len(rows))
    ax.axvline(chance, color=MUTED, linewidth=1, linestyle=(0, (1, 2)), zorder=0.8)
    ax.hlines(y, rows["low"], rows["high"], color=VALENCE, linewidth=1, alpha=0.6)
    ax.vlines(rows["words"], y - 0.36, y + 0.36, color=AROUSAL, linewidth=1.8, zorder=2.4)
    face = np.where(rows["q"] < _SIGNIFICANT, VALENCE, "white")
    ax.scatter(rows["value"], y, s=15, c=face, edgecolors=VALENCE, linewidths=0.9, zorder=3, clip_on=False)
    ax.set_yticks(y, rows["emotion"])
    ax.set(xlim=(-0.02, 1.02), ylim=(down - 0.4, -0.6), xlabel="top-1")
    ax.xaxis.set_major_locator(FixedLocator([0, 0.5, 1]))
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.tick_params(axis="y", length=0)


def draw_confusions(found: dict[str, Any], table: pd.DataFrame, layer: int) -> Figure:
    """The commonest confusions, the emotions involved in them against each other, and the names given in error."""
    pairs = found["confusions"][:_PAIRS]
    height = 8.2
    rows = table[table["kind"] == "confusion"]
    beneath = (
        f"{int(rows['value'].sum()):,} of {found['n']['texts']:,} held-out stories were taken for another emotion; "
        f"layer {layer}."
    )
    figure = canvas(10, height, "Which emotions are taken for which others", beneath)
    place = {"bottom": 0.6 / height, "top": 1 - 0.95 / height}
    ax = figure.add_subplot(figure.add_gridspec(1, 1, left=0.235, right=0.46, **place)[0], title="Commonest confusions")
    side = figure.add_axes((0.615, 1 - 4.2 / height, 0.325, 3.25 / height))
    below = figure.add_axes((0.615, 0.6 / height, 0.325, 1.7 / height), title="Names given most often in error")
    if not pairs:
        for each in (ax, side, below):
            note(each, "no story was taken for\nanother emotion")
            each.set(xticks=[], yticks=[])
        return figure
    y = np.arange(len(pairs))
    ax.barh(y, [100 * pair["share"] for pair in pairs], color=_BAR, height=0.7)
    for row, pair in enumerate(pairs):
        ax.text(100 * pair["share"] + 2, row, f"{pair['count']} of {pair['of']}", va="center", fontsize=8, color=MUTED)
    ax.set_yticks(y, [f"{pair['emotion']} → {pair['taken_for']}" for pair in pairs])
    ax.tick_params(axis="y", length=0)
    ax.set(xlim=(0, 130), ylim=(_PAIRS - 0.4, -0.6), xlabel="of the emotion's stories (%)", xticks=[0, 50, 100])
    _heat(side, _involved(rows, pairs))
    names = rows.groupby("taken_for")["value"].sum().sort_values(ascending=False, kind="stable").head(_NAMES_IN_ERROR)
    below.barh(range(len(names)), names, color=_BAR, height=0.7)
    below.set_yticks(range(len(names)), names.index)
    below.tick_params(axis="y", length=0)
    below.set(ylim=(_NAMES_IN_ERROR - 0.4, -0.6), xlabel="stories of other emotions")
    below.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    return figure


def _involved(rows: pd.DataFrame, pairs: list[dict[str, Any]]) -> pd.DataFrame:
    """Shares (true, taken for) among the emotions of the commonest confusions, like beside like."""
    words = [word for pair in pairs for word in (pair["emotion"], pair["taken_for"])]
    names = sorted(list(dict.fromkeys(words))[:_INVOLVED])
    here = rows[rows["emotion"].isin(names) & rows["taken_for"].isin(names)]
    shares = here.assign(share=here["value"] / here["n"]).pivot(index="emotion", columns="taken_for", values="share")
    shares = shares.reindex(index=names, columns=names).fillna(0.0).astype(float)
    if len(names) > 2:
        # Far apart unless confused; the upper triangle in the order that linkage takes.
        distance = 1 - (shares + shares.T).to_numpy()[np.triu_indices(len(names), 1)] / 2
        order = leaves_list(optimal_leaf_ordering(linkage(distance, "average"), distance))
        shares = shares.iloc[order, order]
    return shares


def _heat(ax: Axes, shares: pd.DataFrame) -> None:
    ax.set_title("The emotions in them, % of stories")
    edges = np.arange(len(shares) + 1) - 0.5
    mesh = ax.pcolormesh(
        edges, edges, 100 * shares.to_numpy(), cmap=SHARES, vmin=0, vmax=100, rasterized=True, antialiased=False
    )
    ax.set_xticks(range(len(shares)), shares.columns, rotation=90)
    ax.set_yticks(range(len(shares)), shares.index)
    ax.tick_params(length=0)
    ax.set(ylim=(len(shares) - 0.5, -0.5), xlabel="taken for", ylabel="emotion of the story")
    ax.spines[:].set_visible(True)
    left, bottom, width, height = ax.get_position().bounds
    bar = ax.figure.colorbar(mesh, cax=ax.figure.add_axes((left + width + 0.01, bottom, 0.011, 0.5 * height)))
    bar.outline.set_visible(False)


def numbers_recognition(found: dict[str, Any], table: pd.DataFrame, layer: int) -> str:
    """Numbers of `draw_recognition`, from its arguments."""
    n, null = found["n"], found["null"]
    rows = table[(table["kind"] == "emotion") & (table["method"] == "vectors") & (table["measure"] == "rank")]
    better = int((rows["q"] < _SIGNIFICANT).sum())
    scores = [
        f"{label} {number(found['vectors'][name]['value'])} ({interval(found['vectors'][name]['ci'])}; bag of words "
        f"{number(found['words'][name]['value'])}, {interval(found['words'][name]['ci'])}; chance "
        f"{number(found['chance'][name], 3 if name != 'rank' else 1)}; {p_equation(null[name]['p'])})"
        for name, label in (("top1", "top-1"), ("top5", "top-5"), ("rank", "mean rank"))
    ]
    return (
        f"Here, at layer {layer}: {n['texts']:,} stories of {n['emotions']} emotions, {n['groups']:,} "
        f"{found['held_out']} in {n['folds']} folds{_untested(n)}; {'; '.join(scores)}; p from {found['permutations']} "
        f"permutations over {n['permuted']:,} stories. {better} of {len(rows)} emotions have a better mean rank than "
        "permuted ones, q < 0.05."
    )


def _untested(n: dict[str, int]) -> str:
    return f", {n['untested']:,} more could not be tested" if n["untested"] else ""


def numbers_confusions(found: dict[str, Any], table: pd.DataFrame, layer: int) -> str:
    """Numbers of `draw_confusions`, from its arguments."""
    rows = table[table["kind"] == "confusion"]
    if not found["confusions"]:
        return f"Here, at layer {layer}: none of {found['n']['texts']:,} stories was taken for another emotion."
    most = "; ".join(
        f"{pair['emotion']} for {pair['taken_for']}, {pair['count']} of {pair['of']}"
        for pair in found["confusions"][:5]
    )
    return (
        f"Here, at layer {layer}: {int(rows['value'].sum()):,} of {found['n']['texts']:,} stories were taken for "
        f"another emotion, in {len(rows):,} different pairs; most often {most}."
    )


def said(found: dict[str, Any], layer: int) -> str:
    """The answer in words."""
    n, vectors, words = found["n"], found["vectors"]["top1"], found["words"]["top1"]
    apart, p, chance = found["difference"]["top1"], found["null"]["top1"]["p"], found["chance"]["top1"]
    of = f"{n['texts']:,} stories on {found['held_out'] if found['held_out'] == 'topics' else 'topics'}"
    of += " that the vectors had not seen" if found["held_out"] == "topics" else " that they share with others"
    figures = f"{100 * vectors['value']:.0f} % ({_percent(vectors['ci'])}; chance {100 * chance:.1f} %)"
    start = f"At layer {layer} the vectors name the emotion of {figures} of {of}"
    if p >= _SIGNIFICANT:
        return f"{start}, no more than vectors of permuted emotions do ({p_equation(p)})."
    ahead = f"a bag of words names {100 * words['value']:.0f} % ({_percent(words['ci'])})"
    low, high = apart["ci"]
    if low is None or low <= 0 <= high:
        verdict = "so this shows no more than that the words are read"
    elif high < 0:
        verdict = (
            "which is more: this corpus names its emotions on the surface, and recognition is no sign of more than that"
        )
    else:
        verdict = f"which is less, by {100 * apart['value']:.0f} points ({_points(apart['ci'])})"
    only = found["beside_words"]["vectors_only"]["value"]
    return (
        f"{start}, {p_equation(p)}; {ahead}, {verdict}. In {100 * only:.0f} % of the stories the vectors are right "
        "where the words are not."
    )


def _percent(bounds: list[float | None]) -> str:
    return interval(bounds) if None in bounds else f"{100 * bounds[0]:.0f} to {100 * bounds[1]:.0f} %"


def _points(bounds: list[float | None]) -> str:
    return interval(bounds) if None in bounds else f"{number(100 * bounds[0], 0)} to {number(100 * bounds[1], 0)}"
