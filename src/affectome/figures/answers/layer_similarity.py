"""Whether the emotions are arranged alike in all layers: every two layers, and every step from one to the next."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator

from affectome.figures.style import ACCENT, AROUSAL, FAINT, MUTED, SHARES, VALENCE, canvas, note
from affectome.figures.wording import interval, number, p_equation

_NAMES = {"cka": "Debiased linear CKA", "rsa": "RSA (Spearman of cosines)"}
_COLOURS = {"cka": VALENCE, "rsa": AROUSAL}
_TICKS = 12


def draw_layer_similarity(found: dict[str, Any], table: pd.DataFrame, layer: int) -> Figure:
    """Heat maps of both measures, layer by layer, and below them the size of every step beside the expected one."""
    layers = found["layers"]
    beneath = (
        f"{found['n']} emotions, {len(layers)} layers. Red outlines and marks: phase transitions. "
        f"Dotted: layer {layer}, the headline layer."
    )
    figure = canvas(10, 8.4, "How alike the emotions are arranged in every two layers", beneath)
    sheet = {"left": 0.07, "right": 0.9, "bottom": 0.065, "top": 0.875}
    grid = figure.add_gridspec(2, 2, height_ratios=[4.4, 2.3], hspace=0.34, wspace=0.16, **sheet)
    low = min(0.0, float(table.loc[table["measure"].isin(list(_NAMES)), "value"].min())) if len(table) else 0.0
    for column, (measure, name) in enumerate(_NAMES.items()):
        ax = figure.add_subplot(grid[0, column], title=name, xlabel="layer")
        if column == 0:
            ax.set_ylabel("layer")
        if measure not in found:
            _nothing(ax, found)
            continue
        mesh = ax.imshow(_matrix(table, measure, layers), cmap=SHARES, vmin=low, vmax=1, interpolation="nearest")
        every = -(-len(layers) // _TICKS)
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_ticks(range(0, len(layers), every), layers[::every])
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        for first, second in found[measure]["transitions"]:
            _outline(ax, layers.index(first), layers.index(second))
        if column == 1:
            box = ax.get_position()
            bar = figure.colorbar(mesh, cax=figure.add_axes((0.915, box.y0, 0.014, box.height)))
            bar.set_label("similarity")
            bar.outline.set_visible(False)
    ax = figure.add_subplot(grid[1, :], title="Each step to the next layer", ylabel="angle (degrees)")
    _steps(ax, found, layer)
    return figure


def _matrix(table: pd.DataFrame, measure: str, layers: list[int]) -> np.ndarray:
    rows = table[table["measure"] == measure]
    square = rows.pivot(index="layer_a", columns="layer_b", values="value").reindex(index=layers, columns=layers)
    upper = np.nan_to_num(square.to_numpy(dtype=float))
    return upper + upper.T + np.eye(len(layers))


def _outline(ax: Axes, first: int, second: int) -> None:
    for x, y in ((first, second), (second, first)):
        ax.plot([x - 0.5, x + 0.5, x + 0.5, x - 0.5, x - 0.5], [y - 0.5, y - 0.5, y + 0.5, y + 0.5, y - 0.5],
                color=ACCENT, linewidth=1.8, zorder=4)  # fmt: skip


def _nothing(ax: Axes, found: dict[str, Any]) -> None:
    ax.set(xticks=[], yticks=[])
    note(ax, f"needs two layers and\n{found['min_emotions']} emotions")


def _steps(ax: Axes, found: dict[str, Any], layer: int) -> None:
    measures = [measure for measure in _NAMES if measure in found]
    if not measures:
        _nothing(ax, found)
        return
    for measure in measures:
        steps = found[measure]["steps"]
        x = [step["to"] for step in steps]
        colour = _COLOURS[measure]
        ax.plot(x, [step["degrees"] for step in steps], color=colour, marker="o", markersize=3.5,
                label=_NAMES[measure])  # fmt: skip
        limits = [np.nan if step["expected"] is None else found["rule"]["ratio"] * step["expected"] for step in steps]
        ax.plot(x, limits, color=colour, linestyle=":", linewidth=1.2)
        marked = [step for step in steps if step["transition"]]
        ax.scatter([s["to"] for s in marked], [s["degrees"] for s in marked], s=90, facecolors="none",
                   edgecolors=ACCENT, linewidths=1.8, zorder=4)  # fmt: skip
    if found[measures[0]]["steps"][0]["expected"] is not None:
        ax.plot([], [], color=MUTED, linestyle=":", label=f"{found['rule']['ratio']:g} × what the steps around suggest")
    layers = found["layers"]
    ax.axvline(layer, color=MUTED, linewidth=1, linestyle=(0, (1, 2)), zorder=0.8)
    ax.set(xlabel="layer that the step leads to", xlim=(layers[0] - 0.7, layers[-1] + 0.7))
    ax.set_ylim(0, 1.3 * ax.get_ylim()[1])
    ax.xaxis.set_major_locator(FixedLocator(layers) if len(layers) <= 8 else MaxNLocator(12, integer=True))
    ax.grid(axis="y", color=FAINT, linewidth=0.5, alpha=0.6)
    ax.legend(loc="upper center", ncols=3, frameon=True, facecolor="white", edgecolor="none", framealpha=1)


def numbers_layer_similarity(found: dict[str, Any], table: pd.DataFrame, layer: int) -> str:
    """The extreme pairs of layers, the chance level and the phase transitions of this run."""
    if "cka" not in found:
        return _too_little(found)
    plain = table[table["measure"] == "cka_plain"]
    parts = []
    for measure, name in _NAMES.items():
        rows = table[table["measure"] == measure]
        least = found[measure]["least"]
        parts.append(
            f"{name} from {number(least['value'])} (layers {least['a']} and {least['b']}, 95 % interval "
            f"{interval(least['ci'])}, {p_equation(least['p'])}) to {number(found[measure]['most']['value'])}, "
            f"q < 0.05 for {found[measure]['significant']} of {found['pairs']} pairs of layers; 95 % of permutations "
            f"give less than {number(rows['chance_high'].max())}"
        )
    return (
        f"Here, {found['n']} emotions in {len(found['layers'])} layers, headline layer {layer}: " + "; ".join(parts)
        + f". Plain CKA would give unrelated vectors {number(plain['chance'].mean())} on average. "
        + " ".join(_transitions(found, measure) for measure in _NAMES)
    )  # fmt: skip


def _transitions(found: dict[str, Any], measure: str) -> str:
    name = measure.upper()
    if len(found["layers"]) < found["rule"]["min_layers"]:
        return f"Phase transitions by {name} were not looked for: that takes {found['rule']['min_layers']} layers."
    marked = [
        f"{step['from']} to {step['to']} ({number(step['ratio'], 1)} times the expected angle, 95 % interval "
        f"{number(step['ci'][0], 1)} to {number(step['ci'][1], 1)}, q = {number(step['q'], 3)})"
        for step in found[measure]["steps"]
        if step["transition"]
    ]
    return f"Phase transitions by {name}: {'; '.join(marked) or 'none'}."


def _too_little(found: dict[str, Any]) -> str:
    return (
        f"Here, nothing was compared: that takes two layers and {found['min_emotions']} emotions, and there are "
        f"{len(found['layers'])} and {found['n']}."
    )


def said(found: dict[str, Any], layer: int) -> str:
    """Whether the arrangement lasts over the layers, and where it breaks."""
    if "cka" not in found:
        return _too_little(found).replace("Here, nothing was compared", "Layers were not compared")
    least = found["cka"]["least"]
    start = "The emotions are arranged alike" if least["q"] < 0.05 else "Not all layers arrange the emotions alike"
    n_steps = len(found["cka"]["steps"])
    return (
        f"{start}: debiased CKA over {found['n']} emotions is {number(least['value'])} for the two least similar of "
        f"{len(found['layers'])} layers ({least['a']} and {least['b']}; 95 % interval {interval(least['ci'])}; chance "
        "0) and "
        f"{number(found['cka']['most']['value'])} for the most similar. Of {n_steps} steps between layers "
        f"{_count(found, 'cka')} by CKA and {_count(found, 'rsa')} by RSA changed it abruptly, beyond "
        f"{found['rule']['ratio']:g} times what the steps around it suggest (layer {layer} is the headline layer)."
    )


def _count(found: dict[str, Any], measure: str) -> str:
    if len(found["layers"]) < found["rule"]["min_layers"]:
        return "none could be judged"
    marked = [f"{first} to {second}" for first, second in found[measure]["transitions"]]
    return f"{len(marked)} ({', '.join(marked)})" if marked else "none"
