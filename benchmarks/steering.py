"""What batching conditions gains and what steering costs: `python -m benchmarks.steering --output FILE`.

Measured on the demo's model, on the GPU where there is one, paired and alternating, so that what else the machine does
falls on both sides alike; every ratio is taken within a repetition. Texts are greedy and never end early: all rows have
the same number of tokens on both sides.

1. `batching`: a batch of rows of different conditions, as trials write them, against the same rows one at a time (a few
   of them, in the faster of bfloat16 and float32). In float32 the texts of both ways are compared.
2. `steering`: a batch with every row steered along its own direction at the headline block, against the same rows
   unsteered.
"""

import argparse
import gc
import sys
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch

from affectome.files import write_json
from affectome.layers import auto_layer
from affectome.models.load import load_model, resolve_dtype
from affectome.steering import instrument, passes
from affectome.steering.framing import frame
from affectome.steering.passes import Row
from affectome.steering.sets import read_set
from benchmarks.measure import hardware, median_interval

MODEL = Path("resources/models/smollm2-135m")
TRIAL_SET = "resources/trials/expression.yaml"

ROWS, TOKENS = 128, 32
# Rows that are also written one at a time.
SINGLE = 8
BATCH = 32
STRENGTHS = (-0.2, -0.1, -0.05, 0.0, 0.05, 0.1, 0.2, 0.3)


class Bench:
    """The model in one precision, with texts that do not end before their last token."""

    def __init__(self, dtype: str) -> None:
        self.model, self.tokenizer = load_model(MODEL, dtype)
        self.tokenizer.eos_token = None
        self.model.generation_config.eos_token_id = None
        config = self.model.config
        self._layer = auto_layer(config.num_hidden_layers)
        self._units = np.random.default_rng(0).normal(size=(BATCH, config.hidden_size)).astype(np.float32)
        self._units /= np.linalg.norm(self._units, axis=1, keepdims=True)
        self._prompts = [frame(self.tokenizer, prompt).ids for prompt in read_set(TRIAL_SET).generations]
        self._norm = self._residual_norm()

    def _residual_norm(self) -> float:
        found = passes.read(self.model, [Row(ids) for ids in self._prompts], [1] * len(self._prompts), self._layer)
        return float(np.mean([np.linalg.norm(reading.pooled) for reading in found]))

    def row(self, number: int, strength: float) -> Row:
        """Row `number`: its own prompt and direction; not steered at strength 0."""
        direction = {self._layer: self._units[number % len(self._units)]}
        plan = (instrument.add(strength, direction, {self._layer: self._norm}),) if strength else ()
        return Row(self._prompts[number % len(self._prompts)], plan)

    def write(self, rows: Sequence[Row]) -> list[str]:
        texts = passes.write(self.model, self.tokenizer, rows, np.zeros((len(rows), TOKENS)), 0.0)
        if any(len(text.ids) != TOKENS for text in texts):
            raise RuntimeError("a text ended early, so the two sides did not do the same work")
        return [text.text for text in texts]


def seconds(work: Callable[[], Any]) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def batching(benches: dict[str, Bench], own: str, repeats: int) -> dict[str, Any]:
    """Texts per second of one batch of `ROWS` rows in the precision `own`, and of single rows in each of `benches`."""
    rows = {name: [bench.row(n, STRENGTHS[n % len(STRENGTHS)]) for n in range(ROWS)] for name, bench in benches.items()}
    # Every strength once, and different prompts.
    few = [step * (ROWS // SINGLE) + step for step in range(SINGLE)]
    mixed: list[float] = []
    single: dict[str, list[float]] = {name: [] for name in benches}

    def one_at_a_time(name: str) -> list[str]:
        return [benches[name].write([rows[name][n]])[0] for n in few]

    for turn in range(repeats + 1):
        ways = [("", lambda: benches[own].write(rows[own]))]
        ways += [(name, lambda name=name: one_at_a_time(name)) for name in benches]
        # The first turn warms up.
        for name, work in ways if turn % 2 else ways[::-1]:
            taken = seconds(work)
            if turn:
                (single[name] if name else mixed).append((len(few) if name else ROWS) / taken)
    fastest = max(single, key=lambda name: float(np.median(single[name])))
    exact = benches["float32"]
    alike = sum(
        a == b for a, b in zip(exact.write([rows["float32"][n] for n in few]), one_at_a_time("float32"), strict=True)
    )
    return {
        "rows": ROWS,
        "tokens": TOKENS,
        "mixed_per_second": mixed,
        "single_per_second": single,
        "single_dtype": fastest,
        "ratio": [float(a / b) for a, b in zip(mixed, single[fastest], strict=True)],
        "texts_alike_in_float32": [alike, len(few)],
    }


def steering(bench: Bench, repeats: int) -> dict[str, Any]:
    """Tokens per second of a batch of `BATCH` rows, steered and not."""
    ways = {
        "steered": [bench.row(n, 0.1) for n in range(BATCH)],
        "unsteered": [bench.row(n, 0.0) for n in range(BATCH)],
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + 1):
        for name in ways if turn % 2 else reversed(ways):
            taken = seconds(lambda name=name: bench.write(ways[name]))
            if turn:
                found[name].append(BATCH * TOKENS / taken)
    ratio = [a / b for a, b in zip(found["steered"], found["unsteered"], strict=True)]
    return {"rows": BATCH, "tokens": TOKENS, "tokens_per_second": found, "ratio": ratio}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="JSON file for the figures")
    parser.add_argument("--repeats", type=int, default=7, help="alternations, after one that warms up")
    arguments = parser.parse_args()
    if not (MODEL / "config.json").is_file():
        sys.exit(f"{MODEL} is missing; fetch it with `snakemake {MODEL}/manifest.json`")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    own = str(resolve_dtype("auto", device)).removeprefix("torch.")
    benches = {dtype: Bench(dtype) for dtype in ("bfloat16", "float32")}
    found = {
        "hardware": hardware(),
        "torch": torch.__version__,
        "date": date.today().isoformat(),
        "dtype": own,
        "batching": batching(benches, own, arguments.repeats),
    }
    bench = benches[own]
    del benches
    gc.collect()
    found["steering"] = steering(bench, 2 * arguments.repeats)
    write_json(arguments.output, found)
    batched, cost = found["batching"], found["steering"]
    alike, of = batched["texts_alike_in_float32"]
    lines = [
        f"{found['hardware']}, torch {found['torch']}, {own}, {found['date']}",
        "",
        "| measured | median | 95 % interval |",
        "|---|---|---|",
        _line(f"texts/s, batch of {ROWS} mixed conditions", batched["mixed_per_second"], 2),
        *(_line(f"texts/s, one at a time, {name}", values, 2) for name, values in batched["single_per_second"].items()),
        _line(f"batched to one at a time ({batched['single_dtype']})", batched["ratio"], 2),
        _line(f"tokens/s, batch of {BATCH}, unsteered", cost["tokens_per_second"]["unsteered"], 0),
        _line(f"tokens/s, batch of {BATCH}, every row steered", cost["tokens_per_second"]["steered"], 0),
        _line("steered to unsteered", cost["ratio"], 3),
        "",
        f"Greedy texts in float32, one at a time and in a batch: {alike} of {of} the same.",
    ]
    sys.stdout.write("\n".join(lines) + "\n")


def _line(what: str, values: Sequence[float], digits: int) -> str:
    median, low, high = (f"{value:.{digits}f}" for value in median_interval(values))
    return f"| {what} | {median} | {low} to {high} |"


if __name__ == "__main__":
    main()
