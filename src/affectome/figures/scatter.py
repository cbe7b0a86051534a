"""All emotions on PC1 and PC2."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from affectome.figures.labels import place_labels, worth_labelling
from affectome.figures.style import FAINT, INK, RATINGS, UNRATED, canvas, rating_scale


def axis_label(component: int, explained: list[float]) -> str:
    """`PC1 (14.7 % of variance)`, where `explained` holds the shares of all components."""
    return f"PC{component} ({100 * explained[component - 1]:.1f} % of variance)"


def pc_scatter(
    scores: pd.DataFrame, explained: list[float], ratings: pd.DataFrame, layer: int, norm_name: str, labels: int
) -> Figure:
    """Every emotion at PC1 and PC2, coloured by its human valence, at most `labels` of them named.

    `scores` is the part of `geometry.parquet` for `layer`, `explained` that layer's shares of variance, `ratings` the
    norm's ratings by word. Both axes have the residual stream's unit and the same scale.
    """
    points = scores[["PC1", "PC2"]].to_numpy()
    words = list(scores["emotion"])
    valence = ratings["valence"].reindex(words)
    rated = valence.notna().to_numpy()
    colours = rating_scale(ratings["valence"])

    if rated.any():
        beneath = f"Colour: human valence, rated for {rated.sum()} words by {norm_name}. Grey: not rated."
    else:
        beneath = f"No colour: {norm_name} rates none of these words."
    title = f"{len(words)} emotion vectors on their first two principal components, layer {layer}"
    figure = canvas(9.5, 8.2, title, beneath)
    ax = figure.add_axes((0.075, 0.07, 0.8, 0.84))
    ax.axhline(0, color=FAINT, linewidth=0.8, zorder=0.5)
    ax.axvline(0, color=FAINT, linewidth=0.8, zorder=0.5)
    ax.scatter(*points[~rated].T, s=20, color=UNRATED, edgecolors="white", linewidths=0.4, zorder=2)
    drawn = ax.scatter(
        *points[rated].T, c=valence[rated], cmap=RATINGS, norm=colours, s=46, edgecolors=INK, linewidths=0.6, zorder=3
    )
    ax.set(xlabel=axis_label(1, explained), ylabel=axis_label(2, explained))
    ax.margins(0.06)
    ax.set_aspect("equal", adjustable="datalim")
    if rated.any():
        bar = figure.colorbar(drawn, cax=figure.add_axes((0.9, 0.27, 0.018, 0.45)))
        bar.set_label(f"human valence ({norm_name})")
        bar.outline.set_visible(False)
    chosen = worth_labelling(words, rated, np.hypot(*points.T), labels)
    place_labels(ax, points[chosen], [words[i] for i in chosen], points, radius=4, size=7.5)
    return figure
