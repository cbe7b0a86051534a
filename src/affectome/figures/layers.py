"""What changes with depth: agreement with human ratings, reliability, and the spectrum of components."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, MaxNLocator

from affectome.figures.style import ACCENT, AROUSAL, FAINT, INK, MUTED, SHARES, VALENCE, canvas, note

_COLOURS = {"valence": VALENCE, "arousal": AROUSAL}
_SIGNIFICANT = 0.05
_MARKED = {"marker": "o", "markersize": 2.5}
# Leading components drawn as bars, and followed over the layers.
_LEADING, _FOLLOWED = 20, 5


def layer_profile(profile: pd.DataFrame, counts: dict[str, int], least: int, layer: int) -> Figure:
    """Agreement with each norm by layer, and below it the reliability and variance of the vectors.

    `profile` is `layer_profile.parquet`; `counts` holds the number of rated words of every norm, which has no rows in
    `profile` below `least` of them. A dotted line marks the headline `layer`; hollow marks are results with p ≥ 0.05.
    """
    across = min(len(counts), 3)
    down = -(-len(counts) // across)
    height = 3.9 + 3.3 * down
    beneath = f"Bands: 95 % intervals. Hollow marks: p ≥ 0.05. Dotted upright line: layer {layer}, the headline layer."
    figure = canvas(10, height, "Agreement of emotion vectors with human ratings, layer by layer", beneath)
    sheet = {"left": 0.07, "right": 0.985, "bottom": 0.5 / height, "top": 1 - 1.2 / height}
    rows = figure.add_gridspec(down + 1, 1, height_ratios=[3.3] * down + [2.0], hspace=0.42, **sheet)
    lines = {}
    for number, (norm, n) in enumerate(counts.items()):
        ax = figure.add_subplot(rows[number // across].subgridspec(1, across, wspace=0.12)[number % across])
        ax.set_title(f"{norm}: {n} rated words")
        ax.axhline(0, color=FAINT, linewidth=0.8)
        ax.set_ylim(_lowest(profile) - 0.05, 1.02)
        if number % across == 0:
            ax.set_ylabel("correlation with ratings")
        if n < least:
            note(ax, f"fewer than {least} rated words")
        lines |= _agreement(ax, profile[profile["norm"] == norm])
        _by_layer(ax, profile["layer"], layer)
    if lines:
        place = {"loc": "upper left", "bbox_to_anchor": (0.06, 1 - 0.62 / height)}
        figure.legend(lines.values(), lines, ncols=4, **place)
    below = rows[down].subgridspec(1, 3, wspace=0.24)

    ax = figure.add_subplot(below[0], title="Split-half reliability", ylabel="mean over emotions")
    reliability = _measure(profile, "reliability")
    ax.plot(*reliability, color=INK, **_MARKED)
    ax.set_ylim(1.1 * np.nanmin([0.0, *reliability[1]]), 1.02)
    if not np.isfinite(reliability[1]).any():
        note(ax, "needs two texts\nper emotion")
    _by_layer(ax, profile["layer"], layer)

    ax = figure.add_subplot(below[1], title="Variance on PC1 and PC2", ylabel="share of variance (%)")
    for name, line in (("1", "-"), ("2", "--")):
        layers, shares = _measure(profile, f"explained_variance_{name}")
        ax.plot(layers, 100 * shares, line, color=INK, label=f"PC{name}", **_MARKED)
    ax.set_ylim(0, 1.2 * ax.get_ylim()[1])
    ax.legend(loc="upper left", ncols=2)
    _by_layer(ax, profile["layer"], layer)

    ax = figure.add_subplot(below[2], title="Neutral components taken out", ylabel="number of components")
    ax.plot(*_measure(profile, "neutral_components"), color=INK, **_MARKED)
    ax.set_ylim(0, max(1.2 * ax.get_ylim()[1], 1))
    ax.yaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    _by_layer(ax, profile["layer"], layer)
    return figure


def _measure(profile: pd.DataFrame, name: str) -> tuple[np.ndarray, np.ndarray]:
    rows = profile[profile["measure"] == name].sort_values("layer")
    return rows["layer"].to_numpy(), rows["value"].to_numpy(dtype=float)


def _agreement(ax: Axes, rows: pd.DataFrame) -> dict[str, Line2D]:
    """Draw what `rows` say of one norm; returns the lines by their name in the legend."""
    drawn = {}
    for dimension, colour in _COLOURS.items():
        for measure, line, name in (("ridge", "-", "held-out r"), ("plane", ":", "plane R")):
            chosen = rows[(rows["dimension"] == dimension) & (rows["measure"] == measure)].sort_values("layer")
            if chosen.empty:
                continue
            x, y, low, high = (chosen[column] for column in ("layer", "value", "low", "high"))
            ax.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
            if len(chosen) == 1:
                # A band over one layer has no width.
                ax.vlines(x, low, high, color=colour, linewidth=1)
            (drawn[f"{dimension}, {name}"],) = ax.plot(x, y, line, color=colour, zorder=2.5)
            face = np.where(chosen["p"] < _SIGNIFICANT, colour, "white")
            ax.scatter(x, y, s=13, c=face, edgecolors=colour, linewidths=0.9, zorder=3)
    return drawn


def _lowest(profile: pd.DataFrame) -> float:
    shown = profile[profile["dimension"].isin(list(_COLOURS)) & profile["measure"].isin(["ridge", "plane"])]
    return float(np.nanmin([0.0, *shown["low"], *shown["value"]]))


def _by_layer(ax: Axes, layers: pd.Series, headline: int) -> None:
    ax.axvline(headline, color=MUTED, linewidth=1, linestyle=(0, (1, 2)), zorder=0.8)
    ax.set(xlabel="layer", xlim=(layers.min() - 0.7, layers.max() + 0.7))
    collected = sorted(layers.unique())
    ax.xaxis.set_major_locator(FixedLocator(collected) if len(collected) <= 8 else MaxNLocator(8, integer=True))


def spectrum(explained: dict[int, list[float]], layer: int) -> Figure:
    """Shares of variance of the leading components at `layer`, and of the first five at every layer.

    `explained` holds, by layer, the shares (0 to 1) of all components in descending order, as in `geometry.json`.
    """
    shares = 100 * np.array(explained[layer])
    leading = shares[:_LEADING]
    beneath = f"{len(shares)} components in all; the first {len(leading)} carry {leading.sum():.0f} % of the variance."
    figure = canvas(9.5, 6.2, f"Variance of the emotion vectors by principal component, layer {layer}", beneath)
    ax = figure.add_axes((0.075, 0.46, 0.845, 0.42))
    numbers = np.arange(1, len(leading) + 1)
    ax.bar(numbers, leading, color="#6B93BA", width=0.75)
    ax.set(xlabel="principal component", xlim=(0.4, len(leading) + 0.6), ylim=(0, leading.max() * 1.12))
    ax.set_ylabel("share of variance (%), bars")
    ax.set_xticks(numbers)
    total = ax.twinx()
    total.spines["right"].set_visible(True)
    total.plot(numbers, np.cumsum(shares)[: len(leading)], color=ACCENT, marker="o", markersize=3.5)
    total.set_ylim(0, 105)
    total.set_ylabel("cumulative share (%), line", color=ACCENT)
    _strip(figure, explained, layer)
    return figure


def _strip(figure: Figure, explained: dict[int, list[float]], layer: int) -> None:
    layers = sorted(explained)
    count = min(_FOLLOWED, *map(len, explained.values()))
    table = 100 * np.array([explained[each][:count] for each in layers]).T
    ax = figure.add_axes((0.075, 0.085, 0.845, 0.235))
    edges = np.arange(len(layers) + 1) - 0.5
    mesh = ax.pcolormesh(
        edges, np.arange(count + 1) + 0.5, table, cmap=SHARES, vmin=0, rasterized=True, antialiased=False
    )
    ax.set(title="The leading components at every layer", xlabel="layer", ylim=(count + 0.5, 0.5))
    # Collected layers need not be evenly spaced, so columns are numbered by name.
    every = -(-len(layers) // 15)
    ax.set_xticks(range(0, len(layers), every), layers[::every])
    ax.set_yticks(range(1, count + 1), [f"PC{number}" for number in range(1, count + 1)])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    here = layers.index(layer)
    ax.plot([here - 0.5, here + 0.5, here + 0.5, here - 0.5, here - 0.5], [0.5, 0.5, count + 0.5, count + 0.5, 0.5],
            color=ACCENT, linewidth=1.8, clip_on=False, zorder=4)  # fmt: skip
    bar = figure.colorbar(mesh, cax=figure.add_axes((0.937, 0.085, 0.013, 0.235)))
    bar.set_label("share of variance (%)")
    bar.outline.set_visible(False)
