"""The run's results beside published figures, drawn and said."""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from affectome.analyses.published import QUANTITIES
from affectome.figures.style import ACCENT, FAINT, INK, MUTED, canvas, note
from affectome.figures.wording import interval, number

# On an axis of its own, for it is no share or correlation.
_RANK = "story_mean_rank"
_LINE = 0.27
# Where the axes stand on the sheet, and names of lines beside them, in widths of the axes.
_LEFT, _WIDTH, _NAMES = 0.57, 0.385, -1.45
# Signs that fit before what a figure is over.
_SIGNS = 66


def draw_published(found: dict[str, Any], table: pd.DataFrame, layer: int) -> Figure:
    """A block per quantity that the run has: its own value with interval, and a line for every published figure."""
    here = {quantity: rows for quantity, rows in found["here"].items() if rows}
    blocks = [quantity for quantity in QUANTITIES if quantity in here and quantity != _RANK]
    ranks = [_RANK] if _RANK in here else []
    sizes = [_lines(table, here, blocks), _lines(table, here, ranks)]
    height = max(1.4 + _LINE * sum(sizes) + (0.62 if ranks and blocks else 0), 3)
    beneath = (
        "Purple: this run, with 95 % intervals where there are some. Grey: published; a bar is a range over layers, an "
        "arrow a bound.\nUpright ticks: chance. In brackets, what the figure is over."
    )
    figure = canvas(10, height, f"This run beside published figures, layer {layer}", beneath)
    if not blocks + ranks:
        note(figure.add_axes((0.05, 0.1, 0.9, 0.6)), "nothing that was published was asked of this run")
        return figure
    top = 1 - 0.85 / height
    first = _LINE * sizes[0] / height
    if blocks:
        ax = figure.add_axes((_LEFT, top - first, _WIDTH, first))
        _draw(ax, table, here, blocks)
        ax.set_xlabel("share, correlation or AUC")
        low = min(0.0, *(row["low"] for quantity in blocks for row in here[quantity] if row["low"] is not None), 0.0)
        ax.set_xlim(low - 0.04, 1.03)
    if ranks:
        size = _LINE * sizes[1] / height
        ax = figure.add_axes((_LEFT, top - size - (first + 0.62 / height if blocks else 0), _WIDTH, size))
        _draw(ax, table, here, ranks)
        ax.set_xlabel("mean rank, 1 is best")
        ax.set_xlim(left=0)
    return figure


def _lines(table: pd.DataFrame, here: dict[str, list], quantities: list[str]) -> float:
    return sum(len(here[name]) + (table["quantity"] == name).sum() + 1.5 for name in quantities)


def _draw(ax: Axes, table: pd.DataFrame, here: dict[str, list[dict[str, Any]]], quantities: list[str]) -> None:
    line = 0.0
    names = ax.get_yaxis_transform()
    for quantity in quantities:
        title, over = QUANTITIES[quantity]
        ax.text(_NAMES, line + 0.3, title[0].upper() + title[1:], transform=names, fontsize=9, fontweight="bold",
                va="center")  # fmt: skip
        for row in here[quantity]:
            line += 1
            _name(ax, line, "this run", _over(row["n"], over, row["norm"]), ACCENT)
            if row["low"] is not None:
                ax.hlines(line + 0.3, row["low"], row["high"], color=ACCENT, linewidth=1.6)
            if row["value"] is not None:
                ax.plot(row["value"], line + 0.3, "D", color=ACCENT, markersize=5.5, zorder=3)
                ax.annotate(number(row["value"]), (row["high"] if row["low"] is not None else row["value"], line + 0.3),
                            xytext=(6, 0), textcoords="offset points", va="center", fontsize=8, color=ACCENT,
                            annotation_clip=False)  # fmt: skip
            if row["chance"] is not None:
                ax.vlines(row["chance"], line, line + 0.6, color=INK, linewidth=1.2, zorder=2)
        for row in table[table["quantity"] == quantity].to_dict("records"):
            line += 1
            where = f", layer {row['layer']}" if row["layer"][:1].isdigit() else ""
            said = " ".join(filter(None, [row["study"], row["model"] and f"({row['model']}{where})"]))
            longer = f"{said}, {row['remark']}"
            said = longer if row["remark"] and len(longer) <= _SIGNS else said
            _name(ax, line, said, _over(row["n"], over, row["norm"]), MUTED)
            _published(ax, line + 0.3, row)
        line += 1.5
        ax.axhline(line - 0.35, color=FAINT, linewidth=0.4, xmin=_NAMES, clip_on=False)
    ax.axvline(0, color=FAINT, linewidth=0.8, zorder=0.5)
    ax.set_ylim(line - 0.35, -0.2)
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)


def _name(ax: Axes, line: float, said: str, over: str, colour: str) -> None:
    names = ax.get_yaxis_transform()
    ax.text(_NAMES + 0.03, line + 0.3, said, transform=names, fontsize=8, color=colour, va="center")
    ax.text(-0.03, line + 0.3, over, transform=names, fontsize=8, color=MUTED, va="center", ha="right")


def _over(n: float | None, over: str, norm: str | None) -> str:
    counted = "" if over == "pair" or n is None or pd.isna(n) else f"{n:.0f} {over}"
    said = ", ".join(filter(None, [counted, norm or ""]))
    return f"[{said}]" if said else ""


def _published(ax: Axes, line: float, row: dict[str, Any]) -> None:
    low, high, value = row["low"], row["high"], row["value"]
    end = value
    if pd.notna(low) and pd.notna(high):
        ax.hlines(line, low, high, color=MUTED, linewidth=4, alpha=0.6)
        end, text = high, f"{number(low)} to {number(high)}"
    elif pd.isna(value):
        bound, sign, way = (high, "≤", -1) if pd.notna(high) else (low, "≥", 1)
        ax.annotate("", (bound + 0.1 * way, line), (bound, line), arrowprops={"arrowstyle": "->", "color": MUTED})
        end, text = bound, f"{sign} {number(bound)}"
    else:
        ax.plot(value, line, "o", color=MUTED, markersize=5, markerfacecolor="white", zorder=3)
        text = number(value, 3 if round(value, 2) != value else 2)
    ax.annotate(text, (end, line), xytext=(6, 0), textcoords="offset points", va="center", fontsize=8, color=MUTED,
                annotation_clip=False)  # fmt: skip


def numbers_published(found: dict[str, Any], table: pd.DataFrame, layer: int) -> str:
    """Numbers of this run at `layer`."""
    compared = table.dropna(subset=["here"])
    unlike = compared[compared["differs"] != ""]
    sources = ", ".join(dict.fromkeys(compared["source"]))
    absent = [QUANTITIES[name][0] for name in dict.fromkeys(table["quantity"]) if not found["here"][name]]
    said = ". ".join(f"{row.study}, {row.differs}" for row in unlike.drop_duplicates(["study", "differs"]).itertuples())
    return (
        f"Here, at layer {layer}: {len(compared)} published figures beside {found['n']['emotions']} emotions of this "
        f"run. Not alike: {said or 'nothing but models, corpora and layers'}. Sources: {sources or 'none'}."
        + (f" Not asked of this run, or not answered: {', '.join(absent)}." if absent else "")
    )


def said(found: dict[str, Any], layer: int) -> str:
    """The answer in words: agreement with ratings, and the largest component, beside the study that began it."""
    parts = []
    for quantity in ("pc1_valence_r", "pc2_arousal_r"):
        rows = [row for row in found["published"] if row["quantity"] == quantity and row["here"] is not None]
        rows = [row for row in rows if row["value"] is not None]
        if rows:
            first = rows[0]
            alike = f"; {first['differs']}" if first["differs"] else ""
            parts.append(
                f"{QUANTITIES[quantity][0]} is {number(first['here'])} here (95 % interval "
                f"{interval([first['here_low'], first['here_high']])}; chance 0; {first['here_n']} words) and "
                f"{number(first['value'])} in {first['study']}{alike}"
            )
    share = found["here"]["pc1_share"]
    lead = f"At layer {layer}, " + "; ".join(parts) + "." if parts else "This run has no correlation to compare."
    theirs = next((row for row in found["published"] if row["quantity"] == "pc1_share"), None)
    if share and theirs and theirs["value"] is not None:
        lead += (
            f" PC1 holds {100 * share[0]['value']:.0f} % of the variance of {share[0]['n']} emotions, "
            f"{100 * theirs['value']:.0f} % there."
        )
    return f"{lead} {found['n']['compared']} published figures are compared; models, corpora and layers differ in all."
