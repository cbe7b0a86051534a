"""One forward pass over each text of a shard gives the pooled residual of every wanted block.

Texts are sorted by length and batched under a token budget, padded on the right without an attention mask (exact under
causal attention, which is checked), pooled inside forward hooks, and the pass ends at the last wanted block, so that
neither hidden states nor logits are ever kept. Results are stored in the order of the corpus.
"""

import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import transformers

from affectome.activations import store
from affectome.activations.pooling import PoolingHooks, pooling_hooks
from affectome.activations.resume import PartialRows
from affectome.activations.tokens import TokenText, pad_right, plan_batches, pooled_span, span_mask, tokenize
from affectome.corpus.tables import read_corpus
from affectome.errors import UserError
from affectome.files import read_json
from affectome.identity import fingerprint
from affectome.models.anatomy import check_causal, check_length, decoder_blocks, text_config
from affectome.models.load import load_model
from affectome.progress import progress

log = logging.getLogger(__name__)


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

    `spec` holds `shards`, `layers`, `dtype`, `quantization`, `token_budget`, `trust_remote_code`, `pooling`,
    `min_tokens` and `max_tokens`, as in config. Interrupted, it keeps what it has beside `output` and continues from
    there. Raises UserError for an unsuitable model and for activations that are not finite.
    """
    output = Path(output)
    torch.set_num_threads(threads)
    texts = shard_of(corpus_texts(stories, neutral), shard, spec["shards"])
    weights = read_json(manifest)
    model, tokenizer = load_model(Path(manifest).parent, spec["dtype"], spec["quantization"], spec["trust_remote_code"])
    tokens = tokenize(tokenizer, texts["text"].tolist(), spec["max_tokens"]) if len(texts) else []
    spans = [pooled_span(text, spec["pooling"]) for text in tokens]
    kept = [index for index, (first, end) in enumerate(spans) if end - first >= spec["min_tokens"]]
    basis = fingerprint(
        {
            "spec": {key: value for key, value in spec.items() if key != "shards"},
            "model": weights["sha256"],
            "code": code,
            "computed": [str(model.dtype), model.device.type, torch.__version__, transformers.__version__],
        }
    )
    key = fingerprint({"basis": basis, "texts": texts["id"].tolist()})
    n_tokens = sum(len(tokens[i].ids) for i in kept)
    folder = output.with_name(f".{output.stem}.partial")
    width = text_config(model.config).hidden_size
    with PartialRows(folder, key, len(spec["layers"]), len(kept), width) as partial:
        forward(model, [tokens[i] for i in kept], [spans[i] for i in kept], spec, partial, texts["id"].to_numpy()[kept])
        partial.flush()
        seconds = sum(partial.done.values())
        store.write_shard(
            output,
            key,
            store.Texts.of(texts, tokens, spans, kept),
            spec["layers"],
            partial.pooled,
            partial.norms,
            basis=basis,
            model=weights["model"],
            dtype=str(model.dtype).removeprefix("torch."),
            device=model.device.type,
            tokens=n_tokens,
            seconds=seconds,
            cut=sum(tokens[i].cut for i in kept),
        )
        partial.remove()
    log.info("%d texts, %d tokens, %.0f tokens/s", len(kept), n_tokens, n_tokens / max(seconds, 1e-9))
    if len(kept) < len(texts):
        log.warning("%d texts dropped: fewer than %d pooled tokens", len(texts) - len(kept), spec["min_tokens"])


def corpus_texts(stories: str | Path, neutral: str | Path) -> pd.DataFrame:
    """All texts of a corpus in order, stories then neutral ones, told apart by the column `neutral`."""
    frames = [read_corpus(path).assign(neutral=flag) for path, flag in ((stories, False), (neutral, True))]
    return pd.concat([frame for frame in frames if len(frame)] or frames[:1], ignore_index=True)


def shard_of(texts: pd.DataFrame, shard: int, shards: int) -> pd.DataFrame:
    """Rows of contiguous shard number `shard` of `shards`, so that shards in order make up the corpus in order."""
    bounds = [len(texts) * part // shards for part in (shard, shard + 1)]
    return texts.iloc[bounds[0] : bounds[1]].reset_index(drop=True)


@torch.inference_mode()
def forward(
    model: torch.nn.Module,
    tokens: list[TokenText],
    spans: list[tuple[int, int]],
    spec: dict[str, Any],
    partial: PartialRows,
    ids: np.ndarray,
) -> None:
    """Run every batch that `partial` does not hold yet."""
    blocks = decoder_blocks(model)
    check_causal(model, blocks)
    layers = spec["layers"]
    lengths = [len(text.ids) for text in tokens]
    check_length(model.config, max(lengths, default=0))
    batches = plan_batches(lengths, spec["token_budget"])
    finished = sum(lengths[i] for batch in partial.done for i in batches[batch])
    if partial.done:
        log.info("continuing after %d of %d batches", len(partial.done), len(batches))
    with (
        pooling_hooks(blocks, layers) as hooks,
        progress("activations", sum(lengths), "tokens", initial=finished) as bar,
    ):
        for number, batch in enumerate(batches):
            if number in partial.done:
                continue
            started = time.monotonic()
            pooled, norms = _run_batch(model, hooks, [tokens[i] for i in batch], [spans[i] for i in batch], layers)
            _check_finite(pooled, norms, layers, ids[batch])
            partial.write(number, batch, pooled, norms, time.monotonic() - started)
            bar.update(sum(lengths[i] for i in batch))


def _run_batch(
    model: torch.nn.Module, hooks: PoolingHooks, texts: list[TokenText], spans: list[tuple[int, int]], layers: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Pooled residuals (layers, batch, width) and mean token norms (layers, batch) of one batch."""
    ids = pad_right(texts).to(model.device)
    longest = ids.shape[1]
    try:
        hooks.run(model, ids, span_mask(spans, longest), span_mask([text.spans for text in texts], longest))
        pooled = torch.stack([hooks.pooled[layer].cpu() for layer in layers])
        norms = torch.stack([hooks.norms[layer].cpu() for layer in layers])
    except (IndexError, RuntimeError) as error:
        meaning = _meaning(error, text_config(model.config), max(max(text.ids) for text in texts), longest)
        if not meaning:
            raise
        raise UserError(meaning) from error
    return pooled.numpy(), norms.numpy()


def _meaning(error: Exception, config: Any, token: int, longest: int) -> str:
    """What a failed pass means where that is known: the libraries speak of an index or a device assertion."""
    if isinstance(error, torch.OutOfMemoryError):
        return "a batch does not fit into the GPU's memory; lower the model's token_budget"
    if token >= config.vocab_size:
        return f"the tokenizer gives token {token} and the model knows {config.vocab_size}; they do not belong together"
    limit = getattr(config, "max_position_embeddings", None)
    if limit and longest > limit:
        return (
            f"a text of {longest} tokens is longer than the model's {limit} positions; lower the reading's max_tokens"
        )
    return ""


def _check_finite(pooled: np.ndarray, norms: np.ndarray, layers: list[int], ids: np.ndarray) -> None:
    bad = np.argwhere(~(np.isfinite(pooled).all(axis=-1) & np.isfinite(norms)))
    if len(bad):
        layer, text = bad[0]
        raise UserError(
            f"block {layers[layer]} gives values that are not finite for text {ids[text]}; if the precision overflows, "
            f"set the model's dtype to bfloat16 or float32; otherwise its weights are broken"
        )
