"""What each token of a few passages adds to their projections on a few emotions.

A token's value is the inner product of its residual at the headline layer with an emotion's unit vector, in units of
the mean residual norm of the run's stories there, minus the baseline: the mean projection of the run's neutral texts.
Over the tokens of a passage the values average to its pooled projection, baseline removed. A token's residual holds
what the model makes of the text so far, so a value is about the passage up to that token and not about one word.

The emotions are chosen to differ (`unlike`). Where corpora from elsewhere were read, each emotion has the passage of
theirs with the highest projection on it; such passages were chosen by what they show. Otherwise it has a story that was
written for it, drawn by seed; the vectors were made from the stories, which makes these an illustration and no test.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import binomtest
from torch import nn

from affectome.activations.attention import fast_attention
from affectome.activations.projections import passage, project
from affectome.activations.tokens import TokenText, tokenize
from affectome.corpus.tables import PROJECTION, read_corpus
from affectome.errors import UserError
from affectome.files import read_table, write_json
from affectome.models.anatomy import check_causal, check_length, decoder_blocks, residual
from affectome.models.load import load_model
from affectome.progress import progress
from affectome.randomness import generator
from affectome.report.passages import write_passages
from affectome.vectors.store import read_vectors

log = logging.getLogger(__name__)

# Neutral texts that are read for the baseline, drawn by seed of all there are: enough for colours.
_NEUTRAL = 32

# Decimals of a value: a hundredth of what a colour tells apart.
_DECIMALS = 5


def coloured_passages(
    manifest: str | Path,
    vectors: str | Path,
    stories: str | Path,
    neutral: str | Path,
    projections: Sequence[str | Path],
    corpora: Sequence[str],
    emotions: int,
    max_tokens: int,
    dtype: str,
    quantization: str,
    trust_remote_code: bool,
    seed: int,
    title: str,
    threads: int,
    output: str | Path,
    page: str | Path,
) -> None:
    """Write the values of every token of one passage for each of so many `emotions` to `output` and as a `page`.

    `projections` are tables of `external_projections`, of the `corpora` of these names; without any, passages are taken
    from `stories`. Passages end after `max_tokens` tokens. `output` (JSON) holds per passage its `source` (a corpus, or
    None), `emotion`, `id`, `pieces` of text and their `values` (pieces, emotions; None for the first token of a
    sequence, which is never read), and `means` over its `n_tokens` tokens. Tokens that share a character make one piece
    with the mean of their values. Raises UserError where there are no neutral texts, or where the tokenizer does not
    say where its tokens stand in a text.
    """
    torch.set_num_threads(threads)
    known = read_vectors(vectors)
    chosen = unlike(known.unit, emotions)
    names = [known.emotions[number] for number in chosen]
    model, tokenizer = load_model(Path(manifest).parent, dtype, quantization, trust_remote_code)
    if not tokenizer.is_fast:
        raise UserError("this model's tokenizer does not say where its tokens stand in a text; nothing can be coloured")
    tables = {name: read_table(path) for name, path in zip(corpora, projections, strict=True)}
    picked = _external(tables, names) if tables else _stories(read_corpus(stories), names, seed)
    if not picked:
        raise UserError("no story has one of the emotions; see screening.json for what was dropped and why")
    others = read_corpus(neutral)["text"].tolist()
    if not others:
        raise UserError("the run has no neutral texts, which are the baseline here; add some to its corpus")
    drawn = generator(seed, "coloured_passages", "neutral").permutation(len(others))[:_NEUTRAL]
    reader = TokenReader(model, tokenizer, known.layer, known.unit[chosen], known.residual_norm, max_tokens)
    means = []
    with progress("tokens of passages", len(drawn) + len(picked), "texts") as bar:
        for number in sorted(drawn):
            values = reader.read(others[number])[1]
            means.append(np.nanmean(values, axis=0) if np.isfinite(values).any() else np.full(len(names), np.nan))
            bar.update(1)
        if not np.isfinite(means).any():
            raise UserError("no neutral text has a token to read; add some to the corpus")
        baseline = np.nanmean(means, axis=0)
        shown = []
        for entry in picked:
            shown.append(entry | _values(*reader.read(entry.pop("text")), baseline, names))
            bar.update(1)
    found = {
        "layer": known.layer,
        "unit": "mean residual norm of the run's stories at this layer",
        "residual_norm": known.residual_norm,
        "baseline": {
            "n_neutral": int(np.isfinite(means)[:, 0].sum()),
            "projection": dict(zip(names, baseline, strict=True)),
        },
        "emotions": names,
        "from_stories": not tables,
        "own": own_highest(shown, names) if not tables else None,
        "n": {"passages": len(shown), "tokens": sum(entry["n_tokens"] for entry in shown)},
        "passages": shown,
    }
    write_json(output, found)
    write_passages(output, page, title)


def unlike(unit: np.ndarray, count: int) -> list[int]:
    """`count` rows of `unit` (emotions, width) that differ, as few as there are: the numbers of the rows, in order.

    Greedy: the two least similar ones, then each time the one whose cosine with the most similar of those chosen is
    lowest (farthest-first traversal; Gonzalez 1985, Theor. Comput. Sci. 38, 293-306).
    """
    unit = unit.astype(np.float64)
    cosines = unit @ unit.T
    chosen = list(np.unravel_index(cosines.argmin(), cosines.shape)) if len(unit) > 1 else [0]
    while len(chosen) < min(count, len(unit)):
        nearest = cosines[chosen].max(axis=0)
        nearest[chosen] = np.inf
        chosen.append(int(nearest.argmin()))
    return sorted(int(number) for number in chosen[:count])


def _external(tables: dict[str, pd.DataFrame], names: list[str]) -> list[dict[str, Any]]:
    """For each emotion its highest passage over all corpora, one that no emotion before it has."""
    rows = pd.concat([table[~table["neutral"]].assign(source=name) for name, table in tables.items()])
    picked = []
    for emotion in names:
        if rows.empty:
            break
        row = rows.iloc[int(rows[PROJECTION + emotion].to_numpy().argmax())]
        picked.append({"source": row["source"], "emotion": emotion, "id": row["id"], "text": row["text"]})
        rows = rows[rows["id"] != row["id"]]
    return picked


def _stories(stories: pd.DataFrame, names: list[str], seed: int) -> list[dict[str, Any]]:
    """For each emotion that has any, one of its stories."""
    picked = []
    for emotion in names:
        rows = stories[stories["emotion"] == emotion].sort_values("id")
        if len(rows):
            row = rows.iloc[int(generator(seed, "coloured_passages", emotion).integers(len(rows)))]
            picked.append({"source": None, "emotion": emotion, "id": row["id"], "text": row["text"]})
    return picked


class TokenReader:
    """Reads texts with `model` and projects the residuals of their tokens on `unit` (emotions, width) at `layer`."""

    def __init__(
        self, model: nn.Module, tokenizer: Any, layer: int, unit: np.ndarray, residual_norm: float, max_tokens: int
    ) -> None:
        self._model, self._tokenizer, self._max_tokens = model, tokenizer, max_tokens
        self._layer, self._unit, self._norm = layer, unit, residual_norm
        self._blocks = decoder_blocks(model)
        check_causal(model, self._blocks)

    @torch.inference_mode()
    def read(self, text: str) -> tuple[list[tuple[str, int]], np.ndarray]:
        """The text's pieces, as (piece, number of its tokens), and the values (tokens, emotions) of all its tokens.

        A token that is not read has NaN. Raises UserError for values that are not finite.
        """
        text = passage(self._tokenizer, text, self._max_tokens)
        (tokens,) = tokenize(self._tokenizer, [text], self._max_tokens)
        check_length(self._model.config, len(tokens.ids))
        values = np.full((tokens.stop - tokens.start, len(self._unit)), np.nan)
        first, stop = tokens.spans
        if stop > first:
            hidden = self._pass(tokens.ids)[first:stop].float().cpu().numpy()
            values[first - tokens.start :] = project(hidden, self._unit, self._norm)
            if not np.isfinite(values[first - tokens.start :]).all():
                raise UserError(
                    f"block {self._layer} gives values that are not finite; set the model's dtype to bfloat16 or "
                    f"float32"
                )
        return pieces(self._tokenizer, text, tokens), values

    def _pass(self, ids: tuple[int, ...]) -> torch.Tensor:
        """The residual stream (tokens, width) of the sequence `ids`."""

        def leave(_module: nn.Module, _inputs: object, output: Any) -> None:
            raise _Read(residual(output)[0])

        handle = self._blocks[self._layer].register_forward_hook(leave)
        try:
            with fast_attention(self._model):
                self._model(input_ids=torch.tensor([ids], device=self._model.device), use_cache=False)
        except _Read as found:
            return found.args[0]
        finally:
            handle.remove()
        raise RuntimeError("the wanted block was never called")


class _Read(Exception):  # noqa: N818 - the way out of a pass, no error
    """The residual that was wanted, so that what follows it need not run."""


def pieces(tokenizer: Any, text: str, tokens: TokenText) -> list[tuple[str, int]]:
    """`text` cut into what its tokens stand for, each with its number of tokens; together they are what was read.

    Characters between two tokens' own, such as a space that a tokenizer does not count, go with the later one. Tokens
    that hold parts of one character (bytes of it) make one piece.
    """
    offsets = tokenizer(text, return_offsets_mapping=True)["offset_mapping"][tokens.start : tokens.stop]
    found: list[tuple[str, int]] = []
    done = 0
    for _, end in offsets:
        if end > done or not found:
            found.append((text[done:end], 1))
            done = max(done, end)
        else:
            found[-1] = (found[-1][0], found[-1][1] + 1)
    return found


def _values(found: list[tuple[str, int]], values: np.ndarray, baseline: np.ndarray, names: list[str]) -> dict[str, Any]:
    """What is written of a passage: its pieces, their values and its means, baseline removed."""
    above = values - baseline
    read = np.isfinite(above[:, 0])
    groups = np.split(above, np.cumsum([count for _, count in found])[:-1])
    of_pieces = [
        np.round(group[np.isfinite(group[:, 0])].mean(axis=0), _DECIMALS) if np.isfinite(group).any() else None
        for group in groups
    ]
    means = above[read].mean(axis=0) if read.any() else np.full(len(names), np.nan)
    return {
        "n_tokens": int(read.sum()),
        "means": dict(zip(names, means, strict=True)),
        "pieces": [text for text, _ in found],
        "values": of_pieces,
    }


def own_highest(shown: list[dict[str, Any]], names: list[str]) -> dict[str, Any]:
    """In how many passages the emotion that they were written for has the highest mean of all that are shown.

    With a 95 % interval (Clopper-Pearson) and chance, which is one of the number of emotions.
    """
    read = [entry for entry in shown if entry["n_tokens"]]
    hits = sum(max(names, key=entry["means"].__getitem__) == entry["emotion"] for entry in read)
    exact = binomtest(hits, len(read), 1 / len(names), alternative="greater").pvalue
    bounds = binomtest(hits, len(read)).proportion_ci(0.95, method="exact")
    return {"hits": hits, "n": len(read), "ci": [bounds.low, bounds.high], "chance": 1 / len(names), "p": exact}
