"""What the page of a run says about its steering trials, put together from what their statistics wrote."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from affectome.figures import STEERING_FIGURES, VERDICT_MARKS
from affectome.files import read_json

# A figure with a panel for each of more vectors than these is folded away.
_MANY = 16
_GATES = {
    "perplexity_ratio": "perplexity of neutral text",
    "completion": "texts that end by themselves",
    "accuracy_drop": "right answers",
    "repetition": "repetition",
}


def steering(
    results: Sequence[str | Path], page: Path, figure: Callable[[Path, str, str], dict[str, str]]
) -> dict[str, Any]:
    """What the section on steering shows: `trials` with effects, `costs`, and `counts` of verdicts over all trials.

    Each of `results` is the verdict.json or, of a cost trial, the safe_ranges.json of a trial, whose figures and
    generations.html are beside it. `figure` embeds a figure given its folder, name and title; links are relative to
    `page`.
    """
    trials, costs = [], []
    for result in map(Path, results):
        found = read_json(result)
        # Safe ranges have gates where other trials have a kind.
        kind = found.get("kind", "cost")
        shared = {
            "name": found["trial"],
            "figures": [
                figure(result.parent / "figures", name, filed.title) for name, filed in STEERING_FIGURES[kind].items()
            ],
            "generations": link(result.parent / "generations.html", page),
            "many": len(found["vectors"]) > _MANY,
        }
        if kind == "cost":
            costs.append(found | shared | {"rows": _cost_rows(found)})
        else:
            trials.append(found | shared | {"rows": _rows(found)})
    counts = sum((Counter(trial["counts"]) for trial in trials), Counter())
    return {
        "trials": trials,
        "costs": costs,
        "counts": {word: counts[word] for word in VERDICT_MARKS},
        "marks": VERDICT_MARKS,
        "gates": _GATES,
    }


def link(file: Path, page: Path) -> str:
    """`file` as a link from `page`."""
    return Path(os.path.relpath(file, page.parent)).as_posix()


def _rows(found: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "vector": name,
            **entry,
            # A vector's own outcome needs not name the vector again.
            "measure": entry["outcome"].removesuffix(f":{name}"),
            "closest": _closest(entry["controls"]),
        }
        for name, entry in found["vectors"].items()
    ]


def _closest(controls: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """The control that a vector leaves behind least surely, which is the one that the verdict names."""

    def bound(item: tuple[str, dict[str, Any]]) -> float:
        low = item[1]["difference_low"]
        return float("-inf") if low is None else low

    return min(controls.items(), key=bound) if controls else None


def _cost_rows(found: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "vector": name,
            "safe": [entry["low"], entry["high"]],
            "below": _first_failure(reversed([row for row in entry["curve"] if row["strength"] < entry["low"]])),
            "above": _first_failure([row for row in entry["curve"] if row["strength"] > entry["high"]]),
        }
        for name, entry in found["vectors"].items()
    ]


def _first_failure(beyond: Any) -> dict[str, Any] | None:
    """The first strength beyond a safe range and the gates that fail there; None where nothing stronger was tested."""
    row = next(iter(beyond), None)
    return row and {
        "strength": row["strength"],
        "gates": [_GATES[name] for name, held in row["gates"].items() if not held],
    }
