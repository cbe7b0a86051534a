"""Readouts: what a model holds in mind where it is about to reply, or while a message is said.

One residual vector per prompt and layer: that of the last token before the model's reply (the template's last; in
Sofroniew et al. 2026, arXiv 2604.07729, the ":" after "Assistant"), or the mean over the tokens of one message.
Their files are those of `affectome.activations.readout_store`.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from affectome.activations.engine import Engine
from affectome.activations.readout_store import write_readouts
from affectome.activations.tokens import TokenText, plan_batches, pooled_span, tokenize_prompts
from affectome.corpus.prompt_lists import prompts_of
from affectome.errors import UserError
from affectome.files import read_json
from affectome.identity import fingerprint
from affectome.models.anatomy import check_length, text_config
from affectome.models.chat import Prompt, has_template
from affectome.models.load import load_tokenizer, load_weights
from affectome.progress import progress

log = logging.getLogger(__name__)


def read_prompts(
    folder: str | Path,
    prompts: Sequence[Prompt],
    layers: Sequence[int],
    dtype: str,
    quantization: str,
    trust_remote_code: bool,
    token_budget: int | str,
    threads: int,
) -> np.ndarray:
    """Readouts (layers, prompts, width), float32, layers ascending, of the model in `folder`.

    The further arguments mean what they mean for a model in config. Raises UserError for an unsuitable model, for
    conversations that its template refuses, and for readouts that are not finite or do not depend on the prompt.
    """
    tokenizer = load_tokenizer(folder, trust_remote_code)
    return _read(folder, tokenizer, prompts, layers, dtype, quantization, trust_remote_code, token_budget, threads)[0]


def collect_readouts(
    manifest: str | Path,
    list_file: str | Path,
    output: str | Path,
    kind: str,
    layers: Sequence[int],
    dtype: str,
    quantization: str,
    trust_remote_code: bool,
    token_budget: int | str,
    code: str,
    threads: int,
) -> None:
    """Write the readouts of the prompts in `list_file`, a list of `kind`, to `output`.

    `manifest` stands in the model's folder; `code` is the digest of what computes them. A list is small enough that a
    job which was interrupted starts again.
    """
    folder, weights = Path(manifest).parent, read_json(manifest)
    table, prompts = prompts_of(kind, list_file)
    tokenizer = load_tokenizer(folder, trust_remote_code)
    settings = (dtype, quantization, trust_remote_code, token_budget)
    values, computed = _read(folder, tokenizer, prompts, layers, *settings, threads)
    key = fingerprint(
        {
            "settings": [kind, sorted(layers), *settings],
            "prompts": [[prompt.messages, prompt.turn] for prompt in prompts],
            "table": table.to_dict("list"),
            "model": weights["sha256"],
            "code": code,
            "computed": [*computed.values(), torch.__version__, transformers.__version__],
        }
    )
    template = "model" if has_template(tokenizer) else "plain"
    made = {"model": weights["model"], "template": template, "list": str(list_file), **computed}
    write_readouts(output, table, dict(zip(sorted(layers), values, strict=True)), key, **made)


def _read(
    folder: str | Path,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    layers: Sequence[int],
    dtype: str,
    quantization: str,
    trust_remote_code: bool,
    token_budget: int | str,
    threads: int,
) -> tuple[np.ndarray, dict[str, str]]:
    """Readouts, and the precision and the device they were computed in."""
    torch.set_num_threads(threads)
    if not has_template(tokenizer):
        log.warning("the model has no chat template; prompts are read as a transcript of Person and AI")
    tokens = tokenize_prompts(tokenizer, list(prompts))
    model = load_weights(folder, dtype, quantization, trust_remote_code)
    engine = Engine(model, layers, threads)
    check_length(model.config, max((len(text.ids) for text in tokens), default=0))
    before_reply, message = {"position": "before_reply"}, {"mean": True}
    spans = [pooled_span(text, message if text.reply is None else before_reply) for text in tokens]
    values = _forward(engine, tokens, spans, token_budget)
    _check(values, engine.layers, prompts)
    return values, {"dtype": str(model.dtype).removeprefix("torch."), "device": model.device.type}


def _forward(
    engine: Engine, tokens: list[TokenText], spans: list[tuple[int, int]], token_budget: int | str
) -> np.ndarray:
    """Means over `spans` (layers, prompts, width)."""
    lengths = [len(text.ids) for text in tokens]
    batches = plan_batches(lengths, engine.budget(token_budget))
    width = text_config(engine.model.config).hidden_size
    values = np.empty((len(engine.layers), len(tokens), width), np.float32)
    with (
        progress("readouts", sum(lengths), "tokens") as bar,
        engine.reading(tokens, spans, list(enumerate(batches)), engine.cores_per_pass(len(batches))) as results,
    ):
        for result in results:
            values[:, result.texts] = result.pooled
            bar.update(sum(lengths[text] for text in result.texts))
    return values


def _check(values: np.ndarray, layers: Sequence[int], prompts: Sequence[Prompt]) -> None:
    """Raise UserError unless readouts (layers, prompts, width) are finite and depend on the prompt at every layer."""
    # What comes after a message that is read leaves it alone.
    said = [prompt.messages[: None if prompt.turn is None else prompt.turn + 1] for prompt in prompts]
    differ = any(messages != said[0] for messages in said)
    for layer, here in zip(layers, values, strict=True):
        if not np.isfinite(here).all():
            prompt = 1 + int(np.argmin(np.isfinite(here).all(axis=1)))
            raise UserError(
                f"block {layer} gives values that are not finite for prompt {prompt}; if the precision overflows, set "
                f"the model's dtype to bfloat16 or float32; otherwise its weights are broken"
            )
        if differ and (here == here[:1]).all():
            raise UserError(
                f"block {layer} gives all {len(prompts)} prompts the same vector; the model's chat template leaves "
                f"their text out, or its weights are broken"
            )
