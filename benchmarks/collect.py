"""Ways to average the residual stream of every block, side by side: `python -m benchmarks.collect`.

All ways read the same tokens of the same texts in the same precision: ours, scripts with plain Transformers, and
libraries. Every way is a program of its own that stays alive; they take turns, one computing at a time, so that what
else the machine does falls on all of them alike, and every ratio is taken within a repetition. The averages of each are
held against those of the plainest script, text by text and block by block.

The libraries do not agree on versions of numpy and Transformers, so each has an environment of its own, which `make
others` makes (some minutes, 5 GB); a way whose environment is missing is left out. At the size of an 8B model, on a
GPU:

    python -m benchmarks.collect --shape llama-8b --texts 2052 --repeats 3
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch

from affectome.activations.tokens import pooled_span, tokenize
from affectome.corpus.tables import read_corpus
from affectome.figures.style import ACCENT, FAINT, INK, canvas, house_style
from affectome.files import replacing, write_json
from affectome.layers import resolve_layers
from affectome.models.anatomy import text_config
from affectome.models.load import best_device, read_config, resolve_dtype
from benchmarks.measure import hardware, median_interval

CORPORA = (Path("results/corpora/starter/stories.parquet"), Path("resources/corpora/starter/stories.jsonl"))
POOLING = {"from": 50}
MAX_TOKENS = 1024
# Smallest cosine, of any text and block, at which two ways are taken to have read the same thing: averages over spans
# that differ by one token have less, and a single token's residual is rounded more than an average.
AGREE, AGREE_LAST = 0.9999, 0.999

# Sizes of models whose weights, as they do not change the speed, are drawn at random.
SHAPES = {
    "llama-8b": {
        "hidden_size": 4096,
        "intermediate_size": 14_336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128_256,
    }
}

# English has about so many tokens per word.
TOKENS_PER_WORD = 1.3


@dataclass(frozen=True)
class Way:
    """A program in `benchmarks/ways/`, the environment it needs (ours where empty) and what it averages."""

    name: str
    title: str
    program: str
    environment: str = ""
    batch: int = 1
    last_token_only: bool = False
    compiled: bool = False


WAYS = (
    Way("ours", "affectome", "ours"),
    Way("ours_compiled", "affectome, compiled", "ours", compiled=True),
    Way("hooks", "Transformers, hooks, batch 1", "hooks"),
    Way("hidden_states", "Transformers, output_hidden_states, batch 1", "hidden_states"),
    Way("hidden_states_8", "Transformers, output_hidden_states, batch 8", "hidden_states", batch=8),
    Way("nnsight", "nnsight", "with_nnsight", "nnsight"),
    Way("transformer_lens", "TransformerLens", "with_transformer_lens", "transformer-lens"),
    Way("repeng", "repeng (last token only)", "with_repeng", "repeng", last_token_only=True),
    Way("steering_vectors", "steering-vectors", "with_steering_vectors", "steering-vectors"),
)
OURS, COMPILED, REFERENCE = WAYS[:3]


class LeftOutError(Exception):
    """Why a way cannot be measured here."""


class Worker:
    """A way in a process of its own, from loading the model to the last pass."""

    def __init__(self, way: Way, python: Path, threads: int, folder: Path) -> None:
        self.way = way
        self.output = folder / f"{way.name}.npy"
        self._log = folder / f"{way.name}.log"
        program = Path(__file__).parent / "ways" / f"{way.program}.py"
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(threads)}
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [python, program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=environment
            )
        self.ready: dict[str, Any] = {}

    def load(self, job: dict[str, Any]) -> None:
        own = {"batch": self.way.batch, "compiled": self.way.compiled, "output": str(self.output)}
        self.ready = self._ask(json.dumps(job | own))

    def once(self) -> float:
        """Seconds of one pass over all texts."""
        return self._ask("go")["seconds"]

    def close(self) -> None:
        # One that waits ends with its input; one that does not, because the benchmark was interrupted, is killed.
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def _ask(self, line: str) -> dict[str, Any]:
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            said = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise LeftOutError(f"it ended with: {said[-1] if said else 'no message'}")
        return json.loads(answer)


def stories(number: int) -> list[str]:
    """`number` stories from all over the starter corpus."""
    found = next((path for path in CORPORA if path.is_file()), None)
    if found is None:
        sys.exit(f"{CORPORA[-1]} is missing; run this in the project's folder")
    if found.suffix == ".parquet":
        texts = read_corpus(found)["text"].tolist()
    else:
        texts = [json.loads(line)["text"] for line in found.read_text(encoding="utf-8").splitlines()]
    # More than there are come round again.
    return [texts[int(index) % len(texts)] for index in np.linspace(0, max(number, len(texts)) - 1, number)]


def read_texts(model: str, texts: list[str]) -> list[dict[str, Any]]:
    """`texts` tokenised for the model in a folder, with the tokens that are averaged."""
    from transformers import AutoTokenizer

    tokens = tokenize(AutoTokenizer.from_pretrained(model), texts, MAX_TOKENS)
    spans = [pooled_span(text, POOLING) for text in tokens]
    return [
        {"ids": list(text.ids), "first": first, "end": end}
        for text, (first, end) in zip(tokens, spans, strict=True)
        if first < end
    ]


def drawn_texts(texts: list[str], vocabulary: int) -> list[dict[str, Any]]:
    """Random tokens, as many as each of `texts` has, for a model that has no tokenizer."""
    rng = np.random.default_rng(0)
    lengths = [max(52, int(TOKENS_PER_WORD * len(text.split()))) for text in texts]
    return [{"ids": rng.integers(vocabulary, size=n).tolist(), "first": 50, "end": n} for n in lengths]


def drawn_model(shape: str, folder: Path) -> str:
    """A folder with a model of `shape` and random weights."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    with torch.device(best_device()):
        model = AutoModelForCausalLM.from_config(LlamaConfig(**SHAPES[shape]), dtype=torch.bfloat16)
    model.save_pretrained(folder / shape)
    return str(folder / shape)


def start(way: Way, others: Path, job: dict[str, Any], folder: Path, stack: ExitStack) -> Worker:
    """The way, loaded and ready on the device and in the precision of `job`."""
    python = Path(sys.executable)
    if way.environment:
        python = others / way.environment / "bin/python"
        if not python.is_file():
            raise LeftOutError(f"{python} is missing; run `make others`")
    worker = Worker(way, python, job["threads"], folder)
    stack.callback(worker.close)
    worker.load(job)
    wanted = {"dtype": job["dtype"], "device": best_device().type}
    for name, value in wanted.items():
        if worker.ready[name] != value:
            raise LeftOutError(f"it runs with {name} {worker.ready[name]}, not {value}")
    return worker


def alternate(workers: list[Worker], repeats: int) -> dict[str, list[float]]:
    """Seconds of each way in each of `repeats` repetitions, and before these in one that warms up."""
    taken: dict[str, list[float]] = {worker.way.name: [] for worker in workers}
    for turn in range(repeats + 1):
        for worker in workers if turn % 2 else workers[::-1]:
            try:
                seconds = worker.once()
            except LeftOutError as reason:
                sys.exit(f"{worker.way.title} broke off: {reason}")
            taken[worker.way.name].append(seconds)
        sys.stderr.write(f"repetition {turn} of {repeats}{'' if turn else ' (warm-up)'} done\n")
    return taken


def agreement(found: np.ndarray, reference: np.ndarray, layers: list[int]) -> dict[str, Any]:
    """Cosines of two ways' averages (texts, layers, width), over all texts and blocks that both have read."""
    first, second = found.astype(np.float64), reference.astype(np.float64)
    cosines = (first * second).sum(-1) / (np.linalg.norm(first, axis=-1) * np.linalg.norm(second, axis=-1))
    unread = np.isnan(cosines).all(axis=0)
    cosines = cosines[:, ~unread]
    return {
        # A value that is not finite where the block was read must not pass for agreement.
        "smallest_cosine": float(np.nan_to_num(cosines, nan=-1).min()),
        "median_cosine": float(np.median(cosines)),
        "blocks_not_read": [layer for layer, missing in zip(layers, unread, strict=True) if missing],
    }


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    chosen = stories(arguments.texts)
    if arguments.shape:
        arguments.model = drawn_model(arguments.shape, folder)
        texts = drawn_texts(chosen, SHAPES[arguments.shape]["vocab_size"])
    else:
        texts = read_texts(arguments.model, chosen)
    blocks = text_config(read_config(arguments.model)).num_hidden_layers
    try:
        layers = list(resolve_layers("all" if arguments.layers == "all" else f":{arguments.layers}", blocks))
    except ValueError as error:
        sys.exit(f"--layers: {error}")
    job = {
        "model": arguments.model,
        "texts": write_texts(folder / "texts.json", texts),
        "threads": torch.get_num_threads(),
        "dtype": str(resolve_dtype(arguments.dtype, best_device())).removeprefix("torch."),
        "layers": layers,
    }
    left_out: dict[str, str] = {}
    with ExitStack() as stack:
        workers: list[Worker] = []
        for way in WAYS:
            if way.compiled and best_device().type == "cpu":
                continue  # the collector compiles on GPUs only
            try:
                workers.append(start(way, arguments.others, job, folder, stack))
            except LeftOutError as reason:
                left_out[way.title] = str(reason)
        missing = [way.title for way in (OURS, REFERENCE) if way.title in left_out]
        if missing:
            sys.exit(f"{missing[0]} cannot be measured: {left_out[missing[0]]}")
        warm_up, taken = {}, alternate(workers, arguments.repeats)
        for name, seconds in taken.items():
            warm_up[name] = seconds.pop(0)
        (ours,) = (worker for worker in workers if worker.way == OURS)
    tokens = sum(len(text["ids"]) for text in texts)
    references = {False: np.load(folder / f"{REFERENCE.name}.npy")}
    if any(worker.way.last_token_only for worker in workers):
        references[True] = last_tokens(texts, job, folder)
    return {
        "hardware": hardware(),
        "date": date.today().isoformat(),
        "model": arguments.model,
        "dtype": job["dtype"],
        "texts": len(texts),
        "tokens": tokens,
        "layers": layers,
        "blocks": blocks,
        "left_out": left_out,
        "flops_per_token": ours.ready.get("flops_per_token"),
        "ceiling": ours.ready.get("ceiling"),
        "ways": {
            worker.way.name: {
                "title": worker.way.title,
                "versions": worker.ready["versions"],
                "warm_up": warm_up[worker.way.name],
                "seconds": taken[worker.way.name],
                "tokens_per_second": [tokens / seconds for seconds in taken[worker.way.name]],
                "ours_to_this": [
                    theirs / ours for ours, theirs in zip(taken[OURS.name], taken[worker.way.name], strict=True)
                ],
                **agreement(np.load(worker.output), references[worker.way.last_token_only], layers),
            }
            for worker in workers
        },
    }


def write_texts(path: Path, texts: Iterable[dict[str, Any]]) -> str:
    path.write_text(json.dumps(list(texts)), encoding="utf-8")
    return str(path.resolve())


def last_tokens(texts: list[dict[str, Any]], job: dict[str, Any], folder: Path) -> np.ndarray:
    """What the plainest script reads at each text's last token."""
    folder = folder / "last"
    folder.mkdir()
    spans = ({**text, "first": len(text["ids"]) - 1, "end": len(text["ids"])} for text in texts)
    with ExitStack() as stack:
        worker = start(REFERENCE, folder, job | {"texts": write_texts(folder / "texts.json", spans)}, folder, stack)
        worker.once()
    return np.load(worker.output)


def table(found: dict[str, Any]) -> list[str]:
    lines = [
        f"{Path(found['model']).name}, {len(found['layers'])} of {found['blocks']} blocks; {found['texts']} texts, "
        f"{found['tokens']} tokens; {found['dtype']}, {found['hardware']}, {found['date']}",
        "",
        "| way | tokens/s | 95 % interval | ours to this | 95 % interval | smallest cosine with hooks |",
        "|---|---|---|---|---|---|",
    ]
    for way in found["ways"].values():
        speed = [f"{value:.0f}" for value in median_interval(way["tokens_per_second"])]
        ratio = [f"{value:.2f}" for value in median_interval(way["ours_to_this"])]
        unread = way["blocks_not_read"]
        aside = f" (without block {', '.join(map(str, unread))})" if unread else ""
        lines.append(
            f"| {way['title']} | {speed[0]} | {speed[1]} to {speed[2]} | {ratio[0]} | {ratio[1]} to {ratio[2]} "
            f"| {way['smallest_cosine']:.5f}{aside} |"
        )
    if found["ceiling"]:
        lines += ["", f"Matrix products reach {found['ceiling'] / 1e12:.0f} TFLOP/s here. Shares of it:"]
        for way in found["ways"].values():
            rate = float(np.median(way["tokens_per_second"])) * found["flops_per_token"]
            lines.append(f"- {way['title']}: {rate / found['ceiling']:.2f}")
    if COMPILED.name in found["ways"]:
        eager, compiled = (found["ways"][way.name] for way in (OURS, COMPILED))
        cost = compiled["warm_up"] - float(np.median(compiled["seconds"]))
        saved = 1 - float(np.median(compiled["seconds"])) / float(np.median(eager["seconds"]))
        pays = f"pays beyond {cost / saved:.0f} s of passes without it" if saved > 0 else "does not pay"
        lines += ["", f"Compiling took {cost:.0f} s and saves {saved:.0%}; it {pays}."]
    return [*lines, *(f"\nLeft out: {title}, as {reason}." for title, reason in found["left_out"].items())]


def draw(found: dict[str, Any], path: Path) -> None:
    """Tokens per second of every way, fastest on top, with how many times as fast ours is."""
    ways = sorted(found["ways"].items(), key=lambda item: np.median(item[1]["tokens_per_second"]))
    with house_style():
        figure = canvas(
            7.5,
            1.1 + 0.36 * len(ways),
            "Tokens per second of ways to average the residual stream",
            f"{Path(found['model']).name}, {len(found['layers'])} of {found['blocks']} blocks, {found['dtype']}, "
            f"{found['hardware']}. Medians with 95 % intervals.",
        )
        ax = figure.add_axes((0.37, 0.42 / figure.get_figheight(), 0.5, 1 - 1.1 / figure.get_figheight()))
        for place, (name, way) in enumerate(ways):
            median, low, high = median_interval(way["tokens_per_second"])
            ax.barh(place, median, color=ACCENT if name == OURS.name else FAINT, height=0.68)
            ax.errorbar(median, place, xerr=[[median - low], [high - median]], color=INK, capsize=2.5, linewidth=1)
            times = "" if name == OURS.name else f"  (ours {median_interval(way['ours_to_this'])[0]:.1f}×)"
            ax.annotate(f"{median:,.0f}{times}", (high, place), (5, 0), textcoords="offset points", va="center")
        ax.set_yticks(range(len(ways)), [way["title"] for _, way in ways])
        ax.tick_params(axis="y", length=0)
        ax.set_xlabel("tokens per second")
        with replacing(path) as temporary:
            figure.savefig(temporary, format="svg", metadata={"Date": None}, facecolor="white")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("results/benchmarks/collect.json"),
        help="JSON file for the figures; a picture goes beside it",
    )
    parser.add_argument("--others", type=Path, default=Path(".others"), help="folder with an environment per library")
    parser.add_argument("--layers", default="all", help="`all`, or N for the first N blocks")
    parser.add_argument("--repeats", type=int, default=7, help="alternations, after one that warms up")
    parser.add_argument("--model", default="resources/models/smollm2-135m", help="folder of a Llama-type model")
    parser.add_argument("--shape", choices=SHAPES, help="random weights of this size instead of a model")
    parser.add_argument("--texts", type=int, default=96)
    parser.add_argument("--dtype", default="auto")
    arguments = parser.parse_args()
    if not arguments.shape and not Path(arguments.model, "config.json").is_file():
        sys.exit(f"{arguments.model} is missing; fetch it with `snakemake {arguments.model}/manifest.json`")
    with tempfile.TemporaryDirectory() as folder:
        found = measure(arguments, Path(folder))
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(arguments.output, found)
    draw(found, arguments.output.with_suffix(".svg"))
    sys.stdout.write("\n".join(table(found)) + "\n")
    lowest = {way.name: AGREE_LAST if way.last_token_only else AGREE for way in WAYS}
    apart = [way["title"] for name, way in found["ways"].items() if way["smallest_cosine"] < lowest[name]]
    if apart:
        sys.exit(f"these did not read what the hooks read: {', '.join(apart)}")


if __name__ == "__main__":
    main()
