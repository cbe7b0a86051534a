"""Clusters of emotions: whether other stories give them again, whether a cloud has as many, and who knows them."""

from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from affectome.figures.style import ACCENT, FAINT, GROUPS, INK, MUTED, SHARES, canvas, note
from affectome.figures.wording import interval, number, p_equation

_NAMES = {"kmeans": "k-means", "hierarchical": "hierarchical", "kmeans_best": "k-means"}
_STABLE, _DISSOLVED = 0.75, 0.5
# Members named beside a cluster, in characters; bars drawn, the largest clusters first.
_ROOM, _BARS = 36, 14


def draw_cluster_stability(found: dict[str, Any], table: pd.DataFrame, layer: int) -> Figure:
    """Which emotions stay together, how stable every k-means cluster is, and silhouettes beside those of clouds."""
    if found["methods"]:
        drawn = found["drawn"]
        k = found["methods"]["kmeans"]["k"]
        beneath = f"{found['resamples']} resamples of {drawn['n']} {drawn['kind']}; k-means with k = {k}."
    else:
        beneath = "Nothing could be drawn anew: an emotion has a single text."
    title = f"Stability of clusters of {found['n']} emotions, layer {layer}"
    figure = canvas(10, 8.6, title, beneath)
    together = figure.add_axes((0.035, 0.475, 0.42, 0.4), title="Pairs that stay together")
    bars = figure.add_axes((0.535, 0.475, 0.17, 0.4), title="Clusters that come back")
    if found["methods"]:
        _together(figure, together, found, table)
        _bars(bars, found["methods"]["kmeans"])
    else:
        for ax in (together, bars):
            ax.set(xticks=[], yticks=[])
            note(ax, "needs two texts\nper emotion")
    _silhouettes(figure.add_axes((0.075, 0.07, 0.46, 0.295)), found)
    _indices(figure.add_axes((0.7, 0.07, 0.28, 0.295)), found)
    return figure


def _together(figure: Figure, ax: Axes, found: dict[str, Any], table: pd.DataFrame) -> None:
    clusters = found["methods"]["kmeans"]["clusters"]
    words = [word for cluster in clusters for word in cluster["members"]]
    place = {word: index for index, word in enumerate(words)}
    rows = table[table["method"] == "kmeans"]
    square = np.eye(len(words))
    first, second = rows["a"].map(place).to_numpy(), rows["b"].map(place).to_numpy()
    square[first, second] = square[second, first] = rows["share"]
    mesh = ax.imshow(square, cmap=SHARES, vmin=0, vmax=1, interpolation="nearest")
    edges = np.cumsum([0, *(cluster["size"] for cluster in clusters)]) - 0.5
    for start, end in pairwise(edges):
        ax.plot([start, end, end, start, start], [start, start, end, end, start], color=ACCENT, linewidth=1)
    ax.set(xlim=(-0.5, len(words) - 0.5), ylim=(len(words) - 0.5, -0.5), xticks=[])
    ax.set_yticks((edges[:-1] + edges[1:]) / 2, [cluster["cluster"] for cluster in clusters])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    box = ax.get_position()
    bar = figure.colorbar(mesh, cax=figure.add_axes((box.x0 + 0.06, box.y0 - 0.025, box.width - 0.12, 0.012)),
                          orientation="horizontal")  # fmt: skip
    bar.set_label("share of resamples in one cluster", fontsize=8, labelpad=1)
    bar.ax.tick_params(labelsize=8, pad=1, length=2)
    bar.outline.set_visible(False)


def _bars(ax: Axes, method: dict[str, Any]) -> None:
    shown = sorted(method["clusters"], key=lambda cluster: -cluster["size"])[:_BARS]
    shown = sorted(shown, key=lambda cluster: cluster["cluster"])
    for row, cluster in enumerate(shown):
        colour = GROUPS[cluster["cluster"] % len(GROUPS)]
        ax.plot(cluster["ci"], [row, row], color=colour, linewidth=2)
        ax.plot(cluster["jaccard"], row, "o", color=colour, markersize=6)
        ax.plot(cluster["chance"], row, "|", color=MUTED, markersize=9, markeredgewidth=1.5)
        text = _members(cluster["members"])
        ax.text(1.05, row, text, transform=ax.get_yaxis_transform(), va="center", fontsize=8)
    for limit in (_DISSOLVED, _STABLE):
        ax.axvline(limit, color=MUTED, linewidth=0.9, linestyle=":", zorder=0.8)
    ax.set(xlim=(0, 1.03), ylim=(len(shown) - 0.4, -0.6), xlabel="Jaccard similarity")
    ax.set_yticks(range(len(shown)), [f"{cluster['cluster']}  ({cluster['size']})" for cluster in shown])
    ax.tick_params(axis="y", length=0, colors=INK)


def _members(words: list[str]) -> str:
    """As many of `words` as there is room for."""
    text = words[0]
    for index, word in enumerate(words[1:], start=1):
        if len(text) + len(word) + 2 > _ROOM:
            return f"{text} +{len(words) - index}"
        text += f", {word}"
    return text


def _silhouettes(ax: Axes, found: dict[str, Any]) -> None:
    ax.set(title="More clustered than a cloud?", xlabel="number of clusters k", ylabel="mean silhouette")
    scores = {int(k): entry for k, entry in found["silhouette"].items()}
    if not scores:
        ax.set(xticks=[], yticks=[])
        note(ax, "needs three emotions")
        return
    k = np.array(list(scores))
    value, chance, high = (
        np.array([each[name] for each in scores.values()]) for name in ("value", "chance", "chance_high")
    )
    ax.fill_between(k, chance, high, color=FAINT, alpha=0.5, linewidth=0, label="clouds: mean to 95th percentile")
    if len(k) == 1:
        ax.vlines(k, chance, high, color=FAINT, linewidth=3)
    ax.plot(k, chance, color=MUTED, linewidth=1)
    ax.plot(k, value, color=INK, label="these vectors")
    face = [INK if each["q"] < 0.05 else "white" for each in scores.values()]
    ax.scatter(k, value, s=20, c=face, edgecolors=INK, linewidths=0.9, zorder=3)
    best = found["best"]
    ax.plot(best["k"], best["value"], "o", markersize=12, markerfacecolor="none", color=ACCENT, markeredgewidth=1.6)
    ax.set_xticks(k if len(k) <= 12 else k[::2])
    bottom, top = ax.get_ylim()
    ax.set_ylim(bottom, top + 0.25 * (top - bottom))
    ax.legend(loc="upper right", ncols=2)


def _indices(ax: Axes, found: dict[str, Any]) -> None:
    """Adjusted Rand indices with the clusters of all stories, and with the reference."""
    ax.set(title="The same clusters?", xlabel="adjusted Rand index", xlim=(min(0, -0.05), 1.02))
    reference = found["reference"]
    known = reference["methods"] if reference else {}
    methods = [name for name in _NAMES if name in found["methods"] or name in known]
    for row, name in enumerate(methods):
        if name in found["methods"]:
            ari = found["methods"][name]["ari"]
            ax.plot(ari["ci"], [row - 0.13] * 2, color=INK, linewidth=2)
            ax.plot(ari["value"], row - 0.13, "o", color=INK, markersize=6)
        if name in known:
            entry = known[name]
            ax.plot(entry["ci"] or [], [row + 0.13] * len(entry["ci"] or []), color=ACCENT, linewidth=2)
            face = ACCENT if entry["p"] < 0.05 else "white"
            ax.plot(entry["ari"], row + 0.13, "D", color=ACCENT, markerfacecolor=face, markersize=5.5)
    if not methods:
        ax.set(xticks=[], yticks=[])
        note(ax, "nothing to compare")
        return
    counts = {name: (found["methods"].get(name) or known[name])["k"] for name in methods}
    ax.axvline(0, color=FAINT, linewidth=0.8)
    ax.plot([], [], "o", color=INK, label="resamples with all stories")
    if known:
        ax.plot([], [], "D", color=ACCENT, label=f"reference ({reference['n']} words)")
    ax.set_yticks(range(len(methods)), [f"{_NAMES[name]}\nk = {counts[name]}" for name in methods])
    ax.set_ylim(len(methods) - 0.3, -1.25)
    ax.tick_params(axis="y", length=0, colors=INK)
    ax.legend(loc="upper right")


def numbers_cluster_stability(found: dict[str, Any], _table: pd.DataFrame, layer: int) -> str:
    """Adjusted Rand indices, the best silhouette and the reference of this run."""
    text = f"Here, {found['n']} emotions at layer {layer}: "
    parts = [
        f"{_NAMES[name]} with k = {method['k']}: ARI {number(method['ari']['value'])} (central 95 % "
        f"{interval(method['ari']['ci'])}), {_called(method)}"
        for name, method in found["methods"].items()
    ]
    if parts:
        drawn = found["drawn"]
        resamples = f"{found['resamples']} resamples of {drawn['n']} {drawn['kind']}"
        text += f"{resamples} agree with all stories: {'; '.join(parts)}. "
    else:
        text += "no resamples, since an emotion has a single text. "
    if found["best"]:
        best = found["silhouette"][str(found["best"]["k"])]
        text += (
            f"The best silhouette is {number(best['value'])} at k = {found['best']['k']}, where clouds have "
            f"{number(best['chance'])} ({p_equation(found['best']['p'])} for the best of all k, {found['rotations']} "
            "clouds). "
        )
    return text + _reference(found)


def _called(method: dict[str, Any]) -> str:
    called = [cluster["called"] for cluster in method["clusters"]]
    return f"{called.count('stable')} of {len(called)} clusters stable, {called.count('dissolved')} dissolved"


def _reference(found: dict[str, Any]) -> str:
    reference = found["reference"]
    if reference is None:
        return "No reference clusters were given."
    if not reference["methods"]:
        return f"The reference has too few clusters or shared words ({reference['n']}) to compare with."
    parts = [
        f"{_NAMES[name]} with k = {entry['k']} {number(entry['ari'])} (central 95 % of resamples "
        f"{interval(entry['ci'])}, "
        f"{p_equation(entry['p'])})"
        for name, entry in reference["methods"].items()
    ]
    shared = f"{reference['clusters']} reference clusters over {reference['n']} shared words"
    return f"ARI with the {shared}: {'; '.join(parts)}; chance 0."


def said(found: dict[str, Any], layer: int) -> str:
    """Whether there are clusters, whether they are stable, and whether they are those of the reference."""
    sentences = []
    if found["best"]:
        best = found["best"]
        more = best["p"] < 0.05
        sentences.append(
            f"The {found['n']} emotions of layer {layer} are {'more' if more else 'not measurably more'} clustered "
            "than one "
            f"Gaussian cloud of the same spread (best silhouette {number(best['value'])} at k = {best['k']}, chance "
            f"{number(found['silhouette'][str(best['k'])]['chance'])}, {p_equation(best['p'])})."
        )
    method = found["methods"].get("kmeans")
    if method:
        drawn = found["drawn"]
        sentences.append(
            f"With other stories ({found['resamples']} resamples of {drawn['n']} {drawn['kind']}) {_called(method)} "
            "among "
            f"{method['k']} by k-means; adjusted Rand index {number(method['ari']['value'])} (central 95 % "
            f"{interval(method['ari']['ci'])}; 0 is chance, 1 the same)."
        )
    else:
        sentences.append(
            "Whether other stories would give the same clusters cannot be said: an emotion has a single text."
        )
    known = (found["reference"] or {"methods": {}})["methods"].get("kmeans")
    if known:
        weak = "" if known["p"] < 0.05 else ", no more than chance"
        sentences.append(
            f"With the {found['reference']['clusters']} reference clusters the index is {number(known['ari'])} "
            f"({p_equation(known['p'])}, {found['reference']['n']} words){weak}."
        )
    return " ".join(sentences)
