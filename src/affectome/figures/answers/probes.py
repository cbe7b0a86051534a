"""Figures of the probes: AUC and accuracy by layer and emotion, and whether their probabilities can be trusted."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, MaxNLocator

from affectome.figures.style import ACCENT, AROUSAL, FAINT, INK, MUTED, VALENCE, canvas, note
from affectome.figures.wording import MISSING, number, p_equation

_PROBES = {"logistic": ("logistic regression", VALENCE, "o"), "mean_difference": ("mean difference", AROUSAL, "D")}

# Emotions listed by name; of more, those that are hardest to read.
_LISTED = 16


def draw_probes(found: dict[str, Any], table: pd.DataFrame, layer: int) -> Figure:
    """AUC and accuracy by layer, and at `layer` the emotions that are hardest to tell from the rest."""
    learned, tested, groups = found["n"]["train"], found["n"]["test"], _groups(found)
    beneath = (
        f"{found['n_emotions']} emotions; probes that learned from {learned:,} texts, tested on {tested:,} of other "
        f"{groups}. Bands: 95 % intervals. Dotted upright line: layer {layer}, the headline layer."
    )
    listed = min(found["n_emotions"], _LISTED)
    below = 0.9 + 0.2 * max(listed, 6)
    height = 4.7 + below
    figure = canvas(10, height, "Emotions read off activations by linear probes", beneath)
    rows = {"left": 0.075, "right": 0.985, "wspace": 0.16}
    above = figure.add_gridspec(1, 2, bottom=(below + 0.65) / height, top=1 - 1.3 / height, **rows)
    lines = _aucs(figure.add_subplot(above[0]), found, layer)
    lines |= _accuracies(figure.add_subplot(above[1]), found, layer)
    figure.legend(lines.values(), lines, loc="upper left", bbox_to_anchor=(0.06, 1 - 0.62 / height), ncols=5)
    here = table[(table["layer"] == layer) & (table["evaluation"] == "test")]
    of_emotions = here.pivot(index="emotion", columns="probe", values="auc").reindex(columns=list(_PROBES))
    # Names of emotions need room.
    rows |= {
        "left": min(0.3, 0.04 + 0.0075 * max(map(len, of_emotions.index))),
        "bottom": 0.5 / height,
        "top": (below - 0.3) / height,
    }
    beside = figure.add_gridspec(1, 2, width_ratios=[1.25, 1], **rows)
    _hardest(figure.add_subplot(beside[0]), of_emotions, layer)
    _all_emotions(figure.add_subplot(beside[1]), of_emotions, layer)
    return figure


def _groups(found: dict[str, Any]) -> str:
    return "topics" if found["held_out"] == "topics" else "comments or stories"


def _aucs(ax: Axes, found: dict[str, Any], layer: int) -> dict[str, Line2D]:
    ax.set(title="Each emotion against the rest", ylabel="mean AUC over emotions")
    layers = sorted(map(int, found["layers"]))
    drawn, lowest = {}, 1.0
    for probe, (name, colour, marker) in _PROBES.items():
        for evaluation in ("validation", "test"):
            parts = [found["layers"][str(each)].get(evaluation) for each in layers]
            if None in parts:
                continue
            y = _floats(part[probe]["auc"] for part in parts)
            if evaluation == "validation":
                label = f"{name}, validation"
                (drawn[label],) = ax.plot(layers, y, ":", color=colour, marker=marker, markersize=3)
            else:
                bounds = _floats(part[probe]["ci"] for part in parts)
                _band(ax, layers, bounds, colour)
                (drawn[name],) = ax.plot(layers, y, color=colour, marker=marker, markersize=4, zorder=3)
                lowest = np.nanmin([lowest, *y, *bounds[:, 0]])
            lowest = np.nanmin([lowest, *y])
    words = found["layers"][str(layer)]["test"]["words"]["auc"]
    if words is not None:
        drawn["words alone"] = ax.axhline(words, color=INK, linestyle="--", linewidth=1)
        lowest = min(lowest, words)
    window = found.get("window")
    if window:
        first, *_, last = window["logistic"]["layers"] * 2
        ax.axvspan(first - 0.5, last + 0.5, color=ACCENT, alpha=0.1, linewidth=0)
    bottom = lowest - 0.15 * (1 - lowest) - 1e-3
    ax.set_ylim(bottom, 1 + 0.06 * (1 - bottom))
    if bottom < 0.5:
        ax.axhline(0.5, color=FAINT, linewidth=0.8)
    _by_layer(ax, layers, layer)
    return drawn


def _accuracies(ax: Axes, found: dict[str, Any], layer: int) -> dict[str, Line2D]:
    ax.set(title=f"Which of the {found['n_emotions']} emotions", ylabel="share of texts named right", ylim=(0, 1.03))
    layers = sorted(map(int, found["layers"]))
    parts = [found["layers"][str(each)]["test"]["accuracy"] for each in layers]
    _band(ax, layers, _floats(part["ci"] for part in parts), VALENCE)
    ax.plot(layers, _floats(part["value"] for part in parts), color=VALENCE, marker="o", markersize=4)
    ax.axhline(parts[0]["words"]["value"], color=INK, linestyle="--", linewidth=1)
    chance = ax.axhline(found["chance"]["accuracy"], color=MUTED, linestyle=(0, (1, 2)), linewidth=1)
    _by_layer(ax, layers, layer)
    return {"chance": chance}


def _band(ax: Axes, layers: list[int], bounds: np.ndarray, colour: str) -> None:
    ax.fill_between(layers, bounds[:, 0], bounds[:, 1], color=colour, alpha=0.18, linewidth=0)
    if len(layers) == 1:
        # A band over one layer has no width.
        ax.vlines(layers, bounds[:, 0], bounds[:, 1], color=colour, linewidth=1)


def _by_layer(ax: Axes, layers: list[int], headline: int) -> None:
    ax.axvline(headline, color=MUTED, linewidth=1, linestyle=(0, (1, 2)), zorder=0.8)
    ax.set(xlabel="layer", xlim=(layers[0] - 0.7, layers[-1] + 0.7))
    ax.xaxis.set_major_locator(FixedLocator(layers) if len(layers) <= 10 else MaxNLocator(10, integer=True))


def _hardest(ax: Axes, of_emotions: pd.DataFrame, layer: int) -> None:
    known = of_emotions.dropna(subset="logistic").sort_values("logistic", kind="stable")
    shown = known.head(_LISTED)
    rest = len(known) > len(shown)
    ax.set(title=f"The {len(shown)} hardest emotions, layer {layer}" if rest else f"The emotions, layer {layer}")
    ax.set_xlabel("AUC")
    if shown.empty:
        note(ax, "no emotion has texts to learn from and to test on")
        return
    places = np.arange(len(shown))
    ax.hlines(places, shown.min(axis=1), shown.max(axis=1), color=FAINT, linewidth=1)
    for probe, (_, colour, marker) in _PROBES.items():
        ax.scatter(shown[probe], places, s=22, color=colour, marker=marker, zorder=3)
    ax.set_yticks(places, shown.index)
    ax.set_ylim(len(shown) - 0.4, -0.6)
    if shown.min().min() < 0.5:
        ax.axvline(0.5, color=FAINT, linewidth=0.8)


def _all_emotions(ax: Axes, of_emotions: pd.DataFrame, layer: int) -> None:
    ax.set(title=f"All {len(of_emotions)} emotions, layer {layer}", xlabel="AUC", ylabel="number of emotions")
    values = of_emotions.to_numpy(dtype=float)
    if not np.isfinite(values).any():
        note(ax, "none was tested")
        return
    edges = np.linspace(np.nanmin([*values.ravel(), 0.98]), 1, 21)
    for probe, (_, colour, _marker) in _PROBES.items():
        ax.hist(of_emotions[probe].dropna(), edges, color=colour, alpha=0.25)
        ax.hist(of_emotions[probe].dropna(), edges, color=colour, histtype="step", linewidth=1.3)
    ax.yaxis.set_major_locator(MaxNLocator(6, integer=True))


def _floats(values: Any) -> np.ndarray:
    """What JSON holds of numbers, null for none, as floats."""
    return np.array(list(values), dtype=float)


def draw_calibration(found: dict[str, Any], table: pd.DataFrame | None, layer: int) -> Figure:  # noqa: ARG001
    """Observed frequency by predicted probability at `layer`: of every emotion for every text, and of the named one."""
    beneath = (
        f"Layer {layer}, logistic regression, {found['n']['test']:,} test texts. Bars: Wilson 95 % intervals. Numbers: "
        "cases in the bin.\nOn the diagonal probabilities mean what they say."
    )
    figure = canvas(10, 5.6, "Can the probes' probabilities be trusted?", beneath)
    axes = figure.subplots(1, 2, gridspec_kw={"left": 0.07, "right": 0.985, "bottom": 0.1, "top": 0.8, "wspace": 0.17})
    titles = {"each": "Each emotion of each text", "named": "The emotion that a text is said to have"}
    for ax, (kind, title) in zip(axes, titles.items(), strict=True):
        part = found["calibration"][kind]
        ax.set(title=title, xlabel="predicted probability", ylabel="observed frequency")
        ax.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.12), yticks=np.linspace(0, 1, 6))
        ax.plot([0, 1], [0, 1], color=FAINT, linewidth=1)
        bins = pd.DataFrame(part["bins"])
        low, high = np.array(bins["ci"].tolist(), dtype=float).T
        ax.vlines(bins["predicted"], low, high, color=VALENCE, linewidth=1)
        ax.plot(bins["predicted"], bins["observed"], color=VALENCE, marker="o", markersize=4.5)
        for x, y, n in zip(bins["predicted"], high, bins["n"], strict=True):
            side = "left" if x < 0.05 else "center"
            ax.annotate(f"{n:,}", (x, y), (0, 3), textcoords="offset points", ha=side, fontsize=8, color=MUTED)
        ax.text(0.97, 0.04, f"{part['n']:,} cases\nBrier score {number(part['brier'], 3)}\n"
                f"calibration error {number(part['ece'], 3)}", transform=ax.transAxes, ha="right", va="bottom",
                linespacing=1.5)  # fmt: skip
    return figure


# ---------------------------------------------------------------- in words


def numbers_probes(found: dict[str, Any], table: pd.DataFrame, layer: int) -> str:
    """What `draw_probes` shows, in numbers."""
    part = found["layers"][str(layer)]["test"]
    here = table[(table["layer"] == layer) & (table["evaluation"] == "test")]
    tests = int(table.loc[table["evaluation"] == "test", "p"].notna().sum() / len(_PROBES))
    said = [
        f"{name} AUC {number(part[probe]['auc'], 3)}, 95 % interval {_interval(part[probe]['ci'])} ("
        f"{part[probe]['significant']} of {int(here.loc[here['probe'] == probe, 'p'].notna().sum())} emotions with q < "
        f"0.05 over {tests:,} tests)"
        for probe, (name, _colour, _marker) in _PROBES.items()
    ]
    accuracy = part["accuracy"]
    return (
        f"Here, at layer {layer}, {found['n']['test']:,} texts tested by probes of {found['n']['train']:,} others: "
        f"{'; '.join(said)}; {_accuracy(found, accuracy)}.{_window(found)}"
    )


def numbers_calibration(found: dict[str, Any], table: pd.DataFrame | None, layer: int) -> str:  # noqa: ARG001
    """What `draw_calibration` shows, in numbers."""
    said = [
        f"{what} ({part['n']:,} cases) Brier score {number(part['brier'], 4)} (base rate alone "
        f"{number(part['brier_of_base_rate'], 4)}), calibration error {number(part['ece'], 4)} (right probabilities "
        f"would give {_interval(part['ece_if_calibrated'], 4)}; {p_equation(part['p'])})"
        for what, part in (("each emotion", found["calibration"]["each"]), ("named", found["calibration"]["named"]))
    ]
    return f"Here, at layer {layer}: {'; '.join(said)}."


def said(found: dict[str, Any], layer: int) -> str:
    """The answer in two sentences."""
    part = found["layers"][str(layer)]["test"]
    auc, accuracy = part["logistic"], part["accuracy"]
    low = (auc["ci"] or [None])[0]
    readable = low is not None and low > 0.5
    unseen = "topics that they never saw" if found["held_out"] == "topics" else "texts that they never saw"
    first = (
        f"Linear probes {'read' if readable else 'do not reliably read'} the emotions off layer {layer} on {unseen}: "
        f"mean AUC {number(auc['auc'], 3)} (95 % interval {_interval(auc['ci'])}, chance 0.5, {found['n_emotions']} "
        f"emotions, {found['n']['test']:,} test texts), and {_accuracy(found, accuracy)}."
    )
    difference = accuracy["difference"]
    if not readable or difference["ci"][0] is None:
        return first
    if difference["ci"][0] > 0:
        return f"{first} That is more than the words alone allow."
    than = "less than" if difference["ci"][1] < 0 else "no more than"
    return f"{first} That is {than} the words of the texts give away, so it shows no deeper understanding by itself."


def _accuracy(found: dict[str, Any], accuracy: dict[str, Any]) -> str:
    return (
        f"{number(100 * accuracy['value'], 1)} % of {accuracy['n']:,} texts named right (95 % interval "
        f"{_percent(accuracy['ci'])}, chance {number(100 * found['chance']['accuracy'], 1)} %, "
        f"{p_equation(accuracy['p'])}; words alone {number(100 * accuracy['words']['value'], 1)} %)"
    )


def _window(found: dict[str, Any]) -> str:
    if not found.get("window"):
        return ""
    window = found["window"]["logistic"]
    return (
        f" Best window, layers {', '.join(map(str, window['layers']))}: validation AUC "
        f"{number(window['validation'], 3)}, by which it was chosen, and test AUC {number(window['test'], 3)}, 95 % "
        f"interval {_interval(window['ci'])}."
    )


def _interval(bounds: list[float | None], digits: int = 3) -> str:
    return MISSING if None in bounds else f"{number(bounds[0], digits)} to {number(bounds[1], digits)}"


def _percent(bounds: list[float | None]) -> str:
    return MISSING if None in bounds else f"{number(100 * bounds[0], 1)} to {number(100 * bounds[1], 1)} %"
