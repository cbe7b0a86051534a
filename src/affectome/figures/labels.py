"""Words beside points: which ones, and where they do not collide."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes

from affectome.figures.style import MUTED

# Where a word may stand: at these gaps from the mark (points), in these directions, the first ones preferred.
_GAPS = (1.0, 5.0, 11.0, 19.0, 29.0, 41.0, 55.0)
_DIRECTIONS = np.deg2rad([0, 180, 90, 270, 30, 150, 330, 210, 60, 120, 300, 240])
# What is bad about a place, as points of gap that one would rather accept.
_ON_MARK, _ON_STROKE, _ON_LEADER, _LATER_DIRECTION = 30.0, 3.0, 25.0, 0.3
# Points between two words, across and down; words set closer read as one.
_SPACE = np.array([3.0, 0.0])
# The first round places words one by one, the others move each to where the rest leaves it the best place.
_ROUNDS = 4
# From this gap on, a thin line leads from the mark to its word.
_LEADER = 5.0


@dataclass
class _Place:
    """Where a word stands, in points: its `box` (left, bottom, right, top) and samples (n, 2) of the `leader` to it."""

    box: np.ndarray
    leader: np.ndarray


def worth_labelling(words: Sequence[str], rated: Sequence[bool], distances: np.ndarray, count: int) -> list[int]:
    """Positions of at most `count` words: rated ones first, then by distance from the centre, then by name."""
    return sorted(range(len(words)), key=lambda i: (not rated[i], -distances[i], words[i]))[:count]


def place_labels(
    ax: Axes,
    points: np.ndarray,
    words: Sequence[str],
    marks: np.ndarray,
    radius: float,
    size: float,
    strokes: np.ndarray | None = None,
) -> None:
    """Write `words` beside `points` (words, 2), none on another and as few as can be on `marks` (n, 2).

    A search over places without chance: the same input gives the same picture. `radius` of a mark and font `size` are
    in points; `strokes` (m, 2) are samples of lines, less in the way than marks. Words that find no place are left out,
    the last ones first. The axes must have their final limits.
    """
    figure = ax.figure
    figure.canvas.draw()
    point = figure.dpi / 72
    texts = [ax.text(0, 0, word, fontsize=size, ha="center", va="center", zorder=5) for word in words]
    sizes = [np.array([box.width, box.height]) / point for box in (text.get_window_extent() for text in texts)]
    anchors, marks = ax.transData.transform(points) / point, ax.transData.transform(marks) / point
    strokes = np.empty((0, 2)) if strokes is None else ax.transData.transform(strokes) / point
    frame = np.array(ax.get_window_extent().extents) / point

    places: list[_Place | None] = [None] * len(words)
    for _ in range(_ROUNDS):
        for index, (anchor, extent) in enumerate(zip(anchors, sizes, strict=True)):
            others = [place for other, place in enumerate(places) if place and other != index]
            places[index] = _best_place(anchor, extent, others, frame, marks, radius, strokes)

    to_data = ax.transData.inverted()
    for text, anchor, place in zip(texts, anchors, places, strict=True):
        if place is None:
            text.remove()
            continue
        text.set_position(to_data.transform((place.box[:2] + place.box[2:]) / 2 * point))
        if len(place.leader):
            ends = to_data.transform(np.array([anchor, place.leader[-1]]) * point)
            ax.plot(*ends.T, color=MUTED, linewidth=0.5, zorder=1.5, scalex=False, scaley=False)


def _best_place(
    anchor: np.ndarray,
    extent: np.ndarray,
    others: list[_Place],
    frame: np.ndarray,
    marks: np.ndarray,
    radius: float,
    strokes: np.ndarray,
) -> _Place | None:
    boxes = np.array([place.box for place in others]).reshape(-1, 4)
    leaders = np.vstack([np.empty((0, 2)), *(place.leader for place in others)])
    foreign = marks[np.hypot(*(marks - anchor).T) > radius]
    best, least = None, np.inf
    for gap in _GAPS:
        if gap >= least:
            break
        for rank, angle in enumerate(_DIRECTIONS):
            towards = np.array([np.cos(angle), np.sin(angle)])
            # 1.4: along the diagonals a corner of the box, and not the middle of a side, is next to the mark.
            middle = anchor + towards * (radius + gap) + extent / 2 * np.clip(1.4 * towards, -1, 1)
            box = np.concatenate([middle - extent / 2, middle + extent / 2])
            outside = (box[:2] < frame[:2]).any() or (box[2:] > frame[2:]).any()
            if outside or _covers_any(boxes, box):
                continue
            end = np.clip(anchor, box[:2], box[2:])
            leader = np.linspace(anchor, end, 10) if gap >= _LEADER else np.empty((0, 2))
            crossed = np.hypot(*(leader[:, None] - foreign).T).min(axis=1, initial=np.inf) < radius
            cost = (
                gap
                + _LATER_DIRECTION * rank
                + _ON_MARK * _inside(marks, box, radius)
                + _ON_STROKE * _inside(strokes, box, 0)
                + _ON_LEADER * crossed.sum()
                + _ON_LEADER * (_inside(leaders, box, 0) > 0)
                + _ON_LEADER * sum(_inside(leader, other, 0) > 0 for other in boxes)
            )
            if cost < least:
                best, least = _Place(box, leader), cost
    return best


def _covers_any(boxes: np.ndarray, box: np.ndarray) -> bool:
    return bool(((boxes[:, :2] < box[2:] + _SPACE) & (boxes[:, 2:] > box[:2] - _SPACE)).all(axis=1).any())


def _inside(points: np.ndarray, box: np.ndarray, radius: float) -> int:
    return int(((points > box[:2] - radius) & (points < box[2:] + radius)).all(axis=1).sum())
