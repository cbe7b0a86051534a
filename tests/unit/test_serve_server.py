"""The server as a process: where it may listen, and how it ends while replies are under way."""

import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import httpx
import pytest

from affectome.errors import UserError
from affectome.serve.server import run
from affectome.serve.service import Limits, Service
from tests.echo import Echo
from tests.unit.serving import tiny_catalogue

# A server in a process of its own: its catalogue, the engine's pause, its seconds to start.
PROGRAM = """
import asyncio, pickle, sys
from pathlib import Path
from affectome.serve.server import run
from affectome.serve.service import Limits, Service
from tests.echo import Echo

catalogue, pause, starting = pickle.loads(Path(sys.argv[1]).read_bytes()), float(sys.argv[2]), float(sys.argv[3])

class Engine(Echo):
    async def start(self):
        print("starting", file=sys.stderr, flush=True)
        await asyncio.sleep(starting)

    async def stop(self):
        print("stopped", self.open, file=sys.stderr, flush=True)

run(Service(catalogue, Engine(pause), Limits()), port=0)
"""


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory):
    return tiny_catalogue(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def pickled(catalogue, tmp_path_factory):
    path = tmp_path_factory.mktemp("pickled") / "catalogue"
    path.write_bytes(pickle.dumps(catalogue))
    return path


@contextmanager
def process(pickled, pause=0.0, starting=0.0):
    command = [sys.executable, "-c", PROGRAM, str(pickled), str(pause), str(starting)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        yield running
    finally:
        running.kill()
        running.communicate()


def address(running):
    line = running.stdout.readline()
    return re.fullmatch(r"affectome serves tiny with echo at (http://127\.0\.0\.1:\d+)\n", line)[1]


def stream(url, tokens):
    body = {"prompt": "a b", "max_tokens": tokens, "stream": True}
    return httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=30)


def texts(lines):
    return [json.loads(line[6:])["choices"][0]["text"] for line in lines if line.startswith("data: {")]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_what_runs_end_and_takes_nothing_new(pickled, number):
    with process(pickled, pause=0.1) as running:
        url = address(running)
        with stream(url, 20) as reply:
            lines = reply.iter_lines()
            assert next(lines).startswith("data: {")
            running.send_signal(number)
            time.sleep(0.5)
            with pytest.raises(httpx.ConnectError):
                httpx.get(f"{url}/health")
            rest = list(lines)
        assert len(texts(rest)) == 19
        assert "data: [DONE]" in rest
        assert running.wait(30) == 0
        assert "stopped 0" in running.stderr.read()


def test_a_second_signal_ends_it_at_once(pickled):
    with process(pickled, pause=0.1) as running:
        url = address(running)
        with stream(url, 4000) as reply:
            lines = reply.iter_lines()
            next(lines)
            running.send_signal(signal.SIGTERM)
            time.sleep(0.5)
            running.send_signal(signal.SIGTERM)
            started = time.monotonic()
            rest = list(lines)
        assert running.wait(30) == 0
        assert time.monotonic() - started < 15
        assert "shutting down" in rest[-2]
        assert "data: [DONE]" not in rest
        assert "Traceback" not in running.stderr.read()


def test_a_signal_ends_it_while_the_engine_starts(pickled):
    with process(pickled, starting=60) as running:
        assert "starting\n" in iter(running.stderr.readline, "")
        running.send_signal(signal.SIGTERM)
        assert running.wait(30) == 0
        assert running.stderr.read() == "stopped 0\n"


def test_others_are_not_served_without_a_key(catalogue):
    for host in ("0.0.0.0", "::"):  # noqa: S104
        with pytest.raises(UserError, match="AFFECTOME_API_KEY"):
            run(Service(catalogue, Echo(), Limits()), host, 0)


def test_an_address_that_cannot_be_had_is_named(catalogue):
    for host, port in (("no.such.host.invalid", 0), ("192.0.2.1", 0)):
        engine = Echo()
        with pytest.raises(UserError, match=re.escape(host)):
            run(Service(catalogue, engine, Limits(api_key="k")), host, port)
        assert not engine.started
    for port in (-1, 65536):
        with pytest.raises(UserError, match="0 for any free one"):
            run(Service(catalogue, Echo(), Limits()), port=port)


def test_a_port_in_use_is_named(pickled, catalogue):
    with process(pickled) as running:
        port = int(address(running).rpartition(":")[2])
        with pytest.raises(UserError, match=f"port {port}"):
            run(Service(catalogue, Echo(), Limits()), "127.0.0.1", port)


def test_an_engine_that_does_not_start_says_why(catalogue):
    class Broken(Echo):
        async def start(self):
            raise UserError("no memory is left")

    engine = Broken()
    with pytest.raises(UserError, match="no memory is left"):
        run(Service(catalogue, engine, Limits()), port=0)
    assert engine.stopped
