"""The half of `benchmarks.collect` that all ways share: JSON lines with the parent, timing, and loading plainly.

The parent's first line is the job (`Job`). The answer, once the model is loaded, says on what and in which precision it
runs. Then each line asks for one pass over all texts, and is answered with its seconds. The first pass also writes its
averages, so that the parent can hold the ways against each other.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class Text:
    """One tokenised text, whose tokens [first, end) are averaged."""

    ids: list[int]
    first: int
    end: int


@dataclass(frozen=True)
class Job:
    """What a way is to do; `batch` is for those that leave the size of a batch to their user, `compiled` for ours."""

    model: str
    texts: str
    threads: int
    dtype: str
    layers: list[int]
    output: str
    batch: int = 1
    compiled: bool = False

    @property
    def torch_dtype(self) -> torch.dtype:
        return getattr(torch, self.dtype)


# One pass over all texts: averages (texts, layers, width) in float32, NaN where the way cannot read a block.
Pass = Callable[[list[Text]], np.ndarray]


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load_plain(job: Job) -> Any:
    """The model as a script with Transformers loads it."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(job.model, dtype=job.torch_dtype).to(device()).eval()


def tensor(ids: list[int]) -> torch.Tensor:
    return torch.tensor([ids], device=device())


def serve(load: Callable[[Job], tuple], *packages: str) -> None:
    """Answer the parent until it closes the pipe.

    `load` gives the model, the pass (`Pass`) and, if it likes, further facts for the parent; `packages` go on record.
    """
    # Libraries print to standard output, in C too; what they print goes to the log instead.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    job = Job(**json.loads(sys.stdin.readline()))
    torch.set_num_threads(job.threads)
    texts = [Text(**text) for text in json.loads(Path(job.texts).read_text(encoding="utf-8"))]
    model, collect, *facts = load(job)
    used = next(model.parameters())
    ready = {
        "dtype": str(used.dtype).removeprefix("torch."),
        "device": used.device.type,
        "versions": {name: version(name) for name in (*packages, "torch", "transformers")},
    }
    answers.write(json.dumps(ready | (facts[0] if facts else {})) + "\n")
    for number, _ in enumerate(sys.stdin):
        with torch.inference_mode():
            _synchronise()
            started = time.perf_counter()
            means = collect(texts)
            _synchronise()
            seconds = time.perf_counter() - started
        if not number:
            np.save(job.output, means)
        answers.write(json.dumps({"seconds": seconds}) + "\n")


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
