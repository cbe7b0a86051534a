"""OpenAI's routes on a real port: clients as they are meant to be, and those that hang up, stall, flood or lie."""

import asyncio
import gc
import json
import re
import socket
import time
from collections import Counter
from contextlib import suppress

import httpx
import hypothesis
import openai
import pytest
import schemathesis
from hypothesis import HealthCheck

from affectome.serve import app as app_module
from affectome.serve import server as server_module
from affectome.serve.app import create_app
from affectome.serve.plan import Refused
from affectome.serve.service import Limits, Service
from tests.echo import Echo
from tests.unit.serving import running, tiny_catalogue

MESSAGES = [{"role": "user", "content": "one two"}]
BODY = {"messages": MESSAGES, "max_tokens": 3}
KEY = "kéy"


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory):
    return tiny_catalogue(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def plain(catalogue):
    with running(catalogue) as found:
        yield found


def post(body, path="/v1/chat/completions", headers="", length=None):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    length = len(content) if length is None else length
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{headers}"
    return f"{head}Content-Length: {length}\r\n\r\n".encode() + content


def answer(connection):
    """The status and body of what comes on a connection until it is closed or the body is whole."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(65536)
        if not more:
            return 0, b""
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    length = [int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")]
    while length and len(body) < length[0]:
        body += connection.recv(65536)
    return int(head.split()[1]), body


def broken_off(connection, data, pause):
    """Whether the other side breaks a connection off, soon, while `data` is sent on it over and over."""
    end = time.monotonic() + 3
    with suppress(OSError):
        while time.monotonic() < end:
            connection.sendall(data)
            time.sleep(pause)
    return time.monotonic() < end


def client(server, **settings):
    return openai.OpenAI(base_url=f"{server.url}/v1", max_retries=0, **({"api_key": "any"} | settings))


# OpenAI's own client.


def test_openais_client_has_replies_whole_and_in_a_stream(plain):
    with client(plain) as ask:
        assert [model.id for model in ask.models.list()] == ["tiny"]
        assert ask.models.retrieve("tiny").owned_by == "affectome"
        steered = {"steering": [{"emotion": "calm", "strength": 0.1}], "top_k": 3}
        reply = ask.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=3, extra_body=steered)
        assert reply.choices[0].message.content == "one two one "
        assert reply.usage.completion_tokens == 3
        assert len(plain.engine.asked[-1][2]) == 1
        text = ask.completions.create(model="tiny", prompt="a b", max_tokens=2, n=2, extra_body={"steering": [0, 0.5]})
        assert [choice.text for choice in text.choices] == ["a b ", "a b "]
        assert plain.engine.asked[-1][2][0].positions == "all"
        stream = ask.chat.completions.create(
            model="tiny", messages=MESSAGES, max_tokens=3, stream=True, stream_options={"include_usage": True}
        )
        chunks = list(stream)
        assert "".join(chunk.choices[0].delta.content for chunk in chunks if chunk.choices) == "one two one "
        assert chunks[-1].usage.completion_tokens == 3
        raw = ask.chat.completions.with_raw_response.create(model="tiny", messages=MESSAGES, max_tokens=1)
        assert len(raw.headers["x-request-id"]) == 32
        assert raw.parse().choices[0].message.content == "one "


def test_openais_asynchronous_client_and_a_readout(plain):
    async def go():
        async with openai.AsyncOpenAI(base_url=f"{plain.url}/v1", api_key="any", max_retries=0) as ask:
            stream = await ask.chat.completions.create(
                model="tiny",
                messages=MESSAGES,
                max_tokens=4,
                stream=True,
                extra_body={"readout": {"emotions": ["sad"], "layer": 1}},
            )
            chunks = [chunk async for chunk in stream]
            assert [token for chunk in chunks for choice in chunk.choices for token in choice.tokens] == [
                "one ",
                "two ",
                "one ",
                "two ",
            ]
            found = [chunk.readout for chunk in chunks if chunk.object == "affectome.readout"]
            assert found[0] == {"layer": 1, "emotions": ["sad"], "first": 0, "values": [[3.0]]}
            many = [ask.completions.create(model="tiny", prompt=f"w{i}", max_tokens=2) for i in range(20)]
            assert [reply.choices[0].text for reply in await asyncio.gather(*many)] == [
                f"w{i} w{i} " for i in range(20)
            ]

    asyncio.run(go())


def test_errors_are_those_openais_client_knows(plain, catalogue):
    with client(plain) as ask:
        with pytest.raises(openai.BadRequestError) as caught:
            ask.chat.completions.create(
                model="tiny", messages=MESSAGES, extra_body={"steering": [{"emotion": "clam", "strength": 0.1}]}
            )
        assert caught.value.param == "steering"
        assert "near it: calm" in caught.value.message
        with pytest.raises(openai.NotFoundError):
            ask.chat.completions.create(model="gpt-4o", messages=MESSAGES)
        with pytest.raises(openai.NotFoundError):
            ask.models.retrieve("gpt-4o")
        with pytest.raises(openai.BadRequestError) as caught:
            ask.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "refuse"}], stream=True)
        assert caught.value.code == "context_length_exceeded"
    with running(catalogue, Echo(0.05), concurrency=1, queue=0) as server, client(server) as ask:
        stream = ask.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=100, stream=True)
        next(iter(stream))
        with pytest.raises(openai.RateLimitError) as caught:
            ask.chat.completions.create(model="tiny", messages=MESSAGES)
        assert int(caught.value.response.headers["retry-after"]) >= 1
        stream.close()


def test_an_engine_that_fails_tells_its_log_and_not_its_client(plain, caplog):
    with client(plain) as ask:
        with pytest.raises(openai.InternalServerError) as caught:
            ask.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "fail"}])
        text = caught.value.response.text
        name = caught.value.response.headers["x-request-id"]
        assert name in text
        assert "secret" not in text
        assert "Traceback" not in text
        (record,) = [record for record in caplog.records if name in record.getMessage()]
        assert "secret of the engine" in str(record.exc_info[1])
        stream = ask.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "break"}], max_tokens=9, stream=True
        )
        got = []
        with pytest.raises(openai.APIError, match="the server failed"):
            got.extend(chunk for chunk in stream)
    plain.idle()


# Who may ask.


def test_the_key_is_asked_for_where_models_are(catalogue, monkeypatch):
    compared = []
    compare = app_module.hmac.compare_digest
    monkeypatch.setattr(app_module.hmac, "compare_digest", lambda *given: compared.append(given) or compare(*given))
    with running(catalogue, api_key=KEY) as server, httpx.Client(base_url=server.url) as ask:
        # A browser opens the page of the documentation without a key, and is asked for it there.
        for path in ("/health", "/docs", "/docs/start.js", "/openapi.json"):
            assert ask.get(path).status_code == 200
            assert KEY not in ask.get(path).text
        for path in ("/v1/models", "/v1/emotions", "/v1/nothing", "/metrics"):
            for header in (
                None,
                b"Bearer",
                b"Bearer  x",
                b"Bearer key",
                b"Basic " + KEY.encode(),
                KEY.encode(),
                b"\xff",
            ):
                got = ask.get(path, headers={b"authorization": header} if header is not None else None)
                assert got.status_code == 401, (path, header)
                assert got.json()["error"]["type"] == "authentication_error"
                assert got.headers["www-authenticate"] == "Bearer"
            allowed = ask.get(path, headers={b"authorization": b"Bearer " + KEY.encode()})
            assert allowed.status_code == (404 if path == "/v1/nothing" else 200), path
        assert ask.post("/v1/completions", json={"prompt": "x"}).status_code == 401
        twice = [(b"authorization", b"Bearer " + KEY.encode()), (b"authorization", b"Bearer x")]
        assert ask.get("/v1/models", headers=twice).status_code == 401
        assert all(isinstance(part, bytes) for pair in compared for part in pair)
        assert compared
        with client(server) as wrong, pytest.raises(openai.AuthenticationError):
            wrong.models.list()


def test_pages_of_other_sites_cannot_use_the_server(plain):
    with httpx.Client(base_url=plain.url) as ask:
        for host in ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example:80", "[::2]", "a@b", ""):
            got = ask.get("/v1/models", headers={"host": host})
            assert (got.status_code, got.json()["error"]["code"]) == (403, "wrong_host"), host
        for host in ("localhost", f"LOCALHOST:{plain.port}", "127.0.0.1:1", "[::1]:8000"):
            assert ask.get("/health", headers={"host": host}).status_code == 200, host
        for origin in ("null", "http://evil.example", f"http://127.0.0.1:{plain.port + 1}", "", "http://[", "file://"):
            got = ask.post("/v1/chat/completions", json=BODY, headers={"origin": origin})
            assert (got.status_code, got.json()["error"]["code"]) == (403, "wrong_origin"), origin
        got = ask.post("/v1/chat/completions", json=BODY, headers={"origin": plain.url})
        assert got.status_code == 200
        assert not [name for name in got.headers if name.startswith("access-control")]
        assert ask.options("/v1/chat/completions", headers={"origin": plain.url}).status_code == 405
        # A form of another site can send this much, without asking first.
        got = ask.post("/v1/chat/completions", content=json.dumps(BODY), headers={"content-type": "text/plain"})
        assert got.status_code == 415


def test_others_names_are_for_servers_that_others_reach(catalogue):
    service = Service(catalogue, Echo(), Limits(api_key=KEY))

    async def go():
        transport = httpx.ASGITransport(create_app(service, loopback=False))
        async with httpx.AsyncClient(transport=transport, base_url="http://models.example") as ask:
            ask.headers = {b"authorization": b"Bearer " + KEY.encode()}
            assert (await ask.get("/v1/models")).status_code == 200
            assert (await ask.get("/v1/models", headers={"origin": "http://evil.example"})).status_code == 403

    asyncio.run(go())


def test_websockets_are_looked_at_too(catalogue):
    service, sent = Service(catalogue, Echo(), Limits()), []

    async def go(origin):
        async def send(message):
            sent.append(message)

        async def receive():
            return {"type": "websocket.connect"}

        headers = [(b"host", b"localhost"), (b"origin", origin)]
        scope = {"type": "websocket", "path": "/_nicegui_ws/socket.io/", "headers": headers, "query_string": b""}
        await create_app(service)(scope, receive, send)

    asyncio.run(go(b"http://evil.example"))
    assert sent == [{"type": "websocket.close", "code": 1008}]


def test_every_answer_has_the_headers_browsers_go_by(plain):
    with httpx.Client(base_url=plain.url) as ask:
        for path in ("/health", "/v1/models", "/docs", "/nothing"):
            headers = ask.get(path).headers
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["referrer-policy"] == "no-referrer"
            assert "frame-ancestors 'none'" in headers["content-security-policy"]
            assert "server" not in headers
        assert "unsafe" not in ask.get("/v1/models").headers["content-security-policy"]
        page = ask.get("/docs").text
        assert "//" not in page
        for name in ("start.js", "swagger-ui.css", "swagger-ui-bundle.js"):
            assert ask.get(f"/docs/{name}").status_code == 200
        assert ask.get("/docs/redoc.standalone.js").status_code == 404
        assert ask.get("/docs/..%2f__init__.py").status_code == 404


def test_unknown_paths_and_methods_answer_in_openais_shape(plain):
    with httpx.Client(base_url=plain.url) as ask:
        for path in ("/nothing", "/v1", "/v1/", "//v1/models", "/v1/models/", "/v1/chat/completions/"):
            got = ask.get(path)
            assert (got.status_code, got.json()["error"]["type"]) == (404, "not_found_error"), path
        for method, path, allowed in (
            ("GET", "/v1/chat/completions", "POST"),
            ("POST", "/health", "GET"),
            ("TRACE", "/v1/models", "GET"),
        ):
            got = ask.request(method, path)
            assert (got.status_code, got.headers["allow"]) == (405, allowed)
            assert got.json()["error"]["code"] == "method_not_allowed"


def test_what_is_served_is_told(plain):
    with httpx.Client(base_url=plain.url) as ask:
        told = ask.get("/v1/emotions").json()
        assert told["backend"] == "echo"
        assert told["limits"]["max_tokens"] == 4096
        assert "api_key" not in told["limits"]
        assert [entry["name"] for entry in told["data"][:4]] == ["calm", "afraid", "proud", "sad"]
        assert ask.get("/health").json() == {"status": "ok", "backend": "echo", "model": "tiny"}
        plain.engine.well = False
        assert ask.get("/health").status_code == 503
        plain.engine.well = True
        ask.post("/v1/chat/completions", json=BODY | {"user": "somebody"})
        found = ask.get("/metrics").text
        assert 'affectome_requests_total{route="/v1/chat/completions",status="200"}' in found
        assert "affectome_requests_running 0.0" in found
        assert "somebody" not in found
        document = ask.get("/openapi.json").json()
        examples = document["components"]["schemas"]["ChatRequest"]["examples"]
        for example in examples:
            assert ask.post("/v1/chat/completions", json=example).status_code == 200
        for example in document["components"]["schemas"]["TextRequest"]["examples"]:
            assert ask.post("/v1/completions", json=example).status_code == 200


# Bodies.


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b"\xff\xfe{}",
        b'{"prompt": "\xff"}',
        b'{"prompt": "\\ud800"}',
        b'{"\\udfff": 1}',
        b'{"prompt": NaN}',
        b'{"temperature": Infinity, "prompt": "x"}',
        b'{"temperature": 1e999, "prompt": "x"}',
        b'{"seed": ' + b"9" * 5000 + b', "prompt": "x"}',
        b'{"seed": ' + b"9" * 19 + b', "prompt": "x"}',
        b'{"prompt": "a", "prompt": "b"}',
        b'{"steering": ' + b"[" * 100_000 + b"]" * 100_000 + b', "prompt": "x"}',
        b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
        b'{"metadata": ' + b'{"a":' * 900 + b"1" + b"}" * 900 + b', "prompt": "x"}',
        b'\xef\xbb\xbf{"prompt": "x"}',
        b'{"prompt": "x"} {}',
        b'{"prompt": 3}',
        b'{"prompt": []}',
        b'{"prompt": [[]]}',
        b'{"prompt": [1, "a"]}',
        b'{"prompt": "x", "steering": [0, 1e308]}',
        b'{"prompt": "x", "steering": [99999999999999999999, 1]}',
        b'{"prompt": "x", "steering": [[[]]]}',
        b'{"prompt": "x", "stream": "yes"}',
        b'{"prompt": "x", "n": 1e400}',
        b'{"prompt": "x", "logit_bias": {"a": 1}}',
    ],
)
def test_bodies_that_are_no_request_are_refused(plain, body):
    got = httpx.post(f"{plain.url}/v1/completions", content=body, headers={"content-type": "application/json"})
    assert got.status_code == 400, got.text
    assert got.json()["error"]["message"]
    assert len(got.text) < 1000


def chunked(size, stop):
    for _ in range(0, stop, size):
        yield b" " * size


def test_bodies_are_limited_while_they_are_read(catalogue):
    with running(catalogue, max_body_bytes=10_000) as server:
        url = f"{server.url}/v1/completions"
        json_type = {"content-type": "application/json"}
        assert httpx.post(url, json={"prompt": "x" * 9000}).status_code == 200
        assert httpx.post(url, json={"prompt": "x" * 11000}).status_code == 413
        # Of these nobody says how long they are.
        assert httpx.post(url, content=chunked(100, 5000), headers=json_type).status_code == 400
        assert httpx.post(url, content=chunked(1000, 200_000), headers=json_type).status_code == 413
        for length in ("99999999999", "9" * 19):
            connection = server.connect(post(b"{", length=length))
            assert answer(connection)[0] == 413
            connection.close()
        got = httpx.post(url, content=b"x", headers=json_type | {"content-encoding": "gzip"})
        assert got.status_code == 415


def test_slow_senders_are_cut_off(catalogue, monkeypatch):
    monkeypatch.setattr(app_module, "BODY_S", 0.4)
    monkeypatch.setattr(server_module, "_HEAD_S", 0.4)
    with running(catalogue) as server:
        connection = server.connect(post(b"{", length=1000))
        assert broken_off(connection, b" ", 0.02)
        silent = server.connect(post(b"{", length=1000))
        status, body = answer(silent)
        assert (status, json.loads(body)["error"]["code"]) == (408, "body_too_slow")
        for beginning in (b"", b"GET /health HT", b"GET /health HTTP/1.1\r\nHost: localhost\r\nA: b\r\n"):
            head = server.connect(beginning)
            head.settimeout(3)
            # It ends with nothing said, or a reset.
            with suppress(ConnectionResetError):
                assert head.recv(100) == b""
        # The same after an answer, and with a body that nobody reads.
        second = server.connect(b"GET /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n")
        assert answer(second)[0] == 200
        assert broken_off(second, b" ", 0.02)
        server.until(lambda: not server.server.server_state.connections)


def test_a_head_without_end_is_refused(plain):
    connection = plain.connect(b"GET /health HTTP/1.1\r\nHost: localhost\r\n")
    assert broken_off(connection, b"A: " + b"b" * 1000 + b"\r\n", 0.0005)
    assert httpx.get(f"{plain.url}/health").status_code == 200


# Clients that go.


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_hangs_up_ends_its_generation(catalogue, stream):
    with running(catalogue, Echo(0.01), concurrency=2) as server:
        request = post(BODY | {"max_tokens": 4000, "stream": stream})
        crowd = [server.connect(request) for _ in range(4)]
        server.until(lambda: (server.service.running, server.service.waiting) == (2, 2))
        # Those that wait go first, then those that run.
        for connection in crowd[2:]:
            connection.close()
        server.until(lambda: server.service.waiting == 0)
        assert server.engine.begun == 2
        for connection in crowd[:2]:
            connection.close()
        server.idle()
        assert server.engine.written < 2000
        server.until(lambda: not server.server.server_state.connections)
        # 499 where nothing had been answered yet.
        counted = 'affectome_requests_total{route="/v1/chat/completions"'
        lines = httpx.get(f"{server.url}/metrics").text.splitlines()
        assert sum(float(line.split()[-1]) for line in lines if line.startswith(counted)) == 4


def test_a_client_that_goes_before_anything_is_written(catalogue):
    with running(catalogue, Echo(30)) as server:
        connection = server.connect(post(BODY | {"stream": True}))
        server.until(lambda: server.engine.open)
        connection.close()
        server.idle()


def test_slow_readers_hold_up_nobody_and_are_cut(catalogue, monkeypatch):
    monkeypatch.setattr(server_module, "_STALL_S", 1.0)
    with running(catalogue, Echo(width=20_000)) as server:
        slow = socket.socket()
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect((server.host, server.port))
        slow.sendall(post(BODY | {"max_tokens": 4000, "stream": True}))
        server.until(lambda: server.engine.written > 10)
        time.sleep(0.3)
        # 4,000 tokens are 240 MB: what was not taken was not written.
        written = server.engine.written
        assert written < 400
        assert httpx.post(f"{server.url}/v1/chat/completions", json=BODY).status_code == 200
        assert server.service.running == 1
        server.idle()
        server.until(lambda: not server.server.server_state.connections)
        assert server.engine.written < written + 10
        slow.close()


def test_nothing_is_left_after_500_hostile_requests(catalogue):
    with running(catalogue, Echo(0.001), concurrency=8, queue=8) as server:
        kinds = [
            lambda: server.connect(post(BODY | {"max_tokens": 4000, "stream": True})),
            lambda: server.connect(post(BODY | {"max_tokens": 4000})),
            lambda: server.connect(post(b"{" * 1000)),
            lambda: server.connect(post(b"", length=10**9)),
            lambda: server.connect(b"\x16\x03\x01\x00\xff" * 10),
            lambda: server.connect(
                b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nZ"
            ),
            lambda: server.connect(post({"prompt": "x", "steering": [1, 2, 3]}, "/v1/completions")),
            lambda: server.connect(b"GET / HTTP/1.1\r\n"),
        ]
        loop = server.server.servers[0].get_loop()
        before = len(asyncio.all_tasks(loop))
        for _ in range(5):
            for number in range(100):
                connection = kinds[number % len(kinds)]()
                if number % 3:
                    connection.settimeout(0.01)
                    with suppress(OSError):
                        connection.recv(100)
                connection.close()
            server.idle()
            server.until(lambda: not server.server.server_state.connections)
            server.until(lambda: not server.server.server_state.tasks)
            server.until(lambda: len(asyncio.all_tasks(loop)) <= before)
        assert httpx.post(f"{server.url}/v1/chat/completions", json=BODY).status_code == 200


# What the document says.

# What is refused although the document, which describes one field at a time, allows it.
RULES = re.compile(
    "only allowed with|is more than max_tokens|differ; leave one|does not go with|stands in several places|"
    "outside its safe range|is beyond every model|no vectors of layer|there is no \\w+ '|no id of a direction|"
    "pairs of id and alpha|an alpha has to be|leave n at 1|n times the number|send one prompt|"
    # Python's `$` stands before a line break too.
    "logit_bias: String should match pattern"
)


@pytest.mark.parametrize("key", ["", "secret"])
def test_the_document_says_what_happens(catalogue, key):
    service = Service(catalogue, Echo(), Limits(max_tokens=16, api_key=key))
    headers = {"host": "localhost"} | ({"authorization": f"Bearer {key}"} if key else {})
    document = schemathesis.openapi.from_asgi("/openapi.json", create_app(service), headers=headers)
    counted = Counter()

    def ask(case):
        answer = case.call(headers=headers)
        counted[answer.status_code] += 1
        left_out = []
        if answer.status_code == 400 and RULES.search(answer.json()["error"]["message"]):
            left_out = [schemathesis.checks.CHECKS.get_one("positive_data_acceptance")]
        case.validate_response(answer, headers=headers, excluded_checks=left_out)

    for found in document.get_all_operations():
        operation = found.ok()
        modes = schemathesis.GenerationMode
        cases = operation.as_strategy(generation_mode=modes.POSITIVE) | operation.as_strategy(
            generation_mode=modes.NEGATIVE
        )
        examples = 150 if operation.method == "post" else 15
        run = hypothesis.settings(
            max_examples=examples,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        )(hypothesis.given(cases)(ask))
        run()
    assert counted[200] > 50
    assert (service.running, service.waiting, service.backend.open) == (0, 0, 0)


def test_a_refused_request_is_forgotten_at_once(catalogue):
    """Not when Python next looks for cycles: by then there may be hundreds of bodies."""

    async def go():
        service = Service(catalogue, Echo(), Limits())
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(create_app(service)), base_url="http://localhost"
        ) as ask:
            for prompt in ("x", "refuse"):
                for stream in (True, False):
                    body = {"prompt": prompt, "stream": stream, "n": 1000 if prompt == "x" else 1}
                    gc.collect()
                    gc.disable()
                    await ask.post("/v1/completions", json=body)
                    kept = [found for found in gc.get_objects() if type(found) in (Refused, app_module._Reply)]
                    gc.enable()
                    assert kept == []

    asyncio.run(go())
