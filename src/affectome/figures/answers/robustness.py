"""How much vectors and headline numbers change with topics, denoising, reading and the precision of the model."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from affectome.figures.style import AROUSAL, FAINT, INK, MUTED, VALENCE, canvas, note
from affectome.figures.wording import MISSING, number

_KINDS = {"denoising": "not denoised", "pooling": "reading", "model": "model"}
_MEASURES = {"valence": ("valence r", VALENCE), "arousal": ("arousal r", AROUSAL), "top1": ("top-1", INK)}


def draw_robustness(found: dict[str, Any], table: pd.DataFrame, layer: int) -> Figure:
    """Cosines and reliabilities of all emotions by comparison, and what each does to the headline numbers."""
    rows = _rows(found)
    height = 2.55 + 0.5 * max(len(rows), 3)
    beneath = (
        f"Layer {layer}, {found['n_emotions']} emotions, {found['n_texts']:,} texts. Left: a dot per emotion; black, "
        "mean with 95 % interval; hollow, unlike\nemotions. Right: change of headline numbers, 95 % intervals; grey, "
        "range over left-out topics and one standard error."
    )
    figure = canvas(10, height, "What the vectors and the headline numbers withstand", beneath)
    sheet = {"left": 0.2, "right": 0.985, "bottom": 0.55 / height, "top": 1 - 1.25 / height, "wspace": 0.13}
    grid = figure.add_gridspec(1, 4, width_ratios=[2.6, 1, 1, 1], **sheet)
    left = figure.add_subplot(grid[0], title="Agreement with the run's vectors", xlabel="cosine, or reliability")
    _agreement(left, rows, found, table)
    for index, (name, (label, colour)) in enumerate(_MEASURES.items()):
        ax = figure.add_subplot(grid[index + 1], sharey=left, xlabel="change")
        ax.set_title(f"{label} {number((found['headline'].get(name) or {}).get('value'))}")
        ax.tick_params(left=False, labelleft=False)
        _changes(ax, rows, found, name, colour)
    return figure


def _rows(found: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Kind, name and label of every comparison there is."""
    rows = [("split_half", "halves", "half against half\n(reliability)")] if found["split_half"] else []
    rows += [("jackknife", "topics", f"without one of {found['n_blocks']}\n{_groups(found)}")] * bool(
        found["jackknife"]
    )
    for kind, label in _KINDS.items():
        names = found["variants"][kind]
        rows += [(kind, name, label if kind == "denoising" else f"{label}\n{name}") for name in names]
    return rows


def _groups(found: dict[str, Any]) -> str:
    if found["held_out"] != "topics":
        return "blocks of texts"
    return "topics" if found["n_blocks"] == found["n_groups"] else "blocks of topics"


def _agreement(ax: Axes, rows: list[tuple[str, str, str]], found: dict[str, Any], table: pd.DataFrame) -> None:
    lowest = 1.0
    for place, (kind, name, _label) in enumerate(rows):
        of_kind = table[table["kind"] == kind]
        if kind in _KINDS:
            of_kind = of_kind[of_kind["variant"] == name]
        column = "reliability" if kind == "split_half" else "cosine"
        values = of_kind[column].dropna().to_numpy()
        if kind == "jackknife":
            # Each emotion where it changes most.
            values = of_kind.groupby("emotion")[column].min().dropna().to_numpy()
        if not len(values):
            continue
        # A golden-ratio sequence keeps dots apart without chance.
        jitter = 0.36 * (np.arange(len(values)) * 0.618034 % 1 - 0.5)
        ax.scatter(values, place + jitter, s=7, color=VALENCE, alpha=0.5, linewidths=0, rasterized=len(values) > 400)
        part = _part(found, kind, name)
        ci = [np.nan if bound is None else bound for bound in part.get("ci", [None, None])]
        mean = values.mean() if kind == "jackknife" else part["mean"]
        ax.plot(ci, [place + 0.31] * 2, color=INK, linewidth=1.4)
        ax.plot([mean], [place + 0.31], "o", color=INK, markersize=4)
        lowest = min(lowest, values.min())
        if part.get("others") is not None:
            ax.plot([part["others"]], [place + 0.31], "o", markersize=4, markerfacecolor="white", color=MUTED)
            lowest = min(lowest, part["others"])
    ax.set_xlim(lowest - 0.06, 1.03)
    ax.set_yticks(range(len(rows)), [label for _, _, label in rows])
    ax.set_ylim(max(len(rows), 3) - 0.4, -0.6)
    ax.axvline(1, color=FAINT, linewidth=0.8, zorder=0.5)
    if not rows:
        note(ax, "needs texts on two topics,\ndenoising, another reading or model")


def _part(found: dict[str, Any], kind: str, name: str) -> dict[str, Any]:
    return found["variants"][kind][name] if kind in _KINDS else found[kind]


def _changes(ax: Axes, rows: list[tuple[str, str, str]], found: dict[str, Any], name: str, colour: str) -> None:
    ax.axvline(0, color=FAINT, linewidth=0.8, zorder=0.5)
    reach = [0.02]
    for place, (kind, variant, _label) in enumerate(rows):
        measured = _part(found, kind, variant).get("headline", {}).get(name, {})
        if kind == "jackknife" and measured:
            low, high = measured["low"] - measured["value"], measured["high"] - measured["value"]
            error = measured["se"]
            ax.plot([low, high], [place] * 2, color=MUTED, linewidth=5, alpha=0.35, solid_capstyle="butt")
            ax.plot([-error, error], [place] * 2, color=MUTED, linewidth=1)
            reach += [abs(low), abs(high), error]
        elif measured.get("difference") is not None:
            low, high = (np.nan if bound is None else bound for bound in measured["difference_ci"])
            ax.plot([low, high], [place] * 2, color=colour, linewidth=1.4)
            ax.plot([measured["difference"]], [place], "o", color=colour, markersize=5)
            reach += [abs(measured["difference"]), *np.abs([low, high])]
    most = 1.12 * np.nanmax(reach)
    ax.set_xlim(-most, most)
    ax.locator_params(axis="x", nbins=3)
    if found["headline"].get(name, {}).get("value") is None:
        note(ax, "too few\nrated words" if name != "top1" else "not tested")


# ---------------------------------------------------------------- in words


def numbers_robustness(found: dict[str, Any], table: pd.DataFrame, layer: int) -> str:  # noqa: ARG001
    """What `draw_robustness` shows, in numbers."""
    said = []
    if found["split_half"]:
        part = found["split_half"]
        said.append(
            f"split-half reliability {number(part['mean'])}, 95 % interval {_interval(part['ci'])}, over {part['n']} "
            f"emotions and {part['halves']} ways to halve {found['n_blocks']} {_groups(found)} (least: "
            f"{part['weakest']}, {number(part['min'])})"
        )
    if found["jackknife"]:
        part = found["jackknife"]
        errors = ", ".join(
            f"{label} {number(part['headline'][name]['value'])} ± {number(part['headline'][name]['se'])}"
            for name, (label, _colour) in _MEASURES.items()
            if name in part["headline"]
        )
        said.append(
            f"without one of {part['n']} {_groups(found)} mean cosine {number(part['mean'], 3)}, least "
            f"{number(part['min'], 3)} ({part['weakest']} without {part['min_without']})"
            + (f"; value ± standard error by jackknife: {errors}" if errors else "")
        )
    for kind, label in _KINDS.items():
        for name, part in found["variants"][kind].items():
            changes = ", ".join(
                f"{of_measure} {_signed(part['headline'][each]['difference'])} "
                f"({_interval(part['headline'][each]['difference_ci'], 3)}, n = {part['headline'][each]['n']:,})"
                for each, (of_measure, _colour) in _MEASURES.items()
                if part["headline"].get(each, {}).get("difference") is not None
            )
            said.append(
                f"{label if kind == 'denoising' else f'{label} {name}'}: mean cosine {number(part['mean'], 3)}, 95 % "
                f"interval {_interval(part['ci'], 3)}, over {part['n']} emotions and {part['n_texts']:,} texts (unlike "
                f"emotions {number(part['others'], 3)})" + (f"; change of {changes}" if changes else "")
            )
    return f"Here, at layer {layer}: {'. '.join(said) or 'nothing could be compared'}."


def said(found: dict[str, Any], layer: int) -> str:
    """The answer in two sentences."""
    part = found["split_half"]
    sentences = []
    if part and part["mean"] is not None:
        low = part["ci"][0]
        strong = low is not None and low > 0.5
        sentences.append(
            f"Vectors from two halves of the {_groups(found)} at layer {layer} "
            f"{'agree' if strong else 'do not agree reliably'}: split-half reliability {number(part['mean'])} (95 % "
            f"interval {_interval(part['ci'])}, 0 by chance, {part['n']} emotions, {found['n_texts']:,} texts)."
        )
    variants = [
        ("the variant without denoising" if kind == "denoising" else f"{label} {name}", of_variant)
        for kind, label in _KINDS.items()
        for name, of_variant in found["variants"][kind].items()
    ]
    if variants:
        name, furthest = min(variants, key=lambda variant: _least(variant[1]["mean"]))
        changes = [
            f"{label} by {_signed(of_measure['difference'])} (95 % interval "
            f"{_interval(of_measure['difference_ci'], 3)}, n = {of_measure['n']:,})"
            for each, (label, _colour) in _MEASURES.items()
            if _away(of_measure := furthest["headline"].get(each, {}), found["headline"].get(each, {}))
        ]
        which = f"Of {len(variants)} variants, {name}" if len(variants) > 1 else f"{name[0].upper()}{name[1:]}"
        sentences.append(
            f"{which} has the vectors least like the run's (mean cosine {number(furthest['mean'], 3)}; unlike emotions "
            f"{number(furthest['others'], 3)}); it changes "
            + (f"{' and '.join(changes)}." if changes else "no headline number by more than chance.")
        )
    return " ".join(sentences) or f"Layer {layer} has texts on one topic and no variant, so nothing can be compared."


def _least(value: float | None) -> float:
    return 2.0 if value is None else value


def _away(measured: dict[str, Any], of_run: dict[str, Any]) -> bool:
    """Whether the interval of a difference leaves out 0, and at least one of the two numbers is one to speak of."""
    low, high = measured.get("difference_ci") or (None, None)
    something = any((part.get("ci") or [None])[0] is not None and part["ci"][0] > 0 for part in (measured, of_run))
    return something and low is not None and (low > 0 or high < 0)


def _signed(value: float) -> str:
    return ("+" if value > 0 else "") + number(value, 3)


def _interval(bounds: list[float | None], digits: int = 2) -> str:
    return MISSING if None in bounds else f"{number(bounds[0], digits)} to {number(bounds[1], digits)}"
