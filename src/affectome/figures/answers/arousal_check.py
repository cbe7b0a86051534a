"""Whether the vectors follow arousal beyond the stories' own words, drawn and said."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from affectome.figures.labels import place_labels
from affectome.figures.style import AROUSAL, FAINT, INK, MUTED, VALENCE, canvas, note
from affectome.figures.wording import interval, number, p_equation, p_value

_COLOURS = {"arousal": AROUSAL, "valence": VALENCE}
_WAYS = {"plain": "as it is", "same": "without the words' own", "both": "without the words' valence and arousal"}
_MARKERS = {"plain": "o", "same": "s", "both": "D"}
_PREDICTORS = {"ridge": "held-out prediction", "pc": "component"}
_LABELS = 14


def draw_arousal_check(found: dict[str, Any], table: pd.DataFrame, layer: int) -> Figure:
    """Human against word-level arousal, and correlations with human ratings with and without the words' ratings."""
    norms = [name for name, answer in found["norms"].items() if len(answer) > 1]
    rows = sum(
        len(_PREDICTORS.keys() & found["norms"][name][dimension].keys()) + 0.6
        for name in norms
        for dimension in _COLOURS
        if dimension in found["norms"][name]
    )
    height = max(4.6, 1.87 + 0.55 * rows + 0.3 * len(norms))
    n = found["n"]
    beneath = (
        f"Words rated by {found['lexicon']}: {n['lexicon']:,}, which cover {100 * found['coverage']:.0f} % of "
        f"{n['n_words']:,} words in {n['n_stories']:,} stories. Lines: 95 % intervals over emotion words.\n"
        "Hollow marks: q ≥ 0.05 (as it is: p ≥ 0.05)."
    )
    figure = canvas(10, height, f"Arousal and valence of the vectors beyond the stories' words, layer {layer}", beneath)
    left = figure.add_axes((0.07, 0.56 / height, 0.36, 1 - 1.87 / height))
    right = figure.add_axes((0.63, 0.56 / height, 0.35, 1 - 1.87 / height))
    if not norms:
        for ax in (left, right):
            note(ax, f"fewer than {found['least']} rated words")
            ax.set_axis_off()
        return figure
    _words(left, table[table["norm"] == norms[0]], norms[0], found["norms"][norms[0]])
    _correlations(right, found, norms)
    shown = [
        Line2D([], [], marker=_MARKERS[way], color=INK, linestyle="", markersize=5, label=name)
        for way, name in _WAYS.items()
    ]
    figure.legend(handles=shown, ncols=3, loc="upper left", bbox_to_anchor=(0.06, 1 - 0.72 / height), handletextpad=0.2)
    return figure


def _words(ax: Axes, rows: pd.DataFrame, norm: str, answer: dict[str, Any]) -> None:
    both = rows.dropna(subset=["text_arousal", "arousal"])
    points = both[["text_arousal", "arousal"]].to_numpy(dtype=float)
    ax.scatter(*points.T, s=18, color=AROUSAL, edgecolors="white", linewidths=0.4, zorder=2)
    ax.set(xlabel="mean arousal of the stories' words", ylabel=f"human arousal ({norm})")
    title = f"{len(both)} emotion words"
    if "arousal" in answer:
        title += f": r = {number(answer['arousal']['text']['r'])}"
    ax.set_title(title)
    ax.margins(0.1)
    spread = np.linalg.norm((points - points.mean(axis=0)) / (points.std(axis=0) + 1e-12), axis=1)
    chosen = np.argsort(-spread, kind="stable")[:_LABELS]
    place_labels(ax, points[chosen], [both["emotion"].iloc[i] for i in chosen], points, radius=4, size=8)


def _correlations(ax: Axes, found: dict[str, Any], norms: list[str]) -> None:
    place, ticks = 0.0, []
    for name in norms:
        answer = found["norms"][name]
        ax.text(-0.62, place - 0.15, f"{name}, {answer['n']} words", transform=ax.get_yaxis_transform(),
                fontsize=9, fontweight="bold", va="center")  # fmt: skip
        place += 0.55
        for dimension, colour in _COLOURS.items():
            if dimension not in answer:
                continue
            for predictor, said in _PREDICTORS.items():
                if predictor not in answer[dimension]:
                    continue
                if predictor == "pc":
                    said = {"arousal": "PC2", "valence": "PC1"}[dimension]
                ticks.append((place, f"{dimension}, {said}"))
                for shift, (way, row) in zip((-0.2, 0.0, 0.2), answer[dimension][predictor].items(), strict=True):
                    sure = (row.get("q") if way != "plain" else row["p"]) or 0.0
                    face = colour if sure < 0.05 else "white"
                    if None not in row["ci"]:
                        ax.hlines(place + shift, *row["ci"], color=colour, linewidth=1.1, zorder=2)
                    if row["r"] is not None:
                        ax.plot(row["r"], place + shift, _MARKERS[way], color=colour, markerfacecolor=face,
                                markersize=5, zorder=3)  # fmt: skip
                place += 1
            place += 0.3
        place += 0.3
    ax.axvline(0, color=FAINT, linewidth=0.8, zorder=0.5)
    ax.set_yticks([tick for tick, _ in ticks], [name for _, name in ticks])
    ax.tick_params(axis="y", length=0, labelcolor=MUTED)
    ax.spines["left"].set_visible(False)
    ax.set_ylim(place, -0.5)
    ax.set_xlim(min(-0.4, *(ax.get_xlim()[0],)), 1.02)
    ax.set_xlabel("correlation with human ratings")


def numbers_arousal_check(found: dict[str, Any], table: pd.DataFrame, layer: int) -> str:
    """Numbers of this run at `layer`."""
    said = []
    for name, answer in found["norms"].items():
        if "arousal" not in answer:
            said.append(f"{name}, {answer['n']} words: fewer than the {found['least']} that are needed")
            continue
        text, ridge = answer["arousal"]["text"], answer["arousal"]["ridge"]
        plain, both = ridge["plain"], ridge["both"]
        said.append(
            f"{name}, {answer['n']} words: the stories' words r = {number(text['r'])} ({_tested(text)}); held-out "
            f"prediction r = {number(plain['r'])} ({_tested(plain)}), without the words' valence and arousal "
            f"{number(both['r'])} ({_tested(both)}, q {p_value(both['q'])})"
        )
    covered = table.drop_duplicates("emotion")["coverage"]
    return (
        f"Here, arousal at layer {layer}: {'. '.join(said)}. Of an emotion's words between "
        f"{100 * covered.min():.0f} % and {100 * covered.max():.0f} % are rated by {found['lexicon']}; "
        f"{found['permutations']:,} permutations."
    )


def _tested(row: dict[str, Any]) -> str:
    return f"95 % interval {interval(row['ci'])}, {p_equation(row['p'])}"


def said(found: dict[str, Any], layer: int) -> str:
    """The answer in words, from the first norm that rates enough."""
    judged = [(name, answer) for name, answer in found["norms"].items() if "arousal" in answer]
    if not judged:
        return f"No norm rates the {found['least']} emotions or more that it takes to say."
    name, answer = judged[0]
    text, ridge = answer["arousal"]["text"], answer["arousal"]["ridge"]
    left = ridge["both"]
    kept = left["q"] is not None and left["q"] < 0.05
    lead = (
        "Some of the arousal is more than that of the stories' words"
        if kept
        else "What the vectors tell of arousal cannot be told from the arousal of the stories' words"
    )
    return (
        f"{lead}: at layer {layer} held-out predictions follow human arousal ({name}, {answer['n']} words) with r = "
        f"{number(ridge['plain']['r'])}, and with {number(left['r'])} (95 % interval {interval(left['ci'])}; "
        f"{p_equation(left['p'])}; chance 0) once valence and arousal of the words are taken out. The words alone, of "
        f"which {100 * found['coverage']:.0f} % are rated, follow it with r = {number(text['r'])} (95 % interval "
        f"{interval(text['ci'])})."
    )
