"""The model's plane laid over the plane of human ratings."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from affectome.figures.labels import place_labels
from affectome.figures.style import FAINT, INK, RATINGS, canvas, note, rating_scale
from affectome.figures.wording import number, p_equation

# Two points can be laid on any two others without error, so a fit says something from three on.
_FEWEST = 3


def procrustes(points: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, float]:
    """`points` (n, 2) after the rotation, reflection, scaling and shift that bring them nearest to `targets` (n, 2).

    Least squares over all points; nothing is stretched or sheared. Also returns the share of the targets' variance that
    the moved points explain, from 0 to 1.
    """
    a, b = points - points.mean(axis=0), targets - targets.mean(axis=0)
    left, singular, right = np.linalg.svd(a.T @ b)
    size_a, size_b = np.sum(a**2), np.sum(b**2)
    if size_a == 0 or size_b == 0:
        return np.broadcast_to(targets.mean(axis=0), points.shape).copy(), 0.0
    moved = singular.sum() / size_a * a @ (left @ right)
    return moved + targets.mean(axis=0), float(singular.sum() ** 2 / (size_a * size_b))


def circumplex(
    scores: pd.DataFrame, ratings: pd.DataFrame, related: dict[str, Any], least: int, layer: int, norm_name: str
) -> Figure:
    """The rated words where people put them (valence and arousal) and where the model's PC1-PC2 plane puts them.

    The plane is laid over the ratings by orthogonal Procrustes: rotated, reflected, scaled and shifted as a whole,
    never stretched. `scores` is the part of `geometry.parquet` for `layer`, `ratings` the norm's ratings by word,
    `related` that layer's and norm's part of `norm_correlations.json`, in which dimensions are absent below `least`
    rated words.
    """
    shared = scores[scores["emotion"].isin(ratings.index)]
    words = list(shared["emotion"])
    human = ratings.loc[words, ["valence", "arousal"]].to_numpy()
    lines = [_multiple_correlations(related, least)]
    if fits := len(words) >= _FEWEST:
        model, explained = procrustes(shared[["PC1", "PC2"]].to_numpy(), human)
        lines.append(
            "The plane is rotated, reflected, scaled and shifted as a whole to fit the ratings (orthogonal "
            f"Procrustes); it then explains {100 * explained:.0f} % of their variance."
        )
    else:
        model = human[:0]
        lines.append(f"Fewer than {_FEWEST} rated words: the plane cannot be laid over the ratings.")

    title = f"Where people and the model put {len(words)} rated words, layer {layer}"
    figure = canvas(9.5, 8.6, title, "\n".join(lines))
    ax = figure.add_axes((0.075, 0.065, 0.905, 0.81))
    ax.set(xlabel=f"valence ({norm_name} rating)", ylabel=f"arousal ({norm_name} rating)")
    scales = {dimension: rating_scale(ratings[dimension]) for dimension in ("valence", "arousal")}
    ax.axvline((scales["valence"].vmin + scales["valence"].vmax) / 2, color=FAINT, linewidth=0.8, zorder=0.5)
    ax.axhline((scales["arousal"].vmin + scales["arousal"].vmax) / 2, color=FAINT, linewidth=0.8, zorder=0.5)
    look = {"cmap": RATINGS, "norm": scales["valence"], "edgecolors": INK, "linewidths": 0.7, "zorder": 3}
    ax.scatter(*human.T, s=36, c=human[:, 0], label="people", **look)
    if fits:
        ax.add_collection(LineCollection(np.stack([human, model], axis=1), colors="#A6A6A6", linewidths=0.5, zorder=1))
        ax.scatter(*model.T, s=24, marker="D", c=human[:, 0], label="model, in the valence colour of its word", **look)
    if words:
        ax.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, handletextpad=0.2, borderaxespad=0)
    else:
        ax.set(xticks=[], yticks=[])
        note(ax, f"{norm_name} rates none of these words")
    ax.margins(0.07)
    ax.set_aspect("equal", adjustable="datalim")
    samples = np.linspace(human[: len(model)], model, 40)[1:].reshape(-1, 2)
    place_labels(ax, human, words, np.vstack([human, model]), radius=3.5, size=8, strokes=samples)
    return figure


def _multiple_correlations(related: dict[str, Any], least: int) -> str:
    planes = {name: related[name]["plane"] for name in ("valence", "arousal") if related.get(name)}
    if not planes:
        return f"Fewer than {least} rated words: no correlation with the plane is computed."
    return "Multiple correlation with PC1 and PC2: " + ";  ".join(
        f"{name} R = {number(plane['r'])} ({p_equation(plane['p'])})" for name, plane in planes.items()
    )
