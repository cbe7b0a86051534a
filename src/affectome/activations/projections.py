"""Texts from anywhere, read by the model and projected on the emotion vectors of one layer.

A passage is the first `max_tokens` tokens of a text (of its first `CHARACTERS` characters per token). Its activation is
the mean residual over its tokens, the first of the sequence left out, and its projection on an emotion is the inner
product with the emotion's unit vector, in units of the mean residual norm of the run's stories at that layer. The run's
neutral texts are read in the same way and stand beside the passages: their mean is the baseline that what compares
corpora has to remove.
"""

import heapq
import logging
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
import transformers

from affectome.activations.collect import forward
from affectome.activations.engine import Engine
from affectome.activations.resume import PartialRows
from affectome.activations.store import parts
from affectome.activations.tokens import TokenText, tokenize
from affectome.corpus.sources import files, hub
from affectome.corpus.tables import PROJECTION, clean, read_corpus, text_id
from affectome.errors import UserError
from affectome.files import read_json, write_json, write_table
from affectome.identity import fingerprint
from affectome.models.anatomy import check_length, text_config
from affectome.models.load import load_tokenizer, load_weights
from affectome.randomness import generator
from affectome.vectors.store import read_vectors

log = logging.getLogger(__name__)

# Characters per token of a passage that are looked at: a book need not be tokenised for its first page.
CHARACTERS = 16

# A data set that is streamed is read for so many rows per sample at most, should most of them be empty or repeated.
_ROWS_PER_SAMPLE = 10


class Drawn(NamedTuple):
    """Texts that were drawn, where they come from, by which rule, and from how many that are not empty."""

    texts: list[str]
    origin: str
    rule: str
    read: int


def external_projections(
    neutral: str | Path,
    manifest: str | Path,
    vectors: str | Path,
    source: dict[str, Any],
    samples: int,
    min_tokens: int,
    max_tokens: int,
    dtype: str,
    quantization: str,
    token_budget: int | str,
    trust_remote_code: bool,
    seed: int,
    code: str,
    threads: int,
    table: str | Path,
    output: str | Path,
) -> None:
    """Write the projections of `samples` texts of `source`, and of the neutral corpus, to `table` (Parquet).

    Columns: `id, neutral, text` (the passage as it was read), `n_tokens` (those of the mean) and one `PROJECTION` +
    emotion for each emotion, float32. `output` (JSON) says how many texts were read, drawn, dropped as too short (fewer
    than `min_tokens` tokens in the mean) or as the same passage again, and how fast it went. `source` is as in
    `corpora.*.stories`, and may be a plain text file (.txt), whose texts are its paragraphs. Interrupted, the job keeps
    what it has beside `table` and continues from there. Raises UserError where a source cannot be read, nothing is left
    of it, or the model and the vectors do not belong together.
    """
    torch.set_num_threads(threads)
    directions = read_vectors(vectors)
    folder = Path(manifest).parent
    tokenizer = load_tokenizer(folder, trust_remote_code)
    drawn = draw(source, samples, seed, CHARACTERS * max_tokens)
    others = list(_sample(read_corpus(neutral)["text"], samples, seed))
    if not others:
        raise UserError("the run has no neutral texts, which are the baseline here; add some to its corpus")
    texts, dropped = [], {}
    for name, found in (("passages", drawn.texts), ("neutral", others)):
        cut = list(dict.fromkeys(passage(tokenizer, text, max_tokens) for text in found))
        tokens = tokenize(tokenizer, cut, max_tokens)
        kept = [index for index, token in enumerate(tokens) if _length(token) >= max(min_tokens, 1)]
        dropped[name] = {"repeated": len(found) - len(cut), "too_short": len(cut) - len(kept)}
        texts.append([(cut[index], tokens[index]) for index in kept])
    for name, found in zip((drawn.origin, "the neutral corpus"), texts, strict=True):
        if not found:
            raise UserError(f"{name}: no text has {max(min_tokens, 1)} tokens; lower min_tokens or use another column")
    model = load_weights(folder, dtype, quantization, trust_remote_code)
    width = text_config(model.config).hidden_size
    if directions.unit.shape[1] != width:
        raise UserError(
            f"{vectors}: its vectors have {directions.unit.shape[1]} numbers and the model's residual stream has "
            f"{width}; use the vectors of this model"
        )
    rows = [row for found in texts for row in found]
    tokens = [token for _, token in rows]
    check_length(model.config, max(len(token.ids) for token in tokens))
    frame = pd.DataFrame(
        {
            "id": [text_id("", text) for text, _ in rows],
            "neutral": [number >= len(texts[0]) for number in range(len(rows))],
            "text": [text for text, _ in rows],
            "n_tokens": [_length(token) for token in tokens],
        }
    )
    key = fingerprint(
        {
            "texts": frame["id"].tolist(),
            "read": [directions.layer, max_tokens, dtype, quantization, token_budget],
            "model": read_json(manifest)["sha256"],
            "code": code,
            "computed": [str(model.dtype), model.device.type, torch.__version__, transformers.__version__],
        }
    )
    with PartialRows(Path(table).with_name(f".{Path(table).stem}.partial"), key, 1, len(rows), width) as partial:
        engine = Engine(model, [directions.layer], threads)
        forward(engine, tokens, [token.spans for token in tokens], token_budget, partial, frame["id"].to_numpy())
        partial.flush()
        seconds = sum(partial.done.values())
        projected = np.concatenate(
            [
                project(partial.pooled[0][part], directions.unit, directions.residual_norm)
                for part in parts(*partial.pooled[0].shape)
            ]
        )
        names = [PROJECTION + emotion for emotion in directions.emotions]
        columns = pd.DataFrame(projected.astype(np.float32), columns=names)
        write_table(table, pd.concat([frame, columns], axis=1))
        read = sum(len(token.ids) for token in tokens)
        write_json(
            output,
            {
                "origin": drawn.origin,
                "rule": drawn.rule,
                "n": {
                    "read": drawn.read,
                    "drawn": len(drawn.texts),
                    "passages": len(texts[0]),
                    "neutral": len(texts[1]),
                },
                "dropped": dropped,
                "layer": directions.layer,
                "residual_norm": directions.residual_norm,
                "max_tokens": max_tokens,
                "tokens": read,
                "seconds": seconds,
                "tokens_per_second": read / max(seconds, 1e-9),
            },
        )
        partial.remove()
    log.info(
        "%s: %d passages and %d neutral texts, %d tokens/s", drawn.origin, *map(len, texts), read / max(seconds, 1e-9)
    )


def project(activations: np.ndarray, unit: np.ndarray, residual_norm: float) -> np.ndarray:
    """Projections (n, emotions) of `activations` (n, width) on `unit` (emotions, width), in residual norms; float64."""
    return activations.astype(np.float64) @ unit.T.astype(np.float64) / residual_norm


def passage(tokenizer: Any, text: str, max_tokens: int) -> str:
    """The start of `text` that its first `max_tokens` tokens stand for; all of it where the tokenizer cannot say."""
    (tokens,) = tokenize(tokenizer, [text], max_tokens)
    if not tokens.cut or not tokenizer.is_fast:
        return text
    offsets = tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    return text[: offsets[tokens.stop - 1][1]]


def draw(source: dict[str, Any], samples: int, seed: int, characters: int) -> Drawn:
    """Draw `samples` different texts of `source`, each cut to `characters`.

    From what lies on this machine, or is limited to its first rows by its `limit`, a sample is drawn by `seed`; of a
    data set of the hub, which cannot be had as a whole, these are the first texts. Raises UserError where it cannot be
    read.
    """
    source = {key: value for key, value in source.items() if key != "grouping"}
    if "file" in source:
        path = Path(source["file"])
        origin = f"file:{path.name}"
        records = _paragraphs(path) if path.suffix == ".txt" else _texts(files.read_records(**source, emotions=False))
        whole = True
    else:
        whole = source.get("revision") is None or source.get("limit") is not None
        if not whole:
            source["limit"] = _ROWS_PER_SAMPLE * samples
        origin, found = hub.read_dataset(**source, emotions=False)
        records = _texts(found)
    counted = _Counted(cut for text in records if (cut := clean(text)[:characters].rstrip()))
    with closing(records):
        texts = list(_sample(counted, samples, seed) if whole else _first(counted, samples))
    rule = f"a sample by seed {seed} of all its texts" if whole else "its first texts"
    return Drawn(texts, origin, f"{rule}, repetitions left out", counted.count)


def _texts(records: Iterable[Any]) -> Iterator[str]:
    for record in records:
        yield record.text


def _paragraphs(path: Path) -> Iterator[str]:
    """The paragraphs of a plain text file, which empty lines part."""
    if not path.is_file():
        raise UserError(f"{path}: does not exist; give the path of a text file")
    lines: list[str] = []
    with open(path, encoding="utf-8-sig", errors="replace") as handle:
        for line in handle:
            if line.strip():
                lines.append(line)
            elif lines:
                yield "".join(lines)
                lines = []
    if lines:
        yield "".join(lines)


class _Counted:
    """Passes on what it iterates over and counts it."""

    def __init__(self, items: Iterable[str]) -> None:
        self._items, self.count = items, 0

    def __iter__(self) -> Iterator[str]:
        for item in self._items:
            self.count += 1
            yield item


def _sample(texts: Iterable[str], samples: int, seed: int) -> Iterator[str]:
    """`samples` different ones of `texts`, each drawn by itself, so that neither order nor repetitions matter.

    Every text has a random number that depends on nothing but itself and the seed; those with the smallest are taken
    (bottom-k sampling; Cohen & Kaplan 2007), in the order of these numbers. Never more than `samples` are held.
    """
    held: dict[str, str] = {}
    heap: list[tuple[float, str]] = []
    for text in texts:
        name = text_id("", text)
        if name in held:
            continue
        key = float(generator(seed, "external_text", name).random())
        if len(heap) < samples:
            heapq.heappush(heap, (-key, name))
        elif -key > heap[0][0]:
            del held[heapq.heapreplace(heap, (-key, name))[1]]
        else:
            continue
        held[name] = text
    for _, name in sorted(heap, reverse=True):
        yield held[name]


def _first(texts: Iterable[str], samples: int) -> Iterator[str]:
    seen: set[str] = set()
    for text in texts:
        if (name := text_id("", text)) not in seen:
            seen.add(name)
            yield text
            if len(seen) == samples:
                return


def _length(token: TokenText) -> int:
    first, end = token.spans
    return max(0, end - first)
