"""`affectome test-http`: every emotion of a running server tried once, beside the same request unsteered.

One greedy request per emotion at the upper end of its safe range, and no more than `CAREFUL`. A reply that equals the
baseline is counted and no failure: a small push may well leave the likeliest words as they are. That steering acts at
all is tried with a strong push along a random direction, which has to change the reply, and with one of strength 0,
which must not.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from affectome.errors import UserError
from affectome.serve.client import Client
from affectome.serve.plan import Refused

CAREFUL = 0.1
_STRONG = 1.0
_AT_ONCE = 8
PROMPT = "How do you feel about the day ahead?"


@dataclass
class Trial:
    """What came of the requests: replies by emotion, and what went wrong in words."""

    baseline: str = ""
    replies: dict[str, str] = field(default_factory=dict)
    strengths: dict[str, float] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def changed(self) -> int:
        return sum(reply != self.baseline for reply in self.replies.values())


async def try_server(url: str, prompt: str = PROMPT, max_tokens: int = 24, say: Callable[[str], None] = print) -> Trial:
    """Ask the server at `url` for one reply along every emotion; `say` gets a line for each as it comes.

    Raises UserError where there is no such server, and where it refuses the baseline.
    """
    trial = Trial()
    async with Client(url) as client:
        try:
            listed = await client.emotions()
        except Refused as error:
            raise UserError(f"{url}: {error.message}") from error
        emotions = [entry for entry in listed["data"] if entry["family"] == "emotion"]
        body = {
            "model": listed["model"],
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "max_tokens": max_tokens,
        }
        say(f"{listed['run']}: {listed['model']}, {len(emotions)} emotions, layer {listed['headline_layer']}")
        try:
            trial.baseline = await _reply(client, body)
        except Refused as error:
            raise UserError(f"{url} refuses to answer unsteered: {error.message}") from error
        say(f"{'(baseline)':24} {_line(trial.baseline)}")
        gate = asyncio.Semaphore(_AT_ONCE)

        async def one(entry: dict[str, Any]) -> None:
            name = entry["name"]
            strength = trial.strengths[name] = min(CAREFUL, float(entry["safe_range"]["high"])) or CAREFUL / 10
            steering = [{"emotion": name, "strength": strength, "positions": "all"}]
            async with gate:
                try:
                    reply = await _reply(client, {**body, "steering": steering, "allow_unsafe": True})
                except (Refused, UserError) as error:
                    trial.problems.append(f"{name}: {error}")
                    return
            trial.replies[name] = reply
            say(f"{name[:18]:18} {strength:+5.2f} {' ' if reply != trial.baseline else '='}{_line(reply)}")

        await asyncio.gather(*map(one, emotions))
        await _check_that_steering_acts(client, body, listed, trial)
    return trial


async def _check_that_steering_acts(client: Client, body: dict[str, Any], listed: dict[str, Any], trial: Trial) -> None:
    random = next((entry["name"] for entry in listed["data"] if entry["family"] == "random"), None)
    first = listed["data"][0]["name"]
    nothing = [{"emotion": first, "strength": 0.0, "positions": "all"}]
    try:
        if await _reply(client, {**body, "steering": nothing}) != trial.baseline:
            trial.problems.append(f"a strength of 0 along {first} changes the reply")
        if random is not None:
            strong = [{"emotion": random, "family": "random", "strength": _STRONG, "positions": "all"}]
            if await _reply(client, {**body, "steering": strong, "allow_unsafe": True}) == trial.baseline:
                trial.problems.append("a push as long as the residual itself changes nothing: steering does not act")
        await _reply(client, {**body, "steering": [{"emotion": "no such emotion", "strength": 0.01}]})
        trial.problems.append("an emotion that does not exist is not refused")
    except Refused as error:
        if error.status != 400:
            trial.problems.append(f"a request was refused with {error.status}: {error.message}")


async def _reply(client: Client, body: dict[str, Any]) -> str:
    reply = await client.complete(body)
    return str(reply["choices"][0]["message"]["content"] or "")


def _line(text: str) -> str:
    return " ".join(text.split())[:90]
