"""The sandbox against code that does what model-written code has been seen to do, with and without namespaces."""

import contextlib
import socket
import tempfile
import time
from pathlib import Path

import pytest

from affectome.errors import UserError
from affectome.steering import sandbox
from affectome.steering.sandbox import Limits, run_tests

LIMITS = Limits(cpu_s=2, wall_s=10, memory_mb=256, file_mb=1, open_files=16)
DOUBLE = "def double(x):\n    return 2 * x\n"
TESTS = "assert double(2) == 4\nassert double(-1) == -2"


@pytest.fixture(autouse=True, params=["namespaces", "hook alone"])
def isolation(request, monkeypatch, tmp_path):
    """Every test with what this machine offers and with the fallback; no folder or process may be left behind."""
    if request.param == "hook alone":
        monkeypatch.setattr(sandbox, "_isolation", lambda: ((), "audit hook"))
    elif not sandbox._isolation()[0]:
        pytest.skip("this machine makes no namespaces")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    # Under a name of this test's own, by which its processes are known, whoever their parent is by then.
    script = tmp_path / "sandboxed.py"
    script.write_text(Path(sandbox.sandboxed.__file__).read_text())
    monkeypatch.setattr(sandbox.sandboxed, "__file__", str(script))
    yield request.param
    assert not list(temporary.iterdir())
    assert not processes_of(script)


@pytest.fixture
def hookless(isolation, tmp_path):
    """The sandbox without its audit hook, which leaves the namespaces."""
    if isolation == "hook alone":
        pytest.skip("there is nothing else then")
    script = tmp_path / "sandboxed.py"
    assert "    sys.addaudithook(" in script.read_text()
    script.write_text(script.read_text().replace("    sys.addaudithook(", "    (lambda _: None)("))


def processes_of(script):
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if str(script).encode() in (folder / "cmdline").read_bytes():
                found.append(folder.name)
    return found


def status(code, tests=TESTS, limits=LIMITS):
    return run_tests(code, tests, limits).status


class TestVerdict:
    def test_right_code_passes_and_says_how_it_was_kept(self, isolation):
        outcome = run_tests(DOUBLE, TESTS, LIMITS)
        assert (outcome.status, outcome.detail, outcome.output, outcome.passed) == ("passed", "", "", True)
        assert outcome.isolation == {"hook alone": "audit hook"}.get(isolation, "namespaces and audit hook")

    def test_wrong_code_fails(self):
        outcome = run_tests(DOUBLE.replace("2 * x", "x + 2"), TESTS, LIMITS)
        assert (outcome.status, outcome.passed) == ("failed", False)
        assert outcome.detail.startswith("AssertionError")

    def test_functions_named_test_are_called(self):
        tests = "def test_small():\n    assert double(2) == 4\ndef test_large():\n    assert double(10) == {}\n"
        assert status(DOUBLE, tests.format(20)) == "passed"
        assert status(DOUBLE, tests.format(21)) == "failed"

    def test_the_solution_can_be_imported(self):
        assert status(DOUBLE, "from solution import double as f\nassert f(3) == 6") == "passed"

    def test_the_main_block_does_not_run(self):
        outcome = run_tests(DOUBLE + "if __name__ == '__main__':\n    print(1 / 0)\n", TESTS, LIMITS)
        assert outcome.passed

    @pytest.mark.parametrize(
        ("code", "detail"),
        [("def double(:\n", "SyntaxError"), ("a = 1\x00", "SyntaxError|ValueError"), ("x = '\ud800'", "UnicodeEncode")],
    )
    def test_what_is_no_python_is_broken(self, code, detail):
        outcome = run_tests(code, TESTS, LIMITS)
        assert outcome.status == "broken"
        assert any(outcome.detail.startswith(kind) for kind in detail.split("|"))

    def test_unicode_comes_through(self):
        code = "def größe(s):\n    print('☃ 漢', s)\n    return len(s)\n"
        outcome = run_tests(code, "assert größe('né') == 2", LIMITS)
        assert outcome.passed
        assert outcome.output == "☃ 漢 né\n"

    @pytest.mark.parametrize(
        "tests", ["", "double(2) == 5", "import unittest\nclass T(unittest.TestCase):\n    def test(self): pass"]
    )
    def test_tests_that_cannot_fail_are_refused(self, tests):
        with pytest.raises(UserError, match="hold no assert"):
            run_tests(DOUBLE, tests, LIMITS)

    def test_tests_that_are_no_python_are_refused(self):
        with pytest.raises(UserError, match="are no Python"):
            run_tests(DOUBLE, "assert double(2) = 4", LIMITS)

    @pytest.mark.parametrize(
        "code",
        [
            "async def g():\n    return 4\n\n\ndef double(x):\n    import asyncio\n    return asyncio.run(g())\n",
            "import threading\ndef double(x):\n    found = []\n"
            "    thread = threading.Thread(target=found.append, args=(4,))\n    thread.start()\n    thread.join()\n"
            "    return found[0]\n",
            "from dataclasses import dataclass\n"
            "@dataclass\nclass P:\n    x: 'int'\ndef double(x):\n    return P(4).x\n",
            "import tempfile\ndef double(x):\n"
            "    with tempfile.TemporaryFile() as file:\n        return file.write(b'1234')\n",
            "from pathlib import Path\ndef double(x):\n    Path('a').mkdir()\n    Path('a/b').write_text('4')\n"
            "    return int(Path('a/b').read_text())\n",
            "import collections, decimal, functools, heapq, itertools, json, math, random, re, sqlite3, statistics, "
            "typing, unittest.mock, uuid, zoneinfo\ndef double(x):\n    return 4\n",
        ],
        ids=["asyncio", "threads", "dataclass", "temporary file", "files", "imports"],
    )
    def test_honest_code_can_use_the_standard_library(self, code):
        outcome = run_tests(code, "assert double(2) == 4", LIMITS)
        assert outcome.passed, outcome


class TestForgery:
    """Wrong code that says it is right."""

    @pytest.mark.parametrize(
        ("code", "wanted"),
        [
            ("import sys\nprint('OK')\nsys.exit(0)", "broken"),
            ("import os\nprint('passed')\nos._exit(0)", "stopped"),
            ("import os\ndef double(x):\n    print('Ran 2 tests OK')\n    os._exit(0)", "stopped"),
            ("def double(x):\n    raise SystemExit(0)", "failed"),
            ("import builtins\nbuiltins.AssertionError = None\ndef double(x):\n    return 5", "failed"),
            ("import atexit, os\natexit.register(lambda: os._exit(0))\ndef double(x):\n    return 5", "failed"),
            (
                "import os\nfor end in range(64):\n    try:\n        os.write(end, b'0' * 32 + b' passed ')\n"
                "    except OSError:\n        pass\nos._exit(0)",
                "stopped",
            ),
            ("import sys\ndef double(x):\n    sys.settrace(lambda *_: None)\n    return 5", "failed"),
        ],
        ids=["exit", "_exit", "_exit later", "SystemExit", "AssertionError", "atexit", "descriptors", "trace"],
    )
    def test_is_not_believed(self, code, wanted):
        assert status(code) == wanted

    def test_changed_builtins_do_not_reach_the_tests(self):
        code = "import builtins\nbuiltins.sorted = lambda x: [1, 2]\nbuiltins.len = lambda x: 2\n"
        code += "def f():\n    return [2]\n"
        assert status(code, "assert sorted(f()) == [2]\nassert len(f()) == 1") == "passed"
        assert status(code, "assert sorted(f()) == [1, 2]") == "failed"


class TestLimits:
    def test_endless_loop(self):
        started = time.monotonic()
        outcome = run_tests("while True:\n    pass", TESTS, Limits(cpu_s=1, wall_s=30))
        assert outcome.status == "stopped"
        assert time.monotonic() - started < 15

    def test_waiting_for_ever(self):
        outcome = run_tests("import time\nprint('here', flush=True)\ntime.sleep(600)", TESTS, Limits(wall_s=1))
        assert (outcome.status, outcome.detail, outcome.output) == ("stopped", "took longer than 1 s", "here\n")

    @pytest.mark.parametrize(
        "code",
        [
            "import os\nwhile True:\n    os.fork()",
            "import subprocess\nsubprocess.Popen(['sleep', '600'])",
            "import os\nos.posix_spawn('/bin/sleep', ['sleep', '600'], {})",
            "import os\nos.system('sleep 600 &')",
            "import multiprocessing\nmultiprocessing.get_context('spawn').Process(target=print).start()",
            "import _posixsubprocess\n_posixsubprocess.fork_exec()",
            "import sys\ndel sys.modules['_posixsubprocess']\nimport _posixsubprocess",
            "import os\nos.execv('/bin/sleep', ['sleep', '600'])",
            "import ctypes",
            "import os\nos.kill(os.getppid(), 9)",
            "import resource\nresource.setrlimit(resource.RLIMIT_NPROC, (10 ** 6, 10 ** 6))",
        ],
    )
    def test_nothing_else_is_started_or_ended(self, code):
        outcome = run_tests(code, TESTS, LIMITS)
        assert outcome.status == "broken"
        assert outcome.detail.startswith("PermissionError: the sandbox")

    def test_threads_are_limited(self):
        code = (
            "import threading, time\nfor _ in range(2000):\n    threading.Thread(target=time.sleep, args=(60,)).start()"
        )
        outcome = run_tests(code, TESTS, LIMITS)
        assert (outcome.status, outcome.detail) == ("broken", "RuntimeError: can't start new thread")

    def test_memory(self):
        outcome = run_tests("x = bytearray(10 ** 9)", TESTS, LIMITS)
        assert (outcome.status, outcome.detail.split(":")[0]) == ("broken", "MemoryError")
        assert status("x = bytearray(10 ** 8)\n" + DOUBLE) == "passed"

    def test_size_of_a_file(self):
        code = "with open('big', 'wb', buffering=0) as file:\n"
        code += "    for _ in range({}):\n        file.write(bytes(2 ** 18))\n"
        assert status(code.format(4) + DOUBLE) == "passed"
        outcome = run_tests(code.format(5), TESTS, LIMITS)
        assert (outcome.status, "File too large" in outcome.detail) == ("broken", True)

    def test_number_of_files(self):
        code = "for number in range({}):\n    open(str(number), 'w').close()\n"
        assert status(code.format(LIMITS.open_files) + DOUBLE) == "passed"
        assert status(code.format(LIMITS.open_files + 1) + DOUBLE) == "broken"

    def test_output_is_cut_and_does_not_block(self):
        code = "for _ in range(20000):\n    print('é' * 100)\n" + DOUBLE
        outcome = run_tests(code, TESTS, Limits(cpu_s=5, wall_s=20, output_chars=150))
        assert outcome.passed
        assert outcome.output == "é" * 100 + "\n" + "é" * 49

    def test_a_large_job_goes_in_whole(self):
        code = f"text = {'x' * 300_000!r}\n"
        assert status(code, "assert len(text) == 300_000") == "passed"


class TestSurroundings:
    def test_environment_is_empty(self, monkeypatch):
        monkeypatch.setenv("GEMINI_API_KEY", "AIza-this-is-a-secret")
        code = "import os\nprint(dict(os.environ), os.listdir('.'))\n" + DOUBLE
        outcome = run_tests(code, TESTS, LIMITS)
        assert outcome.passed
        assert "AIza" not in outcome.output
        assert outcome.output.endswith("[]\n")

    @pytest.mark.parametrize(
        "code",
        [
            "open({path!r}).read()",
            "import os\nos.open({path!r}, os.O_RDONLY)",
            "import io\nio.FileIO({path!r})",
            "open('../' * 20 + {path!r}[1:])",
            "open({path!r}.encode())",
            "from pathlib import Path\nPath({path!r}).read_text()",
            "open({path!r}, 'a')",
            "import os\nos.remove({path!r})",
            "import os\nos.rename({path!r}, 'mine')",
            "import os\nos.symlink({path!r}, 'mine')",
            "import os\nos.link({path!r}, 'mine')",
            "import os\nos.truncate({path!r}, 0)",
            "import os\nos.chdir(os.path.dirname({path!r}))",
            "import os\nos.listdir(os.path.dirname({path!r}))",
            "import shutil, os\nshutil.rmtree(os.path.dirname({path!r}))",
            "import sqlite3\nsqlite3.connect({path!r})",
            "open('/proc/self/environ').read()",
            "import os\nos.mkdir('/tmp/of-the-sandbox')",
        ],
    )
    def test_files_outside_are_out_of_reach(self, tmp_path, code):
        private = tmp_path / "private" / "secret.txt"
        private.parent.mkdir()
        private.write_text("a secret")
        outcome = run_tests(code.format(path=str(private)), TESTS, LIMITS)
        assert outcome.status == "broken"
        assert outcome.detail.startswith("PermissionError: the sandbox refuses")
        assert private.read_text() == "a secret"

    @pytest.mark.parametrize(
        "attempt",
        [
            "import socket\nsocket.create_connection(('127.0.0.1', {port}), timeout=2).sendall(b'secret')",
            "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'secret', ('127.0.0.1', {port}))",
            "import urllib.request\nurllib.request.urlopen('http://127.0.0.1:{port}/secret', timeout=2)",
            "import _socket\n_socket.socket().connect(('127.0.0.1', {port}))",
            "import socket\nsocket.socket(socket.AF_UNIX).connect('{path}')",
        ],
    )
    def test_network_is_out_of_reach(self, attempt):
        # Its own short folder: the address of a local socket has a hundred letters at most.
        with contextlib.ExitStack() as stack:
            path = stack.enter_context(tempfile.TemporaryDirectory(dir="/tmp")) + "/socket"
            stream = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            port = stream.getsockname()[1]
            datagrams = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            datagrams.bind(("127.0.0.1", port))
            local = stack.enter_context(socket.socket(socket.AF_UNIX))
            local.bind(path)
            local.listen()
            outcome = run_tests(attempt.format(port=port, path=path), TESTS, LIMITS)
            assert outcome.status == "broken"
            assert "the sandbox refuses socket" in outcome.detail
            for end, take in ((stream, stream.accept), (local, local.accept), (datagrams, lambda: datagrams.recv(9))):
                # The kernel keeps what arrives until it is asked for.
                end.setblocking(False)
                with pytest.raises(BlockingIOError):
                    take()

    @pytest.mark.usefixtures("hookless")
    def test_namespaces_alone_keep_the_network_away(self):
        with socket.create_server(("127.0.0.1", 0)) as server:
            code = f"import socket\nsocket.create_connection(('127.0.0.1', {server.getsockname()[1]}), timeout=2)"
            outcome = run_tests(code, TESTS, LIMITS)
        assert outcome.status == "broken"
        assert "Network is unreachable" in outcome.detail

    @pytest.mark.usefixtures("hookless")
    def test_nothing_outlives_its_namespace(self, tmp_path):
        code = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(600)\n" + DOUBLE
        assert status(code) == "passed"
        assert not processes_of(tmp_path / "sandboxed.py")
