"""The headline numbers of a run in one small JSON file, for machines and for the page made from it.

Keys: `run`, `model{name, blocks, width, revision}`, `corpus{name, stories, emotions, neutral, dropped}`,
`layer{auto}` (the headline layer), `layers{L: {explained_variance[≤5], norms{norm: {n, dimension{component, r, ci, p,
plane_r, plane_p, loo_r, loo_ci, loo_p}}}, reliability_mean, residual_norm, neutral_components}}`,
`pairs{similar, opposed}` at the headline layer, `steering{trial: {verdicts{vector: verdict}} or {safe{vector: [low,
high]}}}`, `tokens`, `tokens_per_second`, `fingerprints`. `corpus.stories` and `corpus.neutral` count texts that were
read; `corpus.dropped` counts by reason those that were not, of both kinds.
"""

from pathlib import Path
from typing import Any

from affectome.activations.store import Texts, open_layer
from affectome.files import read_json, write_json
from affectome.layers import headline_layer, of_layer
from affectome.vectors.store import read_all

# Shares of variance listed per layer; the spectrum as a whole is in geometry.json.
_COMPONENTS = 5


def write_summary(
    vectors: list[str | Path],
    activations: list[str | Path],
    model: str | Path,
    screening: str | Path,
    geometry: str | Path,
    correlations: str | Path,
    similarity: str | Path,
    trials: list[str | Path],
    output: str | Path,
    run: str,
    corpus: str,
    layer: int | str,
) -> None:
    """Write the summary of `run` to `output`; the paths are the run's files of these names.

    `layer` is the headline layer, or the sweep that chose it among those of `activations`.
    """
    layer = headline_layer(layer)
    by_layer = read_all(vectors)
    weights = read_json(model)
    explained = read_json(geometry)["layers"]
    related = read_json(correlations)["layers"]
    screened = read_json(screening)
    with open_layer(of_layer(activations, layer)) as file:
        texts = Texts.read(file)
        tokens, seconds = int(file.attrs["tokens"]), float(file.attrs["seconds"])
        activations_key = str(file.attrs["fingerprint"])
    by_reason = (screened["stories"]["by_reason"], screened["neutral"]["by_reason"])
    dropped = {reason: sum(counts[reason] for counts in by_reason) for reason in by_reason[0]}
    content = {
        "run": run,
        "model": {"name": weights["model"], **{key: weights[key] for key in ("blocks", "width", "revision")}},
        "corpus": {
            "name": corpus,
            "stories": int((~texts.neutral).sum()),
            "emotions": len(by_layer[layer].emotions),
            "neutral": int(texts.neutral.sum()),
            "dropped": {**dropped, "too_few_tokens": len(texts.dropped)},
        },
        "layer": {"auto": layer},
        "layers": {
            number: {
                "explained_variance": explained[str(number)]["explained_variance"][:_COMPONENTS],
                "norms": {norm: _of_norm(found) for norm, found in related[str(number)].items()},
                "reliability_mean": item.mean_reliability,
                "residual_norm": item.residual_norm,
                "neutral_components": len(item.neutral_basis),
            }
            for number, item in by_layer.items()
        },
        "pairs": read_json(similarity)["layers"][str(layer)],
        "steering": {found["trial"]: _of_trial(found) for found in map(read_json, trials)},
        "tokens": tokens,
        "tokens_per_second": tokens / seconds if seconds else None,
        "fingerprints": {
            "activations": activations_key,
            "vectors": {number: item.fingerprint for number, item in by_layer.items()},
        },
    }
    write_json(output, content)


def _of_trial(found: dict[str, Any]) -> dict[str, Any]:
    vectors = found["vectors"].items()
    if "gates" in found:
        return {"safe": {vector: [each["low"], each["high"]] for vector, each in vectors}}
    return {"verdicts": {vector: each["verdict"] for vector, each in vectors}}


def _of_norm(found: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {"n": found["n"]}
    for dimension, result in found.items():
        if dimension != "n":
            flat[dimension] = {
                **result["best"],
                "plane_r": result["plane"]["r"],
                "plane_p": result["plane"]["p"],
                "loo_r": result["ridge"]["r"],
                "loo_ci": result["ridge"]["ci"],
                "loo_p": result["ridge"]["p"],
            }
    return flat
