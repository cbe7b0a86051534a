"""What every request comes through: checks, turns, limits and counts, with nothing left behind."""

import asyncio
import json
from contextlib import aclosing

import pytest
from prometheus_client import generate_latest

from affectome.serve.plan import Refused
from affectome.serve.service import Limits, Service
from tests.echo import Echo
from tests.unit.serving import tiny_catalogue


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory):
    return tiny_catalogue(tmp_path_factory.mktemp("served"))


def chat(text="one two", **fields):
    return {"messages": [{"role": "user", "content": text}], "max_tokens": 3} | fields


def refused(service, body, kind="chat"):
    with pytest.raises(Refused) as caught:
        asyncio.run(service.complete(kind, body))
    return caught.value


async def until(condition, seconds=60.0):
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


def metrics(service):
    lines = generate_latest(service.metrics.registry).decode().splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}


def test_the_engine_gets_a_plain_request_and_the_plan_beside_it(catalogue):
    service = Service(catalogue, engine := Echo(), Limits())
    body = chat(
        [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}],
        model="tiny",
        user="me",
        metadata={"a": "b"},
        max_completion_tokens=3,
        temperature=0,
        steering=[{"emotion": "calm", "strength": 0.1}],
        extra_body={"top_k": 5},
    )
    body["messages"].insert(0, {"role": "developer", "content": "Be brief."})
    kept = json.dumps(body)
    reply = asyncio.run(service.complete("chat", body))
    ((kind, sent, plan, readout),) = engine.asked
    assert (kind, readout) == ("chat", None)
    assert sent == {
        "model": "tiny",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "one\ntwo"}],
        "max_tokens": 3,
        "temperature": 0,
        "top_k": 5,
        "stream": False,
    }
    assert [(change.direction, change.mode) for change in plan] == [(0, "add")]
    assert reply["choices"][0]["message"]["content"] == "one two one "
    # What the caller gave is still what it gave.
    assert json.dumps(body) == kept


def test_a_reply_has_a_length_when_none_is_asked_for(catalogue):
    # The engine knows what the prompt leaves.
    for most, expected in ((4096, None), (7, 7)):
        service = Service(catalogue, engine := Echo(), Limits(max_tokens=most))
        asyncio.run(service.complete("text", {"prompt": "one"}))
        assert engine.asked[0][1].get("max_tokens") == expected
    assert refused(service, chat(max_tokens=8)).message == "max_tokens is at most 7 on this server"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"temperature": "1"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"n": 17}, "n"),
        ({"n": [1]}, "n"),
        ({"n": "1", "readout": {"emotions": ["calm"]}}, "n"),
        ({"n": 2, "readout": {"emotions": ["calm"]}}, "readout"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"stop": [""]}, "stop"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "messages"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 10**30}, "max_tokens"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"steerng": []}, "steerng"),
        ({"allow_unsafe": "yes"}, "allow_unsafe"),
        ({"allow_unsafe": 1}, "allow_unsafe"),
        ({"vllm_xargs": {"affectome": "{}"}}, "vllm_xargs"),
        ({"vllm_xargs": [1]}, "vllm_xargs"),
        ({"extra_body": {"max_tokens": 3}}, "extra_body"),
        ({"extra_body": 3}, "extra_body"),
        ({"steering": [{"emotion": "calm", "strength": 0.9}]}, "steering"),
        ({"user": "\ud800"}, None),
    ],
)
def test_what_cannot_be_answered_is_refused_by_name(catalogue, fields, param):
    service = Service(catalogue, engine := Echo(), Limits())
    error = refused(service, chat(**fields))
    assert (error.status, error.param) == (400, param)
    assert engine.asked == []


def test_messages_name_the_place_and_what_is_near(catalogue):
    service = Service(catalogue, Echo(), Limits())
    assert refused(service, chat(steerng=[])).message == "steerng: there is no such field; did you mean steering?"
    assert "messages.0.content" in refused(service, {"messages": [{"role": "user", "content": 3}]}).message
    error = refused(service, chat(model="gpt-4o"))
    assert (error.status, error.code) == (404, "model_not_found")
    assert "tiny" in error.message
    assert refused(service, chat(stream_options={})).message == "stream_options is only allowed with stream: true"


def test_fields_of_a_reply_can_be_sent_back(catalogue):
    service = Service(catalogue, Echo(), Limits())
    turn = {"role": "assistant", "content": "x", "refusal": None, "audio": None, "tool_calls": [], "annotations": []}
    messages = [{"role": "user", "content": "a"}, turn | {"function_call": None}, {"role": "user", "content": "b"}]
    reply = asyncio.run(service.complete("chat", {"messages": messages, "max_tokens": 1, "tools": [], "stop": None}))
    assert reply["choices"][0]["message"]["content"] == "b "


def test_a_readout_names_its_emotions_and_layer(catalogue):
    async def both():
        service = Service(catalogue, Echo(), Limits())
        body = chat(readout={"emotions": ["sad", "calm"], "layer": 1})
        whole = await service.complete("chat", body)
        return whole, [chunk async for chunk in service.stream("chat", body | {"stream": True})]

    whole, chunks = asyncio.run(both())
    assert whole["readout"] == {
        "layer": 1,
        "emotions": ["sad", "calm"],
        "tokens": ["one ", "two ", "one "],
        "values": [[3.0, 0.0], [3.0, 0.0], None],
    }
    readouts = [chunk["readout"] for chunk in chunks if "readout" in chunk]
    assert readouts == [
        {"layer": 1, "emotions": ["sad", "calm"], "first": first, "values": [[3.0, 0.0]]} for first in (0, 1)
    ]


def test_usage_is_counted_always_and_sent_where_asked_for(catalogue):
    async def stream(service, **fields):
        return [chunk async for chunk in service.stream("chat", chat(stream=True, **fields))]

    service = Service(catalogue, Echo(), Limits())
    assert all(chunk["choices"] for chunk in asyncio.run(stream(service)))
    assert metrics(service)["affectome_generated_tokens_total"] == 3
    chunks = asyncio.run(stream(service, stream_options={"include_usage": True}))
    assert chunks[-1]["usage"]["completion_tokens"] == 3
    steering = [{"emotion": "calm"}, {"emotion": "random:0", "family": "random"}, {"emotion": "sad"}]
    asyncio.run(stream(service, steering=steering))
    found = metrics(service)
    assert found["affectome_generated_tokens_total"] == 9
    assert found['affectome_steered_requests_total{family="emotion"}'] == 1
    assert found['affectome_steered_requests_total{family="random"}'] == 1
    assert found["affectome_time_to_first_token_seconds_count"] == 3


def test_more_than_there_is_room_for_is_refused_and_the_rest_wait_their_turn(catalogue):
    async def crowd():
        service = Service(catalogue, engine := Echo(0.02), Limits(concurrency=2, queue=3))
        tasks = [asyncio.create_task(service.complete("chat", chat(f"w{number}"))) for number in range(8)]
        await until(lambda: engine.open == 2)
        assert (service.running, service.waiting) == (2, 3)
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert (service.running, service.waiting, engine.open) == (0, 0, 0)
        return done, engine

    done, engine = asyncio.run(crowd())
    assert [type(result) for result in done] == [dict] * 5 + [Refused] * 3
    assert {result.status for result in done[5:]} == {429}
    assert [body["messages"][0]["content"] for _, body, *_ in engine.asked] == [f"w{number}" for number in range(5)]


@pytest.mark.parametrize("way", ["complete", "stream"])
def test_a_reply_that_takes_too_long_is_ended(catalogue, way):
    async def slow():
        service = Service(catalogue, engine := Echo(0.05), Limits(timeout_s=0.2, concurrency=1))
        body = chat(max_tokens=1000, stream=way == "stream")

        async def ask():
            if way == "complete":
                return await service.complete("chat", body)
            async with aclosing(service.stream("chat", body)) as chunks:
                return [chunk async for chunk in chunks]

        # The second waits for its place until its time is up.
        results = await asyncio.gather(ask(), ask(), return_exceptions=True)
        assert [(type(result), result.status, result.code) for result in results] == [(Refused, 504, "timeout")] * 2
        assert (service.running, service.waiting, engine.open) == (0, 0, 0)
        assert engine.written < 10

    asyncio.run(slow())


@pytest.mark.parametrize("way", ["closed", "cancelled", "cancelled while waiting", "failed"])
def test_whatever_ends_a_request_ends_its_generation(catalogue, way):
    async def go():
        service = Service(catalogue, engine := Echo(0.01), Limits(concurrency=1))
        if way == "failed":
            with pytest.raises(RuntimeError):
                await service.complete("chat", chat("fail"))
            with pytest.raises(RuntimeError):
                [chunk async for chunk in service.stream("chat", chat("break", stream=True))]
        elif way == "closed":
            async with aclosing(service.stream("chat", chat(max_tokens=1000))) as chunks:
                await anext(chunks)
                assert (service.running, engine.open) == (1, 1)
        else:
            tasks = [asyncio.create_task(service.complete("chat", chat(max_tokens=1000))) for _ in range(2)]
            await until(lambda: (service.running, service.waiting) == (1, 1))
            order = reversed(tasks) if way == "cancelled while waiting" else tasks
            for task in order:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        assert (service.running, service.waiting, engine.open) == (0, 0, 0)
        assert len(asyncio.all_tasks()) == 1
        assert await service.complete("chat", chat())

    asyncio.run(go())


def test_a_shut_down_lets_what_runs_end_and_takes_no_more(catalogue):
    async def go():
        service = Service(catalogue, Echo(0.05), Limits(concurrency=1))
        tasks = [asyncio.create_task(service.complete("chat", chat())) for _ in range(2)]
        await until(lambda: service.waiting)
        ending = asyncio.create_task(service.shutdown(5))
        await asyncio.sleep(0)
        assert not await service.healthy()
        with pytest.raises(Refused) as caught:
            await service.complete("chat", chat())
        assert caught.value.status == 503
        assert len(await asyncio.gather(*tasks)) == 2
        await ending

    asyncio.run(go())


def test_a_shut_down_cuts_what_does_not_end(catalogue):
    async def go():
        service = Service(catalogue, engine := Echo(0.01), Limits(concurrency=2))
        task = asyncio.create_task(service.complete("chat", chat(max_tokens=4000)))
        async with aclosing(service.stream("chat", chat(max_tokens=4000))) as chunks:
            await anext(chunks)
            await service.shutdown(0.05)
            # It stood between two chunks when the rest was cut.
            with pytest.raises(Refused, match="shutting down"):
                await anext(chunks)
        with pytest.raises(Refused, match="shutting down"):
            await task
        assert (service.running, engine.open) == (0, 0)

    asyncio.run(go())


def test_health_is_the_engines_and_never_hangs(catalogue, monkeypatch):
    class Hanging(Echo):
        async def healthy(self):
            await asyncio.sleep(60)

    monkeypatch.setattr("affectome.serve.service._HEALTH_S", 0.05)
    assert asyncio.run(Service(catalogue, Echo(), Limits()).healthy())
    assert not asyncio.run(Service(catalogue, Hanging(), Limits()).healthy())
