"""Figures of steering trials: they show the numbers of the tables, say which strength, and draw any trial."""

import copy
import re
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from affectome.figures import STEERING_FIGURES, VERDICT_MARKS
from affectome.figures.draw_steering import draw_trial
from affectome.figures.steering import cost_curves, dose_response, preference, specificity, stated_strength
from affectome.figures.style import ACCENT, VALENCE, house_style
from affectome.figures.wording import strength
from affectome.files import write_json, write_table

STRENGTHS = (-0.2, -0.1, 0.1, 0.2)
NULL = ("random:0", "random:1", "shuffled:0")


def slope(vector: str, outcome: str) -> float:
    """Effect per strength: 10 on a vector's own words, less on others the further away in the alphabet."""
    return 10.0 - 3 * abs(ord(vector[0]) - ord(outcome.rpartition(":")[2][0]))


def effects_of(vectors: list[str], outcomes: list[str]) -> pd.DataFrame:
    rows = []
    for outcome in outcomes:
        conditions = [
            ("emotion", v, s, slope(v, outcome) * s if ":" in outcome else 10 * s) for v in vectors for s in STRENGTHS
        ]
        conditions += [("random", "random:0", s, s) for s in (0.1, 0.2)]
        conditions += [("random", "random:1", s, -2 * s) for s in (0.1, 0.2)]
        conditions += [("shuffled", "shuffled:0", s, 3 * s) for s in (0.1, 0.2)]
        conditions += [("topic", "topic:the sea", s, 20 * s) for s in (0.1, 0.2)]
        conditions += [("asking", v, 0.0, 5.0) for v in vectors]
        for family, direction, strength_, effect in conditions:
            rows.append(
                {"direction": direction, "family": family, "strength": strength_, "outcome": outcome,
                 "effect": effect, "low": effect - 0.25, "high": effect + 0.5}
            )  # fmt: skip
    return pd.DataFrame(rows)


def verdict_of(vectors: list[str], outcome: str = "logprob:{}", kind: str = "expression") -> dict:
    entry = {
        "verdict": "supported",
        "reasons": ["Because."],
        "sign": 1,
        "strength": 0.1,
        "safe": [-0.1, 0.1],
        "baseline": {"mean": -7.0, "ci": [-8.0, -6.0]},
        "effect": {"mean": 1.25, "ci": [1.0, 1.75], "p_holm": 0.01},
        "controls": {},
        "asking": {"mean": 4.4, "ci": [3.0, 5.0]},
        "detectable": 0.3,
    }
    return {
        "trial": "words",
        "kind": kind,
        "title": "What is said of feelings.",
        "unit": "nats",
        "alpha": 0.05,
        "smallest_effect": 0.5,
        "n": {"prompts": 24, "items_per_condition": 48, "split": "prompt", "chosen_on": 12, "reported_on": 12,
              "unit": "prompt"},
        "counts": {"supported": len(vectors), "not supported": 0, "inconclusive": 0},
        "vectors": {name: copy.deepcopy(entry) | {"outcome": outcome.format(name)} for name in vectors},
    }  # fmt: skip


def point(strength_: float, ratio: float, regime: str, **failed: bool) -> dict:
    names = ("perplexity_ratio", "completion", "accuracy_drop", "repetition")
    return {
        "strength": strength_,
        "perplexity_ratio": ratio,
        "text_perplexity_ratio": 2 * ratio,
        "completion": 0.9,
        "accuracy": 0.7,
        "accuracy_drop": 0.1,
        "accuracy_drop_low": 0.0,
        "repetition": 0.01,
        "invalid": 0.2,
        "gates": {name: failed.get(name, True) for name in names},
        "regime": regime,
    }


def costs_of(vectors: list[str]) -> dict:
    curve = [
        point(-0.1, 1.2, "surgical"),
        point(0.0, 1.0, "surgical"),
        point(0.1, 1.3, "degraded", completion=False),
        point(0.2, 40.0, "explosive", perplexity_ratio=False, completion=False),
    ]
    return {
        "trial": "cost",
        "gates": {"perplexity_ratio": 1.5, "completion": 0.95, "accuracy_drop": 0.02, "repetition": 0.1},
        "n": {"texts": 8, "questions": 20, "generations": 6},
        "baseline": {"perplexity": 20.0, "text_perplexity": 10.0, "completion": 0.8, "accuracy": 0.8,
                     "repetition": 0.05, "invalid": 0.1},
        "vectors": {name: {"low": -0.1, "high": 0.0, "curve": copy.deepcopy(curve)} for name in vectors},
        "controls": {"random:0": {"low": 0.0, "high": 0.1, "curve": [curve[1], point(0.1, 1.1, "surgical")]}},
    }  # fmt: skip


def preferences_of(vectors: list[str], chosen: bool = True) -> dict:
    return {
        "n": {"activities": 3, "pairs": 3, "choices": 6},
        "activities": {
            "sort stamps": {"category": "dull", "elo": 1400.0, "elo_ci": [1350.0, 1460.0], "theta": -0.5},
            "write verse": {"category": "fine", "elo": 1620.0, "elo_ci": [1590.0, 1650.0], "theta": 0.7},
            "count sheep": {"category": "dull", "elo": 1480.0, "elo_ci": None, "theta": -0.1},
        },
        "probes": {v: {"r": 0.1 * n, "ci": [-0.2, 0.6], "p": 0.2, "n": 3} for n, v in enumerate(vectors)},
        "effects_against_probes": {
            "r": -0.42, "ci": [-0.9, 0.5], "p": 0.3, "n": len(vectors),
            "points": {
                v: {"probe": 0.1 * n, "effect": 1.25, "strength": 0.1, "chosen": chosen} for n, v in enumerate(vectors)
            },
        },
    }  # fmt: skip


@pytest.fixture(autouse=True)
def _house_style():
    with house_style():
        yield


def outcomes(vectors: list[str]) -> list[str]:
    return [f"logprob:{vector}" for vector in vectors]


def everything_said(figure) -> str:
    figure.canvas.draw()
    found = [*figure.texts, *(text for legend in figure.legends for text in legend.get_texts())]
    for ax in figure.axes:
        found += [*ax.texts, *ax.get_xticklabels(), *ax.get_yticklabels(), ax.xaxis.label, ax.yaxis.label]
        found += ax.get_legend().get_texts() if ax.get_legend() else []
    return "\n".join([*(text.get_text() for text in found), *(ax.get_title(loc="left") for ax in figure.axes)])


def line_of(ax, colour: str):
    (found,) = [line for line in ax.lines if line.get_color() == colour]
    return found


def level(ax, value: float) -> list:
    """Lines of `ax` that lie at `value` from end to end."""
    return [line for line in ax.lines if len(line.get_ydata()) == 2 and set(line.get_ydata()) == {value}]


# ---------------------------------------------------------------- which strength


def test_strengths_are_written_with_the_decimals_they_have():
    assert [strength(x) for x in (-0.1, 0.025, 0.0, -0.0, 10.0, 0.3, None)] == [
        "−0.1",
        "0.025",
        "0",
        "0",
        "10",
        "0.3",
        "–",
    ]


def test_the_largest_strength_that_is_safe_for_most_is_shown():
    vectors = ["afraid", "bored", "calm"]
    effects, verdict = effects_of(vectors, outcomes(vectors)), verdict_of(vectors)
    assert stated_strength(effects, verdict) == (0.1, 3)
    verdict["vectors"]["afraid"]["safe"] = [0.0, 0.3]
    verdict["vectors"]["bored"]["safe"] = [0.0, 0.2]
    assert stated_strength(effects, verdict) == (0.2, 2)
    assert (
        "At strength 0.2, the largest that is safe for most (inside the safe range of 2 of 3 vectors)"
        in everything_said(specificity(effects, verdict))
    )
    pair = verdict_of(vectors[:2])
    pair["vectors"]["afraid"]["safe"] = [0.0, 0.2]
    # Half is not most.
    assert stated_strength(effects, pair) == (0.1, 2)
    verdict["vectors"]["calm"]["safe"] = verdict["vectors"]["bored"]["safe"] = None
    assert stated_strength(effects, verdict) == (0.1, 1)
    verdict["vectors"]["afraid"]["safe"] = None
    assert stated_strength(effects, verdict) == (0.1, 0)
    assert "strength 0.1, the smallest (cost was not measured)" in everything_said(specificity(effects, verdict))


# ---------------------------------------------------------------- effect by strength


def test_a_panel_shows_a_vector_beside_its_controls():
    vectors = ["afraid", "bored"]
    figure = dose_response(effects_of(vectors, outcomes(vectors)), verdict_of(vectors))
    first = figure.axes[0]
    assert [ax.get_title(loc="left") for ax in figure.axes] == vectors
    own = line_of(first, VALENCE)
    np.testing.assert_allclose(own.get_xydata(), [[s, 10 * s] for s in (-0.2, -0.1, 0, 0.1, 0.2)])
    intervals = [
        c for c in first.collections if hasattr(c, "get_segments") and to_hex(c.get_color()[0]) == VALENCE.lower()
    ]
    np.testing.assert_allclose(sorted(s[:, 1].tolist() for s in intervals[0].get_segments()),
                               [[10 * s - 0.25, 10 * s + 0.5] for s in STRENGTHS])  # fmt: skip
    controls = {tuple(np.round(line.get_ydata(), 9)) for line in first.lines if list(line.get_xdata()) == [0, 0.1, 0.2]}
    assert controls == {(0, 0.1, 0.2), (0, -0.2, -0.4), (0, 0.3, 0.6), (0, 2.0, 4.0)}
    # The band is the range of random and shuffled directions alone: the topic's 4.0 is far beyond.
    band = first.collections[0].get_paths()[0].get_extents()
    np.testing.assert_allclose([band.x0, band.x1, band.y0, band.y1], [0, 0.2, -0.4, 0.6], atol=1e-12)
    said = everything_said(figure)
    assert "24 prompts, 48 items per condition" in said
    assert "change (nats)" in said


def test_what_the_verdict_says_is_marked():
    figure = dose_response(effects_of(["afraid"], outcomes(["afraid"])), verdict_of(["afraid"]))
    (ax,) = figure.axes
    (diamond,) = [
        c for c in ax.collections if len(c.get_facecolors()) and to_hex(c.get_facecolors()[0]) == ACCENT.lower()
    ]
    np.testing.assert_allclose(diamond.get_offsets(), [[0.1, 1.25]])
    (interval,) = [
        c for c in ax.collections if hasattr(c, "get_segments") and to_hex(c.get_color()[0]) == ACCENT.lower()
    ]
    np.testing.assert_allclose(interval.get_segments()[0], [[0.1, 1.0], [0.1, 1.75]])
    assert len(level(ax, 0.5)) == 1
    assert len(level(ax, 4.4)) == 1
    texts = [text.get_text() for text in ax.texts]
    assert "just asking: +4.40" in texts
    assert "✓ supported" in texts
    (safe,) = [patch for patch in ax.patches if isinstance(patch, Rectangle)]
    assert (safe.get_x(), safe.get_width()) == (pytest.approx(-0.1), pytest.approx(0.2))


def test_strengths_outside_the_safe_range_are_hollow():
    (ax,) = dose_response(effects_of(["afraid"], outcomes(["afraid"])), verdict_of(["afraid"])).axes
    (marks,) = [c for c in ax.collections if len(c.get_offsets()) == len(STRENGTHS) and not hasattr(c, "get_segments")]
    assert [to_hex(face) == "#ffffff" for face in marks.get_facecolors()] == [True, False, False, True]


def test_a_prediction_downwards_has_its_line_below():
    verdict = verdict_of(["afraid"])
    verdict["vectors"]["afraid"]["sign"] = -1
    (ax,) = dose_response(effects_of(["afraid"], outcomes(["afraid"])), verdict).axes
    assert len(level(ax, -0.5)) == 1
    assert level(ax, 0.5) == []


def test_what_is_missing_is_said():
    vectors = ["afraid", "bored", "calm"]
    effects, verdict = effects_of(vectors, outcomes(vectors)), verdict_of(vectors)
    for name, safe in (("afraid", [-0.1, 0.0]), ("bored", None), ("calm", [0.0, 0.1])):
        verdict["vectors"][name] |= {"safe": safe, "strength": None, "effect": None, "asking": None,
                                     "verdict": "inconclusive"}  # fmt: skip
    effects.loc[effects["outcome"] == "logprob:calm", ["effect", "low", "high"]] = np.nan
    figure = dose_response(effects, verdict)
    texts = [[text.get_text() for text in ax.texts] for ax in figure.axes]
    assert "no positive strength is safe" in texts[0]
    assert "cost not measured" in texts[1]
    assert "no scores" in texts[2]
    assert all("? inconclusive" in said for said in texts)
    assert not any("asking" in text for said in texts for text in said)


def test_one_effect_that_is_missing_breaks_nothing():
    effects = effects_of(["afraid"], outcomes(["afraid"]))
    gone = (effects["family"] == "emotion") & (effects["strength"] == 0.2)
    effects.loc[gone, ["effect", "low", "high"]] = np.nan
    (ax,) = dose_response(effects, verdict_of(["afraid"])).axes
    np.testing.assert_allclose(line_of(ax, VALENCE).get_xdata(), [-0.2, -0.1, 0, 0.1])


@pytest.mark.parametrize("count", [1, 2, 3, 5, 40])
def test_panels_of_any_number_do_not_overlap(count):
    vectors = [f"{chr(97 + n % 26)}{n}" for n in range(count)]
    effects = effects_of(vectors, [f"logprob:{vector}" for vector in vectors[:2]])
    figure = dose_response(effects, verdict_of(vectors))
    assert len(figure.axes) == count
    figure.canvas.draw()
    boxes = [ax.get_tightbbox() for ax in figure.axes] + [figure.legends[0].get_window_extent()]
    boxes += [text.get_window_extent() for text in figure.texts]
    for n, one in enumerate(boxes):
        assert not [other for other in boxes[n + 1 :] if one.overlaps(other)]
    width, height = figure.canvas.get_width_height()
    assert all(box.x0 >= 0 and box.x1 <= width and box.y0 >= 0 and box.y1 <= height for box in boxes)


# ---------------------------------------------------------------- own words


def test_rows_are_vectors_and_columns_words():
    vectors = ["calm", "afraid"]
    figure = specificity(effects_of(vectors, outcomes(["afraid", "bored", "calm"])), verdict_of(vectors))
    ax = figure.axes[0]
    assert [label.get_text() for label in ax.get_yticklabels()] == vectors
    assert [label.get_text() for label in ax.get_xticklabels()] == ["calm", "afraid", "bored"]
    # At strength 0.1, 10 for own words and 3 less for every letter of distance.
    np.testing.assert_allclose(ax.collections[0].get_array(), [[1.0, 0.4, 0.7], [0.4, 1.0, 0.7]])
    low, high = ax.collections[0].get_clim()
    assert (low, high) == (pytest.approx(-1), pytest.approx(1))
    assert sorted((patch.get_x(), patch.get_y()) for patch in ax.patches) == [(0, 0), (1, 1)]
    texts = [text.get_text() for text in ax.texts]
    assert texts.count("1 of 3") == 2
    assert "0.70" in texts


def test_the_place_of_own_words_counts_in_the_predicted_direction():
    vectors = ["afraid", "bored", "calm"]
    effects, verdict = effects_of(vectors, outcomes(vectors)), verdict_of(vectors)
    # Of .7, 1 and .7, the largest is the last of those that should fall.
    verdict["vectors"]["bored"]["sign"] = -1
    effects.loc[(effects["direction"] == "calm") & (effects["outcome"] == "logprob:calm"), "effect"] = np.nan
    effects.loc[(effects["direction"] == "calm") & (effects["outcome"] == "logprob:bored"), "effect"] = np.nan
    texts = [text.get_text() for text in specificity(effects, verdict).axes[0].texts]
    assert [text for text in texts if " of " in text] == ["1 of 3", "3 of 3"]
    assert texts.count("–") == 3


def test_a_map_of_nothing_but_gaps_or_zeros_is_drawn():
    effects, verdict = effects_of(["afraid"], outcomes(["afraid"])), verdict_of(["afraid"])
    for value in (np.nan, 0.0):
        effects["effect"] = value
        assert specificity(effects, verdict).axes[0].collections[0].get_clim() == (-1, 1)


def test_forty_words_have_room():
    vectors = [f"{chr(97 + n % 26)}{n}" for n in range(40)]
    figure = specificity(effects_of(vectors, outcomes(vectors)), verdict_of(vectors))
    figure.canvas.draw()
    labels = [label.get_window_extent() for label in figure.axes[0].get_yticklabels()]
    assert len(labels) == 40
    assert not [n for n in range(39) if labels[n].overlaps(labels[n + 1])]


# ---------------------------------------------------------------- cost


def panel(figure, title: str):
    (found,) = [ax for ax in figure.axes if ax.get_title(loc="left") == title]
    return found


def test_costs_are_drawn_with_their_gates():
    figure = cost_curves(costs_of(["afraid", "bored"]))
    ax = panel(figure, "Perplexity of neutral text")
    curves = [line for line in ax.lines if list(line.get_xdata()) == [-0.1, 0, 0.1, 0.2]]
    assert [list(line.get_ydata()) for line in curves] == [[1.2, 1.0, 1.3, 40.0]] * 2
    assert ax.get_yscale() == "log"
    assert len([line for line in ax.lines if list(line.get_ydata()) == [1.0, 1.1]]) == 1
    # Shares of the baseline's .8, .8 and .05.
    for title, gate in (
        ("Perplexity of neutral text", 1.5),
        ("Texts that end by themselves", 0.95 * 0.8),
        ("Right answers", 0.78),
        ("Repetition in what it writes", 0.15),
    ):
        (line,) = [line for line in panel(figure, title).lines if len(set(line.get_ydata())) == 1 and
                   list(line.get_xdata()) == [0, 1]]  # fmt: skip
        assert line.get_ydata()[0] == pytest.approx(gate)
    shaded = panel(figure, "Texts that end by themselves").patches[-1]
    assert shaded.get_y() + shaded.get_height() == pytest.approx(0.76)
    assert not panel(figure, "Perplexity of what it writes").patches


def test_points_that_fail_are_crossed():
    figure = cost_curves(costs_of(["afraid"]))
    crossed = {
        title: sum(len(found.get_offsets()) for found in panel(figure, title).collections)
        for title in ("Perplexity of neutral text", "Texts that end by themselves", "Right answers")
    }
    # Right answers stand at .7, beyond the line at .78, and pass within noise.
    assert crossed == {"Perplexity of neutral text": 1, "Texts that end by themselves": 2, "Right answers": 0}


def test_regimes_and_safe_ranges_stand_below():
    figure = cost_curves(costs_of(["afraid", "bored"]))
    ax = panel(figure, "Where a vector is safe")
    assert [text.get_text() for text in ax.texts] == ["S", "S", "D", "E"] * 2
    assert [label.get_text() for label in ax.get_xticklabels()] == ["−0.1", "0", "0.1", "0.2"]
    ends = [tuple(line.get_xdata()) for line in ax.lines]
    # From the column of −0.1 to that of 0.
    assert ends == [(pytest.approx(0.12), pytest.approx(1.88))] * 2
    said = everything_said(figure)
    assert "8 neutral texts, 20 questions, 6 generated texts" in said
    assert "repetitive" not in said


def test_what_could_not_be_measured_is_left_out():
    costs = costs_of(["afraid"])
    for row in costs["vectors"]["afraid"]["curve"]:
        row["invalid"] = None
    costs["vectors"]["afraid"]["curve"][-1]["perplexity_ratio"] = None
    costs["controls"] = {}
    figure = cost_curves(costs)
    assert "not measured" in [text.get_text() for text in panel(figure, "Answers in the wrong format").texts]
    values = panel(figure, "Perplexity of neutral text").lines[0].get_ydata()
    np.testing.assert_array_equal(values, [1.2, 1.0, 1.3, np.nan])


def test_forty_vectors_have_a_row_each():
    figure = cost_curves(costs_of([f"vector {n}" for n in range(40)]))
    figure.canvas.draw()
    labels = [label.get_window_extent() for label in panel(figure, "Where a vector is safe").get_yticklabels()]
    assert len(labels) == 40
    assert not [n for n in range(39) if labels[n].overlaps(labels[n + 1])]
    assert "an emotion's vector" in everything_said(figure)


# ---------------------------------------------------------------- preference


def test_activities_stand_by_elo():
    vectors = ["afraid", "bored", "calm"]
    effects, verdict = effects_of(vectors, ["preference"]), verdict_of(vectors, "preference", "preference")
    figure = preference(effects, verdict, preferences_of(vectors))
    ranked, follows = figure.axes
    assert [label.get_text() for label in ranked.get_yticklabels()] == ["write verse", "count sheep", "sort stamps"]
    assert [line.get_xdata()[0] for line in ranked.lines] == [1620.0, 1480.0, 1400.0]
    colours = [line.get_color() for line in ranked.lines]
    assert colours[1] == colours[2] != colours[0]
    bounds = [
        [segment[:, 0].tolist() for segment in found.get_segments() if len(segment)] for found in ranked.collections
    ]
    assert bounds == [[[1590.0, 1650.0]], [], [[1350.0, 1460.0]]]
    points = [line.get_xydata()[0].tolist() for line in follows.lines if line.get_marker() == "o"]
    assert points == [[0.0, 1.25], [pytest.approx(0.1), 1.25], [pytest.approx(0.2), 1.25]]
    said = everything_said(figure)
    assert "over 3 emotions r = −0.42, 95 % interval −0.90 to 0.50, p\u00a0=\u00a00.300" in said
    assert set(vectors) <= set(said.split("\n"))


def test_effects_have_the_interval_of_where_they_come_from():
    vectors = ["afraid", "bored"]
    effects, verdict = effects_of(vectors, ["preference"]), verdict_of(["afraid"], "preference", "preference")
    found = preferences_of(vectors)
    found["effects_against_probes"]["points"]["bored"] |= {"chosen": False, "effect": 1.0}
    follows = preference(effects, verdict, found).axes[1]
    upright = [line for line in follows.lines if len(line.get_xdata()) == 20 and np.ptp(line.get_xdata()) == 0]
    ends = [tuple(line.get_ydata()[[0, -1]]) for line in upright]
    # Of the verdict, and of the grid at 0.1.
    assert ends == [(1.0, 1.75), (pytest.approx(0.75), pytest.approx(1.5))]
    said = everything_said(follows.figure)
    assert "nothing predicted" in said
    assert "smallest strength, none chosen" in said


def test_no_emotion_with_both_numbers_is_said():
    verdict = verdict_of(["afraid"], "preference", "preference")
    found = preferences_of(["afraid"])
    found["effects_against_probes"] = {"r": None, "ci": None, "p": None, "n": 0, "points": {}}
    assert "no emotion has\nboth numbers" in everything_said(
        preference(effects_of(["afraid"], ["preference"]), verdict, found)
    )


# ---------------------------------------------------------------- files


@pytest.fixture
def tables(tmp_path) -> dict[str, list[Path]]:
    """The files of a trial of every kind."""
    vectors = ["afraid", "$x$ & <b>"]
    found = {}
    for kind, outcome in (("expression", "logprob:{}"), ("behaviour", "refusal"), ("preference", "preference")):
        folder = tmp_path / kind
        folder.mkdir()
        write_table(folder / "effects.parquet", effects_of(vectors, sorted({outcome.format(name) for name in vectors})))
        write_json(folder / "verdict.json", verdict_of(vectors, outcome, kind))
        write_json(folder / "preferences.json", preferences_of(vectors))
        found[kind] = [folder / name for name in ("verdict.json", "effects.parquet", "preferences.json")]
    write_json(tmp_path / "safe_ranges.json", costs_of(vectors))
    return found | {"cost": [tmp_path / "safe_ranges.json"]}


@pytest.mark.parametrize("kind", STEERING_FIGURES)
def test_the_same_tables_give_the_same_bytes(kind, tables, tmp_path):
    inputs = tables[kind][:2] if kind in ("expression", "behaviour") else tables[kind]
    for folder in ("once", "again"):
        (tmp_path / folder).mkdir()
        draw_trial(inputs, tmp_path / folder, dpi=40)
        matplotlib.rcParams["font.size"] = 31
    once = {path.name: path.read_bytes() for path in (tmp_path / "once").iterdir()}
    assert once == {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()}
    assert set(once) == {f"{name}.{form}" for name in STEERING_FIGURES[kind] for form in ("svg", "png", "txt")}
    for name, content in once.items():
        if name.endswith(".svg"):
            assert b"<dc:date>" not in content
            assert re.search(rb"<text[^>]*>\$x\$ &amp; &lt;b&gt;</text>", content)


def test_one_figure_can_be_drawn_alone(tables, tmp_path):
    (tmp_path / "figures").mkdir()
    draw_trial(tables["expression"], tmp_path / "figures", 40, figure="specificity")
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {
        f"specificity.{form}" for form in ("svg", "png", "txt")
    }


def test_every_verdict_has_a_mark_of_its_own():
    assert list(VERDICT_MARKS) == ["supported", "not supported", "inconclusive"]
    assert len(set(VERDICT_MARKS.values())) == 3
