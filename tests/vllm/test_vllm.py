"""The real vLLM with real weights: it answers, batches, and leaves nothing behind."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from affectome.corpus.writers.serving import find_vllm
from affectome.errors import UserError

try:
    find_vllm()
    WHY_NOT = ""
except UserError as error:
    WHY_NOT = str(error)

pytestmark = [pytest.mark.vllm, pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)]

JOB = """
import signal, sys, time
from affectome.corpus.writers.serving import serve
from affectome.jobs import _exit_on_signal

signal.signal(signal.SIGTERM, _exit_on_signal)
with serve(*sys.argv[1:]):
    print("ready", flush=True)
    time.sleep(3600)
"""


async def stories(served, seeds):
    from httpx2 import AsyncClient

    async with AsyncClient(headers={"Authorization": f"Bearer {served.key}"}, timeout=3600, trust_env=False) as client:

        async def story(seed):
            body = {
                "model": served.model,
                "messages": [{"role": "user", "content": f"Tell a story about the number {seed}."}],
                "temperature": 1.0,
                "seed": seed,
                "max_tokens": 24,
            }
            response = await client.post(f"{served.base_url}/chat/completions", json=body)
            response.raise_for_status()
            return response.json()["choices"][0]["message"]["content"]

        return await asyncio.gather(*map(story, seeds))


def test_a_seed_decides_what_is_written(served):
    one, same, other = (asyncio.run(stories(served, [seed]))[0] for seed in (3, 3, 4))
    assert one == same != other
    assert len(one.split()) > 5


def test_many_are_written_at_once(served):
    texts = asyncio.run(stories(served, range(40)))
    assert len(set(texts)) == 40
    served.check()


def test_nobody_without_the_key_is_answered(served):
    import httpx2

    answer = httpx2.get(f"{served.base_url}/models", headers={"Authorization": "Bearer guessed"}, trust_env=False)
    assert answer.status_code == 401


def test_listens_on_this_machine_only(served):
    """Neither the server nor the ports by which its processes talk to each other are open to others."""
    ours = {pid for pid, (_, said) in processes().items() if served.key in said}
    assert len(ours) >= 3
    assert listening(ours) <= {"0100007F", "00000000000000000000000001000000"}


@pytest.fixture(scope="module")
def jobs(weights, tmp_path_factory):
    """Jobs that start an engine, each with a folder that all of its processes know of; begun at once, as it takes time.

    By the signal that is to end them.
    """
    with contextlib.ExitStack() as stack:
        started = {}
        for number in (signal.SIGTERM, signal.SIGKILL):
            folder = tmp_path_factory.mktemp("job")
            command = [sys.executable, "-c", JOB, weights, folder / "vllm.log"]
            environment = {**os.environ, "JOB_OF_THE_TEST": str(folder)}
            job = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
            started[number] = stack.enter_context(job), str(folder)
            stack.callback(job.kill)
        yield started


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_of_a_job(jobs, number):
    job, folder = jobs[number]
    assert job.stdout.readline() == "ready\n"

    def left():
        return {name for name, said in processes().values() if folder in said}

    # The job, its guardian, the server, its engine and that one's worker.
    assert len(left()) >= 4
    job.send_signal(number)
    job.wait()
    if number == signal.SIGKILL:
        # Longer than its guardian is patient, twice.
        deadline = time.monotonic() + 60
        while left() and time.monotonic() < deadline:
            time.sleep(0.1)
    assert not left()


def processes():
    """Every living process's pid with its command line and its environment as it began."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            said = [(entry / name).read_bytes().decode(errors="replace") for name in ("cmdline", "environ")]
            found[int(entry.name)] = said
    return found


def listening(pids):
    """Addresses, as the kernel writes them, on which processes accept TCP connections."""
    sockets = set()
    for pid in pids:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                sockets.add(os.readlink(descriptor))
    addresses = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                addresses.add(fields[1].partition(":")[0])
    return addresses
