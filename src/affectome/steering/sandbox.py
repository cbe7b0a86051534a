"""Running code that a model wrote, with tests of it, where it can do little harm and not easily lie about the result.

**What is defended.** The code runs in a Python process of its own: isolated mode without site-packages, an empty
environment (no keys), an empty folder that is removed afterwards, limits on CPU time, memory, file sizes and open
files, a limit on wall-clock time after which everything it started is killed, and output kept up to a limit.
An audit hook refuses the network, new processes, machine code (ctypes), and files outside that folder, except that
Python's own library can be read. Where the kernel lets the program `unshare` make namespaces, the process also has no
network device, cannot signal other processes, has its processes counted, and leaves none behind.

**The verdict** counts only together with a secret that the process is handed after the tests ran. Code that prints
"OK", ends the process with any status, raises SystemExit or changes what is in `builtins` (which tests do not look up)
does not pass. `assert` cannot be redefined in Python.

**What is not defended.** Code and tests share one process, so that what works in a plain test run works here: objects
that equal everything, functions that look at who calls them, changed standard-library modules that the tests use. Code
written for this very sandbox could find the descriptors of its parent and forge the verdict. Audit hooks stop what
programs do, not what exploits of the interpreter do; without namespaces they are all there is against the network and
new processes. The total size of files is bounded by `file_mb` times `open_files` only.
"""

import ast
import functools
import json
import logging
import os
import secrets
import select
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from affectome.errors import UserError
from affectome.steering import sandboxed

log = logging.getLogger(__name__)

_UNSHARE = ("--user", "--map-root-user", "--net", "--pid", "--fork", "--kill-child", "--")
_PYTHON = (sys.executable, "-I", "-S", "-B", "-X", "utf8")

# How often a process is looked at that neither writes nor ends, in seconds.
_GLANCE_S = 0.05


@dataclass(frozen=True)
class Limits:
    """What the code may use; `open_files` are those open at a time and those opened for writing in all."""

    cpu_s: int = 5
    wall_s: float = 10.0
    memory_mb: int = 512
    file_mb: int = 4
    open_files: int = 32
    processes: int = 8
    output_chars: int = 10_000


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    `status` is `passed` (the tests ran to their end), `failed` (a test raised), `broken` (the code itself raised, or is
    no Python) or `stopped` (a limit was met or the process ended before a verdict); `detail` says what happened, in one
    line. `output` is what was printed, up to the limit. `isolation` names what kept the network away.
    """

    status: str
    detail: str
    output: str
    isolation: str

    @property
    def passed(self) -> bool:
        return self.status == "passed"


def run_tests(code: str, tests: str, limits: Limits | None = None) -> Outcome:
    """Run `code` as the module `solution`, then `tests` with its names in reach.

    Tests are statements with `assert`, or functions named `test…` without arguments, which are called in order.
    Raises UserError where the tests are no Python or assert nothing; whatever `code` does is in the outcome.
    """
    limits = limits or Limits()
    prefix, isolation = _isolation()
    # Outside namespaces the kernel would count everything its user runs, and the code fail or not by that.
    processes = limits.processes if prefix else None
    job = {"code": code, "tests": _called(tests), "limits": asdict(limits) | {"processes": processes}}
    secret = secrets.token_hex(16)
    with tempfile.TemporaryDirectory(prefix="affectome-sandbox-") as folder:
        status, printed, verdict = _run(prefix, folder, json.dumps(job).encode(), secret, limits)
    output = printed.decode("utf-8", "replace")[: limits.output_chars]
    told, _, rest = verdict.decode("utf-8", "replace").partition(" ")
    if not secrets.compare_digest(told.encode(), secret.encode()):
        return Outcome("stopped", status, output, isolation)
    result, _, detail = rest.partition(" ")
    return Outcome(result, " ".join(detail.split()), output, isolation)


def _called(tests: str) -> str:
    """`tests` with a call of each test function; raises UserError where they could not fail."""
    try:
        tree = ast.parse(tests)
    except (SyntaxError, ValueError) as error:
        raise UserError(f"tests of a coding task are no Python ({error}); correct them: {tests[:80]!r}") from None
    if not any(isinstance(node, ast.Assert) for node in ast.walk(tree)):
        raise UserError(f"tests of a coding task hold no assert, so nothing can fail them: {tests[:80]!r}")
    names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test")]
    return "\n".join([tests, *(f"{name}()" for name in names)])


@functools.cache
def _isolation() -> tuple[tuple[str, ...], str]:
    """What to put before a command to take the network away, and what is then in force."""
    unshare = shutil.which("unshare")
    if unshare:
        prefix = (unshare, *_UNSHARE)
        done = subprocess.run([*prefix, *_PYTHON, "-c", ""], capture_output=True, env={}, check=False)
        if done.returncode == 0:
            log.info("sandbox: user, network and process namespaces, and an audit hook")
            return prefix, "namespaces and audit hook"
    log.warning("sandbox: this machine makes no namespaces for `unshare`; an audit hook alone keeps the network away")
    return (), "audit hook"


def _run(prefix: tuple[str, ...], folder: str, job: bytes, secret: str, limits: Limits) -> tuple[str, bytes, bytes]:
    """Run the job in `folder`; returns how it ended, in words, what it printed and its verdict."""
    ends = [end for _ in range(3) for end in os.pipe()]
    job_read, job_write, secret_read, secret_write, verdict_read, verdict_write = ends
    inherited = (job_read, secret_read, verdict_write)
    try:
        os.write(secret_write, secret.encode())
        process = subprocess.Popen(
            [*prefix, *_PYTHON, str(Path(sandboxed.__file__).resolve()), *map(str, inherited)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env={},
            pass_fds=inherited,
            start_new_session=True,
        )
        try:
            for end in inherited:
                os.close(end)
                ends.remove(end)
            return _watch(process, job_write, job, verdict_read, limits, ends)
        finally:
            _kill(process, verdict_read)
    finally:
        for end in ends:
            os.close(end)


def _watch(
    process: subprocess.Popen, job_write: int, job: bytes, verdict_read: int, limits: Limits, ends: list[int]
) -> tuple[str, bytes, bytes]:
    """Feed the job in and take output and verdict until the process ends or its time is up; it is not reaped here."""
    deadline = time.monotonic() + limits.wall_s
    printed, verdict = bytearray(), bytearray()
    # Four bytes are the most that a character takes.
    rooms = {process.stdout.fileno(): (printed, 4 * limits.output_chars), verdict_read: (verdict, 4096)}
    os.set_blocking(job_write, False)
    with selectors.DefaultSelector() as selector:
        selector.register(job_write, selectors.EVENT_WRITE)
        for end in rooms:
            selector.register(end, selectors.EVENT_READ)
        while (left := deadline - time.monotonic()) > 0:
            ended = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            ready = [key.fd for key, _ in selector.select(0 if ended else min(left, _GLANCE_S))]
            for end in ready:
                if end == job_write:
                    try:
                        job = job[os.write(end, job) :]
                    except BrokenPipeError:
                        job = b""
                    if not job:
                        selector.unregister(end)
                        os.close(end)
                        ends.remove(end)
                    continue
                content, room = rooms[end]
                data = os.read(end, 65536)
                content += data[: max(0, room - len(content))]
                if not data:
                    selector.unregister(end)
            if ended and not ready:
                return _ending(ended), bytes(printed), bytes(verdict)
    return f"took longer than {limits.wall_s:g} s", bytes(printed), bytes(verdict)


def _ending(ended: os.waitid_result) -> str:
    if ended.si_code == os.CLD_EXITED:
        return f"ended with status {ended.si_status} before the tests did"
    return f"killed by {signal.Signals(ended.si_status).name}"


def _kill(process: subprocess.Popen, verdict_read: int) -> None:
    """Kill the process, which is not reaped yet and so still owns its number, and its group."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    # What is in its namespace dies a moment later; until then its folder is in use.
    poll = select.poll()
    poll.register(verdict_read, select.POLLIN)
    while poll.poll(1000) and os.read(verdict_read, 4096):
        pass
