"""What steering does, and what it costs: one picture of every trial's tables.

Figures of effects show all prompts, from the exploratory grid; only what verdict.json says of the reported half decides
anything, and it is drawn as such.
"""

from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.legend_handler import HandlerTuple
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from affectome.figures import VERDICT_MARKS
from affectome.figures.labels import place_labels
from affectome.figures.style import ACCENT, FAINT, GROUPS, INK, MUTED, VALENCE, canvas, note
from affectome.figures.wording import interval, number, p_equation
from affectome.figures.wording import strength as strength_words
from affectome.steering.conditions import NULL_FAMILIES

# A third diverging map, so that effects are mistaken neither for ratings nor for cosines.
_EFFECTS = "BrBG"
_SAFE, _FAILING, _BAND = "#E4F0E6", "#F6E3E3", "#DDDDDD"
_NULL, _TOPIC = "#9A9A9A", "#5F5F5F"
_VERDICT_COLOURS = {"supported": "#117733", "not supported": "#9B2226", "inconclusive": MUTED}
# Apart by shape and filling, since the colours beside them stand for something else.
_NO_PREDICTION = "nothing predicted"
_HOLLOW = {"linestyle": "", "markersize": 5.5, "color": INK, "markerfacecolor": "white"}
_POINTS = {
    "supported": _HOLLOW | {"marker": "o", "markerfacecolor": INK},
    "not supported": _HOLLOW | {"marker": "s"},
    "inconclusive": _HOLLOW | {"marker": "o"},
    _NO_PREDICTION: _HOLLOW | {"marker": "D", "markersize": 4},
}
_TOPIC_LINE, _ASKING_LINE, _SMALLEST_LINE = (0, (4, 1.5)), (0, (6, 2)), (0, (1, 1.5))
# Numbers are written into the cells of a heat map up to that many rows and columns.
_FEW_CELLS = 14
_WRAPPED = 124

# name in safe_ranges.json, title, label of the axis
_COSTS = (
    ("perplexity_ratio", "Perplexity of neutral text", "ratio to unsteered"),
    ("text_perplexity_ratio", "Perplexity of what it writes", "ratio to unsteered"),
    ("completion", "Texts that end by themselves", "share of texts"),
    ("accuracy", "Right answers", "share of questions"),
    ("repetition", "Repetition in what it writes", "share repeated"),
    ("invalid", "Answers in the wrong format", "share of questions"),
)
# Light enough for the letter in the cell, told apart by lightness as well as by hue and letter.
_REGIMES = {"surgical": "#CFE8DC", "degraded": "#F3D9A4", "repetitive": "#E79A6B", "explosive": "#B4485A"}


def stated_strength(effects: pd.DataFrame, verdict: dict[str, Any]) -> tuple[float, int]:
    """One strength at which all vectors can be compared, and how many of them have it inside their safe range.

    The largest positive strength that is safe for more than half of the vectors, else the smallest positive one; the
    arguments are effects.parquet and verdict.json. NaN and 0 where no positive strength was run.
    """
    emotions = effects[(effects["family"] == "emotion") & (effects["strength"] > 0)]
    strengths = sorted(emotions["strength"].unique().tolist())
    if not strengths:
        return float("nan"), 0
    ends = [entry["safe"][1] for entry in verdict["vectors"].values() if entry["safe"]]
    safe = {strength: sum(end >= strength for end in ends) for strength in strengths}
    chosen = [strength for strength in strengths if 2 * safe[strength] > len(verdict["vectors"])]
    strength = max(chosen) if chosen else strengths[0]
    return strength, safe[strength]


# ---------------------------------------------------------------- effect by strength


def dose_response(effects: pd.DataFrame, verdict: dict[str, Any]) -> Figure:
    """A panel per vector: the effect on its own outcome by signed strength, beside what control directions do.

    `effects` is effects.parquet, in which controls have positive strengths only, `verdict` verdict.json. Lines are over
    all prompts; the diamond and the line of asking are those of the half that the verdict is about.
    """
    vectors = verdict["vectors"]
    across = {1: 1, 2: 2, 3: 3, 4: 2, 5: 3, 6: 3, 9: 3}.get(len(vectors), 4)
    down = -(-len(vectors) // across)
    n = verdict["n"]
    split = n["split"]
    sizes = (
        f"{n['prompts']} prompts, {n['items_per_condition']} items per condition, the same in every one. Strength "
        f"chosen on {n['chosen_on']} {split}s, verdict from the other {n['reported_on']}. Hollow circles: outside the "
        "safe range, so not judged."
    )
    beneath = f"{_wrapped(verdict['title'])}\n{_wrapped(sizes)}"
    title = f"What steering changes, by strength: {verdict['trial']}"
    # Inches above the panels: title and text, legend, and the first panels' own titles.
    text = 0.6 + 0.17 * (1 + beneath.count("\n"))
    top = text + 0.95
    height = top + 0.5 + down * (3.0 if across == 1 else 2.15)
    figure = canvas(10, height, title, beneath)
    sheet = {"left": 0.075, "right": 0.985, "bottom": 0.5 / height, "top": 1 - top / height}
    grid = figure.add_gridspec(down, across, hspace=0.5, wspace=0.12, **sheet)
    first: Axes | None = None
    for index, (vector, entry) in enumerate(vectors.items()):
        ax = figure.add_subplot(grid[index // across, index % across], sharex=first, sharey=first)
        first = first or ax
        _dose_panel(ax, effects, vector, entry, verdict["smallest_effect"])
        if index % across == 0:
            ax.set_ylabel(f"change ({verdict['unit']})")
        if index + across >= len(vectors):
            ax.set_xlabel("strength")
        ax.tick_params(labelleft=index % across == 0, labelbottom=index + across >= len(vectors))
    strengths = effects.loc[effects["family"] == "emotion", "strength"]
    reach = 1.06 * float(strengths.abs().max()) if len(strengths) else 1.0
    first.set_xlim(-reach, reach)
    low, high = first.get_ylim()
    # Room for the words above the line of asking, which is often the highest.
    first.set_ylim(low, high + 0.1 * (high - low))
    first.xaxis.set_major_locator(MaxNLocator(4 if across > 1 else 8, steps=[1, 2, 5, 10]))
    first.yaxis.set_major_locator(MaxNLocator(6))
    at = {"loc": "upper left", "bbox_to_anchor": (0.004, 1 - (text - 0.1) / height), "ncols": 4, "handlelength": 2.4}
    figure.legend(*_dose_legend(), handler_map={tuple: HandlerTuple(None)}, **at)
    return figure


def _dose_panel(ax: Axes, effects: pd.DataFrame, vector: str, entry: dict[str, Any], smallest: float) -> None:
    here = effects[effects["outcome"] == entry["outcome"]]
    ax.axhline(0, color=FAINT, linewidth=0.8, zorder=0.6)
    ax.axhline(entry["sign"] * smallest, color=INK, linewidth=1, linestyle=_SMALLEST_LINE, zorder=1)
    safe = entry["safe"]
    if safe and safe[1] > safe[0]:
        ax.axvspan(*safe, color=_SAFE, linewidth=0, zorder=0.1)
    _control_lines(ax, here)
    own = here[(here["family"] == "emotion") & (here["direction"] == vector)].sort_values("strength")
    known = own[np.isfinite(own["effect"])]
    # Steering by nothing changes nothing: that point is no measurement and has no interval.
    x = np.append(known["strength"], 0.0)
    order = np.argsort(x)
    ax.plot(x[order], np.append(known["effect"], 0.0)[order], color=VALENCE, zorder=3)
    ax.vlines(known["strength"], known["low"], known["high"], color=VALENCE, linewidth=1.2, zorder=3)
    inside = (
        known["strength"].between(safe[0], safe[1]).to_numpy() if safe is not None else np.zeros(len(known), dtype=bool)
    )
    face = np.where(inside, VALENCE, "white")
    ax.scatter(known["strength"], known["effect"], s=20, c=face, edgecolors=VALENCE, linewidths=1.1, zorder=3.2)
    if entry["asking"] and entry["asking"]["mean"] is not None:
        ax.axhline(entry["asking"]["mean"], color=_TOPIC, linewidth=1.1, linestyle=_ASKING_LINE, zorder=1.2)
        place = {"xytext": (3, 2), "textcoords": "offset points", "va": "bottom", "ha": "left"}
        said = f"just asking: {_signed(entry['asking']['mean'])}"
        ax.annotate(said, (0, entry["asking"]["mean"]), xycoords=ax.get_yaxis_transform(), fontsize=7, **place)
    if entry["strength"] is not None and entry["effect"]:
        mean, (low, high) = entry["effect"]["mean"], entry["effect"]["ci"]
        ax.vlines(entry["strength"], low, high, color=ACCENT, linewidth=2, zorder=3.6)
        ax.scatter(
            entry["strength"], mean, s=34, marker="D", color=ACCENT, edgecolors="white", linewidths=0.8, zorder=4
        )
    if known.empty:
        note(ax, "no scores")
    elif safe is None or safe[1] <= 0:
        why = "cost not measured" if safe is None else "no positive strength is safe"
        ax.text(0.5, 0.03, why, transform=ax.transAxes, ha="center", fontsize=7.5, color=MUTED)
    ax.set_title(vector, pad=14)
    word = f"{VERDICT_MARKS[entry['verdict']]} {entry['verdict']}"
    colour = _VERDICT_COLOURS[entry["verdict"]]
    ax.annotate(word, (0, 1), xytext=(0, 3), xycoords="axes fraction", textcoords="offset points", color=colour)


def _control_lines(ax: Axes, here: pd.DataFrame) -> None:
    null = here[here["family"].isin(NULL_FAMILIES) & np.isfinite(here["effect"])]
    if not null.empty:
        span = null.groupby("strength")["effect"].agg(["min", "max"])
        edges = [np.append(0.0, span[side]) for side in ("min", "max")]
        ax.fill_between(np.append(0.0, span.index), *edges, color=_BAND, linewidth=0, zorder=0.8)
    controls = here[here["family"].isin([*NULL_FAMILIES, "topic"])]
    for (family, _), rows in controls.sort_values("strength").groupby(["family", "direction"]):
        look = (
            {"color": _TOPIC, "linestyle": _TOPIC_LINE, "linewidth": 0.9}
            if family == "topic"
            else {"color": _NULL, "linewidth": 0.6}
        )
        ax.plot(np.append(0.0, rows["strength"]), np.append(0.0, rows["effect"]), zorder=1.5, **look)


def _dose_legend() -> tuple[list[Any], list[str]]:
    mark = {"marker": "o", "markersize": 4.5}
    found = {
        "the vector, 95 % interval": Line2D([], [], color=VALENCE, **mark),
        "chosen strength, half reported": Line2D([], [], color=ACCENT, marker="D", markersize=5, linewidth=2),
        "random and shuffled directions, range": (Patch(color=_BAND), Line2D([], [], color=_NULL, linewidth=0.6)),
        "topic directions": Line2D([], [], color=_TOPIC, linestyle=_TOPIC_LINE, linewidth=0.9),
        "safe range": Patch(color=_SAFE),
        "smallest effect of interest": Line2D([], [], color=INK, linestyle=_SMALLEST_LINE, linewidth=1),
        "just asking in words, unsteered": Line2D([], [], color=_TOPIC, linestyle=_ASKING_LINE, linewidth=1.1),
    }
    return list(found.values()), list(found)


# ---------------------------------------------------------------- own words and others'


def specificity(effects: pd.DataFrame, verdict: dict[str, Any]) -> Figure:
    """Steered emotions (rows) by the emotions whose words are scored (columns), at one strength for all.

    `effects` is effects.parquet, `verdict` verdict.json of a trial whose outcomes are `{measure}:{emotion}`; which
    strength is shown says `stated_strength`. On the right, the place of the row's own words among all scored ones.
    """
    vectors = list(verdict["vectors"])
    measure = verdict["vectors"][vectors[0]]["outcome"].rpartition(":")[0]
    strength, safe = stated_strength(effects, verdict)
    here = effects[(effects["family"] == "emotion") & (effects["strength"] == strength)]
    of_measure = [name for name in effects["outcome"].unique() if name.rpartition(":")[0] == measure]
    scored = [name.rpartition(":")[2] for name in of_measure]
    columns = [name for name in vectors if name in scored] + sorted(set(scored) - set(vectors))
    grid = (
        here[here["outcome"].isin(of_measure)]
        .assign(word=lambda rows: rows["outcome"].str.rpartition(":")[2])
        .pivot(index="direction", columns="word", values="effect")
        .reindex(index=vectors, columns=columns)
    )
    values = grid.to_numpy(dtype=float)

    pitch = float(np.clip(7.0 / max(len(columns), 1), 0.19, 0.62))
    size = min(9.0, 0.75 * 72 * pitch)
    margin = 0.35 + max(map(len, vectors)) * 0.6 * size / 72
    above = 1.0 + max(map(len, columns), default=0) * 0.6 * size / 72
    bar = 0.95
    width = max(margin + pitch * len(columns) + 1.5, 8.0)
    height = above + pitch * len(vectors) + bar
    shown = (
        f"At {_said_of(strength, safe, verdict)}; mean over all prompts.\nRight: the place of a row's own words "
        "(outlined) among those of all emotions, 1 = changed most as predicted."
    )
    figure = canvas(width, height, f"Whose words does steering along a vector change: {verdict['trial']}", shown)
    ax = figure.add_axes((margin / width, bar / height, pitch * len(columns) / width, pitch * len(vectors) / height))
    finite = np.abs(values[np.isfinite(values)])
    limit = float(finite.max()) if finite.size and finite.max() > 0 else 1.0
    mesh = ax.pcolormesh(
        np.ma.masked_invalid(values), cmap=_EFFECTS, norm=Normalize(-limit, limit), rasterized=True, antialiased=False
    )
    ax.set_facecolor("#EFEFEF")
    ax.set(xlim=(0, len(columns)), ylim=(len(vectors), 0))
    ax.set_yticks(np.arange(len(vectors)) + 0.5, vectors, fontsize=size)
    ax.xaxis.tick_top()
    ax.set_xticks(np.arange(len(columns)) + 0.5, columns, fontsize=size, rotation=90)
    ax.tick_params(length=0, colors=INK)
    ax.spines[:].set_visible(False)
    if max(values.shape) <= _FEW_CELLS:
        for (row, column), value in np.ndenumerate(values):
            ink = "white" if abs(value) > 0.6 * limit else INK
            ax.text(column + 0.5, row + 0.5, number(value), ha="center", va="center", fontsize=size - 1.5, color=ink)
    beside = {"ha": "left", "va": "center", "fontsize": size}
    for row, vector in enumerate(vectors):
        if vector not in columns:
            continue
        column = columns.index(vector)
        ax.add_patch(Rectangle((column, row), 1, 1, fill=False, edgecolor=INK, linewidth=1.6, clip_on=False, zorder=4))
        place, among = _rank(verdict["vectors"][vector]["sign"] * values[row], column)
        said = f"{place} of {among}" if place else "–"
        weight = "bold" if place == 1 else "normal"
        ax.text(len(columns) + 0.3, row + 0.5, said, fontweight=weight, clip_on=False, **beside)
    ax.text(len(columns) + 0.3, -0.3, "own words", clip_on=False, color=MUTED, **beside | {"va": "bottom"})
    scale = figure.add_axes((margin / width, 0.5 / height, min(3.2, width - margin - 0.5) / width, 0.14 / height))
    legend = figure.colorbar(mesh, cax=scale, orientation="horizontal")
    legend.set_label(f"change of {measure} ({verdict['unit']})")
    legend.ax.xaxis.set_major_locator(MaxNLocator(5, symmetric=True))
    legend.outline.set_visible(False)
    return figure


def _rank(towards: np.ndarray, own: int) -> tuple[int | None, int]:
    """The place of `own` among the known values of `towards`, and of how many; 1 is the largest, None unknown."""
    known = np.isfinite(towards)
    if not known[own]:
        return None, int(known.sum())
    return 1 + int((towards[known] > towards[own]).sum()), int(known.sum())


# ---------------------------------------------------------------- cost


def cost_curves(safe: dict[str, Any]) -> Figure:
    """What every vector costs by strength and where the gates stand; below, each vector's regimes and safe range.

    `safe` is safe_ranges.json. A cross is a point that fails the gate of its panel; the accuracy gate lets a drop pass
    that is within noise, so there a point beyond the line need not be one.
    """
    vectors = safe["vectors"]
    strengths = sorted({row["strength"] for found in vectors.values() for row in found["curve"]})
    pitch = float(np.clip(4.0 / max(len(vectors), 1), 0.2, 0.3))
    strip = pitch * len(vectors)
    height = 7.75 + strip
    n = safe["n"]
    beneath = (
        f"{n['texts']} neutral texts, {n['questions']} questions, {n['generations']} generated texts per condition; "
        "the same ones at every strength.\nShaded: beyond the gate. Crosses: points that fail it. Grey: control "
        "directions."
    )
    figure = canvas(10, height, "What steering costs, by strength", beneath)
    sheet = {"left": 0.075, "right": 0.985, "bottom": (2.05 + strip) / height, "top": 1 - 1.65 / height}
    grid = figure.add_gridspec(2, 3, hspace=0.42, wspace=0.26, **sheet)
    few = len(vectors) <= len(GROUPS)
    colours = {vector: GROUPS[index] if few else VALENCE for index, vector in enumerate(vectors)}
    for index, (measure, title, label) in enumerate(_COSTS):
        ax = figure.add_subplot(grid[index // 3, index % 3], title=title, ylabel=label)
        _cost_panel(ax, safe, measure, colours, 1.0 if few else 0.45)
        if index >= 3:
            ax.set_xlabel("strength")
    handles = {name: Line2D([], [], color=colour) for name, colour in colours.items()} if few else {}
    handles = handles or {"an emotion's vector": Line2D([], [], color=VALENCE)}
    handles["gate"] = Line2D([], [], color=INK, linestyle=_SMALLEST_LINE, linewidth=1)
    at = {"loc": "upper left", "bbox_to_anchor": (0.004, 1 - 0.72 / height), "ncols": 7 if few else 3}
    figure.legend(handles.values(), handles, **at)

    margin = 0.3 + max((len(name) for name in vectors), default=0) * 0.083
    place = (margin / 10, 0.95 / height, (9.85 - margin) / 10, strip / height)
    ax = figure.add_axes(place, title="Where a vector is safe")
    _regimes(ax, vectors, strengths, pitch)
    seen = {row["regime"] for found in vectors.values() for row in found["curve"]}
    keys: list[Any] = [Patch(facecolor=_REGIMES[name], edgecolor=FAINT) for name in _REGIMES if name in seen]
    words = [f"{name[0].upper()}  {name}" for name in _REGIMES if name in seen]
    keys.append(Line2D([], [], color=INK, linewidth=2.5))
    ax.legend(
        keys,
        [*words, "safe range"],
        loc="upper left",
        bbox_to_anchor=(0, -0.52 / strip if strip else 0),
        ncols=5,
        borderaxespad=0,
    )
    return figure


def _cost_panel(ax: Axes, safe: dict[str, Any], measure: str, colours: dict[str, str], alpha: float) -> None:
    for found in safe.get("controls", {}).values():
        ax.plot(*_curve(found, measure), color=_NULL, linewidth=0.6, zorder=1.5)
    gate = "accuracy_drop" if measure == "accuracy" else measure
    for vector, found in safe["vectors"].items():
        strengths, values = _curve(found, measure)
        ax.plot(strengths, values, color=colours[vector], alpha=alpha, linewidth=1.2, zorder=2)
        failed = np.array([not row["gates"].get(gate, True) for row in found["curve"]], dtype=bool)
        ax.scatter(strengths[failed], values[failed], marker="x", s=16, linewidths=0.9, color=colours[vector], zorder=3)
    limits = ax.dataLim.intervaly if ax.has_data() else np.array([0.0, 1.0])
    line, above = _gate(safe, measure)
    low, high = np.nanmin([*limits, line]), np.nanmax([*limits, line])
    if not np.isfinite([low, high]).all():
        note(ax, "not measured")
        low, high = 1.0, 2.0
    if measure.endswith("ratio"):
        _ratio_axis(ax, min(low, 1.0), max(high, 1.0))
    else:
        # Shares that do not move shall not look as if they did.
        high = max(high, low + 0.1)
        room = 0.08 * (high - low)
        ax.set_ylim(low - room, high + room)
        ax.yaxis.set_major_locator(MaxNLocator(5))
    if np.isfinite(line):
        ax.axhline(line, color=INK, linewidth=1, linestyle=_SMALLEST_LINE, zorder=1)
        ends = (line, ax.get_ylim()[1]) if above else (ax.get_ylim()[0], line)
        ax.axhspan(*ends, color=_FAILING, linewidth=0, zorder=0.1)
    ax.xaxis.set_major_locator(MaxNLocator(6))


def _curve(found: dict[str, Any], measure: str) -> tuple[np.ndarray, np.ndarray]:
    # What is missing or infinite was written as null.
    return tuple(np.array([row[key] for row in found["curve"]], dtype=float) for key in ("strength", measure))


def _gate(safe: dict[str, Any], measure: str) -> tuple[float, bool]:
    """Where the gate of `measure` stands (NaN without one), and whether it is failed above it."""
    gates, baseline = safe["gates"], safe["baseline"]
    return {
        "perplexity_ratio": (gates["perplexity_ratio"], True),
        "completion": (gates["completion"] * baseline["completion"], False),
        "accuracy": (baseline["accuracy"] - gates["accuracy_drop"], False),
        "repetition": (baseline["repetition"] + gates["repetition"], True),
    }.get(measure, (float("nan"), True))


def _ratio_axis(ax: Axes, low: float, high: float) -> None:
    ax.set_yscale("log")
    decades = np.log10(high / low)
    room = 10 ** (0.08 * max(decades, 0.05))
    ax.set_ylim(low / room, high * room)
    if decades < 0.8:
        ax.yaxis.set_major_locator(MaxNLocator(5))
    else:
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 2.5 else (1,), numticks=7))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_locator(NullLocator())


def _regimes(ax: Axes, vectors: dict[str, Any], strengths: list[float], pitch: float) -> None:
    """A row per vector and a column per tested strength, since strengths need not be evenly spaced."""
    column = {strength: index for index, strength in enumerate(strengths)}
    for row, found in enumerate(vectors.values()):
        for point in found["curve"]:
            left = column[point["strength"]]
            colour = _REGIMES[point["regime"]]
            ax.add_patch(Rectangle((left, row), 1, 1, facecolor=colour, edgecolor="white", linewidth=0.8))
            ink = "white" if point["regime"] == "explosive" else INK
            letter = point["regime"][0].upper()
            ax.text(left + 0.5, row + 0.42, letter, ha="center", va="center", fontsize=min(8, 36 * pitch), color=ink)
        ends = column[found["low"]] + 0.12, column[found["high"]] + 0.88
        ax.plot(ends, (row + 0.86, row + 0.86), color=INK, linewidth=2.5, solid_capstyle="butt", zorder=3)
    ax.set(xlim=(0, len(strengths)), ylim=(len(vectors), 0), xlabel="strength")
    ax.set_xticks(np.arange(len(strengths)) + 0.5, [strength_words(strength) for strength in strengths])
    ax.set_yticks(np.arange(len(vectors)) + 0.5, list(vectors))
    ax.tick_params(length=0, colors=INK)
    ax.spines[:].set_visible(False)


# ---------------------------------------------------------------- preference


def preference(effects: pd.DataFrame, verdict: dict[str, Any], preferences: dict[str, Any]) -> Figure:
    """Activities by how much the unsteered model prefers them, and whether steering follows what the vectors read.

    `effects` and `verdict` are effects.parquet and verdict.json; `preferences` is preferences.json, whose
    `effects_against_probes` says which effect of which strength stands for an emotion.
    """
    activities = sorted(preferences["activities"].items(), key=lambda each: -each[1]["elo"])
    height = max(2.0 + 0.155 * len(activities), 6.8)
    found = preferences["effects_against_probes"]
    together = f"r = {number(found['r'])}, 95 % interval {interval(found['ci'])}, {p_equation(found['p'])}"
    beneath = (
        "Left: how often an activity is chosen over the others, unsteered, as an Elo rating. Right: how closely Elo "
        "follows how much of an emotion's vector\nis in the activities, and what steering an option along the vector "
        f"does to its choice; over {found['n']} emotions {together}. Lines: 95 % intervals."
    )
    figure = canvas(11.5, height, f"What is preferred, and what steering changes: {verdict['trial']}", beneath)
    bottom, top = 0.5 / height, 1 - 1.35 / height
    left = 0.3 + 0.069 * max((len(name) for name, _ in activities), default=0)
    ax = figure.add_axes((left / 11.5, bottom, (6.4 - left) / 11.5, top - bottom), xlabel="Elo, unsteered")
    categories = sorted({activity["category"] for _, activity in activities})
    colours = {name: GROUPS[index % len(GROUPS)] for index, name in enumerate(categories)}
    for row, (_, activity) in enumerate(activities):
        colour = colours[activity["category"]]
        ax.hlines(row, *_bounds(activity["elo_ci"]), color=colour, linewidth=1.2)
        ax.plot(activity["elo"], row, "o", color=colour, markersize=4)
    ax.set_yticks(range(len(activities)), [name for name, _ in activities], fontsize=7)
    ax.set_ylim(len(activities) - 0.4, -0.6)
    ax.xaxis.set_major_locator(MaxNLocator(6))
    ax.grid(axis="x", color="#E6E6E6", linewidth=0.6)
    ax.tick_params(axis="y", length=0, colors=INK)
    handles = [Line2D([], [], color=colour, marker="o", markersize=4) for colour in colours.values()]
    at = {"loc": "upper left", "bbox_to_anchor": (0.004, 1 - 0.72 / height), "ncols": 8, "columnspacing": 1.2}
    figure.legend(handles, colours, handlelength=1.5, **at)
    # Square-ish and at the top, however many activities stand beside it.
    tall = min(4.6, height - 2.2)
    ax = figure.add_axes((7.15 / 11.5, 1 - (1.7 + tall) / height, 4.15 / 11.5, tall / height))
    _follows(ax, effects, verdict, preferences)
    return figure


def _follows(ax: Axes, effects: pd.DataFrame, verdict: dict[str, Any], preferences: dict[str, Any]) -> None:
    (outcome,) = {entry["outcome"] for entry in verdict["vectors"].values()}
    here = effects[(effects["family"] == "emotion") & (effects["outcome"] == outcome)]
    by_condition = here.set_index(["direction", "strength"])
    points, words, strokes, given = [], [], [], set()
    ax.axhline(0, color=FAINT, linewidth=0.8, zorder=0.5)
    ax.axvline(0, color=FAINT, linewidth=0.8, zorder=0.5)
    for vector, point in preferences["effects_against_probes"]["points"].items():
        entry = verdict["vectors"].get(vector)
        if point["chosen"]:
            low, high = _bounds(entry["effect"]["ci"])
        else:
            low, high = by_condition.loc[(vector, point["strength"]), ["low", "high"]]
        across = np.linspace((point["probe"], low), (point["probe"], high), 20)
        ends = _bounds(preferences["probes"][vector]["ci"])
        along = np.linspace((ends[0], point["effect"]), (ends[1], point["effect"]), 20)
        for line in (across, along):
            ax.plot(*line.T, color=MUTED, linewidth=0.9, linestyle="-" if point["chosen"] else _SMALLEST_LINE)
            strokes.append(line[np.isfinite(line).all(axis=1)])
        mark = entry["verdict"] if entry else _NO_PREDICTION
        given.add(mark)
        ax.plot(point["probe"], point["effect"], **_POINTS[mark], zorder=3)
        points.append((point["probe"], point["effect"]))
        words.append(vector)
    n = preferences["n"]["activities"]
    ax.set_xlabel(f"r of Elo and projection on the vector, over {n} activities")
    ax.set_ylabel(f"change when steered ({verdict['unit']})")
    ax.margins(0.12)
    if not points:
        ax.set(xticks=[], yticks=[])
        note(ax, "no emotion has\nboth numbers")
        return
    ax.yaxis.set_major_locator(MaxNLocator(6))
    ax.xaxis.set_major_locator(MaxNLocator(5))
    keys = {
        f"{VERDICT_MARKS.get(word, '')} {word}".strip(): Line2D([], [], **look)
        for word, look in _POINTS.items()
        if word in given
    }
    keys["strength of the verdict"] = Line2D([], [], color=MUTED, linewidth=0.9)
    if not all(point["chosen"] for point in preferences["effects_against_probes"]["points"].values()):
        keys["smallest strength, none chosen"] = Line2D([], [], color=MUTED, linewidth=0.9, linestyle=_SMALLEST_LINE)
    at = {"loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": 2}
    ax.legend(keys.values(), keys, handletextpad=0.5, columnspacing=1, **at)
    place_labels(ax, np.array(points), words, np.array(points), radius=4, size=8, strokes=np.vstack(strokes))


# ---------------------------------------------------------------- shared


def _said_of(strength: float, safe: int, verdict: dict[str, Any]) -> str:
    """The `stated_strength` and why it is this one, in words."""
    vectors = verdict["vectors"].values()
    if not any(entry["safe"] for entry in vectors):
        return f"strength {strength_words(strength)}, the smallest (cost was not measured)"
    among = f"inside the safe range of {safe} of {len(vectors)} {'vector' if len(vectors) == 1 else 'vectors'}"
    which = "largest that is safe for most" if 2 * safe > len(vectors) else "smallest"
    return f"strength {strength_words(strength)}, the {which} ({among})"


def _bounds(ci: list[float | None] | None) -> tuple[float, float]:
    return (float("nan"), float("nan")) if ci is None or None in ci else (ci[0], ci[1])


def _signed(value: float) -> str:
    return f"+{number(value)}" if round(value, 2) > 0 else number(value)


def _wrapped(text: str) -> str:
    return fill(text, _WRAPPED)
