"""Runs side by side, always in the same axes: agreement with ratings, profiles over depth, planes laid over ratings."""

import numpy as np
import pandas as pd
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from affectome.figures.circumplex import procrustes
from affectome.figures.labels import place_labels, worth_labelling
from affectome.figures.style import FAINT, GROUPS, INK, MUTED, RATINGS, canvas, note, rating_scale
from affectome.figures.wording import number

# Two points can be laid on any two others without error, so a fit says something from three on.
FEWEST = 3
_SIGNIFICANT = 0.05
_LABELLED = 16
_ACROSS = 3


def run_colours(runs: list[str]) -> dict[str, str]:
    """A colour for each of `runs`, the same in every figure."""
    return {run: GROUPS[index % len(GROUPS)] for index, run in enumerate(runs)}


def agreement(rows: pd.DataFrame, runs: list[str]) -> Figure:
    """Held-out r with its interval, a row per run, a panel per norm (down) and dimension (across).

    `rows` has `run, norm, n, dimension, r, low, high, p`, in the order of the panels.
    """
    norms, dimensions = list(dict.fromkeys(rows["norm"])), list(dict.fromkeys(rows["dimension"]))
    each = 0.75 + 0.24 * len(runs)
    height = 1.05 + each * max(len(norms), 1)
    beneath = "Lines: 95 % intervals. Hollow marks: p ≥ 0.05. The number of rated words stands beside each mark."
    figure = canvas(10, height, "Held-out agreement with human ratings, run by run", beneath)
    if rows.empty:
        note(figure.add_axes((0.1, 0.1, 0.8, 0.5), xticks=[], yticks=[]), "no run has enough rated words")
        return figure
    margin = 0.2 + 0.08 * max(map(len, runs))
    sheet = {"left": margin / 10, "right": 0.985, "bottom": 0.5 / height, "top": 1 - 0.95 / height}
    grid = figure.add_gridspec(len(norms), len(dimensions), hspace=0.55 / (each - 0.4), wspace=0.06, **sheet)
    lowest = min(0.0, float(rows[["r", "low"]].min(axis=None)))
    colours = run_colours(runs)
    for (down, norm), (across, dimension) in _panels(norms, dimensions):
        ax = figure.add_subplot(grid[down, across], title=f"{norm}: {dimension}")
        ax.axvline(0, color=FAINT, linewidth=0.8)
        here = rows[(rows["norm"] == norm) & (rows["dimension"] == dimension)].set_index("run")
        for row, run in enumerate(runs):
            if run not in here.index:
                ax.text(0.5, row, "too few rated words", transform=ax.get_yaxis_transform(), va="center", ha="center",
                        fontsize=7.5, color=MUTED)  # fmt: skip
                continue
            found = here.loc[run]
            ax.hlines(row, found["low"], found["high"], color=colours[run], linewidth=2)
            face = colours[run] if found["p"] < _SIGNIFICANT else "white"
            ax.plot(found["r"], row, "o", color=colours[run], markerfacecolor=face, markersize=6)
            ax.text(
                1.01, row, f"{found['n']:.0f}", transform=ax.get_yaxis_transform(), va="center", fontsize=7, color=MUTED
            )
        ax.set(xlim=(lowest - 0.05, 1.02), ylim=(len(runs) - 0.4, -0.6))
        ax.set_yticks(range(len(runs)), runs if across == 0 else [""] * len(runs))
        ax.tick_params(axis="y", length=0, colors=INK)
        ax.grid(axis="x", color="#E6E6E6", linewidth=0.6)
        if down == len(norms) - 1:
            ax.set_xlabel("held-out r")
        else:
            ax.tick_params(labelbottom=False)
    return figure


def layer_profiles(profile: pd.DataFrame, runs: list[str]) -> Figure:
    """Held-out r over relative depth, a line per run and a panel per norm (down) and dimension (across).

    `profile` has `run, depth, headline, measure, norm, dimension, value, low, high, p`: rows of the runs' layer
    profiles. The last row of panels is split-half reliability.
    """
    ridge = profile[(profile["measure"] == "ridge") & profile["dimension"].isin(["valence", "arousal"])]
    norms = list(dict.fromkeys(ridge["norm"]))
    panels = [(norm, dimension) for norm in norms for dimension in ("valence", "arousal")] + [("", "reliability")]
    down = -(-len(panels) // 2)
    height = 1.35 + 2.35 * down
    beneath = "Bands: 95 % intervals. Depth: share of the model's blocks passed. Diamonds: a run's headline layer."
    figure = canvas(10, height, "Agreement with ratings and reliability over relative depth", beneath)
    sheet = {"left": 0.07, "right": 0.985, "bottom": 0.5 / height, "top": 1 - 1.25 / height}
    grid = figure.add_gridspec(down, 2, hspace=0.42, wspace=0.1, **sheet)
    lowest = float(np.nanmin([0.0, *ridge["low"], *ridge["value"]]))
    colours = run_colours(runs)
    for index, (norm, dimension) in enumerate(panels):
        ax = figure.add_subplot(grid[index // 2, index % 2])
        here = profile[profile["measure"] == "reliability"]
        if norm:
            here = ridge[(ridge["norm"] == norm) & (ridge["dimension"] == dimension)]
        ax.set_title(f"{norm}: {dimension}" if norm else "split-half reliability")
        ax.axhline(0, color=FAINT, linewidth=0.8)
        for run in runs:
            rows = here[here["run"] == run].sort_values("depth")
            if norm:
                ax.fill_between(rows["depth"], rows["low"], rows["high"], color=colours[run], alpha=0.13, linewidth=0)
            ax.plot(rows["depth"], rows["value"], color=colours[run], marker="o", markersize=2.5)
            chosen = rows[rows["headline"]]
            ax.plot(chosen["depth"], chosen["value"], "D", color=colours[run], markersize=6, markeredgecolor="white")
        ax.set(xlim=(0, 1.02), ylim=(lowest - 0.05, 1.02))
        if index % 2 == 0:
            ax.set_ylabel("held-out r" if norm else "mean over emotions")
        if index + 2 >= len(panels):
            ax.set_xlabel("relative depth")
    handles = [Line2D([], [], color=colour, marker="o", markersize=3) for colour in colours.values()]
    figure.legend(handles, runs, loc="upper left", bbox_to_anchor=(0.004, 1 - 0.58 / height), ncols=6)
    return figure


def laid_over(scores: pd.DataFrame, ratings: pd.DataFrame) -> tuple[pd.DataFrame, float | None]:
    """PC1 and PC2 of the rated words in `scores`, laid over their ratings by orthogonal Procrustes.

    Returns `x, y` by word and the share of the ratings' variance that they then explain; no words and None where fewer
    than `FEWEST` are rated. `scores` is one layer's part of `geometry.parquet`, `ratings` the norm's ratings by word.
    """
    shared = scores[scores["emotion"].isin(ratings.index)].set_index("emotion")
    if len(shared) < FEWEST:
        return pd.DataFrame(columns=["x", "y"]), None
    human = ratings.loc[shared.index, ["valence", "arousal"]].to_numpy()
    moved, explained = procrustes(shared[["PC1", "PC2"]].to_numpy(), human)
    return pd.DataFrame(moved, shared.index, ["x", "y"]), explained


def planes(scores: dict[str, pd.DataFrame], ratings: pd.DataFrame, norm_name: str) -> Figure:
    """Every run's plane of PC1 and PC2 laid over the same ratings, a panel per run; lines lead to the ratings.

    `scores` holds, by run, its headline layer's part of `geometry.parquet`; `ratings` the norm's ratings by word.
    """
    runs = list(scores)
    across = min(len(runs), _ACROSS)
    down = -(-len(runs) // across)
    side = 9.2 / across
    height = 1.2 + (side + 0.35) * down
    beneath = (
        f"Diamonds: the model's plane, rotated, reflected, scaled and shifted as a whole to fit the {norm_name} "
        "ratings\n(orthogonal Procrustes); lines end at the ratings. Colour: valence. Every panel has the same axes."
    )
    figure = canvas(10, height, "The planes of PC1 and PC2, each laid over the same ratings", beneath)
    sheet = {"left": 0.06, "right": 0.99, "bottom": 0.5 / height, "top": 1 - 1.15 / height}
    grid = figure.add_gridspec(down, across, hspace=0.22, wspace=0.07, **sheet)
    moved = {run: laid_over(table, ratings) for run, table in scores.items()}
    words = sorted({word for points, _ in moved.values() for word in points.index})
    everything = np.vstack([ratings.loc[words, ["valence", "arousal"]], *(points for points, _ in moved.values())])
    valence = rating_scale(ratings["valence"])
    for index, (run, (points, explained)) in enumerate(moved.items()):
        ax = figure.add_subplot(grid[index // across, index % across])
        share = number(None if explained is None else 100 * explained, 0)
        ax.set_title(f"{run}: {len(points)} words, {share} % of variance")
        if len(everything):
            low, high = everything.min(axis=0).astype(float), everything.max(axis=0).astype(float)
            pad = 0.07 * (high - low) + 1e-9
            ax.set(xlim=(low[0] - pad[0], high[0] + pad[0]), ylim=(low[1] - pad[1], high[1] + pad[1]))
        if points.empty:
            note(ax, f"fewer than {FEWEST} rated words")
            continue
        human = ratings.loc[points.index, ["valence", "arousal"]].to_numpy()
        places = points.to_numpy(dtype=float)
        ax.add_collection(LineCollection(np.stack([human, places], axis=1), colors="#A6A6A6", linewidths=0.5, zorder=1))
        ax.scatter(
            *places.T,
            s=22,
            marker="D",
            c=human[:, 0],
            cmap=RATINGS,
            norm=valence,
            edgecolors=INK,
            linewidths=0.6,
            zorder=3,
        )
        ax.tick_params(labelleft=index % across == 0)
        if index % across == 0:
            ax.set_ylabel("arousal")
        if index + across >= len(runs):
            ax.set_xlabel("valence")
        centre = human.mean(axis=0)
        named = worth_labelling(list(points.index), [True] * len(points), np.hypot(*(places - centre).T), _LABELLED)
        place_labels(ax, places[named], [points.index[i] for i in named], places, radius=3.5, size=7)
    return figure


def _panels(norms: list[str], dimensions: list[str]) -> list[tuple[tuple[int, str], tuple[int, str]]]:
    return [(row, column) for row in enumerate(norms) for column in enumerate(dimensions)]
