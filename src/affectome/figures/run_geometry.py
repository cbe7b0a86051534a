"""Two runs over the words that both have: every layer with every layer, and the two planes laid upon one another."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from affectome.figures.labels import place_labels, worth_labelling
from affectome.figures.style import ACCENT, AROUSAL, FAINT, MUTED, SHARES, VALENCE, canvas
from affectome.figures.wording import interval, number, p_equation

_NAMES = {"cka": "Debiased linear CKA", "rsa": "RSA (Spearman of cosines)"}
_TICKS = 10
_LABELLED = 40


def draw_run_geometry(found: dict[str, Any], table: pd.DataFrame) -> Figure:
    """Heat maps of both measures over the layers of two runs, and below them both planes with lines between words."""
    first, second = found["names"]
    beneath = (
        f"{found['n']} shared words. Squares: headline layers ({found['headlines'][0]} and {found['headlines'][1]}); "
        "diamonds: the best-matching pair of layers."
    )
    figure = canvas(10, 12.6, f"{first} and {second}: the same emotions arranged alike?", beneath)
    low = min(0.0, float(table.loc[table["measure"].isin(list(_NAMES)), "value"].min()))
    for column, (measure, name) in enumerate(_NAMES.items()):
        ax = figure.add_axes((0.075 + 0.435 * column, 0.615, 0.375, 0.3), title=name, xlabel=f"layer of {second}")
        if column == 0:
            ax.set_ylabel(f"layer of {first}")
        mesh = _heat(ax, found, table, measure, low)
    bar = figure.colorbar(mesh, cax=figure.add_axes((0.905, 0.615, 0.014, 0.3)))
    bar.set_label("similarity")
    bar.outline.set_visible(False)
    _planes(figure.add_axes((0.05, 0.03, 0.93, 0.505)), found)
    return figure


def _heat(ax: Axes, found: dict[str, Any], table: pd.DataFrame, measure: str, low: float) -> Any:
    rows = table[table["measure"] == measure]
    square = rows.pivot(index="layer_a", columns="layer_b", values="value")
    square = square.reindex(index=found["layers"][0], columns=found["layers"][1])
    mesh = ax.imshow(square, cmap=SHARES, vmin=low, vmax=1, interpolation="nearest", aspect="auto")
    for axis, layers in ((ax.yaxis, found["layers"][0]), (ax.xaxis, found["layers"][1])):
        every = -(-len(layers) // _TICKS)
        axis.set_ticks(range(0, len(layers), every), layers[::every])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    marks = {"s": found["measures"][measure]["headline"], "D": found["measures"][measure]["best"]}
    for marker, pair in marks.items():
        place = (found["layers"][1].index(pair["layer_b"]), found["layers"][0].index(pair["layer_a"]))
        ax.plot(*place, marker, color=ACCENT, markerfacecolor="none", markersize=9, markeredgewidth=1.7)
    return mesh


def _planes(ax: Axes, found: dict[str, Any]) -> None:
    plane, names = found["plane"], found["names"]
    first, second = (np.array(plane[side], dtype=float) for side in ("a", "b"))
    title = f"Planes of PC1 and PC2 laid upon one another: disparity {number(plane['disparity']['value'])}"
    ax.set_title(f"{title} (0 same shape, 1 none), {p_equation(plane['disparity']['p'])}")
    ax.axhline(0, color=FAINT, linewidth=0.8, zorder=0.5)
    ax.axvline(0, color=FAINT, linewidth=0.8, zorder=0.5)
    ax.add_collection(
        LineCollection(np.stack([first, second], axis=1), colors=MUTED, linewidths=0.6, alpha=0.6, zorder=1)
    )
    for points, colour, marker, layer, name in zip(
        (first, second), (VALENCE, AROUSAL), "oD", found["headlines"], names, strict=True
    ):
        ax.scatter(*points.T, s=20, color=colour, marker=marker, linewidths=0, zorder=2, label=f"{name}, layer {layer}")
    ax.margins(0.05)
    ax.set_aspect("equal", adjustable="datalim")
    ax.set(xticks=[], yticks=[], xlabel=_axis(plane, 0), ylabel=_axis(plane, 1))
    ax.legend(loc="upper right", frameon=True, facecolor="white", edgecolor="none", framealpha=0.9)
    words = plane["words"]
    chosen = worth_labelling(words, [False] * len(words), np.hypot(*first.T), _LABELLED)
    samples = np.concatenate([first + share * (second - first) for share in (0.25, 0.5, 0.75)])
    marks = np.concatenate([first, second])
    place_labels(ax, first[chosen], [words[i] for i in chosen], marks, radius=3, size=8, strokes=samples)


def _axis(plane: dict[str, Any], axis: int) -> str:
    r = plane["r"][axis]
    return f"PC{axis + 1} of the first run; r = {number(r['value'])} ({interval(r['ci'])}), {p_equation(r['p'])}"


def numbers_run_geometry(found: dict[str, Any], _table: pd.DataFrame) -> str:
    """Similarities at the headline layers and at the best, and how the planes match."""
    first, second = found["names"]
    parts = []
    for measure, name in _NAMES.items():
        here, best = found["measures"][measure]["headline"], found["measures"][measure]["best"]
        parts.append(
            f"{name} {number(here['value'])} at the headline layers (95 % interval {interval(here['ci'])}, "
            f"{p_equation(here['p'])}, q = {number(here['q'], 3)}), at best {number(best['value'])} at layers "
            f"{best['layer_a']} and {best['layer_b']} ({p_equation(best['p'])} for the best of all)"
        )
    plane, plain = found["plane"], found["cka_plain"]
    text = (
        f"Here, {found['n']} words of {first} ({found['emotions'][0]} emotions) and {second} ({found['emotions'][1]}): "
        f"{'; '.join(parts)}. Plain CKA is {number(plain['value'])} where permuted words give "
        f"{number(plain['chance'])}. "
        f"Planes: disparity {number(plane['disparity']['value'])} (95 % interval {interval(plane['disparity']['ci'])}, "
        f"permuted words {number(plane['disparity']['chance'])}, {p_equation(plane['disparity']['p'])})."
    )
    cosine = found["cosine"]
    if cosine:
        text += (
            f" Mean cosine of a word's two vectors {number(cosine['value'])} (95 % interval {interval(cosine['ci'])}, "
            f"{p_equation(cosine['p'])}), which means something in the same model only."
        )
    return text


def said(found: dict[str, Any]) -> str:
    """Whether the two runs arrange the emotions alike."""
    first, second = found["names"]
    here, best = found["measures"]["cka"]["headline"], found["measures"]["cka"]["best"]
    plane = found["plane"]
    alike = "arrange the emotions alike" if here["p"] < 0.05 else "do not measurably arrange the emotions alike"
    fit = "match" if plane["disparity"]["p"] < 0.05 else "do not match beyond chance"
    return (
        f"{first} and {second} {alike}: debiased CKA {number(here['value'])} at their headline layers (95 % interval "
        f"{interval(here['ci'])}, chance 0, {p_equation(here['p'])}, {found['n']} shared words), at best "
        f"{number(best['value'])} (layers {best['layer_a']} and {best['layer_b']}, {p_equation(best['p'])} after the "
        "choice). "
        f"Their planes of the first two components {fit} (r = {number(plane['r'][0]['value'])} and "
        f"{number(plane['r'][1]['value'])}, disparity {number(plane['disparity']['value'])}, "
        f"{p_equation(plane['disparity']['p'])})."
    )
