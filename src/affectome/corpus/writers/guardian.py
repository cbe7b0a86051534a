"""Runs one program, of which nothing outlives whoever asked for it: `python -I -S guardian.py PROGRAM ARGUMENT...`.

Engines are several processes, some of which outlive the first when that is killed, and a job can be killed without a
chance to end anything. So this process stands between: its standard input is a pipe whose other end the job holds,
and closes by ending, however it ends. Then, and when the program ends by itself or this process is asked to end,
everything that the program started is asked to end and, after a while, killed. Linux makes orphans the children of
this process, so none gets away. The standard library is all it imports.
"""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time

# How long processes that were asked to end may take, in seconds, before they are killed.
PATIENCE_S = 10.0

_GLANCE_S = 0.1

# From linux/prctl.h.
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def main() -> None:
    job = os.getppid()
    stops: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda received, _: stops.append(received))
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    # Its own session keeps Ctrl-C at a terminal away from it, and it ends even if this process is killed.
    program = subprocess.Popen(
        sys.argv[1:],
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0),
    )
    ended: dict[int, int] = {}
    # The pipe never holds anything: it is readable when its other end is closed. A process that the job started
    # meanwhile may hold that end, too, but does not make this process its child.
    while not stops and program.pid not in ended and os.getppid() == job:
        if select.select([sys.stdin], [], [], _GLANCE_S)[0]:
            break
        ended |= _reaped()
    ended |= _end_all(signal.SIGTERM, PATIENCE_S)
    ended |= _end_all(signal.SIGKILL, PATIENCE_S)
    # As a shell tells it: 128 and the signal.
    status = ended.get(program.pid, -signal.SIGKILL)
    sys.exit(status if status >= 0 else 128 - status)


def _end_all(number: signal.Signals, patience_s: float) -> dict[int, int]:
    """Send a signal to every descendant, once, and wait until none is left; the exit codes of own children, by pid."""
    deadline = time.monotonic() + patience_s
    told: set[int] = set()
    ended: dict[int, int] = {}
    while (left := _descendants()) and time.monotonic() < deadline:
        for pid in left - told:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        told |= left
        time.sleep(_GLANCE_S)
        ended |= _reaped()
    return ended


def _descendants() -> set[int]:
    """Every process that comes from this one and is not dead yet."""
    parents = {}
    for name in filter(str.isdecimal, os.listdir("/proc")):
        # Processes end while one looks; the name of a program, in parentheses, may hold anything.
        with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
            state, parent = file.read().rpartition(b")")[2].split()[:2]
            if state not in (b"Z", b"X"):
                parents[int(name)] = int(parent)
    found: set[int] = set()
    while more := {pid for pid, parent in parents.items() if parent in found | {os.getpid()}} - found:
        found |= more
    return found


def _reaped() -> dict[int, int]:
    """Exit codes of children that have ended since the last call, orphans among them; negative for a signal."""
    ended = {}
    with contextlib.suppress(ChildProcessError):
        while (result := os.waitpid(-1, os.WNOHANG))[0]:
            ended[result[0]] = os.waitstatus_to_exitcode(result[1])
    return ended


if __name__ == "__main__":
    main()
