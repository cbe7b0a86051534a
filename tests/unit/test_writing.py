"""The Gemini writer against a local server that speaks the service's protocol to the real google-genai client."""

import json
import logging
import os
import signal
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import cycle, permutations
from pathlib import Path

import pytest

from affectome.config import Screening
from affectome.corpus.planning import (
    DIALOGUE_WORDS,
    STORY_WORDS,
    contrast_plan,
    dialogue_plan,
    plan_corpus,
    read_contrasts,
    read_plan,
    speakers_plan,
    story_plan,
)
from affectome.corpus.prompts import Prompt
from affectome.corpus.tables import COLUMNS, read_corpus
from affectome.corpus.writers import asking
from affectome.corpus.writing import MOST_UNUSABLE, write_texts
from affectome.errors import UserError
from affectome.jobs import _exit_on_signal

PROMPTS = Path(__file__).parents[2] / "resources" / "prompts"
KEY = "AIza-this-is-a-secret"
WRITER = {"gemini": "gemini-test", "temperature": 0.7, "thinking_tokens": None}
MANNER = {"concurrency": 4, "price": None, "budget_usd": None, "config_key": "corpora.told.writer"}
# What the fake writes is alike and short.
RULES = Screening(near_duplicates=None, preambles=False, layout=False, min_words=5).model_dump()
EMOTIONS = ["afraid", "calm", "proud", "sad"]
TOPICS = ["A walk along the river", "A letter arrives", "The last train"]
PER_TOPIC = 2
PLAN = story_plan(EMOTIONS, TOPICS, PER_TOPIC, seed=3)


def text_reply(text, finish="STOP"):
    return {"candidates": [{"content": {"role": "model", "parts": [{"text": text}]}, "finishReason": finish}]}


def error(code, status, message="", details=()):
    return {"error": {"code": code, "status": status, "message": message, "details": list(details)}}


RETRY_INFO = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "0.01s"}
TROUBLES = {
    "429": (429, error(429, "RESOURCE_EXHAUSTED", "quota", [RETRY_INFO]), {"Retry-After": "0"}),
    "500": (500, error(500, "INTERNAL"), {}),
    "503": (503, error(503, "UNAVAILABLE"), {}),
    "no candidates": (200, {"candidates": []}, {}),
    "prompt blocked: SAFETY": (200, {"promptFeedback": {"blockReason": "SAFETY"}}, {}),
    "finish reason SAFETY": (200, {"candidates": [{"finishReason": "SAFETY"}]}, {}),
    "finish reason MAX_TOKENS": (200, text_reply("A story that brea", "MAX_TOKENS"), {}),
    "empty text": (200, text_reply("  "), {}),
}


class FakeGemini(ThreadingHTTPServer):
    """Writes `text_of(seed)` for every request, unless `trouble` (a function of the request's number) says otherwise.

    Counts what it was asked (by seed), what it answered with a text, and how many requests were under way at most. Any
    key but `key` is refused, and quoted as some services do.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, key=KEY):
        super().__init__(("127.0.0.1", 0), Handler)
        self.key = key
        self.lock = threading.Lock()
        self.asked, self.answered, self.requests = Counter(), Counter(), []
        self.under_way = self.most_under_way = 0
        self.trouble = lambda _: None
        self.delay = 0.0

    def handle_error(self, *_):
        """A client that hung up, as interrupted ones do, is no error of the server."""

    @staticmethod
    def text_of(seed):
        return f"Story {seed}: she closed the gate and counted the boats, twice, before she turned home."


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        seed = body["generationConfig"]["seed"]
        with server.lock:
            server.under_way += 1
            server.most_under_way = max(server.most_under_way, server.under_way)
            server.asked[seed] += 1
            number = server.asked.total()
            server.requests.append((self.path, body))
        time.sleep(server.delay)
        if (given := self.headers["x-goog-api-key"]) != server.key:
            reason = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}
            status, headers = 400, {}
            reply = error(400, "INVALID_ARGUMENT", f"API key not valid: {given}.", [reason])
        else:
            status, reply, headers = server.trouble(number) or (200, text_reply(server.text_of(seed)), {})
        content = json.dumps(reply).encode()
        with server.lock:
            server.under_way -= 1
            server.answered[seed] += status == 200 and reply == text_reply(server.text_of(seed))
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    server = FakeGemini()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("GOOGLE_API_KEY", raising=False)
    monkeypatch.setattr(asking, "BACKOFF_S", 0.001)
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def output(tmp_path):
    return tmp_path / "told" / "written" / "stories_0.parquet"


def replies_of(output):
    return output.parent.parent / ".replies" / f"{output.stem}.jsonl"


def kept(output):
    """The texts of the replies that are kept."""
    file = replies_of(output)
    return [json.loads(line)["texts"][0] for line in file.read_text().splitlines()] if file.exists() else []


def planned(output, emotions=EMOTIONS, topics=TOPICS, seed=3, **changes):
    """Plan a corpus beside `output`; returns the file of the plan."""
    plan = output.parent.parent / "plan.parquet"
    settings = {"kind": "stories", "stories_per_topic": PER_TOPIC, "contrasts": None, "jobs": 1, "count": 0} | changes
    topics_file = PROMPTS / "neutral_topics.txt"
    plan_corpus(plan, emotions=emotions, topics=topics, topics_file=topics_file, seed=seed, **settings)
    return plan


def write(output, prompt_file=PROMPTS / "story.j2", seed=3, plan=None, neutral=False, shard=0, **changes):
    """Write what is planned; `changes` are of the writer, the manner, or an argument."""
    writer, manner = dict(WRITER), dict(MANNER)
    several = PROMPTS / "stories.j2"
    settings = {"attempts": 4, "stories_per_request": 1, "rules": RULES}
    for name, value in changes.items():
        (writer if name in writer else settings if name in settings else manner)[name] = value
    kinds = ["dialogue"] if neutral else ["story", "speakers", "contrast"]
    prompts = {kind: str(prompt_file) for kind in kinds} | ({} if neutral else {"several": str(several)})
    plan = plan or planned(output, seed=seed)
    report = output.with_suffix(".json")
    write_texts(output, report, plan, neutral, shard, prompts=prompts, writer=writer, manner=manner, **settings)
    return json.loads(report.read_text())


def interrupt(server, output):
    """Write ten stories, then meet a service that is down; one at a time, lest a request given up be counted later."""
    server.trouble = lambda number: TROUBLES["500"] if number > 10 else None
    with pytest.raises(UserError):
        write(output, concurrency=1)
    server.trouble = lambda _: None
    server.asked.clear()


def check_whole(output):
    corpus = read_corpus(output)
    assert list(corpus.columns) == list(COLUMNS)
    assert list(corpus["emotion"]) == [item.emotion for item in PLAN]
    assert list(corpus["topic"]) == [item.topic for item in PLAN]
    assert set(corpus["writer"]) == {"gemini:gemini-test"}
    assert corpus["text"].is_unique
    return corpus


class TestPlan:
    def test_has_every_combination_in_order_under_ids_of_its_own(self):
        assert [(item.emotion, item.topic, item.index) for item in PLAN] == [
            (emotion, topic, index) for emotion in EMOTIONS for topic in TOPICS for index in range(PER_TOPIC)
        ]
        assert len({item.id for item in PLAN}) == len(PLAN)

    def test_does_not_depend_on_order_or_on_what_else_is_planned(self):
        others = story_plan([*reversed(EMOTIONS), "tired"], TOPICS[::-1], PER_TOPIC + 1, seed=3)
        assert set(PLAN) < set(others)

    def test_varies_person_length_and_seed(self):
        plan = story_plan([f"emotion {number}" for number in range(500)], ["a topic"], 1, seed=0)
        assert 200 < sum(item.person == "first" for item in plan) < 300
        assert {item.person for item in plan} == {"first", "third"}
        assert {item.words for item in plan} == set(range(STORY_WORDS[0], STORY_WORDS[1] + 1))
        assert len({item.seed for item in plan}) == len(plan)
        assert all(0 <= item.seed < 2**31 for item in plan)

    def test_another_seed_draws_anew_for_the_same_items(self):
        other = story_plan(EMOTIONS, TOPICS, PER_TOPIC, seed=4)
        assert [item.id for item in other] == [item.id for item in PLAN]
        assert not {item.seed for item in other} & {item.seed for item in PLAN}

    def test_dialogues_take_topics_in_turn(self):
        plan = dialogue_plan(5, ["tides", "yarn"], seed=0)
        assert [(item.topic, item.index) for item in plan] == [
            ("tides", 0), ("yarn", 0), ("tides", 1), ("yarn", 1), ("tides", 2)
        ]  # fmt: skip
        assert {(item.emotion, item.person) for item in plan} == {("", "")}
        assert all(DIALOGUE_WORDS[0] <= item.words <= DIALOGUE_WORDS[1] for item in plan)
        assert plan[:3] == dialogue_plan(3, ["tides", "yarn"], seed=0)

    def test_a_larger_share_of_jobs_writes_the_same_texts(self, output):
        whole = read_plan(planned(output), False, 0)
        shared = planned(output, jobs=5)
        parts = [read_plan(shared, False, shard) for shard in range(5)]
        assert [len(part) for part in parts] == [5, 5, 5, 5, 4]
        assert [replace(item, shard=0) for part in parts for item in part] == whole == PLAN

    def test_speakers_feel_two_different_things(self):
        plan = speakers_plan(EMOTIONS, TOPICS, 20, seed=0)
        assert all(item.emotion != item.other_emotion for item in plan)
        assert {(item.emotion, item.other_emotion) for item in plan} == set(permutations(EMOTIONS, 2))
        assert {item.person for item in plan} == {""}

    def test_contrasts_are_planned_for_the_listed_emotions_only(self, tmp_path):
        pairs = tmp_path / "pairs.csv"
        pairs.write_text("emotion,unlike\nsad,calm\nafraid,sad\nsad,proud\n")
        contrasts = read_contrasts(pairs, EMOTIONS)
        assert contrasts == {"sad": ("calm", "proud"), "afraid": ("sad",)}
        plan = contrast_plan(contrasts, TOPICS, 2, seed=0)
        assert len(plan) == 12
        assert {(item.emotion, item.unlike) for item in plan} == set(contrasts.items())
        # Another text than the plain story of the same emotion and topic, under another id.
        assert not {item.id for item in plan} & {item.id for item in PLAN}

    @pytest.mark.parametrize(
        ("rows", "told"),
        [
            ("emotion,unlike\nsad,blue\n", "'blue' is none of the corpus's emotions"),
            ("emotion,unlike\nsad,sad\n", "'sad' is contrasted with itself"),
            ("emotion,other\nsad,calm\n", "holds no pairs; give a row per pair"),
            ("emotion,unlike\n", "holds no pairs"),
        ],
    )
    def test_contrasts_that_make_no_sense_are_named(self, tmp_path, rows, told):
        pairs = tmp_path / "pairs.csv"
        pairs.write_text(rows)
        with pytest.raises(UserError, match=rf"pairs\.csv: {told}"):
            read_contrasts(pairs, EMOTIONS)


class TestPrompts:
    def test_the_model_is_asked_for_what_the_plan_says(self, server, output):
        write(output)
        by_seed = {body["generationConfig"]["seed"]: (path, body) for path, body in server.requests}
        for item in PLAN:
            path, body = by_seed[item.seed]
            prompt = body["contents"][0]["parts"][0]["text"]
            assert path.endswith("/models/gemini-test:generateContent")
            assert body["generationConfig"]["temperature"] == WRITER["temperature"]
            for part in (item.emotion, item.topic, f"{item.person} person", f"{item.words} words"):
                assert part in prompt

    def test_every_shipped_prompt_says_what_its_item_is_about(self):
        item = {
            "story": PLAN[1],
            "speakers_dialogue": speakers_plan(EMOTIONS, TOPICS, 2, seed=0)[1],
            "contrast_story": contrast_plan({"sad": ("calm", "proud")}, TOPICS, 2, seed=0)[1],
            "neutral_dialogue": dialogue_plan(2, ["tides"], seed=0)[1],
        }
        for name, planned_item in item.items():
            prompt = Prompt(PROMPTS / f"{name}.j2")
            text = prompt.of([planned_item])
            told = [planned_item.emotion, planned_item.other_emotion, *planned_item.unlike, planned_item.topic]
            assert all(part in text for part in [*told, str(planned_item.words), f"number {planned_item.index + 1}"])
            assert "{" not in text
            assert prompt.origin["version"].isdigit()
        several = Prompt(PROMPTS / "stories.j2").of(PLAN[:3])
        assert all(f"Story {n}: {PLAN[n - 1].topic}" in several for n in (1, 2, 3))

    def test_neutral_topics_are_distinct_and_none_is_a_starter_topic(self):
        topics = (PROMPTS / "neutral_topics.txt").read_text().splitlines()
        starter = PROMPTS.parent / "corpora" / "starter" / "neutral.jsonl"
        shipped = {json.loads(line)["topic"] for line in starter.read_text().splitlines()}
        assert len(topics) == len(set(topics)) >= 60
        assert not set(topics) & shipped

    @pytest.mark.parametrize("template", ["About {{ emotoin }}", "About {{ emotion"])
    def test_a_broken_prompt_is_named_before_anything_is_asked(self, server, output, tmp_path, template):
        prompt = tmp_path / "mine.j2"
        prompt.write_text(template)
        with pytest.raises(
            UserError, match=r"mine\.j2: .*unlike, topic, index, person, words, seed, shard, and items$"
        ):
            write(output, prompt)
        assert not server.asked


class TestWriting:
    def test_every_story_arrives_once_in_plan_order(self, server, output):
        write(output)
        corpus = check_whole(output)
        assert list(corpus["text"]) == [server.text_of(item.seed) for item in PLAN]
        assert server.asked == Counter(item.seed for item in PLAN)

    @pytest.mark.usefixtures("server")
    def test_dialogues_have_no_emotion(self, output):
        write(output, PROMPTS / "neutral_dialogue.j2", plan=planned(output, count=7), neutral=True)
        corpus = read_corpus(output)
        topics = (PROMPTS / "neutral_topics.txt").read_text().splitlines()
        assert list(corpus["topic"]) == topics[:7]
        assert set(corpus["emotion"]) == {""}

    def test_no_dialogues_need_no_key(self, output, monkeypatch):
        monkeypatch.delenv("GEMINI_API_KEY", raising=False)
        write(output, PROMPTS / "neutral_dialogue.j2", neutral=True)
        corpus = read_corpus(output)
        assert list(corpus.columns) == list(COLUMNS)
        assert corpus.empty

    def test_survives_trouble_with_a_third_of_the_requests(self, server, output, caplog):
        caplog.set_level(logging.INFO)
        troubles, met = cycle(TROUBLES.values()), []

        def trouble(number):
            if number % 3:
                return None
            met.append(number)
            return next(troubles)

        server.trouble = trouble
        report = write(output)
        check_whole(output)
        assert len(met) >= len(TROUBLES)
        assert set(server.answered.values()) <= {0, 1}
        assert server.answered.total() == len(PLAN)
        refused = {reason for reasons in report["rejected"].values() for reason in reasons}
        assert refused == {reason for reason, (status, *_) in TROUBLES.items() if status == 200}
        repeated = next(message for message in caplog.messages if message.startswith("asked for again"))
        assert all(f"{reason} × " in repeated for reason in refused)

    @pytest.mark.usefixtures("server")
    def test_a_dropped_connection_is_tried_again(self, output, monkeypatch):
        reply, dropped = Handler.do_POST, []

        def drop_first(handler):
            if not dropped:
                dropped.append(handler.close_connection)
                handler.close_connection = True
                return
            reply(handler)

        monkeypatch.setattr(Handler, "do_POST", drop_first)
        write(output)
        check_whole(output)

    def test_a_refused_text_is_asked_for_with_another_seed(self, server, output):
        server.trouble = lambda number: TROUBLES["finish reason MAX_TOKENS"] if number == 1 else None
        write(output, concurrency=1)
        assert list(check_whole(output)["text"][:2]) == [
            server.text_of(PLAN[0].seed + 1),
            server.text_of(PLAN[1].seed),
        ]

    @pytest.mark.parametrize(
        ("headers", "details", "seconds"),
        [({"Retry-After": "1"}, [], 1.0), ({}, [{**RETRY_INFO, "retryDelay": "0.4s"}], 0.4)],
    )
    def test_waits_as_long_as_the_service_asks(self, server, output, headers, details, seconds):
        times = []

        def trouble(number):
            times.append(time.monotonic())
            return (429, error(429, "RESOURCE_EXHAUSTED", "", details), headers) if number == 1 else None

        server.trouble = trouble
        write(output, concurrency=1)
        assert times[1] - times[0] >= seconds

    def test_does_not_wait_for_tomorrows_quota(self, server, output):
        server.trouble = lambda _: (429, error(429, "RESOURCE_EXHAUSTED", "per day"), {"Retry-After": "40000"})
        with pytest.raises(UserError, match=r"asks to wait 40000 s \(429 RESOURCE_EXHAUSTED: per day\)"):
            write(output)

    @pytest.mark.parametrize("concurrency", [1, 3])
    def test_never_more_requests_than_allowed(self, server, output, concurrency):
        server.delay = 0.01
        write(output, concurrency=concurrency)
        assert server.most_under_way == concurrency

    def test_a_few_failures_are_counted_and_left_out(self, server, output, caplog):
        lost = PLAN[5]
        server.trouble = lambda _: TROUBLES["finish reason SAFETY"] if lost_is_asked() else None

        def lost_is_asked():
            return server.requests[-1][1]["generationConfig"]["seed"] - lost.seed in range(MOST_UNUSABLE)

        report = write(output, concurrency=1)
        corpus = read_corpus(output)
        assert list(corpus["text"]) == [server.text_of(item.seed) for item in PLAN if item != lost]
        assert "stories given up, of 24: finish reason SAFETY × 1" in caplog.messages
        assert report["given_up"] == {lost.emotion: {"finish reason SAFETY": 1}}
        assert report["rejected"] == {lost.emotion: {"finish reason SAFETY": MOST_UNUSABLE}}
        assert report["asked"][lost.emotion] == len(TOPICS) * PER_TOPIC - 1 + MOST_UNUSABLE


class TestScreening:
    """What comes is looked at before it is taken."""

    def answer(self, server, answers):
        """Answer the request of a seed with another text, once for every text that is listed."""
        left = {seed: list(texts) for seed, texts in answers.items()}

        def trouble(number):
            seed = server.requests[number - 1][1]["generationConfig"]["seed"]
            texts = left.get(seed)
            return (200, text_reply(texts.pop(0)), {}) if texts else None

        server.trouble = trouble

    def test_a_text_that_names_its_emotion_is_written_anew(self, server, output):
        item = PLAN[0]
        self.answer(server, {item.seed: ["She was so afraid that she could not close the gate that evening."]})
        report = write(output, concurrency=1)
        assert next(iter(check_whole(output)["text"])) == server.text_of(item.seed + 1)
        assert report["rejected"] == {item.emotion: {"leak": 1}}
        assert report["given_up"] == {}
        assert report["asked"] == {**dict.fromkeys(EMOTIONS, 6), item.emotion: 7}

    def test_an_item_is_given_up_after_so_many_attempts_and_a_rerun_asks_for_nothing(self, server, output):
        item = PLAN[7]
        leak = f"They all felt {item.emotion} and closed the gate and counted the boats."
        self.answer(server, {item.seed + turn: [leak] for turn in range(3)})
        report = write(output, concurrency=1, attempts=3)
        assert report["given_up"] == {item.emotion: {"leak": 1}}
        assert server.asked.total() == len(PLAN) - 1 + 3
        rows = read_corpus(output)
        output.unlink()
        server.asked.clear()
        again = write(output, concurrency=1, attempts=3)
        assert not server.asked
        assert read_corpus(output).equals(rows)
        assert {**again, "seconds": 0} == {**report, "seconds": 0}

    def test_of_two_alike_the_later_in_the_plan_is_written_anew(self, server, output):
        # Answered in the opposite order of the plan, which must not matter.
        first, second = PLAN[3], PLAN[9]
        self.answer(server, {second.seed: [server.text_of(first.seed)]})
        report = write(output, rules={**RULES, "near_duplicates": 1.0})
        corpus = check_whole(output)
        assert corpus["text"][3] == server.text_of(first.seed)
        assert corpus["text"][9] == server.text_of(second.seed + 1)
        assert report["rejected"] == {second.emotion: {"duplicate": 1}}

    def test_speakers_may_name_neither_state(self, server, output):
        plan = planned(output, kind="speakers")
        item = read_plan(plan, False, 0)[0]
        self.answer(server, {item.seed: [f"Person: The gate is shut.\n\nAI: It made me {item.other_emotion} before."]})
        report = write(output, PROMPTS / "speakers_dialogue.j2", plan=plan, concurrency=1)
        assert report["rejected"] == {item.emotion: {"leak": 1}}
        corpus = read_corpus(output)
        assert list(corpus["other_emotion"]) == [each.other_emotion for each in read_plan(plan, False, 0)]


class TestSeveral:
    """Several stories in one reply."""

    @staticmethod
    def stories(server, cut=lambda _: False, count=lambda asked: asked):
        """Answer requests for several with a list; of those that `cut` names, half of the JSON."""
        lists = []

        def trouble(number):
            body = server.requests[number - 1][1]
            config = body["generationConfig"]
            if "responseSchema" not in config and "responseJsonSchema" not in config:
                return None
            asked = body["contents"][0]["parts"][0]["text"].count("\nStory ")
            lists.append(asked)
            texts = [f"{server.text_of(config['seed'])} And then the {n}th boat." for n in range(count(asked))]
            text = json.dumps(texts)
            return 200, text_reply(text[: len(text) // 2] if cut(len(lists)) else text), {}

        server.trouble = trouble
        return lists

    def test_one_request_brings_several_stories_of_an_emotion(self, server, output):
        lists = self.stories(server)
        report = write(output, stories_per_request=4, concurrency=1)
        check_whole(output)
        # Six of each emotion: four and two.
        assert lists == [4, 2] * len(EMOTIONS)
        assert server.asked.total() == len(lists)
        assert report["asked"] == dict.fromkeys(EMOTIONS, 6)

    @pytest.mark.parametrize("fault", ["cut", "short"])
    def test_a_broken_list_is_asked_for_story_by_story(self, server, output, fault):
        broken = {"cut": lambda number: number == 1} if fault == "cut" else {"count": lambda asked: min(asked, 3)}
        self.stories(server, **broken)
        report = write(output, stories_per_request=6, concurrency=1)
        check_whole(output)
        reason = "truncated JSON" if fault == "cut" else "3 texts instead of 6"
        struck = EMOTIONS[:1] if fault == "cut" else EMOTIONS
        assert report["rejected"] == {emotion: {reason: 6} for emotion in struck}
        assert server.asked.total() == len(EMOTIONS) + 6 * len(struck)


class TestMoney:
    @staticmethod
    def paid(server):
        """Have every reply say what it took: 100 tokens read, 190 written and 10 thought."""
        usage = {"promptTokenCount": 100, "candidatesTokenCount": 190, "thoughtsTokenCount": 10}

        def trouble(number):
            seed = server.requests[number - 1][1]["generationConfig"]["seed"]
            return 200, {**text_reply(server.text_of(seed)), "usageMetadata": usage}, {}

        server.trouble = trouble

    def test_tokens_and_cost_are_summed(self, server, output):
        self.paid(server)
        report = write(output, price=(0.30, 2.50))
        assert report["tokens"] == {"read": 100 * len(PLAN), "written": 200 * len(PLAN)}
        assert report["usd"] == pytest.approx(len(PLAN) * (100 * 0.30 + 200 * 2.50) / 1e6)

    @pytest.mark.parametrize("concurrency", [1, 4])
    def test_a_budget_is_kept_and_a_larger_one_goes_on(self, server, output, concurrency):
        self.paid(server)
        each = (100 * 0.30 + 200 * 2.50) / 1e6
        money = {"price": (0.30, 2.50), "concurrency": concurrency}
        with pytest.raises(UserError, match=r"the budget of \$0\.005\d* is used up .*told\.writer\.budget_usd and"):
            write(output, budget_usd=10.5 * each, **money)
        assert not output.exists()
        # Nobody knows what the first requests cost before one is answered.
        assert 10 - concurrency < len(kept(output)) <= 10
        server.asked.clear()
        server.requests.clear()
        there = len(kept(output))
        write(output, budget_usd=100 * each, **money)
        check_whole(output)
        assert server.asked.total() == len(PLAN) - there

    def test_jobs_of_a_corpus_share_its_budget(self, server, output):
        self.paid(server)
        each = (100 * 0.30 + 200 * 2.50) / 1e6
        money = {"price": (0.30, 2.50), "concurrency": 1, "budget_usd": 20.5 * each}
        plan = planned(output, jobs=2)
        write(output, plan=plan, shard=0, **money)
        other = output.with_name("stories_1.parquet")
        with pytest.raises(UserError, match="is used up"):
            write(other, plan=plan, shard=1, **money)
        assert len(kept(other)) == 8


class TestMistakes:
    def check_one_line(self, caught, server, most_requests):
        assert "\n" not in str(caught.value)
        assert KEY not in str(caught.value)
        assert server.asked.total() <= most_requests

    @pytest.mark.parametrize("key", ["", "  "])
    def test_missing_key(self, server, output, monkeypatch, key):
        monkeypatch.setenv("GEMINI_API_KEY", key)
        monkeypatch.setenv("GOOGLE_API_KEY", KEY)
        with pytest.raises(UserError, match="GEMINI_API_KEY is not set; export") as caught:
            write(output)
        self.check_one_line(caught, server, 0)

    def test_garbled_key(self, server, output, monkeypatch):
        monkeypatch.setenv("GEMINI_API_KEY", f"{KEY}\nGEMINI")
        with pytest.raises(UserError, match="GEMINI_API_KEY holds characters") as caught:
            write(output)
        self.check_one_line(caught, server, 0)

    def test_wrong_key(self, server, output, monkeypatch):
        monkeypatch.setenv("GEMINI_API_KEY", "AIza-another")
        with pytest.raises(UserError, match=r"does not accept the key in GEMINI_API_KEY .*not valid.*; set") as caught:
            write(output)
        assert "AIza-another" not in str(caught.value)
        self.check_one_line(caught, server, MANNER["concurrency"])

    @pytest.mark.parametrize("code", [401, 403])
    def test_refused_key_is_not_quoted(self, server, output, tmp_path, caplog, code):
        caplog.set_level(logging.DEBUG)
        suspended = f"Permission denied: Consumer 'api_key:{KEY}' has been suspended."
        server.trouble = lambda _: (code, error(code, "PERMISSION_DENIED", suspended), {})
        with pytest.raises(UserError, match=r"'api_key:\[key\]' has been suspended") as caught:
            write(output)
        self.check_one_line(caught, server, MANNER["concurrency"])
        assert KEY not in caplog.text
        assert not any(KEY in file.read_text(errors="replace") for file in tmp_path.rglob("*") if file.is_file())

    def test_unknown_model(self, server, output):
        server.trouble = lambda _: (404, error(404, "NOT_FOUND", "models/gemini-test is not found"), {})
        with pytest.raises(UserError, match=r"knows no model 'gemini-test' .*correct corpora") as caught:
            write(output)
        self.check_one_line(caught, server, MANNER["concurrency"])

    @pytest.mark.usefixtures("server")
    def test_missing_package(self, output, monkeypatch):
        monkeypatch.setitem(sys.modules, "google.genai", None)
        with pytest.raises(UserError, match=r"pip install 'affectome\[gemini\]'"):
            write(output)

    @pytest.mark.usefixtures("server")
    def test_unreachable_service(self, output, monkeypatch):
        monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", "http://127.0.0.1:1")
        with pytest.raises(UserError, match=r"the Gemini API cannot be reached \(\w*Connect\w*Error\); see"):
            write(output)

    def test_key_goes_into_requests_only(self, server, output, tmp_path, caplog):
        caplog.set_level(logging.DEBUG)
        numbers = []

        def trouble(number):
            numbers.append(number)
            return TROUBLES["503"] if number % 5 == 0 else None

        server.trouble = trouble
        write(output)
        assert numbers
        assert KEY not in caplog.text
        assert not any(KEY.encode() in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())


class TestInterruption:
    def test_a_service_that_stays_down_costs_no_answer(self, server, output):
        server.trouble = lambda number: TROUBLES["500"] if number > 10 else None
        with pytest.raises(UserError, match=r"the Gemini API answers nothing any more \(500, 10 times\); rerun when"):
            write(output)
        assert not output.exists()
        assert len(kept(output)) == 10
        server.trouble = lambda _: None
        write(output)
        assert list(check_whole(output)["text"]) == [server.text_of(item.seed) for item in PLAN]
        assert server.answered == Counter(item.seed for item in PLAN)

    @pytest.mark.parametrize(("number", "raised"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)])
    def test_a_signal_leaves_the_replies_and_the_rerun_goes_on(self, server, output, number, raised):
        def trouble(request):
            if request == 12:
                os.kill(os.getpid(), number)
            if request >= 12:
                time.sleep(0.2)

        server.trouble = trouble
        # Jobs exit on SIGTERM; and a shell that starts the tests in the background has SIGINT ignored.
        handlers = {signal.SIGTERM: _exit_on_signal, signal.SIGINT: signal.default_int_handler}
        before = {each: signal.signal(each, handler) for each, handler in handlers.items()}
        try:
            with pytest.raises(raised):
                write(output)
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)
        assert not output.exists()
        there = kept(output)
        assert 8 <= len(there) == len(set(there)) < len(PLAN)
        server.trouble = lambda _: None
        server.asked.clear()
        write(output)
        assert list(check_whole(output)["text"]) == [server.text_of(item.seed) for item in PLAN]
        assert not server.asked.keys() & {item.seed for item in PLAN if server.text_of(item.seed) in there}

    def test_every_text_is_on_disk_before_the_next_is_asked_for(self, server, output):
        seen = []
        server.trouble = lambda number: seen.append((number, len(kept(output))))
        write(output, concurrency=1)
        assert seen == [(number, number - 1) for number in range(1, len(PLAN) + 1)]

    def test_half_a_line_is_asked_for_again(self, server, output):
        interrupt(server, output)
        file = replies_of(output)
        file.write_text(file.read_text()[:-20])
        write(output)
        check_whole(output)
        assert server.asked.total() == len(PLAN) - 9

    @pytest.mark.parametrize("change", [{"temperature": 1.0}, {"gemini": "gemini-other"}, {"seed": 4}, {}])
    def test_a_change_starts_afresh(self, server, output, tmp_path, change):
        interrupt(server, output)
        prompt = tmp_path / "other.j2"
        prompt.write_text((PROMPTS / "story.j2").read_text() + ("" if change else "\nWrite it as a letter."))
        write(output, prompt, **change)
        assert server.asked.total() == len(PLAN)
        assert len(kept(output)) == len(PLAN) + 10

    def test_a_larger_plan_keeps_what_is_written(self, server, output):
        interrupt(server, output)
        write(output, plan=planned(output, [*EMOTIONS, "tired"]))
        assert len(read_corpus(output)) == 30
        assert server.asked.total() == 20
