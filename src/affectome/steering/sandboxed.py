"""The inside of the sandbox: a script that limits its own process, then runs code and the tests of it.

`sandbox.run_tests` starts it with `python -I -S`, so it uses the standard library only. Its arguments are three file
descriptors: the job (JSON), a secret to be handed back with the verdict, and where the verdict goes. What it defends
against and what not is said in `sandbox`.
"""

import builtins
import json
import os
import resource
import sys
import types
from collections.abc import Callable
from typing import Any

# What starts processes, reaches others, loads machine code, or reaches into this script's own state.
_REFUSED = (
    "os.system",
    "os.exec",
    "os.fork",
    "os.posix_spawn",
    "os.spawn",
    "os.kill",
    "os.link",
    "os.symlink",
    "subprocess.",
    "pty.",
    "ctypes.",
    "resource.",
    "gc.",
    "sqlite3.load_extension",
    "signal.pthread_kill",
)
_REFUSED_MODULES = ("_ctypes", "_posixsubprocess", "_testcapi", "_testinternalcapi", "_xxsubinterpreters")

# Events whose arguments before the first number are paths that would be changed or entered.
_CHANGES = (
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.mkdir",
    "os.truncate",
    "os.chmod",
    "os.chown",
    "os.lchown",
    "os.utime",
    "os.setxattr",
    "os.removexattr",
    "os.chdir",
    "sqlite3.connect",
)

_READABLE = ("/dev/null", "/dev/urandom", "/usr/share/zoneinfo")


def main() -> None:
    job_end, secret_end, verdict_end = map(int, sys.argv[1:4])
    with open(job_end, encoding="utf-8") as file:
        job = json.load(file)
    # Whatever the code does to these later, this function keeps what they are now. Functions made from here on, and the
    # tests, look names up in `names`, which changes to the module `builtins` do not reach.
    read, write, leave, stdout = os.read, os.write, os._exit, sys.stdout
    names = dict(vars(builtins))
    globals()["__builtins__"] = names
    _limit(job["limits"])
    sys.addaudithook(_hook(os.getcwd(), tuple(sys.path), job["limits"]["open_files"]))
    status, detail = _verdict(job["code"], job["tests"], names)
    try:
        stdout.flush()
    finally:
        # Read only now, so that code that looks for the secret in memory does not find it there.
        write(verdict_end, read(secret_end, 64) + f" {status} {detail}".encode("utf-8", "replace"))
        leave(0)


def _verdict(code: str, tests: str, names: dict[str, Any]) -> tuple[str, str]:
    """`broken` where the code raises, `failed` where the tests do, else `passed`; and what was raised."""
    module = types.ModuleType("solution")
    sys.modules["solution"] = module
    try:
        exec(compile(code, "solution.py", "exec"), vars(module))  # noqa: S102 - what the sandbox is for
    except BaseException as error:
        return "broken", _told(error)
    try:
        exec(compile(tests, "tests.py", "exec"), vars(module) | {"__name__": "tests", "__builtins__": names})  # noqa: S102
    except BaseException as error:
        return "failed", _told(error)
    return "passed", ""


def _told(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"[:300]
    except BaseException:
        return "an exception that cannot be shown"


def _limit(limits: dict[str, Any]) -> None:
    for kind, most in (
        (resource.RLIMIT_CPU, limits["cpu_s"]),
        (resource.RLIMIT_AS, limits["memory_mb"] * 2**20),
        (resource.RLIMIT_FSIZE, limits["file_mb"] * 2**20),
        (resource.RLIMIT_NOFILE, limits["open_files"]),
        (resource.RLIMIT_NPROC, limits["processes"]),
        (resource.RLIMIT_CORE, 0),
    ):
        if most is not None:
            resource.setrlimit(kind, (most, most))


def _hook(folder: str, library: tuple[str, ...], most_written: int) -> Callable[[str, tuple], None]:
    """An audit hook that keeps files to `folder`, lets `library` be read, and refuses processes and the network."""
    # Starts a process without an event; modules that merely import it, as asyncio does, are to go on working.
    import _posixsubprocess

    def refuse(*_: object) -> None:
        raise PermissionError("the sandbox starts no processes")

    _posixsubprocess.fork_exec = refuse
    fspath = os.fspath
    written = 0

    def within(path: Any, places: tuple[str, ...]) -> bool:
        # No links can be made here, so that a path without ".." lies where it says.
        if path is None or isinstance(path, int):
            return True
        text = fspath(path)
        text = bytes.decode(text, "utf-8", "surrogateescape") if isinstance(text, bytes) else str.__str__(text)
        if ".." in str.split(text, "/"):
            return False
        return not str.startswith(text, "/") or any(
            text == place or str.startswith(text, place + "/") for place in places
        )

    def allowed(event: str, arguments: tuple) -> bool:
        nonlocal written
        if event.startswith(_REFUSED) or (event == "import" and arguments[0] in _REFUSED_MODULES):
            return False
        if event.startswith("socket."):
            # Event loops wake themselves through a pair of local sockets.
            return event == "socket.__new__" and arguments[1] == 1
        if event == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND):
                written += not isinstance(path, int)
                return written <= most_written and within(path, (folder, "/dev/null"))
            return within(path, (folder, *library, *_READABLE))
        if event in ("os.listdir", "os.scandir"):
            return within(arguments[0], (folder, *library))
        if event in _CHANGES:
            paths = arguments[:2] if event == "os.rename" else arguments[:1]
            return all(path == ":memory:" or within(path, (folder,)) for path in paths)
        return True

    def hook(event: str, arguments: tuple) -> None:
        if not allowed(event, arguments):
            raise PermissionError(f"the sandbox refuses {event}")

    return hook


if __name__ == "__main__":
    main()
