"""Campaigns: whole writing jobs, in processes of their own, against services that fail a third of the time.

The services are those of `tests.fakes`. An answer, useful or not, is a function of what was asked, so that a job that
was killed again and again has to end with the very bytes of one that was not.
"""

import base64
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass
from urllib.parse import quote

import pytest

from affectome.config import Screening
from affectome.corpus.planning import plan_corpus, read_plan
from affectome.corpus.tables import read_corpus
from tests.fakes import KEY, ON_THE_WAY, hold, statistics
from tests.project import ROOT

CONCURRENCY = 3
EMOTIONS = ["afraid", "calm", "proud", "sad", "tired"]
PROMPTS = {
    kind: str(ROOT / "resources" / "prompts" / file)
    for kind, file in (("story", "story.j2"), ("several", "stories.j2"))
}

# The job of scripts/write_stories.py with waits fit for a service that is never busy for long.
JOB = """
import json, logging, sys
from affectome.corpus import writing
from affectome.corpus.writers import asking, gemini_batch

asking.BACKOFF_S, gemini_batch.POLL_S, gemini_batch.REQUESTS_PER_JOB = 0.02, 0.05, 25
logging.basicConfig(level=logging.INFO)
settings = json.loads(sys.argv[1])
writing.write_texts(**settings)
"""


@dataclass
class Service:
    """A fake service in a process of its own."""

    kind: str
    port: int

    def statistics(self):
        return statistics(self.port)

    def arrived(self):
        return len(self.statistics()["arrivals"])

    def hold(self, most):
        hold(self.port, most)


@contextlib.contextmanager
def service(kind, trouble=0.3):
    # Keys that change where they are quoted or encoded are the ones to look for.
    command = [sys.executable, "-m", "tests.fakes", kind, "--trouble", str(trouble), "--seed", "7", "--hang", "5"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        yield Service(kind, int(process.stdout.readline()))
    finally:
        process.kill()
        process.wait()


class Campaign:
    """A corpus that is written in `folder` by jobs of which one may follow the other."""

    def __init__(self, folder, service, topics, per_topic=4, prompts=PROMPTS, rules=None, **manner):
        self.folder, self.service, self.prompts = folder, service, prompts
        self.rules = rules or Screening().model_dump()
        (folder / "tmp").mkdir(parents=True)
        self.plan = folder / "plan.parquet"
        topics_file = ROOT / "resources" / "prompts" / "neutral_topics.txt"
        names = [f"A walk along river number {number}" for number in range(topics)]
        plan_corpus(self.plan, "stories", EMOTIONS, names, per_topic, None, 1, 0, topics_file, 3)
        self.output = folder / "written" / "stories_0.parquet"
        self.report = self.output.with_suffix(".json")
        self.log = folder / "job.log"
        self.manner = {
            "config_key": "corpora.mine.writer",
            "price": None,
            "budget_usd": None,
            "concurrency": CONCURRENCY,
            "requests_per_minute": None,
            "tokens_per_minute": None,
            "timeout": 2.0,
            **manner,
        }

    def start(self, per_request=1):
        kind, port = self.service.kind, self.service.port
        address = {"base_url": f"http://127.0.0.1:{port}/v1"} if kind == "openai" else {}
        settings = {
            "output": str(self.output),
            "report": str(self.report),
            "plan": str(self.plan),
            "neutral": False,
            "shard": 0,
            "prompts": self.prompts,
            "writer": {kind: "a-model", "temperature": 1.0},
            "attempts": 4,
            "stories_per_request": per_request,
            "rules": self.rules,
            "manner": {**self.manner, **address},
        }
        keys = {"GEMINI_API_KEY": KEY, "OPENAI_API_KEY": KEY, "NO_PROXY": "127.0.0.1"}
        places = {"GOOGLE_GEMINI_BASE_URL": f"http://127.0.0.1:{port}", "TMPDIR": str(self.folder / "tmp")}
        command = [sys.executable, "-c", JOB, json.dumps(settings)]
        with open(self.log, "a") as log:
            return subprocess.Popen(command, env={**os.environ, **keys, **places}, stdout=log, stderr=log)

    def run(self, **settings):
        job = self.start(**settings)
        assert job.wait() == 0, self.log.read_text()[-2000:]

    def run_with_kills(self, step, **settings):
        """Kill each job after about `step` requests, unless it is done by then; returns how many were killed.

        The service holds what comes after those, so that a job never gets further than that on a slow machine.
        """
        draw = random.Random(11)
        for kills in range(100):
            end = self.service.arrived() + draw.randint(step // 2, 3 * step // 2)
            self.service.hold(end)
            job = self.start(**settings)
            while job.poll() is None and self.service.arrived() <= end:
                time.sleep(0.02)
            if job.poll() is not None:
                assert job.returncode == 0, self.log.read_text()[-2000:]
                return kills
            job.send_signal(signal.SIGKILL)
            job.wait()
            assert not self.output.exists()
        raise AssertionError("never done")

    def account(self):
        """The report, but for the time it took."""
        return {name: value for name, value in json.loads(self.report.read_text()).items() if name != "seconds"}

    def check_whole(self):
        plan, corpus = read_plan(self.plan, False, 0), read_corpus(self.output)
        assert list(corpus["emotion"]) == [item.emotion for item in plan]
        assert list(corpus["topic"]) == [item.topic for item in plan]
        assert corpus["id"].is_unique
        assert corpus["text"].is_unique

    def check_no_key(self):
        secret = KEY.encode()
        forms = {secret, quote(KEY, safe="").encode(), quote(KEY).encode()}
        # In base64 the same bytes look in three ways, depending on what stands before them.
        for before in range(3):
            forms.add(base64.b64encode(b"x" * before + secret)[4:-4])
        files = [file for file in self.folder.rglob("*") if file.is_file()]
        assert {self.log, self.output, self.report} < set(files)
        for file in files:
            content = file.read_bytes()
            assert not [form for form in forms if form in content], file


def answers(seen):
    """How often each request was answered, with something useful or not."""
    return Counter(seen["usable"]) + Counter(seen["unusable"])


class TestCampaign:
    MOST = 40
    PER_MINUTE = 9000

    @pytest.mark.parametrize("kind", ["gemini", "openai"])
    def test_two_thousand_texts_at_a_third_of_trouble(self, tmp_path, kind):
        manner = {"concurrency": self.MOST, "requests_per_minute": self.PER_MINUTE}
        with service(kind) as fake:
            campaign = Campaign(tmp_path / "corpus", fake, 100, **manner)
            campaign.run()
            seen = fake.statistics()
        campaign.check_whole()
        assert len(read_corpus(campaign.output)) == 2000
        campaign.check_no_key()
        # What was answered was never asked for again; what was not, was, until it was.
        assert set(answers(seen).values()) == {1}
        assert seen["asked"].keys() == answers(seen).keys()
        assert all(seen["troubles"][trouble] > 20 for trouble in ON_THE_WAY)
        assert seen["asked"].total() == answers(seen).total() + sum(seen["troubles"].values())
        assert 1 < seen["most_under_way"] <= self.MOST
        self.check_pace(sorted(seen["arrivals"]))

    def check_pace(self, arrivals):
        in_a_minute = [bisect_right(arrivals, start + 60) - number for number, start in enumerate(arrivals)]
        assert max(in_a_minute) <= self.PER_MINUTE
        in_a_second = sorted(bisect_right(arrivals, start + 1) - number for number, start in enumerate(arrivals))
        # Requests are sent evenly, too; a service that is busy sees some of them late, and then more at once.
        assert in_a_second[int(0.99 * len(arrivals))] <= self.PER_MINUTE / 60
        assert in_a_second[-1] <= self.PER_MINUTE / 60 + self.MOST


class TestKills:
    """A job that is killed again and again ends with the bytes of one that was left alone."""

    def campaign(self, folder, kind, step, per_request=1, batches=False):
        """How often the job was killed, each time after about `step` more requests, and what its service saw."""
        manner = {"batch": True} if batches else {}
        with service(kind) as fake:
            alone = Campaign(folder / "alone", fake, 10, **manner)
            alone.run(per_request=per_request)
        with service(kind) as fake:
            killed = Campaign(folder / "killed", fake, 10, **manner)
            kills = killed.run_with_kills(step, per_request=per_request)
            seen = fake.statistics()
        killed.check_whole()
        killed.check_no_key()
        assert killed.output.read_bytes() == alone.output.read_bytes()
        assert killed.account() == alone.account()
        assert kills >= 3
        return kills, seen

    @pytest.mark.parametrize(("kind", "per_request", "step"), [("gemini", 3, 20), ("openai", 1, 45)])
    def test_of_a_service(self, tmp_path, kind, per_request, step):
        kills, seen = self.campaign(tmp_path, kind, step, per_request)
        # Of answers that a kill kept from being written down there were at most as many as requests under way.
        again = answers(seen).total() - len(answers(seen))
        assert again <= kills * CONCURRENCY

    def test_of_batch_jobs(self, tmp_path):
        _, seen = self.campaign(tmp_path, "gemini", 5, batches=True)
        # What was submitted goes on without the job that submitted it, and is collected by the next.
        assert set(answers(seen).values()) == {1}
