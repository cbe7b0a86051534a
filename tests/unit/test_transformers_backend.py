"""The engine on Transformers gives what OpenAI's fields ask for, whatever else it is writing at the time.

The second methods are Transformers' own `generate` and plain passes of the same model.
"""

import asyncio
import gc
import json
import logging
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DynamicCache, GenerationConfig, LogitsProcessor

from affectome.errors import UserError
from affectome.models.anatomy import residual
from affectome.serve.batching import Row
from affectome.serve.catalogue import Catalogue
from affectome.serve.plan import Change, Plan, Readout, Refused
from affectome.serve.sampling import Sampler, Sampling, Text, Token
from affectome.serve.transformers_backend import (
    End,
    Piece,
    TransformersBackend,
    Worker,
    chat_tokens,
    interventions,
    read_request,
    text_tokens,
)
from affectome.steering.instrument import Intervention, Steering, blocks_of
from tests.helpers import CHAT_TEMPLATE, FIRST_BYTE, tiny_config, tiny_tokenizer
from tests.unit.serving import tiny_catalogue

PLAN: Plan = (
    Change(0, ((1, 3.0), (2, 2.0)), "add", "generated"),
    Change(1, ((1, 0.0),), "ablate", "all"),
    Change(2, ((2, 4.0),), "clamp", "prompt"),
)

# A token that no model has; without one `generate` takes the model's own.
NEVER = 10**6


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    return tiny_catalogue(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def backend(catalogue: Catalogue) -> Iterator[TransformersBackend]:
    engine = TransformersBackend(catalogue, dtype="float32")
    asyncio.run(engine.start())
    yield engine
    asyncio.run(engine.stop())


def run(work: Callable[[], Awaitable[Any]]) -> Any:
    return asyncio.run(asyncio.wait_for(work(), 60))


def text(prompt: Any, **fields: Any) -> dict[str, Any]:
    return {"model": "tiny", "prompt": prompt, "max_tokens": 12, "temperature": 0} | fields


def chat(content: str, **fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": content}]
    return {"model": "tiny", "messages": messages, "max_tokens": 12, "temperature": 0} | fields


def complete(engine: TransformersBackend, body: dict, plan: Plan = (), readout: Readout | None = None) -> dict:
    kind = "chat" if "messages" in body else "text"
    return run(lambda: engine.complete(kind, body, plan, readout))


async def gathered(stream: AsyncIterator[dict]) -> list[dict]:
    async with aclosing(stream):
        return [chunk async for chunk in stream]


def streamed(engine: TransformersBackend, body: dict, plan: Plan = (), readout: Readout | None = None) -> list[dict]:
    kind = "chat" if "messages" in body else "text"
    return run(lambda: gathered(engine.stream(kind, body, plan, readout)))


def content(chunks: list[dict], index: int = 0) -> str:
    choices = [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
    return "".join(c["text"] if "text" in c else c["delta"].get("content", "") for c in choices)


def generated(engine: TransformersBackend, prompt: tuple[int, ...], plan: Plan = (), **how: Any) -> list[int]:
    """What Transformers' `generate` makes of a prompt, up to the end token."""
    config = GenerationConfig(**{"max_new_tokens": 12, "do_sample": False, "eos_token_id": 2, "pad_token_id": 0} | how)
    processors = config.__dict__.pop("_processors", [])
    with Steering(engine._model, [interventions(plan, engine._catalogue.units)]):
        ids = torch.tensor([prompt])
        out = engine._model.generate(
            ids, attention_mask=torch.ones_like(ids), generation_config=config, logits_processor=processors
        )
    return out[0, len(prompt) :].tolist()


def is_text_of(engine: TransformersBackend, words: str, ids: list[int]) -> bool:
    """Whether `words` are the text of tokens, but for what is left of a character at their end."""
    return words.rstrip("\ufffd") == engine._tokenizer.decode(ids, skip_special_tokens=True).rstrip("\ufffd")


# ---------------------------------------------------------------- replies


def test_greedy_replies_are_those_of_generate_in_any_company(backend: TransformersBackend) -> None:
    rng = random.Random(0)
    prompts = ["The lake", "A", "Rain all week; he kept", "x" * 50, "She left. " * 4, "Boil two eggs"] * 3
    plans = [(), PLAN, PLAN[:1], PLAN[1:], (), PLAN[2:]] * 3

    async def all_at_once() -> list[dict]:
        async def one(prompt: str, plan: Plan) -> dict:
            await asyncio.sleep(rng.random() * 0.1)
            return await backend.complete("text", text(prompt, max_tokens=20), plan, None)

        return await asyncio.gather(*(one(p, plan) for p, plan in zip(prompts, plans, strict=True)))

    replies = run(all_at_once)
    for prompt, plan, reply in zip(prompts, plans, replies, strict=True):
        (ids,) = text_tokens(backend._tokenizer, prompt)
        wanted = generated(backend, ids, plan, max_new_tokens=20)
        assert is_text_of(backend, reply["choices"][0]["text"], wanted)
        assert reply["choices"][0]["finish_reason"] == ("stop" if wanted[-1] == 2 else "length")
        assert reply["usage"] == {
            "prompt_tokens": len(ids),
            "completion_tokens": len(wanted),
            "total_tokens": len(ids) + len(wanted),
        }


def test_a_seed_gives_the_same_reply_in_any_company(backend: TransformersBackend) -> None:
    bodies = [
        chat("hi", temperature=1.3, top_p=0.9, seed=1),
        chat("hi", temperature=0.7, top_k=20, seed=2, frequency_penalty=0.5),
        chat("how are you", temperature=1, min_p=0.02, seed=3, repetition_penalty=1.3, presence_penalty=1),
        chat("hi", seed=1, temperature=None, n=3),
    ]

    async def together() -> list[dict]:
        others = [backend.complete("chat", chat("z" * n, temperature=1), PLAN, None) for n in range(1, 6)]
        return (await asyncio.gather(*others, *(backend.complete("chat", b, PLAN, None) for b in bodies)))[5:]

    alone = [complete(backend, body, PLAN)["choices"] for body in bodies]
    assert [reply["choices"] for reply in run(together)] == alone
    texts = [choice["message"]["content"] for choice in alone[3]]
    assert [choice["index"] for choice in alone[3]] == [0, 1, 2]
    assert len(set(texts)) == 3
    assert complete(backend, bodies[3] | {"n": 1}, PLAN)["choices"][0]["message"]["content"] == texts[0]


def test_without_a_seed_replies_differ(backend: TransformersBackend) -> None:
    reply = complete(backend, chat("hi", temperature=1, n=4, max_tokens=30))
    assert len({choice["message"]["content"] for choice in reply["choices"]}) == 4


@pytest.mark.parametrize("kind", ["chat", "text"])
def test_streamed_and_whole_replies_are_the_same(backend: TransformersBackend, kind: str) -> None:
    body = (chat if kind == "chat" else text)("hello", temperature=1, seed=5, n=2, max_tokens=40)
    whole = complete(backend, body, PLAN)
    chunks = streamed(backend, body | {"stream": True, "stream_options": {"include_usage": True}}, PLAN)
    for index in range(2):
        choice = whole["choices"][index]
        assert content(chunks, index) == (choice["message"]["content"] if kind == "chat" else choice["text"])
        reasons = [c["finish_reason"] for chunk in chunks for c in chunk["choices"] if c["index"] == index]
        assert reasons[-1] == choice["finish_reason"]
        assert set(reasons[:-1]) == {None}
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == whole["usage"]
    assert {chunk["id"] for chunk in chunks} == {chunks[0]["id"]}
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk" if kind == "chat" else "text_completion"}
    if kind == "chat":
        assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}


def test_several_prompts_of_texts_and_tokens(backend: TransformersBackend) -> None:
    texts = complete(backend, text(["one", "two and more"], n=2))
    assert [choice["index"] for choice in texts["choices"]] == [0, 1, 2, 3]
    ids = text_tokens(backend._tokenizer, ["one", "two and more"])
    by_ids = complete(backend, text([list(one) for one in ids]))
    assert [c["text"] for c in by_ids["choices"]] == [c["text"] for c in texts["choices"]][::2]
    assert complete(backend, text(list(ids[1])))["choices"][0]["text"] == by_ids["choices"][1]["text"]
    assert by_ids["usage"]["prompt_tokens"] == len(ids[0]) + len(ids[1])


# ---------------------------------------------------------------- choosing tokens


class Penalties(LogitsProcessor):
    """OpenAI's formula: logits − count · frequency − (count > 0) · presence, of tokens of the reply."""

    def __init__(self, prompt: int, frequency: float, presence: float) -> None:
        self.prompt, self.frequency, self.presence = prompt, frequency, presence

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores = scores.clone()
        for token in set(written := input_ids[0, self.prompt :].tolist()):
            scores[0, token] -= written.count(token) * self.frequency + self.presence
        return scores


@pytest.mark.parametrize(
    ("fields", "how"),
    [
        ({"repetition_penalty": 1.4}, {"repetition_penalty": 1.4}),
        ({"frequency_penalty": 1.5}, {"frequency": (1.5, 0)}),
        ({"presence_penalty": 2.0}, {"frequency": (0, 2.0)}),
        ({"frequency_penalty": -0.5, "presence_penalty": 1.0}, {"frequency": (-0.5, 1.0)}),
        ({"logit_bias": {"70": 6, "71": -100.0}}, {"sequence_bias": [[[70], 6.0], [[71], -100.0]]}),
        ({"logit_bias": {"2": 100.0}, "min_tokens": 3}, {"sequence_bias": [[[2], 100.0]], "min_new_tokens": 3}),
        ({"logit_bias": {"2": 100.0}, "ignore_eos": True}, {"sequence_bias": [[[2], 100.0]], "eos_token_id": NEVER}),
    ],
)
def test_penalties_are_those_of_transformers(backend: TransformersBackend, fields: dict, how: dict) -> None:
    (ids,) = text_tokens(backend._tokenizer, "the the the cat and the")
    # The prompt has what the reply is to have again, so that it matters which of the two a penalty counts.
    ids = (*ids, *generated(backend, ids, max_new_tokens=16))
    how = dict(how)
    frequency = how.pop("frequency", None)
    processors = [Penalties(len(ids), *frequency)] if frequency else []
    config = GenerationConfig(**{"max_new_tokens": 30, "eos_token_id": 2, "pad_token_id": 0, "do_sample": False} | how)
    mask = torch.ones(1, len(ids), dtype=torch.long)
    out = backend._model.generate(
        torch.tensor([ids]), attention_mask=mask, generation_config=config, logits_processor=processors
    )
    wanted = out[0, len(ids) :].tolist()
    plain = generated(backend, ids, max_new_tokens=30)
    assert wanted != plain
    reply = complete(backend, text(list(ids), max_tokens=30, **fields))
    assert is_text_of(backend, reply["choices"][0]["text"], wanted)
    assert reply["usage"]["completion_tokens"] == len(wanted)


@pytest.mark.parametrize(
    "fields", [{}, {"temperature": 0.5}, {"top_k": 5}, {"top_p": 0.6}, {"min_p": 0.1}, {"top_p": 0.8, "top_k": 9}]
)
def test_draws_follow_the_distribution_of_transformers(fields: dict) -> None:
    logits = torch.randn(1, 40, generator=torch.Generator().manual_seed(1)) * 2
    scores = logits / fields.get("temperature", 1)
    if "top_k" in fields:
        scores = scores.masked_fill(scores < scores.topk(fields["top_k"]).values[:, -1:], -torch.inf)
    if "top_p" in fields:
        ranked, order = scores.softmax(-1).sort(descending=True)
        drop = ranked.cumsum(-1) - ranked >= fields["top_p"]
        scores[0, order[drop]] = -torch.inf
    if "min_p" in fields:
        shares = scores.softmax(-1)
        scores = scores.masked_fill(shares < fields["min_p"] * shares.max(), -torch.inf)
    wanted = scores.softmax(-1)[0].numpy()
    sampler = Sampler(Sampling(seed=3, **fields), [1], [])
    drawn = np.bincount([sampler.choose([1], logits) for _ in range(4000)], minlength=40)
    assert (drawn[wanted == 0] == 0).all()
    expected = 4000 * wanted
    usual = expected > 5
    assert (((drawn - expected)[usual] ** 2) / expected[usual]).sum() < 3 * usual.sum()


def test_a_temperature_of_nothing_is_greedy(backend: TransformersBackend) -> None:
    assert content(streamed(backend, text("a", temperature=1e-9))) == content(streamed(backend, text("a")))


# ---------------------------------------------------------------- log-probabilities and readouts


def plain_logprobs(engine: TransformersBackend, prompt: tuple[int, ...], ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        logits = engine._model(torch.tensor([[*prompt, *ids]]), use_cache=False).logits[0]
    return torch.log_softmax(logits.float(), dim=-1)[len(prompt) - 1 : -1]


def test_logprobs_are_those_of_a_plain_pass(backend: TransformersBackend) -> None:
    body = chat("hello", temperature=1, seed=3, logprobs=True, top_logprobs=3)
    prompt = chat_tokens(backend._tokenizer, body)
    entries = complete(backend, body)["choices"][0]["logprobs"]["content"]
    (twin,) = text_tokens(backend._tokenizer, list(prompt))
    assert twin == prompt
    by_text = complete(backend, text(list(prompt), temperature=1, seed=3, logprobs=3))["choices"][0]["logprobs"]
    assert [entry["logprob"] for entry in entries] == by_text["token_logprobs"]
    sampler, ids = Sampler(Sampling(temperature=1, seed=3), prompt, [2]), []
    for entry in entries:
        with torch.inference_mode():
            logits = backend._model(torch.tensor([[*prompt, *ids]]), use_cache=False).logits[:, -1]
        ids.append(sampler.choose([*prompt, *ids], logits))
        logprobs = torch.log_softmax(logits[0], dim=-1)
        assert entry["token"] == backend._tokenizer.decode([ids[-1]])
        assert entry["bytes"] == list(entry["token"].encode())
        assert entry["logprob"] == pytest.approx(float(logprobs[ids[-1]]), abs=1e-4)
        best, tokens = logprobs.topk(3)
        assert [top["logprob"] for top in entry["top_logprobs"]] == pytest.approx(best.tolist(), abs=1e-4)
        assert [top["token"] for top in entry["top_logprobs"]] == [backend._tokenizer.decode([t]) for t in tokens]


def test_logprobs_of_streams_are_those_of_whole_replies(backend: TransformersBackend) -> None:
    for body in (text("hello", logprobs=2, max_tokens=30), chat("hello", logprobs=True, max_tokens=30)):
        whole = complete(backend, body)["choices"][0]["logprobs"]
        parts = [c["logprobs"] for chunk in streamed(backend, body) for c in chunk["choices"] if c["logprobs"]]
        for name, values in whole.items():
            assert [value for part in parts for value in part[name]] == values
    offsets = complete(backend, text("hello", logprobs=0))["choices"][0]["logprobs"]["text_offset"]
    assert offsets == sorted(offsets)
    assert offsets[0] == 0


def test_readouts_are_projections_before_steering(backend: TransformersBackend, catalogue: Catalogue) -> None:
    readout = Readout(1, (0, 3))
    body = text("The lake", max_tokens=10, ignore_eos=True)
    reply = complete(backend, body, PLAN, readout)
    (prompt,) = text_tokens(backend._tokenizer, "The lake")
    ids = generated(backend, prompt, PLAN, max_new_tokens=10, eos_token_id=NEVER)
    seen: list[torch.Tensor] = []
    handle = blocks_of(backend._model)[1].register_forward_hook(lambda _m, _i, out: seen.append(residual(out)[0]))
    with (
        Steering(backend._model, [interventions(PLAN, backend._catalogue.units)], [len(prompt)]),
        torch.inference_mode(),
    ):
        backend._model(torch.tensor([[*prompt, *ids[:-1]]]), use_cache=False)
    handle.remove()
    wanted = seen[0][len(prompt) :].numpy() @ catalogue.units[1][[0, 3]].T / catalogue.norms[1]
    found = reply["readout"]
    assert found["layer"] == 1
    assert "".join(found["tokens"]) == reply["choices"][0]["text"]
    assert len(found["tokens"]) == len(found["values"]) == 10
    assert found["values"][-1] is None
    np.testing.assert_allclose(found["values"][:-1], wanted, atol=1e-4)
    chunks = streamed(backend, body, PLAN, readout)
    tokens = [token for chunk in chunks for choice in chunk["choices"] for token in choice.get("tokens", [])]
    parts = [chunk["readout"] for chunk in chunks if chunk["object"] == "affectome.readout"]
    assert tokens == found["tokens"]
    assert [value for part in parts for value in part["values"]] == found["values"][:-1]
    assert [part["first"] for part in parts] == np.cumsum([0, *(len(p["values"]) for p in parts[:-1])]).tolist()
    for chunk in chunks:
        for choice in chunk["choices"]:
            assert choice["text"] == "".join(choice.get("tokens", []))


def test_readouts_follow_a_text_that_is_cut(backend: TransformersBackend) -> None:
    body = text("The lake", max_tokens=30, temperature=1, seed=8)
    whole = complete(backend, body)["choices"][0]["text"]
    stop = whole[6:8]
    reply = complete(backend, body | {"stop": stop}, (), Readout(1, (0,)))
    assert reply["choices"][0]["text"] == whole[: whole.index(stop)]
    assert "".join(reply["readout"]["tokens"]) == reply["choices"][0]["text"]
    assert len(reply["readout"]["values"]) == len(reply["readout"]["tokens"])
    with pytest.raises(Refused, match="one reply"):
        complete(backend, body | {"n": 2}, (), Readout(1, (0,)))


# ---------------------------------------------------------------- text


def tokens_of(words: str) -> list[int]:
    return tiny_tokenizer()(words, add_special_tokens=False)["input_ids"]


def released(words: list[int], stops: list[str], prompt: tuple[int, ...] = (1,)) -> tuple[list[str], bool]:
    """What goes out after each token, and at the end."""
    out = Text(tiny_tokenizer(), prompt, stops)
    pieces = []
    for token in words:
        pieces.append("".join(item.text for item in out.add(Token(token, ""))))
        if out.stopped:
            return pieces, True
    return [*pieces, "".join(item.text for item in out.end())], False


def _bytes() -> dict[int, str]:
    """GPT-2's printed form of every byte."""
    printed = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printed]
    return {byte: chr(byte) for byte in printed} | {byte: chr(256 + n) for n, byte in enumerate(others)}


BYTES = _bytes()


@given(st.text(max_size=30))
@settings(max_examples=60, deadline=None)
def test_no_half_character_goes_out(words: str) -> None:
    pieces, _ = released(tokens_of(words), [])
    assert "".join(pieces) == words
    assert all("\ufffd" not in piece for piece in pieces) or "\ufffd" in words


@given(st.lists(st.integers(0, 255), max_size=24), st.integers(0, 3))
@settings(max_examples=200, deadline=None)
def test_bytes_of_any_kind_give_the_text_that_they_are(values: list[int], tail: int) -> None:
    """However broken; what is left of a character that never ends is left out."""
    letters = tiny_tokenizer().convert_tokens_to_ids
    raw = bytes(values) + "é€😀"[:tail].encode()
    ids = [letters(BYTES[byte]) for byte in raw]
    pieces, _ = released(ids, [])
    assert "".join(pieces).rstrip("\ufffd") == raw.decode(errors="replace").rstrip("\ufffd")


@given(st.text("abcé", max_size=16), st.lists(st.text("abcé", min_size=1, max_size=3), max_size=3))
@settings(max_examples=300, deadline=None)
def test_texts_end_before_the_first_stop_string(words: str, stops: list[str]) -> None:
    pieces, stopped = released(tokens_of(words), stops)
    # A text ends as soon as one of them is there, and before the earliest of those that are there by then.
    wanted, ended = words, False
    for end in range(len(words) + 1):
        places = [words[:end].find(stop) for stop in stops if stop in words[:end]]
        if places:
            wanted, ended = words[: min(places)], True
            break
    assert "".join(pieces) == wanted
    assert stopped == ended
    # Nothing that goes out is ever taken back, and nothing is held without need.
    held = ""
    for token_count, piece in enumerate(pieces[: len(tokens_of(words))], 1):
        held += piece
        assert wanted.startswith(held)
        if not stops:
            sofar = tiny_tokenizer().decode(tokens_of(words)[:token_count])
            assert sofar.rstrip("\ufffd").startswith(held)


def test_a_prompt_that_ends_within_a_character_takes_nothing_from_the_reply() -> None:
    half = tuple(tokens_of("€"))[:2]
    assert released(tokens_of("€a"), [], prompt=(1, *half))[0] == ["", "", "€", "a", ""]


def test_stop_strings_across_tokens_are_held_back() -> None:
    assert released(tokens_of("say stXstop"), ["stop"])[0] == ["", "sa", "y", " ", "", "", "stX", *[""] * 4]
    assert released(tokens_of("so st"), ["stop"]) == (["", "so", " ", "", "", "st"], False)


def test_stops_in_requests(backend: TransformersBackend) -> None:
    body = text("The lake", max_tokens=40, temperature=1, seed=4)
    whole = complete(backend, body)
    words = whole["choices"][0]["text"]
    for stop in (words[5:7], [words[9:11], "never there"]):
        stops = [stop] if isinstance(stop, str) else stop
        reply = complete(backend, body | {"stop": stop})
        assert reply["choices"][0]["text"] == words[: min(words.find(s) for s in stops if s in words)]
        assert reply["choices"][0]["finish_reason"] == "stop"
        assert reply["usage"]["completion_tokens"] < whole["usage"]["completion_tokens"]
        assert content(streamed(backend, body | {"stop": stop})) == reply["choices"][0]["text"]
    (prompt,) = text_tokens(backend._tokenizer, "The lake")
    third = generated(backend, prompt)[2]
    reply = complete(backend, text("The lake", stop_token_ids=[third]))
    assert reply["usage"]["completion_tokens"] == generated(backend, prompt).index(third) + 1
    assert reply["choices"][0]["finish_reason"] == "stop"


# ---------------------------------------------------------------- prompts


def test_chats_go_through_the_template(backend: TransformersBackend) -> None:
    tokenizer = backend._tokenizer
    ids = chat_tokens(tokenizer, chat("hello"))
    assert tokenizer.decode(ids) == "<s>[user]hello</s>[assistant]"
    system = {"role": "system", "content": "Be brief."}
    body = {"messages": [system, {"role": "user", "content": "hello"}]}
    # This template knows no system message.
    assert tokenizer.decode(chat_tokens(tokenizer, body)) == "<s>[user]Be brief.\n\nhello</s>[assistant]"
    with pytest.raises(Refused, match="roles must alternate") as refused:
        chat_tokens(tokenizer, {"messages": [{"role": "user", "content": "a"}] * 2})
    assert (refused.value.status, refused.value.param) == (400, "messages")
    plain = tiny_tokenizer()
    assert plain.decode(chat_tokens(plain, body)) == "<s>Be brief.\n\nPerson: hello\n\nAI:"


def test_prompts_that_are_too_long_are_refused_with_numbers(backend: TransformersBackend) -> None:
    with pytest.raises(Refused, match="2001 tokens and a reply of 60 are 2061, and the model reads 2048") as refused:
        complete(backend, text("x" * 2000, max_tokens=60))
    assert (refused.value.status, refused.value.code) == (400, "context_length_exceeded")
    with pytest.raises(Refused, match="reply of 1 "):
        complete(backend, text("x" * 2048, max_tokens=None))
    for prompt, limit in ((2000, 47), (1000, 512)):
        body = text("x" * prompt, max_tokens=None)
        assert read_request("text", body, backend._tokenizer, backend._model.config, [2]).limit == limit
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    config = tiny_config("llama", 2, 16, rope_parameters=rope, max_position_embeddings=32)
    tokenizer = tiny_tokenizer(chat=CHAT_TEMPLATE)
    assert read_request("text", text("x", max_tokens=30), tokenizer, config, [2]).limit == 30
    with pytest.raises(Refused, match="32"):
        read_request("text", text("x", max_tokens=31), tokenizer, config, [2])
    long = {"rope_type": "longrope", "original_max_position_embeddings": 32, "rope_theta": 10000.0}
    long |= {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    config = tiny_config("llama", 2, 16, rope_parameters=long, max_position_embeddings=2048)
    assert read_request("text", text("x", max_tokens=None), tokenizer, config, [2]).limit == 30


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"continue_final_message": True}, "continue_final_message"),
        ({"add_generation_prompt": False}, "add_generation_prompt|leave it out"),
        ({"chat_template_kwargs": {"style": "x"}}, "style"),
        ({"logit_bias": {"999": 1.0}}, "logit_bias: 999 is no token of the model, which has 259"),
        ({"stop_token_ids": [2, 259]}, "stop_token_ids: 259 is no token of the model, which has 259"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(backend: TransformersBackend, fields: dict, says: str) -> None:
    with pytest.raises(Refused, match=says) as refused:
        complete(backend, chat("hi", **fields))
    assert refused.value.status == 400
    assert refused.value.param in fields


def test_prompts_without_tokens_or_of_none_are_refused(backend: TransformersBackend) -> None:
    for prompt in ("", ["a", ""], [400], [[1], [259]], [2**31 - 1]):
        with pytest.raises(Refused) as refused:
            complete(backend, text(prompt))
        assert (refused.value.status, refused.value.param) == (400, "prompt")


# ---------------------------------------------------------------- the thread


def test_what_nobody_waits_for_ends_at_once(backend: TransformersBackend) -> None:
    batch = backend._worker._batch

    async def left() -> int:
        stream = backend.stream("chat", chat("hi", max_tokens=1900, ignore_eos=True, n=2), PLAN, None)
        async for chunk in stream:
            if chunk["choices"][0]["delta"].get("content"):
                break
        running = len(batch.rows)
        await stream.aclose()
        task = asyncio.create_task(backend.complete("chat", chat("hi", max_tokens=1900, ignore_eos=True), (), None))
        await asyncio.sleep(0.1)
        task.cancel()
        # The next reply's own steps have made them leave.
        await backend.complete("chat", chat("hi", max_tokens=3), (), None)
        return running

    assert run(left) == 2
    assert batch.rows == []


def test_more_than_there_are_places_for_wait_in_order(catalogue: Catalogue) -> None:
    engine = TransformersBackend(catalogue, rows=2, dtype="float32")
    most = 0

    async def all_of_them() -> list[int]:
        nonlocal most
        await engine.start()
        order: list[int] = []
        step, join = engine._worker._batch.step, engine._worker._batch.join

        def counted() -> torch.Tensor:
            nonlocal most
            most = max(most, len(engine._worker._batch.rows))
            return step()

        def noted(newcomers: list) -> torch.Tensor:
            order.extend(len(row.prompt) for row in newcomers)
            return join(newcomers)

        engine._worker._batch.step, engine._worker._batch.join = counted, noted
        bodies = [text("a" * length, max_tokens=8, ignore_eos=True) for length in range(1, 8)]
        await asyncio.gather(*(engine.complete("text", body, (), None) for body in bodies))
        await engine.stop()
        return order

    # Each with the token that begins a text.
    assert run(all_of_them) == list(range(2, 9))
    assert most == 2


def test_prompts_of_one_pass_stay_within_the_budget(backend: TransformersBackend) -> None:
    async def sizes() -> list[int]:
        worker = Worker(backend._model, rows=8, prompt_tokens=64)
        seen: list[int] = []
        join = worker._batch.join

        def noted(newcomers: list) -> torch.Tensor:
            seen.append(len(newcomers) * max(len(row.prompt) for row in newcomers))
            return join(newcomers)

        worker._batch.join = noted
        own, backend._worker = backend._worker, worker
        prompts = ["x" * n for n in (20, 20, 20, 20, 100, 5, 5)]
        try:
            await backend.complete("text", text(prompts, max_tokens=3), (), None)
        finally:
            backend._worker = own
            await asyncio.to_thread(worker.stop)
        return seen

    seen = run(sizes)
    assert [size for size in seen if size > 64] == [101]
    assert len(seen) < 7


def failing_block(engine: TransformersBackend, fails: Callable[[torch.Tensor], bool], error: Exception) -> Any:
    def hook(_block: Any, inputs: tuple, _output: Any) -> None:
        if fails(inputs[0]):
            # One of its own each time: an exception keeps the frames that it came through.
            raise type(error)(*error.args)

    return blocks_of(engine._model)[0].register_forward_hook(hook)


def test_a_failing_pass_fails_those_concerned_alone(backend: TransformersBackend) -> None:
    """A prompt of 400 tokens is too much for the memory; the replies beside it go on."""
    handle = failing_block(backend, lambda hidden: hidden.shape[1] > 300, torch.OutOfMemoryError("too much"))

    async def mixed() -> list[Any]:
        bodies = [text("a", max_tokens=60, ignore_eos=True), text("x" * 400), text("b"), text("c")]
        tasks = [backend.complete("text", body, PLAN, None) for body in bodies]
        return await asyncio.gather(*tasks, return_exceptions=True)

    try:
        first, long, second, third = run(mixed)
    finally:
        handle.remove()
    assert (long.status, long.code) == (503, "out_of_memory")
    assert first["usage"]["completion_tokens"] == 60
    assert second == complete(backend, text("b"), PLAN) | {name: second[name] for name in ("id", "created")}
    assert third["choices"] == complete(backend, text("c"), PLAN)["choices"]
    assert asyncio.run(backend.healthy())


def test_a_failing_step_fails_all_that_run_and_no_later_ones(backend: TransformersBackend) -> None:
    handle = failing_block(backend, lambda hidden: hidden.shape[1] == 1, RuntimeError("boom"))
    try:
        with pytest.raises(Refused, match="RuntimeError") as refused:
            complete(backend, text("a"))
    finally:
        handle.remove()
    assert refused.value.status == 500
    assert complete(backend, text("a"))["choices"][0]["finish_reason"]
    assert asyncio.run(backend.healthy())


def test_logits_that_are_no_numbers_fail_their_row_alone(backend: TransformersBackend) -> None:
    def poison(_block: Any, _inputs: tuple, output: Any) -> Any:
        hidden = residual(output).clone()
        if hidden.shape[1] == 1:
            hidden[0] = float("nan")
        return hidden if isinstance(output, torch.Tensor) else (hidden, *output[1:])

    async def both() -> list[Any]:
        # Whichever comes first is the batch's first row as long as it is there.
        tasks = [backend.complete("text", text(prompt), PLAN, None) for prompt in ("a", "b")]
        return await asyncio.gather(*tasks, return_exceptions=True)

    handle = blocks_of(backend._model)[2].register_forward_hook(poison)
    first_only = backend._worker._batch.step

    def once() -> torch.Tensor:
        logits = first_only()
        handle.remove()
        return logits

    backend._worker._batch.step = once
    try:
        replies = run(both)
    finally:
        backend._worker._batch.step = first_only
        handle.remove()
    failed = [reply for reply in replies if isinstance(reply, Refused)]
    assert [(error.status, error.code) for error in failed] == [(500, "not_finite")]
    (other,) = [reply for reply in replies if not isinstance(reply, Refused)]
    assert other["choices"] in [complete(backend, text(prompt), PLAN)["choices"] for prompt in ("a", "b")]


@pytest.mark.parametrize("fields", [{"repetition_penalty": 1e-320}, {"repetition_penalty": 1e-30, "top_p": 0.5}])
def test_the_smallest_penalty_that_is_allowed_harms_nobody(backend: TransformersBackend, fields: dict) -> None:
    async def both() -> list[dict]:
        bodies = [text("hi", temperature=1, ignore_eos=True, **fields), text("The lake")]
        return await asyncio.gather(*(backend.complete("text", body, (), None) for body in bodies))

    odd, other = run(both)
    assert odd["usage"]["completion_tokens"] == 12
    assert other["choices"] == complete(backend, text("The lake"))["choices"]


def test_a_token_beyond_the_vocabulary_fails_its_row_alone(
    backend: TransformersBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Sampler, "choose", lambda _self, _read, logits: logits.shape[-1])

    async def both() -> list[Any]:
        bodies = [text("hi", temperature=1), text("The lake")]
        tasks = [backend.complete("text", body, PLAN, None) for body in bodies]
        return await asyncio.gather(*tasks, return_exceptions=True)

    odd, other = run(both)
    assert (odd.status, odd.code) == (500, "not_finite")
    assert other["choices"] == complete(backend, text("The lake"), PLAN)["choices"]


def live() -> Counter[str]:
    """Live objects of the kinds that a reply brings with it, tensors among them."""
    gc.collect()
    kinds = (Row, Sampler, Text, Piece, End, Refused, DynamicCache, torch.Tensor, torch.Generator, asyncio.Queue)
    # Not isinstance: objects that stand for others would be asked what they are.
    return Counter(type(item).__name__ for item in gc.get_objects() if issubclass(type(item), kinds))


def test_nothing_is_left_of_a_storm(backend: TransformersBackend) -> None:
    """Of replies read to their end, left in the midst and while they wait, refused, and failed."""
    rng = random.Random(0)

    async def left(body: dict, chunks: int) -> None:
        async with aclosing(backend.stream("text", body, PLAN, None)) as stream:
            for _ in range(chunks):
                await anext(stream)

    async def one(number: int) -> None:
        body = text("x" * rng.randint(1, 40), max_tokens=4, temperature=rng.choice([0, 1]), n=2)
        way = number % 6
        if way < 2:
            await gathered(backend.stream("text", body, PLAN if way else (), None))
        elif way == 2:
            await left(body | {"max_tokens": 1900, "ignore_eos": True}, rng.randint(1, 3))
        elif way == 3:
            with suppress(TimeoutError):
                await asyncio.wait_for(backend.complete("text", body | {"max_tokens": 1900}, PLAN, None), 0.01)
        elif way == 4:
            with pytest.raises(Refused, match="tokens"):
                await backend.complete("text", body | {"max_tokens": 3000}, (), None)
        else:
            with suppress(Refused):
                await backend.complete("text", body | {"prompt": "x" * 400}, PLAN, None)

    async def storm(requests: int) -> None:
        numbers = iter(range(requests))

        async def client() -> None:
            for number in numbers:
                await one(number)

        await asyncio.gather(*(client() for _ in range(40)))
        # Its own turns make those leave that nobody waits for.
        await backend.complete("text", text("a", max_tokens=2), (), None)

    handle = failing_block(backend, lambda hidden: hidden.shape[1] > 300, torch.OutOfMemoryError("too much"))
    logging.disable()
    try:
        # What is made once is made.
        run(lambda: storm(6))
        before = live()
        run(lambda: storm(240))
        assert live() - before == Counter()
    finally:
        logging.disable(logging.NOTSET)
        handle.remove()


def test_a_reply_that_was_not_steered_is_an_error(
    backend: TransformersBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("affectome.serve.batching._Layer.apply", lambda _self, hidden, _index: hidden)
    with pytest.raises(Refused, match=r"0 of .* positions") as refused:
        complete(backend, text("a"), PLAN)
    assert refused.value.code == "never_steered"
    assert complete(backend, text("a"))["choices"]


def test_stopping_ends_what_runs(catalogue: Catalogue) -> None:
    engine = TransformersBackend(catalogue, rows=1, dtype="float32")

    async def stopped() -> list[Any]:
        await engine.start()
        body = text("a", max_tokens=1900, ignore_eos=True)
        tasks = [asyncio.create_task(engine.complete("text", body, (), None)) for _ in range(2)]
        await asyncio.sleep(0.2)
        assert await engine.healthy()
        await engine.stop()
        assert not await engine.healthy()
        with pytest.raises(Refused):
            await engine.complete("text", body, (), None)
        return await asyncio.gather(*tasks, return_exceptions=True)

    assert [error.status for error in run(stopped)] == [503, 503]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_has_died_is_not_healthy(catalogue: Catalogue) -> None:
    engine = TransformersBackend(catalogue, dtype="float32")

    async def died() -> Refused:
        await engine.start()

        def die() -> None:
            raise SystemExit

        engine._worker._turn = die
        with pytest.raises(Refused) as refused:
            await engine.complete("text", text("a"), (), None)
        assert not await engine.healthy()
        await engine.stop()
        return refused.value

    assert run(died).status == 503


def test_a_folder_that_is_no_model_is_told(tmp_path: Path, catalogue: Catalogue) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(UserError):
        asyncio.run(TransformersBackend(replace(catalogue, model_folder=tmp_path)).start())


@pytest.mark.parametrize("architecture", ["gpt2", "gemma3_text", "gpt_neox", "qwen3_next"])
def test_other_architectures_are_steered_as_steering_does(tmp_path: Path, architecture: str) -> None:
    engine = TransformersBackend(tiny_catalogue(tmp_path, architecture, blocks=4), dtype="float32")

    async def replies() -> list[dict]:
        await engine.start()
        requests = [("The lake lay still", PLAN), ("A", ()), ("She left. " * 3, PLAN[:2]), ("x", PLAN[2:])]
        tasks = [engine.complete("text", text(prompt, logprobs=0), plan, None) for prompt, plan in requests]
        found = await asyncio.gather(*tasks)
        for (prompt, plan), reply in zip(requests, found, strict=True):
            (ids,) = text_tokens(engine._tokenizer, prompt)
            assert is_text_of(engine, reply["choices"][0]["text"], generated(engine, ids, plan))
        await engine.stop()
        return found

    assert len(run(replies)) == 4


def test_plans_become_interventions(backend: TransformersBackend, catalogue: Catalogue) -> None:
    (item,) = interventions(PLAN[:1], backend._catalogue.units)
    assert isinstance(item, Intervention)
    assert item.lengths == {1: 3.0, 2: 2.0}
    assert (item.mode, item.positions) == ("add", "generated")
    np.testing.assert_array_equal(item.directions[2], catalogue.units[2][0])


def test_bytes_of_the_tiny_tokenizer() -> None:
    assert tokens_of("!") == [FIRST_BYTE]
