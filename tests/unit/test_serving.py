"""A server for the length of a block, with a stand-in for `vllm` that plays its part and has processes of its own."""

import contextlib
import http.client
import itertools
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from affectome.corpus.writers import guardian, serving
from affectome.corpus.writers.serving import serve
from affectome.errors import UserError
from tests.project import ROOT

# A process that will not be asked twice, in a session of its own; a server whose mood is that of the model's folder.
STAND_IN = """#!{python}
import json, os, signal, subprocess, sys, time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

arguments = sys.argv[1:]
folder = Path(arguments[1])
moods = json.loads((folder / "mood.json").read_text())
start = len(list(folder.glob("start-*")))
(folder / f"start-{{start}}").write_text(json.dumps([arguments, dict(os.environ)]))
stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
subprocess.Popen([sys.executable, "-c", stubborn, str(folder)], start_new_session=True)
if moods["taken"] > start:
    sys.exit("OSError: [Errno 98] Address already in use")
if moods["says"]:
    print(moods["says"], flush=True)
    sys.exit(1)
print("(Worker pid=7) INFO 11-20 19:00:50 [loader.py:1] loading weights", flush=True)
time.sleep(moods["delay"])

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/die":
            print("(EngineCore pid=8) ERROR 11-20 19:01:16 [core.py:1] MemoryError: no more of it", flush=True)
            print("RuntimeError: Engine core died", flush=True)
            os._exit(1)
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()
    def log_message(self, *_):
        pass

port = int(arguments[arguments.index("--port") + 1])
HTTPServer((arguments[arguments.index("--host") + 1], port), Handler).serve_forever()
"""

# A job as scripts are: SIGTERM becomes an exit, and what it serves is named by its arguments.
JOB = """
import signal, sys, time
from affectome.corpus.writers import guardian
from affectome.corpus.writers.serving import serve
from affectome.jobs import _exit_on_signal

signal.signal(signal.SIGTERM, _exit_on_signal)
model, log, guardian.__file__ = sys.argv[1:]
with serve(model, log, gpus=1):
    print("ready", flush=True)
    time.sleep(600)
"""

SECRETS = ("GEMINI_API_KEY", "OPENAI_API_KEY", "HF_TOKEN", "AFFECTOME_API_KEY", "AWS_SECRET_ACCESS_KEY")


def model(folder, taken=0, says="", delay=0.0, **config):
    folder.mkdir()
    (folder / "mood.json").write_text(json.dumps({"taken": taken, "says": says, "delay": delay}))
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def starts(folder):
    """Arguments and environment of every start of the stand-in."""
    return [json.loads(file.read_text()) for file in sorted(folder.glob("start-*"))]


def processes_of(folder):
    """Living processes that have `folder` in their command line, by pid; this one has not."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().decode().split("\0")
            if any(str(folder) in word for word in words):
                found[int(entry.name)] = words
    return found


def wait_until(true):
    """Tests have no time limits, but one that waits for ever tells nothing."""
    deadline = time.monotonic() + 120
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def get(served, path):
    connection = http.client.HTTPConnection(urlsplit(served.base_url).netloc)
    with contextlib.closing(connection):
        connection.request("GET", path)
        return connection.getresponse().status


@pytest.fixture(autouse=True)
def stand_in(tmp_path, monkeypatch):
    program = tmp_path / "site" / "vllm"
    program.parent.mkdir()
    program.write_text(STAND_IN.format(python=sys.executable))
    program.chmod(0o755)
    monkeypatch.setenv("AFFECTOME_VLLM", str(program))
    # With less patience, and under a name by which its process is known.
    impatient = tmp_path / "guardian.py"
    source = Path(guardian.__file__).read_text()
    assert "\nPATIENCE_S = 10.0\n" in source
    impatient.write_text(source.replace("\nPATIENCE_S = 10.0\n", "\nPATIENCE_S = 0.3\n"))
    monkeypatch.setattr(guardian, "__file__", str(impatient))
    yield program
    wait_until(lambda: not processes_of(tmp_path))


@pytest.fixture
def job(tmp_path):
    """A job of its own that serves, up to where its server answers."""
    folder = model(tmp_path / "m")
    command = [sys.executable, "-c", JOB, folder, tmp_path / "log", guardian.__file__]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        # The job, its guardian, the server, and what that started.
        assert len(processes_of(tmp_path)) == 4
        yield process
        process.kill()


class TestServing:
    def test_what_a_caller_adds_comes_after_ours(self, tmp_path):
        folder = model(tmp_path / "m")
        with serve(folder, tmp_path / "log", gpus=1, options=["--last", "1"], environment={"HF_HUB_OFFLINE": "0"}):
            pass
        arguments, environment = starts(folder)[0]
        assert arguments[-2:] == ["--last", "1"]
        assert environment["HF_HUB_OFFLINE"] == "0"

    def test_answers_under_a_key_of_its_own_and_keeps_its_log(self, tmp_path):
        folder = model(tmp_path / "my-model")
        with serve(folder, tmp_path / "logs" / "vllm.log", gpus=1, seed=7) as served:
            assert get(served, "/health") == 200
            served.check()
        [(arguments, environment)] = starts(folder)
        assert arguments[:2] == ["serve", str(folder)]
        options = dict(itertools.pairwise(arguments))
        assert served.base_url == f"http://127.0.0.1:{options['--port']}/v1"
        assert (served.model, options["--served-model-name"]) == ("my-model", "my-model")
        assert (options["--host"], options["--seed"]) == ("127.0.0.1", "7")
        assert environment["VLLM_API_KEY"] == served.key
        assert len(served.key) > 30
        assert served.key not in str(arguments) + repr(served)
        assert "loading weights" in (tmp_path / "logs" / "vllm.log").read_text()

    def test_every_server_has_another_key_and_another_port(self, tmp_path):
        with (
            serve(model(tmp_path / "a"), tmp_path / "a.log", gpus=1) as one,
            serve(model(tmp_path / "b"), tmp_path / "b.log", gpus=1) as other,
        ):
            assert one.key != other.key
            assert one.base_url != other.base_url

    def test_knows_no_key_of_the_user_and_none_of_our_packages(self, tmp_path, stand_in, monkeypatch):
        for name in SECRETS:
            monkeypatch.setenv(name, "do-not-tell")
        monkeypatch.setenv("PYTHONPATH", "/ours")
        monkeypatch.setenv("OMP_NUM_THREADS", "2")
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
        with serve(folder := model(tmp_path / "m"), tmp_path / "log", gpus=1):
            pass
        [(_, environment)] = starts(folder)
        assert "do-not-tell" not in environment.values()
        assert not {"PYTHONPATH", "OMP_NUM_THREADS"} & environment.keys()
        assert environment["CUDA_VISIBLE_DEVICES"] == "3"
        assert environment["PATH"].startswith(str(stand_in.parent))
        assert {environment[name] for name in ("HF_HUB_OFFLINE", "VLLM_NO_USAGE_STATS", "DO_NOT_TRACK")} == {"1"}

    def test_options_follow_the_device_and_the_model(self, tmp_path, monkeypatch):
        monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
        options = {}
        for name, gpus, config in (
            ("cpu", 0, {}),
            ("one", 1, {"max_position_embeddings": 512}),
            ("two", 2, {"text_config": {"max_position_embeddings": 8192}}),
        ):
            with serve(folder := model(tmp_path / name, **config), tmp_path / "log", gpus=gpus):
                pass
            [(arguments, environment)] = starts(folder)
            options[name] = " ".join(arguments)
            assert environment.get("VLLM_CPU_KVCACHE_SPACE") == (None if gpus else "2")
        assert "--enforce-eager" in options["cpu"]
        assert "--no-enable-chunked-prefill" in options["cpu"]
        assert re.search("--dtype (bfloat16|float32)", options["cpu"])
        assert "--max-model-len 2048" in options["cpu"]
        assert "--max-model-len 512" in options["one"]
        assert "--max-model-len 2048" in options["two"]
        assert "--tensor-parallel-size 2" in options["two"]
        assert not [name for name in ("one", "two") if "--enforce-eager" in options[name] or "--dtype" in options[name]]

    def test_says_what_a_slow_start_is_at(self, tmp_path, monkeypatch, caplog):
        monkeypatch.setattr(serving, "LOG_INTERVAL_S", 0.1)
        with caplog.at_level(logging.INFO), serve(model(tmp_path / "m", delay=1.0), tmp_path / "log", gpus=1):
            pass
        assert re.search(r"vLLM has been starting for \d+ s: loading weights", caplog.text)
        assert re.search(r"vLLM serves m after \d+ s", caplog.text)


class TestEnding:
    @pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, None])
    def test_nothing_is_left_however_the_block_ends(self, tmp_path, error):
        folder = model(tmp_path / "m")
        with contextlib.suppress(error or ()), serve(folder, tmp_path / "log", gpus=1):
            assert len(processes_of(tmp_path)) == 3
            if error:
                raise error
        assert not processes_of(tmp_path)

    def test_nothing_is_left_of_a_job_that_is_asked_to_end(self, job, tmp_path):
        job.terminate()
        assert job.wait() == 128 + signal.SIGTERM
        assert not processes_of(tmp_path)

    def test_nothing_is_left_of_a_job_that_is_killed(self, job, tmp_path):
        job.kill()
        wait_until(lambda: not processes_of(tmp_path))

    def test_a_guardian_that_is_asked_to_end_ends_what_it_guards(self, tmp_path):
        # As SLURM does, which sends its signals to all processes of a job.
        with serve(model(tmp_path / "m"), tmp_path / "log", gpus=1) as served:
            served._process.terminate()
            wait_until(lambda: not processes_of(tmp_path))

    def test_the_server_does_not_outlive_its_guardian(self, tmp_path):
        with serve(folder := model(tmp_path / "m"), tmp_path / "log", gpus=1) as served:
            served._process.kill()
            wait_until(lambda: not [words for words in processes_of(folder).values() if "serve" in words])
            for pid in processes_of(folder):
                os.kill(pid, signal.SIGKILL)


class TestFailing:
    # Ends of logs as vLLM 0.32 writes them, and what their reader needs.
    @pytest.mark.parametrize(
        ("says", "told"),
        [
            (
                "(Worker pid=9) ERROR 11-20 19:01:16 [multiproc_executor.py:1063] ValueError: Available memory on node"
                " 0 is less than requested memory for kv\n"
                "(EngineCore pid=8) ERROR 11-20 19:01:16 [core.py:1510] RuntimeError: Worker failed with error 'x'\n"
                "RuntimeError: Engine core initialization failed. See root cause above.\n"
                "nanobind: leaked 64 types!",
                "ValueError: Available memory on node 0 is less than requested memory for kv",
            ),
            (
                "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig\n"
                "  Value error, The checkpoint has model type `nope` [type=value_error]\n"
                "    For further information visit https://errors.pydantic.dev",
                "Value error, The checkpoint has model type `nope`",
            ),
            ("usage: vllm\nvllm: error: unrecognized arguments: --new", "unrecognized arguments: --new"),
            ("torch.OutOfMemoryError: CUDA out of memory.\n", "torch.OutOfMemoryError: CUDA out of memory."),
            ("something else", "something else"),
            (" \n", "it said nothing"),
        ],
    )
    def test_a_server_that_cannot_start_is_quoted(self, tmp_path, says, told):
        with pytest.raises(UserError) as error, serve(model(tmp_path / "m", says=says), tmp_path / "log", gpus=1):
            pass
        assert re.match(r"vLLM cannot serve m \(", str(error.value))
        assert told in str(error.value)
        assert str(tmp_path / "log") in str(error.value)
        assert "\n" not in str(error.value)

    def test_a_server_that_dies_is_noticed_and_quoted(self, tmp_path):
        with serve(model(tmp_path / "m"), tmp_path / "log", gpus=1) as served:
            served.check()
            with pytest.raises((OSError, http.client.HTTPException)):
                get(served, "/die")
            # What it started takes a while longer to end.
            wait_until(lambda: serving._refuses(served._port))
            with pytest.raises(UserError, match=r"ended while it served m \(MemoryError: no more of it;"):
                served.check()

    def test_a_killed_server_is_said_to_have_been_killed(self, tmp_path):
        with serve(folder := model(tmp_path / "m"), tmp_path / "log", gpus=1) as served:
            [pid] = [pid for pid, words in processes_of(folder).items() if "serve" in words and "-I" not in words]
            os.kill(pid, signal.SIGKILL)
            served._process.wait()
            with pytest.raises(UserError, match="killed, as happens where memory runs out"):
                served.check()

    def test_an_impatient_start_is_given_up(self, tmp_path, monkeypatch):
        monkeypatch.setattr(serving, "START_LIMIT_S", 0.2)
        folder = model(tmp_path / "m", delay=600)
        with pytest.raises(UserError, match="did not answer within"), serve(folder, tmp_path / "log", gpus=1):
            pass

    def test_a_folder_that_is_no_model_is_named(self, tmp_path):
        with pytest.raises(UserError, match=r"nowhere: .* config\.json"), serve(tmp_path / "nowhere", tmp_path / "log"):
            pass


class TestPorts:
    def test_another_port_is_tried_where_one_was_taken_meanwhile(self, tmp_path):
        folder = model(tmp_path / "m", taken=2)
        with serve(folder, tmp_path / "log", gpus=1) as served:
            assert get(served, "/health") == 200
        ports = [arguments[arguments.index("--port") + 1] for arguments, _ in starts(folder)]
        assert len(set(ports)) == 3
        assert served.base_url == f"http://127.0.0.1:{ports[-1]}/v1"

    def test_not_for_ever(self, tmp_path):
        folder = model(tmp_path / "m", taken=99)
        with pytest.raises(UserError, match="found 3 ports taken"), serve(folder, tmp_path / "log", gpus=1):
            pass
        assert len(starts(folder)) == 3

    def test_a_port_is_kept_for_the_server_from_when_it_is_chosen(self):
        with serving._free_port() as port:
            with contextlib.ExitStack() as held:
                others = [held.enter_context(socket.socket()) for _ in range(500)]
                for other in others:
                    other.bind(("127.0.0.1", 0))
                assert port not in {other.getsockname()[1] for other in others}
            with socket.socket() as server:
                server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                server.bind(("127.0.0.1", port))
                server.listen()
                socket.create_connection(("127.0.0.1", port)).close()


class TestExecutable:
    @pytest.fixture(autouse=True)
    def elsewhere(self, tmp_path, monkeypatch):
        """A folder without an environment, a path without programs."""
        (tmp_path / "project").mkdir()
        monkeypatch.chdir(tmp_path / "project")
        monkeypatch.setenv("PATH", str(tmp_path / "bin"))

    @staticmethod
    def program(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
        return path

    def test_the_variable_comes_before_the_path_and_that_before_the_project(self, tmp_path, stand_in, monkeypatch):
        own = self.program(tmp_path / "project/.vllm/bin/vllm")
        on_path = self.program(tmp_path / "bin/vllm")
        assert serving.find_vllm() == stand_in
        monkeypatch.delenv("AFFECTOME_VLLM")
        assert serving.find_vllm() == on_path
        on_path.unlink()
        assert serving.find_vllm() == own

    def test_without_any_all_ways_to_one_are_told(self, monkeypatch):
        monkeypatch.delenv("AFFECTOME_VLLM")
        with pytest.raises(UserError, match=r"envs/vllm\.yaml .*make vllm-cpu.* AFFECTOME_VLLM"):
            serving.find_vllm()

    def test_a_variable_that_names_none_is_a_mistake(self, tmp_path, monkeypatch):
        self.program(tmp_path / "bin/vllm")
        monkeypatch.setenv("AFFECTOME_VLLM", str(tmp_path / "nothing"))
        with pytest.raises(UserError, match="which is no program"):
            serving.find_vllm()


class TestEnvironments:
    """What vLLM is installed with."""

    @staticmethod
    def pins(lines):
        pairs = (line.split("==") for line in lines if line.strip() and not line.startswith("#"))
        return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pairs}

    def test_on_gpus_jobs_have_the_versions_of_the_lock_file(self):
        environment = yaml.safe_load((ROOT / "envs/vllm.yaml").read_text())
        assert "python =3.11" in environment["dependencies"]
        pins = self.pins(next(item["pip"] for item in environment["dependencies"] if isinstance(item, dict)))
        lock = self.pins((ROOT / "requirements.lock").read_text().splitlines())
        assert pins.pop("vllm") == self.pins((ROOT / "envs/vllm-cpu.txt").read_text().splitlines())["vllm-cpu"]
        assert pins == {name: lock[name] for name in pins}
        assert {"httpx2", "jinja2", "pandas", "pyarrow", "pydantic", "snakemake", "tqdm"} <= set(pins)

    def test_without_a_gpu_nothing_is_installed_that_needs_one(self):
        pins = self.pins((ROOT / "envs/vllm-cpu.txt").read_text().splitlines())
        assert pins["torch"] == "2.13.0"
        # `vllm` itself is the build for GPUs.
        assert not [name for name in pins if name.startswith(("nvidia-", "cuda")) or name == "vllm"]
