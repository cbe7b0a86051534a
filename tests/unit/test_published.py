"""Published figures stand beside the run's own, like beside like, and the facts are those of their table."""

import json
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from affectome.analyses.published import QUANTITIES, published, read_facts
from affectome.errors import UserError
from affectome.figures.answers.published import draw_published, numbers_published, said
from affectome.figures.style import house_style
from tests.planted import strict_json

ROOT = Path(__file__).resolve().parents[2]
FACTS = ROOT / "resources" / "facts" / "published.csv"
RUSSELL = {"file": str(ROOT / "resources/norms/russell_mehrabian_1977.csv")}
GLASGOW = {"file": str(ROOT / "resources/norms/glasgow_norms_2019.csv")}


def component(number: int, r: float) -> dict:
    return {"component": number, "r": r, "ci": [r - 0.2, r + 0.1], "p": 0.001}


def rated(n: int, valence: float, arousal: float) -> dict:
    of = {"valence": [component(1, valence), component(2, 0.0)], "arousal": [component(1, 0.0), component(2, arousal)]}
    return {"n": n} | {dimension: {"components": rows} for dimension, rows in of.items()}


@pytest.fixture
def run(tmp_path: Path) -> SimpleNamespace:
    """A run's files, whose norms have names of their own."""
    names = ["afraid", "scared", "calm", "glad"]
    pairs = [(5, a, b, 0.1 * i) for i, (a, b) in enumerate((a, b) for n, a in enumerate(names) for b in names[n + 1 :])]
    pd.DataFrame([*pairs, (4, "afraid", "scared", 0.9)], columns=["layer", "a", "b", "cosine"]).assign(
        cosine=lambda rows: rows["cosine"].where(~((rows["layer"] == 5) & (rows["b"] == "scared")), 0.77)
    ).to_parquet(tmp_path / "similarity.parquet")
    norms = {"mine": GLASGOW, "first": RUSSELL, "few": GLASGOW}
    files = {
        "correlations": {"layers": {"5": {"mine": rated(82, 0.5, 0.4), "first": rated(45, 0.7, 0.6), "few": {"n": 2}}}},
        "geometry": {"layers": {"5": {"explained_variance": [0.3, 0.2, 0.1]}}},
        "story_holdout": {
            "n": {"emotions": 4},
            "chance": {"top1": 0.25, "top5": 1.0, "rank": 2.5},
            "vectors": {
                "top1": {"value": 0.8, "ci": [0.7, 0.9]},
                "top5": {"value": 1.0, "ci": [0.9, 1.0]},
                "rank": {"value": 1.3, "ci": [1.1, 1.6]},
            },
            "null": {"top1": {"p": 0.01}},
        },
        "probes": {"n_emotions": 4, "layers": {"5": {"test": {"logistic": {"auc": 0.9, "ci": [0.85, 0.95]}}}}},
        "logit_lens": {
            "layers": {
                "5": {"word": {"n": 4, "within": {"1": {"share": 0.5, "ci": [0.2, 0.8], "p": 0.02, "chance": 1.0}}}}
            }
        },
        "implicit_scenarios": {
            "n": {"emotions": 3},
            "layers": {
                "5": {
                    "diagonal": {"value": 2, "p": 0.04, "shuffled": 0.9},
                    "cosine": {"value": 0.06, "ci": [0.02, 0.1]},
                }
            },
        },
    }
    for name, content in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    answers = {name: tmp_path / f"{name}.json" for name in list(files)[2:]}
    return SimpleNamespace(folder=tmp_path, norms=norms, answers=answers)


def ask(run: SimpleNamespace, answers: dict | None = None, facts: Path = FACTS) -> tuple:
    published(
        run.folder / "correlations.json",
        run.folder / "geometry.json",
        run.folder / "similarity.parquet",
        facts,
        run.answers if answers is None else answers,
        5,
        run.norms,
        run.folder / "p.parquet",
        run.folder / "p.json",
    )
    return strict_json(run.folder / "p.json"), pd.read_parquet(run.folder / "p.parquet")


def test_the_facts_are_those_that_are_known() -> None:
    facts = read_facts(FACTS).set_index(["study", "quantity"]).sort_index()
    paper = facts.loc["Sofroniew et al. 2026"]
    assert paper.loc[["pc1_share", "pc2_share", "pc1_valence_r", "pc2_arousal_r"], "value"].tolist() == [
        0.26, 0.15, 0.81, 0.66,
    ]  # fmt: skip
    assert paper.loc["pc1_valence_r", "n"] == 45
    assert paper.loc["pc1_valence_r", "norm"] == "russell-mehrabian"
    assert facts.loc[("SteerLLM", "story_top1"), "value"].tolist() == [0.413, 0.652]
    assert facts.loc[("SteerLLM", "story_mean_rank"), "n"].unique().tolist() == [40]
    assert facts.loc[("emotion-steering", "probe_auc"), "value"].tolist() == [0.80, 0.85, 0.86]
    lens = facts.loc[("Llama-3.1-8B replication", "logit_lens_first")]
    assert lens["value"] == pytest.approx(34 / 171, abs=5e-4)
    assert facts.loc[("Gemotions", "pc1_share"), ["low", "high"]].tolist() == [0.32, 0.39]
    assert (facts["source"] != "").all()


def test_every_quantity_finds_the_runs_value(run: SimpleNamespace) -> None:
    found, table = ask(run)
    here = {quantity: [row["value"] for row in rows] for quantity, rows in found["here"].items()}
    assert here == {
        "pc1_share": [0.3],
        "pc2_share": [0.2],
        "pc1_valence_r": [0.5, 0.7],
        "pc2_arousal_r": [0.4, 0.6],
        "cosine_afraid_scared": [0.77],
        "story_top1": [0.8],
        "story_top5": [1.0],
        "story_mean_rank": [1.3],
        "probe_auc": [0.9],
        "logit_lens_first": [0.5],
        "implicit_diagonal": [2 / 3],
        "implicit_cosine": [0.06],
    }
    assert set(here) == set(QUANTITIES)
    chances = {quantity: rows[0]["chance"] for quantity, rows in found["here"].items()}
    assert chances["story_top1"] == chances["logit_lens_first"] == 0.25
    assert chances["implicit_diagonal"] == pytest.approx(0.3)
    assert chances["pc1_valence_r"] == 0
    assert found["here"]["story_top1"][0]["p"] == 0.01
    assert found["here"]["probe_auc"][0]["n"] == 4
    assert found["n"] == {"figures": len(table), "compared": len(table), "emotions": 4}


def test_like_is_put_beside_like(run: SimpleNamespace) -> None:
    found, table = ask(run)
    paper = table[(table["study"] == "Sofroniew et al. 2026") & (table["quantity"] == "pc1_valence_r")].iloc[0]
    # Not the run's first norm, but the one that the paper used.
    assert (paper["here"], paper["here_n"], paper["here_norm"], paper["differs"]) == (0.7, 45, "russell-mehrabian", "")
    assert [paper["here_low"], paper["here_high"]] == pytest.approx([0.5, 0.8])
    other = table[(table["model"] == "Apertus-8B") & (table["quantity"] == "pc1_valence_r")].iloc[0]
    assert other["here"] == 0.5
    assert other["differs"] == "norm: glasgow here, nrc-vad there; words: 82 here, not said there"
    top = table[table["quantity"] == "story_top1"].iloc[0]
    assert top["differs"] == "emotions: 4 here, 40 there"
    assert found["published"][0]["here_n"] == 4


def test_probes_are_compared_on_validation_texts_where_there_are_some(run: SimpleNamespace) -> None:
    probes = {
        "validation": {"logistic": {"auc": 0.7, "ci": [0.6, 0.8]}},
        "test": {"logistic": {"auc": 0.6, "ci": [0, 1]}},
    }
    run.answers["probes"].write_text(json.dumps({"n_emotions": 6, "layers": {"5": probes}}))
    found, table = ask(run)
    assert found["here"]["probe_auc"][0]["value"] == 0.7
    assert table[table["quantity"] == "probe_auc"]["differs"].unique().tolist() == [""]
    # A layer that was not probed has no value.
    run.answers["probes"].write_text(json.dumps({"n_emotions": 6, "layers": {"4": probes}}))
    assert ask(run)[0]["here"]["probe_auc"] == []


def test_what_was_not_asked_has_no_value(run: SimpleNamespace) -> None:
    found, table = ask(run, answers={})
    assert found["n"]["compared"] == 9
    assert table[table["quantity"] == "story_top1"]["here"].isna().all()
    run.answers["implicit_scenarios"].write_text(json.dumps({"n": {"emotions": 1}, "layers": None}))
    assert ask(run)[0]["here"]["implicit_diagonal"] == []
    line = numbers_published(found, table, 5)
    assert "Not asked of this run, or not answered: " in line
    assert "AUC of probes" in line


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("x,,,unheard_of,1,,,,,somewhere,", "'unheard_of' is unknown; allowed: pc1_share"),
        ("x,,,pc1_share,much,,,,,somewhere,", "cannot be read"),
        ("x,,,pc1_share,,,,,,somewhere,", "line 2 has no figure or no source"),
        ("x,,,pc1_share,0.2,,,,,,", "line 2 has no figure or no source"),
    ],
)
def test_facts_that_cannot_be_used_are_refused_in_words(tmp_path: Path, row: str, words: str) -> None:
    file = tmp_path / "facts.csv"
    file.write_text(FACTS.read_text().splitlines()[0] + "\n" + row + "\n")
    with pytest.raises(UserError, match=words):
        read_facts(file)
    with pytest.raises(UserError, match="cannot be read"):
        read_facts(tmp_path / "nowhere.csv")


def everything(figure) -> list[str]:
    figure.canvas.draw()
    return [text.get_text() for ax in figure.axes for text in ax.texts]


def test_figures_show_both_sides(run: SimpleNamespace) -> None:
    found, table = ask(run)
    with house_style():
        figure = draw_published(found, table, 5)
        texts = everything(figure)
    assert len(figure.axes) == 2
    assert texts.count("this run") == 14
    assert {"Correlation of PC1 with valence", "Mean rank of held-out stories' emotion", "0.81", "0.974"} <= set(texts)
    assert {"0.32 to 0.39", "≤ 0.45", "[45 words, russell-mehrabian]"} <= set(texts)
    assert {
        "SteerLLM (Gemma-4-E2B, layer 7), before padding the weakest",
        "arXiv 2606.26987 (Gemma-4-E4B, layer 16 of 42)",
    } <= set(texts)
    answer = said(found, 5)
    assert "is 0.70 here (95 % interval 0.50 to 0.80; chance 0; 45 words) and 0.81 in Sofroniew et al. 2026;" in answer
    assert "PC1 holds 30 % of the variance of 4 emotions, 26 % there" in answer
    with house_style():
        alone = draw_published(*ask(run, answers={}), 5)
        assert len(alone.axes) == 1
        everything(alone)


def test_a_run_with_nothing_to_compare_says_so(run: SimpleNamespace) -> None:
    (run.folder / "correlations.json").write_text(json.dumps({"layers": {"5": {"mine": {"n": 2}}}}))
    found, _ = ask(run, answers={})
    assert said(found, 5).startswith("This run has no correlation to compare. PC1 holds 30 %")
    facts = run.folder / "one.csv"
    facts.write_text("\n".join(FACTS.read_text().splitlines()[i] for i in (0, 11)) + "\n")
    found, table = ask(run, answers={}, facts=facts)
    found["here"] = {quantity: [] for quantity in found["here"]}
    with house_style():
        assert everything(draw_published(found, table, 5)) == ["nothing that was published was asked of this run"]
