"""Which words the emotion vectors promote, drawn and said."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.ticker import FixedLocator, MaxNLocator

from affectome.figures.style import ACCENT, FAINT, INK, MUTED, VALENCE, canvas, note
from affectome.figures.wording import number, p_equation

_KINDS = {"word": (VALENCE, "own word"), "forms": (ACCENT, "own word or a form of it")}
# Emotions whose tokens are listed, and signs of a line of tokens.
_LISTED, _LINE = 16, 59


def draw_logit_lens(found: dict[str, Any], table: pd.DataFrame, layer: int) -> Figure:
    """How many own words reach which rank at `layer`, their mean rank at every layer, and tokens of some emotions."""
    here, n = found["layers"][str(layer)], found["n"]
    beneath = (
        f"Ranks among {n['vocabulary']:,} tokens, 1 is the most promoted. Grey bands: words dealt to vectors at "
        "random, central 95 %.\nOther bands and lines: 95 % intervals over emotions."
    )
    figure = canvas(10, 8.6, f"Do emotion vectors promote their own words? Layer {layer}", beneath)
    _reached(figure.add_axes((0.075, 0.6, 0.385, 0.27)), here)
    _by_layer(figure.add_axes((0.565, 0.6, 0.42, 0.27)), found, layer)
    _tokens(figure.add_axes((0.02, 0.01, 0.97, 0.5)), table[table["layer"] == layer])
    return figure


def _reached(ax: Axes, here: dict[str, Any]) -> None:
    for kind, (colour, name) in _KINDS.items():
        within = here[kind]["within"]
        ranks = [int(rank) for rank in within]
        rows = list(within.values())
        share = np.array([row["share"] for row in rows])
        low, high = 100 * np.array([row["ci"] for row in rows]).T
        ax.plot(ranks, 100 * share, color=colour, marker="o", markersize=4, label=name, zorder=3)
        ax.fill_between(ranks, low, high, color=colour, alpha=0.15, linewidth=0)
        chance = 100 * np.array([row["chance_interval"] for row in rows]) / here[kind]["n"]
        ax.fill_between(ranks, *chance.T, color=FAINT, alpha=0.5, linewidth=0, zorder=1)
    ax.set(xscale="log", ylim=(0, 102), xlabel="rank or better", ylabel="emotions (%)")
    ax.set_title(f"Own words by rank: {here['word']['n']} emotions")
    ax.set_xticks(ranks, [f"{rank:,}" for rank in ranks])
    ax.minorticks_off()
    ax.legend(loc="upper left")


def _by_layer(ax: Axes, found: dict[str, Any], layer: int) -> None:
    layers = sorted(map(int, found["layers"]))
    for kind, (colour, _) in _KINDS.items():
        rows = [found["layers"][str(each)][kind] for each in layers]
        mean = np.array([row["geometric_mean_rank"] for row in rows])
        low, high = np.array([row["ci"] for row in rows]).T
        chance = np.array([row["chance_interval"] for row in rows]).T
        if len(layers) == 1:
            # A band over one layer has no width.
            ax.vlines(layers, low, high, color=colour)
            ax.vlines(layers, *chance, color=FAINT, linewidth=5)
        ax.fill_between(layers, low, high, color=colour, alpha=0.15, linewidth=0)
        ax.fill_between(layers, *chance, color=FAINT, alpha=0.5, linewidth=0, zorder=1)
        ax.plot(layers, mean, color=colour, marker="o", markersize=4, zorder=3)
    ax.axvline(layer, color=MUTED, linewidth=1, linestyle=(0, (1, 2)), zorder=0.8)
    ax.set(yscale="log", xlabel="layer", ylabel="geometric mean rank", xlim=(layers[0] - 0.7, layers[-1] + 0.7))
    ticks = [10**power for power in range(len(str(found["n"]["vocabulary"])))]
    ax.set_yticks(ticks, [f"{tick:,}" for tick in ticks])
    ax.minorticks_off()
    ax.set_ylim(found["n"]["vocabulary"], 0.8)
    ax.set_title("Mean rank by layer")
    ax.xaxis.set_major_locator(FixedLocator(layers) if len(layers) == 1 else MaxNLocator(8, integer=True))


def _tokens(ax: Axes, rows: pd.DataFrame) -> None:
    """Emotions evenly spread over the ranks of their own words, not picked, with the tokens at either end."""
    ax.set(xlim=(0, 1), ylim=(_LISTED + 1.6, 0))
    ax.set_axis_off()
    ranked = rows.dropna(subset=["rank_word"]).sort_values("rank_word", kind="stable")
    if ranked.empty:
        note(ax, "no emotion has a word of its own among the tokens")
        return
    chosen = ranked.iloc[np.unique(np.linspace(0, len(ranked) - 1, min(_LISTED, len(ranked))).round().astype(int))]
    title = f"Tokens of {len(chosen)} emotions, evenly spread from the best rank of the own word to the worst"
    ax.text(0, 0.1, title, va="center", fontsize=10, fontweight="bold")
    columns = (0, 0.15, 0.215, 0.615)
    for x, name in zip(columns, ("", "rank", "most promoted", "most demoted"), strict=True):
        ax.text(x, 1.2, name, va="center", fontsize=8, color=MUTED)
    for line, (_, row) in enumerate(chosen.iterrows(), start=2):
        ax.axhline(line + 0.7, color=FAINT, linewidth=0.4)
        ax.text(columns[0], line + 0.2, row["emotion"], va="center", fontsize=8.5)
        ax.text(columns[1], line + 0.2, f"{row['rank_word']:,}", va="center", fontsize=8.5)
        ax.text(columns[2], line + 0.2, _line(row["promoted"]), va="center", fontsize=8, color=INK)
        ax.text(columns[3], line + 0.2, _line(row["demoted"]), va="center", fontsize=8, color=MUTED)


def _line(tokens: Any) -> str:
    """As many of `tokens` as fit into a line; signs that the font has not are shown as ▯."""
    drawn = get_font(findfont(FontProperties())).get_charmap()
    said = ""
    for token in tokens:
        plain = "".join(sign if ord(sign) in drawn and sign.isprintable() else "▯" for sign in token)
        longer = f"{said}  {plain}" if said else plain
        if len(longer) > _LINE:
            break
        said = longer
    return said


def numbers_logit_lens(found: dict[str, Any], table: pd.DataFrame, layer: int) -> str:
    """Numbers of this run at `layer`."""
    here, n = found["layers"][str(layer)], found["n"]
    rows = table[table["layer"] == layer]
    said = []
    for kind, (_, name) in _KINDS.items():
        row = here[kind]
        said.append(
            f"{name}: geometric mean rank {_rank(row['geometric_mean_rank'])}, 95 % interval "
            f"{_rank(row['ci'][0])} to {_rank(row['ci'][1])} (random {_rank(row['chance'])}, {p_equation(row['p'])}), "
            f"first for {row['within']['1']['count']}, q < 0.05 for {row['q_below_05']}"
        )
    best = rows.dropna(subset=["rank_word"]).nsmallest(3, "rank_word")
    listed = ", ".join(f"{row.emotion} ({row.rank_word:,})" for row in best.itertuples())
    return (
        f"Here, at layer {layer}: {n['tested']} of {n['emotions']} emotions are single words, {n['whole']} of them a "
        f"token; {n['vocabulary']:,} tokens, {found['permutations']:,} permutations. By {'; by '.join(said)}. Best "
        f"ranks of own words: {listed}."
    )


def said(found: dict[str, Any], layer: int) -> str:
    """The answer in words."""
    here, n = found["layers"][str(layer)], found["n"]
    word, forms = here["word"], here["forms"]
    first = word["within"]["1"]
    low, high = forms["within"]["1"]["ci"]
    last = max(map(int, found["layers"]))
    end = found["layers"][str(last)]["word"]
    lead = (
        "the vectors promote their own words"
        if word["p"] < 0.05
        else "the vectors do not promote their own words more than words dealt to them at random"
    )
    later = (
        f" At layer {last}, the last that was read, the mean rank is {_rank(end['geometric_mean_rank'])} and the own "
        f"word comes first for {end['within']['1']['count']}."
        if last != layer
        else ""
    )
    return (
        f"Read through the model's final norm and unembedding, {lead}: at layer {layer} the geometric mean rank of the "
        f"own word is {_rank(word['geometric_mean_rank'])} of {n['vocabulary']:,} tokens (95 % interval "
        f"{_rank(word['ci'][0])} to {_rank(word['ci'][1])}; at random {_rank(word['chance'])}; "
        f"{p_equation(word['p'])}). For {first['count']} of {word['n']} emotions it is the first token of all (at "
        f"random {number(first['chance'], 1)}), with forms of the word for {forms['within']['1']['count']} "
        f"({100 * forms['within']['1']['share']:.0f} %, 95 % interval {100 * low:.0f} to {100 * high:.0f} %)." + later
    )


def _rank(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"
