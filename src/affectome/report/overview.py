"""A run in a few lines of reStructuredText: its part of the front page of Snakemake's report."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from affectome.figures.draw_answers import said
from affectome.figures.wording import interval, number, p_equation, strength
from affectome.files import read_json, replacing
from affectome.questions import QUESTIONS
from affectome.report.page import verdict
from affectome.report.templates import environment

# What a verdict of the page on agreement is in words.
_MANNER = {"strong": "strongly", "moderate": "moderately", "weak": "weakly", "none": "not demonstrably"}


def write_overview(
    summary: str | Path,
    output: str | Path,
    title: str,
    norms: Sequence[str],
    trials: Sequence[str | Path],
    answers: Sequence[str | Path] = (),
) -> None:
    """Write what was run and found, from the run's `summary`, `answers` and `trials`, to `output`.

    `answers` are the JSON files of its questions, `trials` verdict.json or safe_ranges.json; `norms` are listed in
    their order.
    """
    found = read_json(summary)
    layer = found["layer"]["auto"]
    here = found["layers"][str(layer)]
    text = (
        environment()
        .get_template("overview.rst.j2")
        .render(
            title=escape(title),
            run=escape(found["run"]),
            model=escape(found["model"]["name"]),
            blocks=found["model"]["blocks"],
            layer=layer,
            layers=len(found["layers"]),
            corpus=found["corpus"] | {"name": escape(found["corpus"]["name"])},
            dropped=sum(found["corpus"]["dropped"].values()),
            reliability=number(here["reliability_mean"]),
            norms=[_of_norm(name, here["norms"][name]) for name in norms],
            answers=[_of_answer(Path(path), layer) for path in answers],
            trials=[_of_trial(read_json(trial)) for trial in trials],
        )
    )
    with replacing(output) as temporary:
        temporary.write_text(text, encoding="utf-8")


def escape(text: str) -> str:
    """`text` as words of reStructuredText, whatever signs it holds."""
    return re.sub(r"([\\*_`|:<>\[\]-])", r"\\\1", text)


def _of_norm(name: str, ratings: dict[str, Any]) -> dict[str, Any]:
    results = [
        f"{dimension} {_MANNER[verdict(result)]}, r = {number(result['loo_r'])}, 95 % interval "
        f"{interval(result['loo_ci'])}, {p_equation(result['loo_p'])}"
        for dimension in ("valence", "arousal")
        if (result := ratings.get(dimension)) and result["loo_r"] is not None
    ]
    return {"name": escape(name), "n": ratings["n"], "said": "; ".join(results) or "too few words to correlate"}


def _of_answer(path: Path, layer: int) -> dict[str, str]:
    return {"asks": escape(QUESTIONS[path.stem].asks), "said": escape(said(path.stem, read_json(path), layer))}


def _of_trial(found: dict[str, Any]) -> dict[str, str]:
    vectors, n = found["vectors"], found["n"]
    if "gates" in found:
        ranges = [f"{name} {strength(each['low'])} to {strength(each['high'])}" for name, each in vectors.items()]
        said = f"{n['texts']} texts, {n['questions']} questions. Safe strengths: " + "; ".join(ranges)
    else:
        said = f"{n['prompts']} prompts. " + "; ".join(
            f"{name} {each['verdict']}{_effect(each, found['unit'])}" for name, each in vectors.items()
        )
    return {"name": escape(found["trial"]), "said": escape(said)}


def _effect(entry: dict[str, Any], unit: str) -> str:
    if entry["strength"] is None or not entry["effect"]:
        return ""
    return f" ({number(entry['effect']['mean'])} {unit}, {interval(entry['effect']['ci'])})"
