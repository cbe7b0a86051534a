"""The look that all figures share, and saving them so that the same data give the same bytes."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from affectome.files import replacing

# Okabe and Ito: told apart with every common form of colour vision.
VALENCE, AROUSAL = "#0072B2", "#D55E00"
INK, MUTED, FAINT, UNRATED, ACCENT = "#1A1A1A", "#595959", "#BDBDBD", "#B5B5B5", "#882255"
# Diverging, with light centres; red to blue for ratings and orange to purple for cosines, so that none is mistaken.
RATINGS, COSINES = "RdBu", "PuOr"
SHARES = "Blues"
# All dark enough to be read as text on white; neighbours differ in lightness as well as hue. Used in a circle.
GROUPS = ("#0072B2", "#B34700", "#332288", "#117733", "#AA3377", "#7A5C00", "#882255", "#00707A", "#6B4423", "#9B2226")

_SETTINGS = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.labelsize": 9,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "text.color": INK,
    # An emotion word may hold a dollar sign, which is no formula.
    "text.parse_math": False,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "affectome",
}


@contextmanager
def house_style() -> Iterator[None]:
    """Draw in the house style, whatever the user's matplotlibrc says; for drawing and for saving."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        yield


def canvas(width: float, height: float, title: str, beneath: str) -> Figure:
    """A sheet of `width` × `height` inches, drawn by Agg, with a bold title at its top left and text `beneath` it."""
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    left = 0.12 / width
    figure.text(left, 1 - 0.1 / height, title, va="top", fontsize=12, fontweight="bold")
    figure.text(left, 1 - 0.4 / height, beneath, va="top", fontsize=8.5, color=MUTED, linespacing=1.4)
    return figure


def save(figure: Figure, folder: str | Path, name: str, dpi: int) -> None:
    """Write `figure` as `{name}.svg` and `{name}.png` into `folder`; `dpi` is the resolution of all that is pixels."""
    for form, metadata in (("svg", {"Date": None}), ("png", None)):
        with replacing(Path(folder) / f"{name}.{form}") as temporary:
            figure.savefig(temporary, format=form, dpi=dpi, metadata=metadata, facecolor="white")


def note(ax: Axes, text: str) -> None:
    """Say in the middle of `ax` why there is nothing to see."""
    behind = {"facecolor": "white", "edgecolor": "none"}
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", color=MUTED, fontsize=10, bbox=behind)


def rating_scale(ratings: pd.Series) -> Normalize:
    """Colour scale of `ratings`: symmetric about 0 if they have both signs, else about the middle of their range."""
    low, high = (float(ratings.min()), float(ratings.max())) if len(ratings) else (0.0, 0.0)
    centre = 0.0 if low < 0 < high else (low + high) / 2
    half = max(high - centre, centre - low) or 1.0
    return Normalize(centre - half, centre + half)


def group_colours(groups: np.ndarray) -> dict[int, str]:
    """A colour for each of `groups` (leaves,), dealt in the order of the leaves so that neighbours differ."""
    return {int(group): GROUPS[index % len(GROUPS)] for index, group in enumerate(pd.unique(groups))}
