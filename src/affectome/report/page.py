"""The page of a run that a person reads from top to bottom: one HTML file that needs no script and no network."""

import base64
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from scipy.stats import t as student_t

from affectome.figures import FIGURES
from affectome.figures.captions import read_caption
from affectome.figures.draw_answers import said
from affectome.figures.wording import interval, number, p_equation, p_value, strength
from affectome.files import read_json, replacing
from affectome.questions import QUESTIONS, in_order
from affectome.report.reasons import REASONS
from affectome.report.steering import link, steering
from affectome.report.templates import environment

_DIMENSIONS = ("valence", "arousal", "dominance")
# What the page calls agreement: by the lower end of the interval of the held-out r, provided that p is small.
_STRONG, _MODERATE, _SIGNIFICANT = 0.5, 0.2, 0.05


def write_page(
    summary: str | Path,
    screening: str | Path,
    correlations: str | Path,
    figures: str | Path,
    output: str | Path,
    title: str,
    norms: dict[str, str],
    trials: Sequence[str | Path] = (),
    answers: Sequence[str | Path] = (),
) -> None:
    """Write the page of one run to `output`.

    `summary`, `screening` and `correlations` are the run's files of these names, `figures` the folder with its figures,
    `norms` the citation of every norm by name; the first norm is the one of the headline. `trials` are the results of
    the run's steering trials in the order of the page, see `affectome.report.steering`; `answers` the JSON files of its
    questions, see `affectome.questions`.
    """
    interactive = Path(figures) / "interactive.html"
    found = read_json(summary)
    screened = read_json(screening)
    related = read_json(correlations)
    layer = found["layer"]["auto"]
    here = found["layers"][str(layer)]
    templates = environment()
    templates.filters |= {
        "number": number,
        "interval": interval,
        "p": p_value,
        "equation": p_equation,
        "strength": strength,
        "count": "{:,}".format,
    }
    text = templates.get_template("summary.html.j2").render(
        title=title,
        found=found,
        layer=layer,
        here=here,
        rules=screened["rules"],
        dropped=[(REASONS.get(key, key.replace("_", " ")), n) for key, n in found["corpus"]["dropped"].items()],
        headline=headline(found, next(iter(norms))),
        strong=_STRONG,
        moderate=_MODERATE,
        significant=_SIGNIFICANT,
        norms=norms,
        dimensions=_DIMENSIONS,
        least=related["min_words"],
        bootstrap=related["bootstrap"],
        permutations=related["permutations"],
        sections=_sections(Path(figures), answers, layer, Path(output)),
        interactive=link(interactive, Path(output)) if interactive.exists() else None,
        steering=steering(trials, Path(output), _figure) if trials else None,
        layers=sorted(found["layers"].items(), key=lambda item: int(item[0])),
    )
    with replacing(output) as temporary:
        temporary.write_text(text, encoding="utf-8")


def headline(found: dict[str, Any], norm: str) -> dict[str, Any]:
    """What the page says first, from a summary: `norm`, `n`, the |r| that chance reaches, and results by dimension.

    `results` holds valence and arousal where they were computed, each with its `verdict` (strong, moderate, weak, none)
    and its `range` over the layers (`low, median, high`). `chance` is the |r| that 1 in 20 samples of n unrelated pairs
    of numbers exceeds, None where there are no results.
    """
    layer = str(found["layer"]["auto"])
    ratings = found["layers"][layer]["norms"][norm]
    results = {}
    for dimension in ("valence", "arousal"):
        result = ratings.get(dimension)
        if result and result["loo_r"] is not None:
            over = [layers["norms"][norm].get(dimension) for layers in found["layers"].values()]
            values = [each["loo_r"] for each in over if each and each["loo_r"] is not None]
            spread = {"low": min(values), "median": median(values), "high": max(values)}
            results[dimension] = result | {"verdict": verdict(result), "range": spread}
    n = ratings["n"]
    return {"norm": norm, "n": n, "chance": _chance(n) if results else None, "results": results}


def _chance(n: int) -> float:
    t = float(student_t.ppf(0.975, n - 2))
    return t / (n - 2 + t**2) ** 0.5


def verdict(result: dict[str, Any]) -> str:
    """`strong`, `moderate`, `weak` or `none`: what the held-out r of a dimension's `result` is called on the page."""
    r, low, p = result["loo_r"], result["loo_ci"][0], result["loo_p"]
    # Where there is nothing to predict, leaving words out makes r negative: a small p alone is no agreement.
    if p is None or p >= _SIGNIFICANT or low is None or r <= 0:
        return "none"
    if low > _STRONG:
        return "strong"
    return "moderate" if low > _MODERATE else "weak"


def _sections(folder: Path, answers: Sequence[str | Path], layer: int, page: Path) -> list[dict[str, Any]]:
    """What the page shows under each category, in the order of the report: the run's figures, then its answers."""
    sections: dict[str, dict[str, Any]] = {}

    def section(name: str) -> dict[str, Any]:
        return sections.setdefault(name, {"title": name, "figures": [], "answers": []})

    for name, filed in FIGURES.items():
        section(filed.category)["figures"].append(_figure(folder, name, filed.title))
    for path in answers:
        question = QUESTIONS[Path(path).stem]
        section(question.category)["answers"].append(
            {
                "name": Path(path).stem,
                "asks": question.asks,
                "said": said(Path(path).stem, read_json(path), layer),
                "figures": [_figure(folder, name, title) for name, title in question.figures.items()],
                "page": link(folder / question.page, page) if question.page else None,
            }
        )
    return sorted(sections.values(), key=lambda found: in_order(found["title"]))


def _figure(folder: Path, name: str, title: str) -> dict[str, str]:
    image = base64.b64encode((folder / f"{name}.svg").read_bytes()).decode("ascii")
    description, numbers = read_caption(folder, name)
    return {"name": name, "title": title, "caption": description, "numbers": numbers, "image": image}
