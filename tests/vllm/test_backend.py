"""The backend with the real vLLM and real weights: steered replies, streams, readouts, and places that are freed."""

import asyncio
import re

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from affectome.models.load import native_bfloat16
from affectome.serve.backend import READOUT
from affectome.serve.catalogue import open_file
from affectome.serve.plan import Change, Readout, Refused
from affectome.serve.transformers_backend import interventions
from affectome.serve.vllm_backend import VllmBackend
from affectome.steering.instrument import Steering, blocks_of
from tests.unit.serving import write_vectors
from tests.vllm.test_vllm import WHY_NOT

pytestmark = [pytest.mark.vllm, pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)]

LAYER = 20
STEERED = (Change(0, ((LAYER, 30.0),)),)
CHAT = {
    "model": "smollm2-135m",
    "messages": [{"role": "user", "content": "Tell a story about a lake."}],
    "temperature": 0,
    "max_tokens": 24,
}
TEXT = {"model": "smollm2-135m", "prompt": "The lake lay", "temperature": 0, "max_tokens": 12}


@pytest.fixture(scope="module")
def runner():
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def backend(runner, weights, tmp_path_factory):
    folder = tmp_path_factory.mktemp("backend")
    vectors = write_vectors(folder / "vectors.safetensors", 576, 30)
    backend = VllmBackend(open_file(vectors, weights), gpus=0, max_model_len=512, log_file=folder / "vllm.log")
    runner.run(backend.start())
    yield backend
    runner.run(backend.stop())


async def chunks_of(stream):
    return [chunk async for chunk in stream]


def text_of(chunks):
    return "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks if chunk["choices"])


def test_a_reply_is_steered_and_streamed_alike(runner, backend):
    plain = runner.run(backend.complete("chat", CHAT, (), None))
    steered = runner.run(backend.complete("chat", CHAT, STEERED, None))
    texts = [reply["choices"][0]["message"]["content"] for reply in (plain, steered)]
    assert texts[0] != texts[1]
    for plan, text in zip(((), STEERED), texts, strict=True):
        body = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}
        chunks = runner.run(chunks_of(backend.stream("chat", body, plan, None)))
        assert text_of(chunks) == text
        assert chunks[-1]["choices"] == []
        assert chunks[-1]["usage"] == steered["usage"]
    assert set(plain) == {"id", "object", "created", "model", "choices", "usage"}
    assert plain["choices"][0]["finish_reason"] == "length"
    assert plain["usage"]["completion_tokens"] == 24


def test_readouts_come_with_their_tokens(runner, backend, weights):
    readout = Readout(LAYER, (1, 0))
    reply = runner.run(backend.complete("text", TEXT, STEERED, readout))
    found = reply["readout"]
    assert "".join(found["tokens"]) == reply["choices"][0]["text"]
    assert len(found["tokens"]) == 12
    assert [value is None for value in found["values"]] == [False] * 11 + [True]
    assert reply["choices"][0].get("logprobs") is None

    body = {**TEXT, "stream": True, "stream_options": {"include_usage": True}}
    chunks = runner.run(chunks_of(backend.stream("text", body, STEERED, readout)))
    tokens = [token for chunk in chunks if chunk["object"] != READOUT for token in part(chunk)]
    assert tokens == found["tokens"]
    values = {}
    for chunk in chunks:
        if chunk["object"] == READOUT:
            values |= dict(enumerate(chunk["readout"]["values"], chunk["readout"]["first"]))
    assert [values[number] for number in range(11)] == found["values"][:11]
    assert "usage" in chunks[-1]

    wanted = projections(backend.catalogue, weights, reply["choices"][0]["text"], readout)
    tolerance = 0.05 if native_bfloat16(torch.device("cpu")) else 1e-3
    np.testing.assert_allclose(found["values"][:11], wanted[:11], atol=tolerance)


def part(chunk):
    return chunk["choices"][0]["tokens"] if chunk["choices"] else []


def projections(catalogue, folder, text, readout):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompt = tokenizer(TEXT["prompt"])["input_ids"]
    ids = prompt + tokenizer(text, add_special_tokens=False)["input_ids"]
    seen = []
    handle = blocks_of(model)[readout.layer].register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    with torch.inference_mode(), Steering(model, [interventions(STEERED, catalogue.units)], [len(prompt)]):
        model(torch.tensor([ids]))
    handle.remove()
    hidden = seen[-1] if isinstance(seen[-1], torch.Tensor) else seen[-1][0]
    units = catalogue.units[readout.layer][list(readout.directions)]
    return hidden[0, len(prompt) :].numpy() @ units.T / catalogue.norms[readout.layer]


def test_a_stop_string_and_log_probabilities_are_as_the_client_asked(runner, backend):
    whole = runner.run(backend.complete("chat", CHAT, (), None))["choices"][0]["message"]["content"]
    stop = whole.split()[6]
    body = {**CHAT, "stop": [stop], "logprobs": True}
    reply = runner.run(backend.complete("chat", body, (), Readout(LAYER, (0,))))
    text = reply["choices"][0]["message"]["content"]
    assert stop not in text
    assert "".join(reply["readout"]["tokens"]).startswith(text)
    assert len(reply["choices"][0]["logprobs"]["content"]) >= len(reply["readout"]["tokens"])


@pytest.mark.parametrize(
    ("kind", "asked"),
    [
        ("chat", {"messages": CHAT["messages"]}),
        ("chat", {"messages": CHAT["messages"] * 15, "stream": True, "stream_options": {"include_usage": True}}),
        ("text", {"prompt": "The lake lay"}),
        ("text", {"prompt": [5] * 500}),
        ("text", {"prompt": ["The lake lay", "The lake " * 240]}),
        ("text", {"prompt": [[5] * 100, [5] * 505], "stream": True, "stream_options": {"include_usage": True}}),
    ],
)
def test_a_reply_of_no_said_length_fits_the_context(runner, backend, weights, kind, asked):
    body = {"model": "smollm2-135m", "temperature": 0, "ignore_eos": True} | asked
    if "stream" in body:
        usage = runner.run(chunks_of(backend.stream(kind, body, STEERED, None)))[-1]["usage"]
    else:
        usage = runner.run(backend.complete(kind, body, STEERED, None))["usage"]
    tokenizer = AutoTokenizer.from_pretrained(weights)
    if kind == "chat":
        prompts = [tokenizer.apply_chat_template(body["messages"], add_generation_prompt=True, return_dict=False)]
    else:
        several = isinstance(body["prompt"], list) and not isinstance(body["prompt"][0], int)
        prompts = body["prompt"] if several else [body["prompt"]]
        prompts = [tokenizer(prompt)["input_ids"] if isinstance(prompt, str) else prompt for prompt in prompts]
    lengths = [len(prompt) for prompt in prompts]
    assert usage["prompt_tokens"] == sum(lengths)
    assert usage["completion_tokens"] == len(lengths) * (512 - max(lengths))


def test_a_prompt_that_leaves_nothing_is_refused(runner, backend):
    for kind, asked in (("text", {"prompt": [5] * 512}), ("chat", {"messages": CHAT["messages"] * 80})):
        with pytest.raises(Refused, match="no room for a reply: the model reads 512") as refused:
            runner.run(backend.complete(kind, {"model": "smollm2-135m"} | asked, (), None))
        assert (refused.value.status, refused.value.code) == (400, "context_length_exceeded")


def test_who_goes_away_frees_a_place(runner, backend):
    async def leave():
        stream = backend.stream("chat", {**CHAT, "max_tokens": 400, "ignore_eos": True, "stream": True}, STEERED, None)
        async for chunk in stream:
            if text_of([chunk]):
                break
        whole = asyncio.ensure_future(
            backend.complete("chat", {**CHAT, "max_tokens": 400, "ignore_eos": True}, (), None)
        )
        await until(backend, 2)
        await stream.aclose()
        await until(backend, 1)
        whole.cancel()
        await until(backend, 0)

    runner.run(leave())


async def until(backend, running):
    for _ in range(600):
        answer = await backend._http.get(backend._served.base_url.removesuffix("/v1") + "/metrics")
        if float(re.search(r"^vllm:num_requests_running\{.*\} (\S+)", answer.text, re.M)[1]) == running:
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"there are not {running} requests running")


def test_many_with_plans_of_their_own_at_once(runner, backend):
    plans = [(), STEERED, (Change(1, ((LAYER, 30.0),), positions="all"),)] * 4

    async def at_once():
        return await asyncio.gather(*(backend.complete("chat", CHAT, plan, None) for plan in plans))

    texts = [reply["choices"][0]["message"]["content"] for reply in runner.run(at_once())]
    assert len(set(texts[:3])) == 3


def test_what_vllm_refuses_is_refused_in_its_words(runner, backend):
    async def stream(body, plan):
        return await chunks_of(backend.stream("chat", {**body, "stream": True}, plan, None))

    for ask in (lambda *given: backend.complete("chat", *given, None), stream):
        with pytest.raises(Refused, match="512") as refused:
            runner.run(ask({**CHAT, "messages": [{"role": "user", "content": "word " * 600}]}, ()))
        assert refused.value.status == 400
        with pytest.raises(Refused, match="layer 77 has no directions"):
            runner.run(ask(CHAT, (Change(0, ((77, 1.0),)),)))
    assert runner.run(backend.healthy())


def test_a_dead_engine_is_said_to_be_dead(runner, backend, caplog):
    """The last test: nothing of the server is left after it."""
    backend._served._process.terminate()
    backend._served._process.wait()
    assert not runner.run(backend.healthy())
    with pytest.raises(Refused, match="the engine has ended") as refused:
        runner.run(backend.complete("chat", CHAT, (), None))
    assert refused.value.status == 503
    assert "vLLM ended" in caplog.text
