"""repeng: its `batched_get_hiddens`, in its default batches; it gives the last token of each text, not an average."""

from typing import Any

import numpy as np
from repeng import ControlModel
from repeng.extract import batched_get_hiddens
from torch import tensor
from transformers import BatchEncoding
from worker import Job, Text, load_plain, serve

# The default of `repeng.extract.read_representations`, the only caller in the library.
BATCH = 32


def _pad(rows: list[list[int]], **_settings: Any) -> BatchEncoding:
    """In a tokenizer's place: what it would return for texts that are tokenised already."""
    longest = max(len(ids) for ids in rows)
    return BatchEncoding(
        {
            "input_ids": tensor([ids + [0] * (longest - len(ids)) for ids in rows]),
            "attention_mask": tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids in rows]),
        }
    )


def load(job: Job) -> tuple[Any, Any]:
    plain = load_plain(job)
    last = plain.config.num_hidden_layers - 1
    # Which blocks are controlled has no bearing on which are read; these are the README's.
    model = ControlModel(plain, list(range(-5, -18, -1)))

    def collect(texts: list[Text]) -> np.ndarray:
        hiddens = batched_get_hiddens(model, _pad, [text.ids for text in texts], job.layers, BATCH)
        if last in hiddens:
            # What it takes for the last block's output has been through the final norm.
            hiddens[last] = np.full_like(hiddens[last], np.nan)
        return np.stack([hiddens[layer] for layer in job.layers], axis=1)

    return model, collect


if __name__ == "__main__":
    serve(load, "repeng")
