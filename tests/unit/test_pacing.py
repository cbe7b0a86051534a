"""Limits per minute: by hand with a clock of our own, and between processes with the real one."""

import asyncio
import fcntl
import random
import subprocess
import sys
import time
from bisect import bisect_right
from types import SimpleNamespace

import pytest

from affectome.corpus.writers import Request, pacing
from affectome.corpus.writers.pacing import Pace

# Spacings are 61.2 s / limit: with this limit of requests a second, with that of tokens a millisecond per token.
A_SECOND = 61.2
A_MILLISECOND = 61_200.0

# 400 characters and the longest reply make 1000 tokens.
THOUSAND = Request("x", "word" * 100, 0, max_tokens=900)
SMALL = Request("x", "", 0, max_tokens=1)


class Clock:
    """Time that passes only while somebody sleeps, and then `late` too long."""

    def __init__(self):
        self.now = 100.0
        self.late = lambda: 0.0

    async def sleep(self, seconds):
        self.now += seconds + self.late()


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(pacing, "time", SimpleNamespace(time=lambda: clock.now))
    monkeypatch.setattr(pacing, "asyncio", SimpleNamespace(sleep=clock.sleep))
    return clock


@pytest.fixture
def pace(tmp_path):
    return lambda requests=None, tokens=None, name="service": Pace(name, requests, tokens, tmp_path)


def sent(clock, pace, request=SMALL, times=1):
    """When `request` is sent, so many times."""

    async def moment():
        await pace.wait(request)
        return clock.now

    async def moments():
        return [await moment() for _ in range(times)]

    return asyncio.run(moments())


def most_in(seconds, moments):
    """The most of `moments` in any `seconds`."""
    moments = sorted(moments)
    return max(bisect_right(moments, start + seconds) - number for number, start in enumerate(moments))


class TestRequests:
    def test_are_spaced_evenly(self, clock, pace):
        assert sent(clock, pace(A_SECOND), times=4) == pytest.approx([100, 101, 102, 103])

    def test_a_pause_is_not_made_up_for(self, clock, pace):
        service = pace(A_SECOND)
        sent(clock, service)
        clock.now = 200.0
        # But for the hundredth of a second that any sleep may be late.
        assert sent(clock, service, times=3) == pytest.approx([200, 200.99, 201.99])

    def test_nor_is_lateness(self, clock, pace):
        clock.late = lambda: 0.6
        assert sent(clock, pace(A_SECOND), times=3) == pytest.approx([100, 101.6, 103.19])

    @pytest.mark.parametrize("limit", [1, 2, 7, 60, 500])
    def test_no_minute_holds_more_than_the_limit_however_late_some_are(self, clock, pace, limit):
        draw = random.Random(limit)
        clock.late = lambda: draw.choice([0.0, 0.001, 0.02, 1.5, 70.0]) if draw.random() < 0.2 else 0.0
        service = pace(limit)
        moments = sent(clock, service, times=4 * limit + 3)
        assert most_in(60, moments) <= limit
        clock.late = lambda: 0.0
        assert most_in(60, sent(clock, service, times=2 * limit)) >= limit - limit // 25 - 1

    def test_two_of_a_name_share_the_limit(self, clock, pace):
        assert sent(clock, pace(A_SECOND)) + sent(clock, pace(A_SECOND)) == pytest.approx([100, 101])

    def test_two_of_other_names_do_not(self, clock, pace):
        assert sent(clock, pace(A_SECOND)) + sent(clock, pace(A_SECOND, name="another")) == [100, 100]

    def test_a_file_that_is_not_whole_is_as_good_as_none(self, clock, pace, tmp_path):
        service = pace(A_SECOND)
        sent(clock, service)
        (file,) = tmp_path.iterdir()
        file.write_bytes(b"\xff" * 5)
        assert sent(clock, service, times=2) == pytest.approx([100, 101])


class TestTokens:
    def test_are_spaced_by_what_requests_are_expected_to_take(self, clock, pace):
        assert sent(clock, pace(tokens=A_MILLISECOND), THOUSAND, times=3) == pytest.approx([100, 101, 102])

    def test_texts_of_unknown_length_count_as_250(self, clock, pace):
        four = Request("x", "", 0, texts=4)
        assert sent(clock, pace(tokens=A_MILLISECOND), four, times=2) == pytest.approx([100, 101])

    @pytest.mark.parametrize(("took", "then"), [(3000, 103), (1000, 101), (400, 100.4), (0, 100)])
    def test_what_was_taken_is_made_up_for(self, clock, pace, took, then):
        service = pace(tokens=A_MILLISECOND)
        sent(clock, service, THOUSAND)
        service.correct(THOUSAND, took)
        assert sent(clock, service, THOUSAND) == pytest.approx([then])

    def test_the_stricter_of_both_limits_counts(self, clock, pace):
        service = pace(2 * A_SECOND, A_MILLISECOND)
        assert sent(clock, service, THOUSAND, times=2) == pytest.approx([100, 101])
        # The tokens of the second are over at 102; a request would have been due at 101.5.
        assert sent(clock, service, SMALL, times=2) == pytest.approx([102, 102.49])

    def test_wrong_expectations_even_out(self, clock, pace):
        service = pace(tokens=10_000)
        taken = []
        for number in range(100):
            sent(clock, service, THOUSAND)
            took = 2500 if number % 2 else 700
            service.correct(THOUSAND, took)
            taken.append((clock.now, took))
        minutes = (taken[-1][0] - taken[0][0]) / 60
        assert sum(took for _, took in taken) / minutes == pytest.approx(10_000, rel=0.03)


SENDER = """
import asyncio, sys, time
from pathlib import Path
from affectome.corpus.writers import Request
from affectome.corpus.writers.pacing import Pace

pace = Pace("service", 6000, None, Path(sys.argv[1]))
print(flush=True)
sys.stdin.readline()
for _ in range(60):
    asyncio.run(pace.wait(Request("x", "", 0)))
    print(time.time(), flush=True)
"""

HOLDER = """
import sys, time
from pathlib import Path
from affectome.corpus.writers.pacing import Pace

with Pace("service", 6000, None, Path(sys.argv[1]))._times():
    print(flush=True)
    time.sleep(600)
"""


def start(code, folder):
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "\n"
    return process


class TestProcesses:
    def test_keep_the_limit_together(self, tmp_path):
        senders = [start(SENDER, tmp_path) for _ in range(2)]
        for sender in senders:
            sender.stdin.write("\n")
            sender.stdin.flush()
        moments = [[float(line) for line in sender.communicate()[0].split()] for sender in senders]
        together = sorted(moments[0] + moments[1])
        assert len(together) == 120
        # Both sent during most of the time; 10.2 ms lie between any two, but for what a sleep may be late.
        assert max(moments[0][0], moments[1][0]) < together[60] < min(moments[0][-1], moments[1][-1])
        assert together[-1] - together[0] >= 119 * 0.0102 - 0.02
        assert most_in(0.5, together) <= 51

    def test_one_that_is_killed_leaves_no_lock(self, tmp_path):
        holder = start(HOLDER, tmp_path)
        (file,) = tmp_path.iterdir()
        with open(file, "ab") as handle, pytest.raises(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        holder.kill()
        holder.wait()
        before = time.monotonic()
        asyncio.run(Pace("service", 6000, None, tmp_path).wait(SMALL))
        assert time.monotonic() - before < 1.0
