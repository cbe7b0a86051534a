"""Speakers: what is read of the one who is heard and of the other one, and whether these are different directions."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator

from affectome.figures.style import ACCENT, AROUSAL, FAINT, INK, MUTED, SHARES, VALENCE, canvas, note
from affectome.figures.wording import interval, number, p_equation

_ROLES = ("user", "assistant", "both")
_KINDS = ("present", "other")
_COLOURS = {"present": VALENCE, "other": AROUSAL}
_NAMES = {
    "opening": "user's first turn",
    "user": "user's turns",
    "assistant": "assistant's turns",
    "both": "both together",
}
_SIGNIFICANT = 0.05
_HEIGHT = 9.2


def draw_speakers(found: dict[str, Any], _table: pd.DataFrame | None, layer: int) -> Figure:
    """The probes with what words reach, the same by layer, vectors asked for another emotion, and their cosines."""
    n = found["n"]
    beneath = (
        f"Layer {layer}, {n['dialogues']} dialogues of {n['emotions']} emotions on {n['topics']} topics. Lines and "
        f"bands: 95 % intervals. Chance is {number(found['chance'])}, dashed."
    )
    figure = canvas(10, _HEIGHT, "Whose emotion is it? The speaker who is heard, and the other one", beneath)
    grid = figure.add_gridspec(
        2, 2, left=0.165, right=0.985, bottom=0.62 / _HEIGHT, top=1 - 1.3 / _HEIGHT, hspace=0.42, wspace=0.32
    )
    _probes(figure.add_subplot(grid[0, 0]), found)
    _by_layer(figure.add_subplot(grid[0, 1]), found, layer)
    _transfer(figure.add_subplot(grid[1, 0]), found)
    _cosines(figure.add_subplot(grid[1, 1]), found)
    return figure


def _probes(ax: Axes, found: dict[str, Any]) -> None:
    rows = [(role, kind, found["probes"][role][kind]) for role in _ROLES for kind in _KINDS]
    rows += [("opening", kind, found["opening"][kind]) for kind in _KINDS]
    for place, (_role, kind, cell) in enumerate(rows):
        colour = _COLOURS[kind]
        low, high = _bounds(cell)
        ax.hlines(place, low, high, color=colour, linewidth=2)
        ax.plot(cell["top1"], place, "o", color=colour, markersize=6, label="vectors" if place == 0 else None)
        for mark, name, label in (("x", "words", "its words"), ("+", "words_so_far", "all words so far")):
            ax.plot(cell[name]["top1"], place, mark, color=INK, markersize=6.5, label=label if place == 0 else None)
    ax.axvline(found["chance"], color=MUTED, linestyle="--", linewidth=1)
    ax.set_yticks(range(len(rows)), [f"{_NAMES[role]}: {kind}" for role, kind, _cell in rows])
    ax.set(xlim=(-0.03, 1.03), ylim=(len(rows) - 0.4, -0.6), xlabel="share named right, topics held out")
    ax.set_title("Probes, and words alone", pad=22)
    ax.legend(loc="lower left", bbox_to_anchor=(-0.02, 0.985), ncols=3, handletextpad=0.3, columnspacing=1.2)


def _by_layer(ax: Axes, found: dict[str, Any], layer: int) -> None:
    layers = sorted(map(int, found["layers"]))
    for role, line in (("user", "--"), ("assistant", "-")):
        for kind in _KINDS:
            cells = [found["layers"][str(at)][role][kind] for at in layers]
            values = np.array([cell["top1"] for cell in cells])
            ends = np.array([_bounds(cell) for cell in cells])
            colour = _COLOURS[kind]
            ax.plot(layers, values, line, color=colour, label=f"{role}, {kind}")
            if role == "assistant":
                ax.fill_between(layers, ends[:, 0], ends[:, 1], color=colour, alpha=0.12, linewidth=0)
            q = np.array([np.nan if cell["q"] is None else cell["q"] for cell in cells])
            face = np.where(q < _SIGNIFICANT, colour, "white")
            ax.scatter(layers, values, s=13, c=face, edgecolors=colour, linewidths=0.9, zorder=3)
    ax.axhline(found["chance"], color=MUTED, linestyle="--", linewidth=1)
    ax.axvline(layer, color=MUTED, linewidth=1, linestyle=(0, (1, 2)), zorder=0.8)
    ax.set(xlabel="layer", ylabel="share named right", ylim=(-0.03, 1.05))
    ax.set_xlim(layers[0] - 0.7, layers[-1] + 0.7)
    ax.xaxis.set_major_locator(FixedLocator(layers) if len(layers) <= 8 else MaxNLocator(8, integer=True))
    ax.set_title("The probes at every layer", pad=34)
    ax.legend(loc="lower left", bbox_to_anchor=(-0.02, 0.985), ncols=2, columnspacing=1.2)


def _transfer(ax: Axes, found: dict[str, Any]) -> None:
    places = [(role, kind) for role in _ROLES[:2] for kind in _KINDS]
    values = np.full((4, 4), np.nan)
    for cell in found["transfer"]:
        row = places.index((cell["learned_from"], cell["learned"]))
        column = places.index((cell["tested_on"], cell["asked"]))
        values[row, column] = cell["top1"]
        called = cell["q"] is not None and cell["q"] < _SIGNIFICANT
        colour = "white" if cell["top1"] > 0.6 else INK
        ax.text(column, row, number(cell["top1"]) + ("*" if called else ""), ha="center", va="center", color=colour)
    ax.imshow(values, cmap=SHARES, vmin=0, vmax=1, aspect="auto")
    labels = [f"{role},\n{kind}" for role, kind in places]
    ax.set_xticks(range(4), labels)
    ax.set_yticks(range(4), [label.replace("\n", " ") for label in labels])
    ax.set(xlabel="asked for, on whose turns", ylabel="vectors learned from")
    ax.set_title("Vectors asked for another emotion")
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


def _cosines(ax: Axes, found: dict[str, Any]) -> None:
    ax.set_title("Present against other vectors")
    marks = (
        ("absolute", "o", ACCENT, "same emotion"),
        ("absolute_others", "o", FAINT, "different emotions"),
        ("absolute_permuted", "x", MUTED, "labels permuted"),
        ("ceiling", "|", INK, "ceiling"),
    )
    drawn = False
    for place, role in enumerate(_ROLES):
        for name, mark, colour, label in marks:
            value = found["orthogonality"][role][name]
            if value is not None:
                width = {"markeredgewidth": 2, "markersize": 14} if mark == "|" else {"markersize": 7}
                ax.plot(value, place, mark, color=colour, label=label if place == 0 else None, **width)
                drawn = True
    ax.set_yticks(range(3), [_NAMES[role] for role in _ROLES])
    ax.set(xlabel="mean |cosine| at the headline layer", ylim=(2.6, -0.7), xlim=(0, None))
    if drawn:
        ax.set_xlim(0, max(1.15 * ax.get_xlim()[1], 0.1))
        ax.set_title("Present against other vectors", pad=34)
        ax.legend(loc="lower left", ncols=2, bbox_to_anchor=(-0.02, 0.985), columnspacing=1.2, handletextpad=0.4)
    else:
        note(ax, "too few dialogues")
    for place, role in enumerate(_ROLES):
        cell = found["orthogonality"][role]
        text = f"noise removed: {number(cell['cosine'])}"
        if cell["ci"]:
            text += f" ({interval(cell['ci'])})"
        ax.text(0.985, place + 0.3, text, transform=ax.get_yaxis_transform(), ha="right", va="center", fontsize=8,
                color=MUTED)  # fmt: skip


def _bounds(cell: dict[str, Any]) -> tuple[float, float]:
    low, high = (np.nan if end is None else float(end) for end in cell["ci"])
    return low, high


def numbers_speakers(found: dict[str, Any], _table: pd.DataFrame | None, layer: int) -> str:
    """The probes of the two roles with interval and p, and the cosine of present and other vectors."""
    parts = []
    for role in _ROLES[:2]:
        for kind in _KINDS:
            cell = found["probes"][role][kind]
            parts.append(
                f"{role}, {kind} {number(cell['top1'])} ({interval(cell['ci'])}, {p_equation(cell['p'])}, words "
                f"{number(cell['words']['top1'])}, all words so far {number(cell['words_so_far']['top1'])})"
            )
    lying = [
        f"{role} {number(cell['absolute'])} (labels permuted {number(cell['absolute_permuted'])}, ceiling "
        f"{number(cell['ceiling'])}, {p_equation(cell['p'])})"
        for role, cell in ((role, found["orthogonality"][role]) for role in _ROLES[:2])
    ]
    return (
        f"Here, at layer {layer}, n = {found['n']['dialogues']} dialogues, chance {number(found['chance'])}: "
        + "; ".join(parts)
        + f". Mean |cosine| of present and other vectors of the same emotion: {'; '.join(lying)}."
    )


def said(found: dict[str, Any], layer: int) -> str:
    """Whether both emotions are read, and what can be said of their directions."""
    n, probes = found["n"], found["probes"]
    heard, other = (probes["assistant"][kind] for kind in _KINDS)
    words = [max(cell["words"]["top1"], cell["words_so_far"]["top1"]) for cell in (heard, other)]
    return (
        f"On the assistant's turns the speaker's own emotion is named right in {_share(heard)} of {n['dialogues']} "
        f"dialogues and the other speaker's in {_share(other)} (chance {_percent(found['chance'])}, words alone "
        f"{_percent(words[0])} and {_percent(words[1])}; layer {layer}): {_verdict(heard, other, words)} "
        f"{_apart(found['orthogonality']['assistant'], heard, other)}"
    )


def _verdict(heard: dict[str, Any], other: dict[str, Any], words: list[float]) -> str:
    read = [cell["p"] < _SIGNIFICANT for cell in (heard, other)]
    if not any(read):
        return "neither is told from chance."
    low = [_bounds(cell)[0] for cell in (heard, other)]
    names = [name for name, so in zip(("the speaker's own", "the other's"), read, strict=True) if so]
    by_words = [
        name
        for name, so, share, least in zip(("the speaker's own", "the other's"), read, words, low, strict=True)
        if so and not least > share
    ]
    told = f"{' and '.join(names)} {'are' if len(names) > 1 else 'alone is'} read above chance"
    return told + (f", {' and '.join(by_words)} no better than words do." if by_words else ".")


def _apart(cell: dict[str, Any], heard: dict[str, Any], other: dict[str, Any]) -> str:
    if max(heard["p"], other["p"]) >= _SIGNIFICANT or cell["cosine"] is None:
        return "Whether the two are different directions cannot be said where one of them is not read."
    end = f", 95 % interval {interval(cell['ci'])}" if cell["ci"] else ""
    return f"Vectors of the two for the same emotion have a cosine of {number(cell['cosine'])}, noise removed{end}."


def _share(cell: dict[str, Any]) -> str:
    low, high = cell["ci"]
    return f"{_percent(cell['top1'])} ({_percent(low)} to {_percent(high)}, {p_equation(cell['p'])})"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f}\u00a0%"
