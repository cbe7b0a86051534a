"""One forward pass over each text of a shard gives the pooled residual of every wanted block.

Texts are sorted by length and batched under a token budget, padded on the right without an attention mask (exact under
causal attention, which is checked), pooled inside forward hooks, and the pass ends at the last wanted block, so that
neither hidden states nor logits are ever kept. Results are stored in the order of the corpus.
"""

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import transformers

from affectome.activations import store
from affectome.activations.engine import Engine
from affectome.activations.resume import PartialRows
from affectome.activations.tokens import TokenText, plan_batches, pooled_span, tokenize
from affectome.corpus.tables import read_corpus
from affectome.errors import UserError
from affectome.files import read_json
from affectome.identity import fingerprint
from affectome.models.anatomy import check_length, text_config
from affectome.models.load import load_tokenizer, load_weights
from affectome.progress import progress

log = logging.getLogger(__name__)

# A text longer than its cut counts as that long when shards are balanced; English has four to five bytes per token.
_BYTES_PER_TOKEN = 4

# Different texts after which a block that has given all of them the same vector is taken for dead.
_ALIKE = 16


def collect_shard(
    stories: str | Path,
    neutral: str | Path,
    manifest: str | Path,
    output: str | Path,
    shard: int,
    spec: dict[str, Any],
    code: str,
    threads: int,
) -> None:
    """Collect shard number `shard` of a corpus into the activation file `output`.

    `spec` holds `shards`, `layers`, `stored`, `dtype`, `quantization`, `token_budget`, `trust_remote_code`, `framing`,
    `prompt`, `pooling`, `min_tokens` and `max_tokens`, as in config. Interrupted, it keeps what it has beside `output`
    and continues from there. Raises UserError for an unsuitable model, and for activations that are not finite or do
    not depend on the text.
    """
    output = Path(output)
    torch.set_num_threads(threads)
    folder = Path(manifest).parent
    texts = shard_of(corpus_texts(stories, neutral), shard, spec["shards"], spec["max_tokens"])
    weights = read_json(manifest)
    tokenizer = load_tokenizer(folder, spec["trust_remote_code"])
    # Tokenising takes other cores than reading weights from disk does.
    with ThreadPoolExecutor(1) as beside:
        framed = (spec["max_tokens"], spec["framing"], spec["prompt"])
        coming = beside.submit(tokenize, tokenizer, texts["text"].tolist(), *framed) if len(texts) else None
        model = load_weights(folder, spec["dtype"], spec["quantization"], spec["trust_remote_code"])
        tokens = coming.result() if coming else []
    spans = [pooled_span(text, spec["pooling"]) for text in tokens]
    kept = [
        index
        for index, (first, end) in enumerate(spans)
        if end - first >= spec["min_tokens"] and tokens[index].spans[0] < tokens[index].spans[1]
    ]
    basis = fingerprint(
        {
            "spec": {key: value for key, value in spec.items() if key not in ("shards", "stored")},
            "model": weights["sha256"],
            "code": code,
            "computed": [str(model.dtype), model.device.type, torch.__version__, transformers.__version__],
        }
    )
    key = fingerprint({"basis": basis, "texts": texts["id"].tolist()})
    engine = Engine(model, spec["layers"], threads)
    read = [tokens[i] for i in kept]
    check_length(model.config, max((len(text.ids) for text in read), default=0))
    partial_folder = output.with_name(f".{output.stem}.partial")
    width = text_config(model.config).hidden_size
    with PartialRows(partial_folder, key, len(spec["layers"]), len(kept), width) as partial:
        performance = forward(
            engine, read, [spans[i] for i in kept], spec["token_budget"], partial, texts["id"].to_numpy()[kept]
        )
        partial.flush()
        n_tokens, seconds = sum(len(text.ids) for text in read), sum(partial.done.values())
        performance["tokens_per_second"] = n_tokens / max(seconds, 1e-9)
        store.write_shard(
            output,
            fingerprint([key, spec["stored"]]),
            store.Texts.of(texts, tokens, spans, kept),
            spec["layers"],
            partial.pooled,
            partial.norms,
            spec["stored"],
            performance,
            basis=fingerprint([basis, spec["stored"]]),
            model=weights["model"],
            dtype=str(model.dtype).removeprefix("torch."),
            device=model.device.type,
            tokens=n_tokens,
            seconds=seconds,
            cut=sum(text.cut for text in read),
        )
        partial.remove()
    log.info("%d texts, %d tokens; %s", len(kept), n_tokens, _in_words(performance))
    if len(kept) < len(texts):
        log.warning("%d texts dropped: fewer than %d pooled tokens", len(texts) - len(kept), spec["min_tokens"])


def corpus_texts(stories: str | Path, neutral: str | Path) -> pd.DataFrame:
    """All texts of a corpus in order, stories then neutral ones, told apart by the column `neutral`."""
    frames = [read_corpus(path).assign(neutral=flag) for path, flag in ((stories, False), (neutral, True))]
    return pd.concat([frame for frame in frames if len(frame)] or frames[:1], ignore_index=True)


def shard_of(texts: pd.DataFrame, shard: int, shards: int, max_tokens: int) -> pd.DataFrame:
    """Rows of contiguous shard number `shard` of `shards`, so that shards in order make up the corpus in order.

    Shards hold about as many tokens each, as far as the lengths of texts in bytes tell; counting tokens would have
    every job tokenise the corpus of all.
    """
    size = np.array([len(text.encode()) for text in texts["text"]], dtype=np.int64)
    # One more for each text: so every text counts, an empty one too.
    upto = np.concatenate([[0], np.cumsum(1 + np.minimum(size, _BYTES_PER_TOKEN * max_tokens))])
    # A text belongs to the shard in which its middle falls.
    middles = (upto[:-1] + upto[1:]) * shards
    first, end = (int(np.searchsorted(middles, 2 * upto[-1] * part)) for part in (shard, shard + 1))
    return texts.iloc[first:end].reset_index(drop=True)


def forward(
    engine: Engine,
    tokens: list[TokenText],
    spans: list[tuple[int, int]],
    token_budget: int | str,
    partial: PartialRows,
    ids: np.ndarray,
) -> dict[str, Any]:
    """Run every batch that `partial` does not hold yet; returns how fast it went, for the store."""
    lengths = [len(text.ids) for text in tokens]
    total = sum(lengths)
    ceiling = engine.ceiling() if total else None
    per_token = engine.flops_per_token() if ceiling else 0.0
    budget = partial.plan["token_budget"] if partial.plan else engine.budget(token_budget)
    batches = plan_batches(lengths, budget)
    if partial.plan is None:
        cores, compiled = engine.cores_per_pass(len(batches)), engine.compiling_pays(total, per_token, ceiling)
        partial.set_plan({"token_budget": budget, "cores": cores, "compiled": compiled})
    padded = sum(len(batch) * lengths[batch[0]] for batch in batches)
    facts: dict[str, Any] = {
        "token_budget": budget,
        "padding_efficiency": total / max(padded, 1),
    }
    if partial.done:
        log.info("continuing after %d of %d batches", len(partial.done), len(batches))
    todo = [(number, batch) for number, batch in enumerate(batches) if number not in partial.done]
    if partial.plan["compiled"] and todo:
        engine.compile()
    seen = _Seen(engine.layers, tokens, ids)
    initial = sum(lengths[i] for batch in partial.done for i in batches[batch])
    done, started = 0, time.monotonic()
    last = started
    with (
        progress("activations", total, "tokens", initial=initial) as bar,
        engine.reading(tokens, spans, todo, partial.plan["cores"]) as results,
    ):
        for result in results:
            seen.check(result.texts, result.pooled, result.norms)
            now = time.monotonic()
            partial.write(result.batch, result.texts, result.pooled, result.norms, now - last)
            last = now
            done += sum(lengths[i] for i in result.texts)
            if ceiling and per_token:
                facts["share_of_ceiling"] = done * per_token / (now - started) / ceiling
            if engine.on_gpu:
                facts["gpu_memory_gib"] = torch.cuda.max_memory_allocated(engine.device) / 2**30
            bar.update(sum(lengths[i] for i in result.texts), _in_words(facts))
    seen.finish()
    return {**facts, "compiled": engine.compiled}


def _in_words(facts: dict[str, Any]) -> str:
    words = {
        "tokens_per_second": "{:.0f} tokens/s",
        "padding_efficiency": "{:.1%} of them real",
        "share_of_ceiling": "{:.0%} of the ceiling",
        "gpu_memory_gib": "{:.1f} GiB",
    }
    return ", ".join(form.format(facts[name]) for name, form in words.items() if name in facts)


class _Seen:
    """Watches that activations are finite and that every block's depend on the text; UserError where they do not."""

    def __init__(self, layers: list[int], tokens: list[TokenText], ids: np.ndarray) -> None:
        self._layers, self._tokens, self._ids = layers, tokens, ids
        self._first: np.ndarray | None = None
        self._text = 0
        self._others = 0
        self._alive = np.zeros(len(layers), dtype=bool)

    def check(self, texts: list[int], pooled: np.ndarray, norms: np.ndarray) -> None:
        """Look at a batch: `pooled` (layers, texts, width) and `norms` (layers, texts)."""
        bad = np.argwhere(~(np.isfinite(pooled).all(axis=-1) & np.isfinite(norms)))
        if len(bad):
            layer, text = bad[0]
            raise UserError(
                f"block {self._layers[layer]} gives values that are not finite for text {self._ids[texts[text]]}; if "
                f"the precision overflows, set the model's dtype to bfloat16 or float32; otherwise its weights are "
                f"broken"
            )
        flat = np.argwhere(pooled.min(axis=-1) == pooled.max(axis=-1))
        if len(flat):
            layer, text = flat[0]
            raise UserError(
                f"block {self._layers[layer]} gives text {self._ids[texts[text]]} the same value in every component; "
                f"the model's weights are broken"
            )
        if self._first is None:
            self._first, self._text = pooled[:, 0].copy(), texts[0]
        self._alive |= (pooled != self._first[:, None]).any(axis=(1, 2))
        self._others += sum(self._tokens[text].ids != self._tokens[self._text].ids for text in texts)
        if self._others >= _ALIKE:
            self.finish()

    def finish(self) -> None:
        """Judge by all that was seen."""
        if self._others and not self._alive.all():
            dead = self._layers[int(np.argmin(self._alive))]
            raise UserError(
                f"block {dead} gives text {self._ids[self._text]} and {self._others} others the same vector; the "
                f"reading looks at tokens they share, or the model's weights are broken"
            )
