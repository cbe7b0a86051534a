"""The emotions by likeness: all cosines as a heatmap, and the tree that orders it."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from scipy.cluster import hierarchy

from affectome.figures.style import COSINES, INK, MUTED, canvas, group_colours

# From this many on, neighbouring names go to opposite sides so that each has the height of two cells.
_MANY = 50


@dataclass(frozen=True)
class Tree:
    """SciPy's `linkage` (n − 1, 4) of n emotions, their `words`, and the `groups` (n,) into which the tree is cut."""

    linkage: np.ndarray
    words: tuple[str, ...]
    groups: np.ndarray

    @property
    def leaves(self) -> list[int]:
        """Positions of the emotions in the order of the tree's leaves."""
        return [int(leaf) for leaf in hierarchy.leaves_list(self.linkage)]

    @property
    def node_groups(self) -> list[int | None]:
        """The group of every node, leaves first and then merges; None for a merge of different groups."""
        found: list[int | None] = [int(group) for group in self.groups]
        for left, right in self.linkage[:, :2].astype(int):
            found.append(found[left] if found[left] == found[right] else None)
        return found

    @property
    def cut(self) -> float:
        """A distance at which the tree falls into the groups."""
        heights = self.linkage[:, 2]
        first_above = len(heights) + 1 - len(np.unique(self.groups))
        above = heights[first_above] if first_above < len(heights) else heights[-1] * 1.05
        return float((above + (heights[first_above - 1] if first_above else 0.0)) / 2)


def cosine_matrix(pairs: pd.DataFrame, words: tuple[str, ...]) -> np.ndarray:
    """The symmetric matrix (words, words) of `pairs` (`a, b, cosine`, each pair once), with ones on the diagonal."""
    position = {word: index for index, word in enumerate(words)}
    first, second = pairs["a"].map(position).to_numpy(), pairs["b"].map(position).to_numpy()
    matrix = np.eye(len(words))
    matrix[first, second] = matrix[second, first] = pairs["cosine"]
    return matrix


def similarity(pairs: pd.DataFrame, tree: Tree, layer: int) -> Figure:
    """Cosines of every two emotion vectors at `layer`, in the order of `tree`, whose groups are shown along the edges.

    `pairs` is the part of `similarity.parquet` for `layer`. Colours end at the 99th percentile of |cosine|, so that the
    few near-synonyms do not make all else pale.
    """
    leaves = tree.leaves
    cosines = cosine_matrix(pairs, tree.words)[np.ix_(leaves, leaves)]
    words, groups = [tree.words[leaf] for leaf in leaves], tree.groups[leaves]
    limit = np.ceil(10 * np.quantile(np.abs(pairs["cosine"]), 0.99)) / 10
    np.fill_diagonal(cosines, np.nan)

    count = len(words)
    many = count > _MANY
    pitch = float(np.clip(11.0 / count, 0.062, 0.5))
    size = min(9.0, 0.8 * 72 * pitch * (2 if many else 1))
    margin = 0.35 + max(map(len, words)) * 0.62 * size / 72
    side = count * pitch
    other = margin if many else 0.35
    width = max(margin + side + other, 6.0)
    # On a narrow sheet the scale of colours has no room beside the title and goes beneath it.
    narrow = width < 9
    height = other + side + margin + (1.55 if narrow else 0.95)
    beneath = "Ordered by average linkage; numbered bars are the groups of its cut.\nThe diagonal is left blank."
    figure = canvas(width, height, f"Cosine similarity of {count} emotion vectors, layer {layer}", beneath)
    ax = figure.add_axes((margin / width, other / height, side / width, side / height))
    plain = {"cbar": False, "xticklabels": False, "yticklabels": False, "rasterized": True}
    sns.heatmap(cosines, ax=ax, cmap=COSINES, vmin=-limit, vmax=limit, **plain)
    _name_cells(ax, words, size, many)
    _group_bars(ax, groups, pitch)

    corner = (0.35, height - 1.1) if narrow else (width - 3.35, height - 0.42)
    cax = figure.add_axes((corner[0] / width, corner[1] / height, 3 / width, 0.14 / height))
    bar = figure.colorbar(ax.collections[0], cax=cax, orientation="horizontal", extend="both")
    bar.set_label("cosine similarity (0: unrelated)", fontsize=8.5, labelpad=2)
    bar.outline.set_visible(False)
    return figure


def _name_cells(ax: Axes, words: list[str], size: float, many: bool) -> None:
    middles = np.arange(len(words)) + 0.5
    sides = [("left", "top", slice(0, None, 2 if many else 1))]
    if many:
        sides.append(("right", "bottom", slice(1, None, 2)))
    ax.set(xticks=[], yticks=[])
    transform = {"rows": ax.get_yaxis_transform(), "columns": ax.get_xaxis_transform()}
    # Room for the bar of groups, which has the width of 0.13 inches.
    gap = 0.2 / (ax.get_position().width * ax.figure.get_figwidth())
    for row_side, column_side, chosen in sides:
        for middle, word in zip(middles[chosen], words[chosen], strict=True):
            x, align = (-gap, "right") if row_side == "left" else (1 + gap, "left")
            ax.text(x, middle, word, transform=transform["rows"], ha=align, va="center", fontsize=size)
            y, align = (1 + gap, "bottom") if column_side == "top" else (-gap, "top")
            ax.text(middle, y, word, transform=transform["columns"], rotation=90, ha="center", va=align, fontsize=size)


def _runs(groups: np.ndarray) -> list[tuple[int, int, int]]:
    """`(group, start, end)` of every run of equal `groups` (n,)."""
    starts = [0, *(np.flatnonzero(np.diff(groups)) + 1).tolist()]
    return [(int(groups[a]), a, b) for a, b in zip(starts, [*starts[1:], len(groups)], strict=True)]


def _group_bars(ax: Axes, groups: np.ndarray, pitch: float) -> None:
    colours = group_colours(groups)
    length = len(groups)
    thick = 0.13 / pitch
    near = 0.04 / pitch
    for group, start, end in _runs(groups):
        cells = end - start
        for corner, shape in (
            ((-near - thick, start), (thick, cells)),
            ((length + near, start), (thick, cells)),
            ((start, -near - thick), (cells, thick)),
            ((start, length + near), (cells, thick)),
        ):
            patch = Rectangle(corner, *shape, facecolor=colours[group], edgecolor="white", linewidth=0.6, clip_on=False)
            ax.add_patch(patch)
            # A number needs some 0.12 inches; narrower groups are told by the number of their neighbours.
            if cells * pitch >= 0.12:
                x, y = np.add(corner, np.divide(shape, 2))
                ax.text(x, y, group, color="white", fontsize=6.5, ha="center", va="center", fontweight="bold")


def dendrogram(tree: Tree, layer: int) -> Figure:
    """The tree of all emotions at `layer` and its cut, a leaf per line; each group has its colour."""
    leaves = tree.leaves
    words, groups = [tree.words[leaf] for leaf in leaves], tree.groups[leaves]
    colours = group_colours(groups)
    count = len(words)
    node_groups = tree.node_groups
    shape = hierarchy.dendrogram(tree.linkage, no_plot=True, link_color_func=lambda node: str(node))

    width, height = 8.0, max(3.2, 0.122 * count + 1.7)
    margin = 0.55 + max(map(len, words)) * 0.66 * 7.5 / 72
    beneath = f"Average linkage on cosine distance, cut into {len(colours)} groups at the dashed line."
    figure = canvas(width, height, f"Tree of {count} emotion vectors by likeness, layer {layer}", beneath)
    ax = figure.add_axes((0.25 / width, 0.5 / height, 1 - (0.25 + margin) / width, 1 - 1.35 / height))
    lines = [list(zip(x, y, strict=True)) for x, y in zip(shape["dcoord"], shape["icoord"], strict=True)]
    drawn = [colours.get(node_groups[int(node)], MUTED) for node in shape["color_list"]]
    ax.add_collection(LineCollection(lines, colors=drawn, linewidths=1))
    furthest = float(tree.linkage[-1, 2])
    # SciPy puts leaf i at 10 i + 5.
    ax.set(xlim=(furthest * 1.04 or 1, 0), ylim=(10 * count, 0), yticks=[], xlabel="cosine distance (1 − cosine)")
    ax.spines["left"].set_visible(False)
    ax.axvline(tree.cut, color=INK, linestyle="--", linewidth=0.8)
    beside = ax.get_yaxis_transform()
    span = ax.get_position().width * width
    for index, (word, group) in enumerate(zip(words, groups, strict=True)):
        ax.text(
            1 + 0.05 / span, 10 * index + 5, word, transform=beside, color=colours[group], fontsize=7.5, va="center"
        )
    end = 1 + (margin - 0.42) / span
    for group, start, stop in _runs(groups):
        ax.plot([end] * 2, [10 * start + 1, 10 * stop - 1], color=colours[group], linewidth=2.5, transform=beside,
                clip_on=False, solid_capstyle="butt")  # fmt: skip
        ax.text(end + 0.07 / span, 5 * (start + stop), group, transform=beside, color=colours[group], fontsize=8,
                va="center", fontweight="bold")  # fmt: skip
    return figure
