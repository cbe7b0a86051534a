"""Readouts (`affectome.readouts`): what a model holds in mind where it is about to reply, or while a message is said.

One residual vector per prompt and layer: that of the last token before the model's reply (the template's last; in
Sofroniew et al. 2026, arXiv 2604.07729, the ":" after "Assistant"), or the mean over the tokens of one message.

A file holds `activations/layer_{L}` (prompts, width), float32 in the units of the residual stream, and under `prompts`
the columns of the list's table (prompts,), whose order is its attribute `columns`. Attributes are `model`, `dtype`,
`device`, `list` (the file the prompts came from), `layers` and `template`: "model" where the model's own chat template
was used, "plain" where it has none and read a transcript of Person and AI.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import torch
import transformers

from affectome.activations.engine import Engine
from affectome.activations.tokens import TokenText, plan_batches, pooled_span, tokenize_prompts
from affectome.corpus.prompt_lists import prompts_of
from affectome.errors import UserError
from affectome.files import read_json
from affectome.hdf5 import READOUTS, reading, writing
from affectome.identity import fingerprint
from affectome.models.anatomy import check_length, text_config
from affectome.models.chat import Prompt, has_template
from affectome.models.load import load_tokenizer, load_weights
from affectome.progress import progress
from affectome.vectors.store import Vectors

log = logging.getLogger(__name__)

_UNITS = "residual stream (float32 mean over pooled tokens)"
_STRINGS = h5py.string_dtype("utf-8")


# ---------------------------------------------------------------- files


@dataclass(frozen=True)
class Readouts:
    """The readouts in a file: the `table` of its prompts, its `layers`, and how the prompts were framed."""

    path: Path
    table: pd.DataFrame
    layers: tuple[int, ...]
    template: str

    def at(self, layer: int) -> np.ndarray:
        """Readouts (prompts, width) at `layer`, float32, in the order of the table; UserError where it has none."""
        if layer not in self.layers:
            raise UserError(f"{self.path}: holds no layer {layer}; it has {', '.join(map(str, self.layers))}")
        with reading(self.path, READOUTS) as file:
            return file[f"activations/layer_{layer}"][...]

    def beside(self, vectors: Mapping[int, Vectors], layer: int) -> dict[int, Vectors]:
        """`vectors` at the layers that have readouts too; UserError without `layer`, or where widths differ."""
        both = {number: here for number, here in vectors.items() if number in self.layers}
        if layer not in both:
            raise UserError(
                f"{self.path}: layer {layer} is wanted, and there are readouts of {', '.join(map(str, self.layers))} "
                f"and vectors of {', '.join(map(str, vectors)) or 'none'}; choose a layer that has both"
            )
        widths = self.at(layer).shape[1], both[layer].unit.shape[1]
        if widths[0] != widths[1]:
            raise UserError(f"{self.path}: readouts are {widths[0]} wide, vectors {widths[1]}; use those of one model")
        return both


def write_readouts(
    path: str | Path,
    table: pd.DataFrame,
    activations: Mapping[int, np.ndarray],
    fingerprint: str,
    **attributes: object,
) -> None:
    """Write `activations` (prompts, width) by layer, and the `table` whose rows they belong to, with `attributes`.

    Columns of the table hold texts, numbers or truth values.
    """
    layers = sorted(activations)
    with writing(path, READOUTS, fingerprint, layers=layers, units=_UNITS, **attributes) as file:
        group = file.create_group("prompts")
        group.attrs.create("columns", list(table.columns), dtype=_STRINGS)
        for name in table:
            values = table[name].to_numpy()
            if values.dtype.kind in "biuf":
                group.create_dataset(name, data=values)
            else:
                group.create_dataset(name, data=values.astype(object), dtype=_STRINGS)
        for layer in layers:
            file.create_dataset(f"activations/layer_{layer}", data=np.asarray(activations[layer], np.float32))


def read_readouts(path: str | Path) -> Readouts:
    """Open a file written by `write_readouts` by this or an earlier version."""
    with reading(path, READOUTS) as file:
        columns = {}
        for name in file["prompts"].attrs["columns"]:
            column = file["prompts"][name]
            columns[name] = (column.asstr() if h5py.check_string_dtype(column.dtype) else column)[...]
        layers = tuple(int(layer) for layer in file.attrs["layers"])
        return Readouts(Path(path), pd.DataFrame(columns), layers, str(file.attrs.get("template", "model")))


# ---------------------------------------------------------------- reading prompts


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
