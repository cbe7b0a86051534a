"""Gemini's batch mode against a local service that speaks its protocol to the real google-genai client."""

import json
import logging
from collections import Counter

import pytest

from affectome.corpus.writers import Request, asking, gemini_batch
from affectome.corpus.writers.gemini import Gemini
from affectome.corpus.writers.gemini_batch import GeminiBatch
from affectome.errors import UserError
from tests.fakes import KEY, GeminiService, serving, text_of

REQUESTS = [Request(f"item {number}", f"Write about number {number}.", 1000 + number) for number in range(12)]


@pytest.fixture
def service(monkeypatch):
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("GOOGLE_API_KEY", raising=False)
    monkeypatch.setattr(asking, "BACKOFF_S", 0.001)
    monkeypatch.setattr(gemini_batch, "POLL_S", 0.02)
    with serving(GeminiService()) as service:
        monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", service.address)
        yield service


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "batches"


class Kept(dict):
    """Replies by id, each of which may come once; `follow_up` says what to ask for next."""

    def __init__(self, follow_up=lambda _: []):
        super().__init__()
        self.follow_up = follow_up

    def __call__(self, reply):
        assert reply.id not in self
        self[reply.id] = reply
        return self.follow_up(reply)


class Interrupted(BaseException):
    """What ends a process at a place of the test's choice."""


def die(*_):
    raise Interrupted


def write(folder, requests=REQUESTS, kept=None, purse=None, **changes):
    kept = Kept() if kept is None else kept
    settings = {"gemini": "gemini-test", "temperature": 0.7, "timeout": 1.0, **changes}
    GeminiBatch(folder=folder, **settings).write(requests, kept, purse)
    return kept


def check_whole(kept, requests=REQUESTS):
    assert {name: reply.text for name, reply in kept.items()} == {
        request.id: text_of(request.prompt, request.seed) for request in requests
    }


def jobs_of(service):
    return [len(job["responses"]) for job in service.jobs.values()]


class TestWriting:
    def test_every_request_gets_its_own_reply_whatever_their_order(self, service, folder):
        kept = write(folder)
        check_whole(kept)
        answered = [response["metadata"]["key"] for response in service.jobs["batches/0"]["responses"]]
        assert answered != sorted(answered, key=int)
        assert jobs_of(service) == [12]
        assert service.usable == Counter({(request.prompt, request.seed): 1 for request in REQUESTS})
        assert list(folder.iterdir()) == []

    def test_answers_without_numbers_are_refused(self, service, folder):
        service.ordered = True
        with pytest.raises(UserError, match="batches/0 do not say which requests they are for"):
            write(folder)

    def test_is_asked_as_without_batches(self, service, folder):
        request = Request("x", "Write 3 stories.", 7, texts=3)
        bodies = []
        submit = service.submit
        service.submit = lambda batch, handler: bodies.append(batch) or submit(batch, handler)
        kept = write(folder, [request], thinking_tokens=128)
        assert kept["x"].texts == tuple(text_of(request.prompt, 7, number) for number in range(3))
        Gemini("gemini-test", 0.7, 1, thinking_tokens=128).write([request], Kept())
        (item,) = bodies[0]["inputConfig"]["requests"]["requests"]
        assert item["request"] == service.requests[-1][1]
        assert item["request"]["generationConfig"].keys() >= {"seed", "temperature", "thinkingConfig", "responseSchema"}

    def test_tokens_are_counted(self, service, folder):  # noqa: ARG002
        reply = write(folder, REQUESTS[:1])["item 0"]
        assert (reply.read, reply.written) == (len(REQUESTS[0].prompt) // 4, len(reply.text) // 4 + 7)

    def test_jobs_hold_as_much_as_they_may(self, service, folder, monkeypatch):
        monkeypatch.setattr(gemini_batch, "REQUESTS_PER_JOB", 5)
        check_whole(write(folder))
        assert jobs_of(service) == [5, 5, 2]

    def test_jobs_are_as_large_as_they_may_be(self, service, folder, monkeypatch):
        requests = [Request(str(number), "ä" * 1000 * number, number) for number in range(1, 6)]
        # As the client sends them: 6 bytes per letter, so 7, 13, 19, 25 and 31 thousand with what is around.
        monkeypatch.setattr(gemini_batch, "BYTES_PER_JOB", 45_000)
        check_whole(write(folder, requests), requests)
        assert jobs_of(service) == [3, 1, 1]

    def test_no_more_jobs_than_allowed_are_under_way(self, service, folder, monkeypatch):
        monkeypatch.setattr(gemini_batch, "REQUESTS_PER_JOB", 1)
        monkeypatch.setattr(gemini_batch, "MOST_JOBS", 3)
        under_way = []
        full = service.full
        service.full = lambda: under_way.append(states(service)) or full()

        def states(service):
            return sum(not service.operation(job)["done"] for job in service.jobs.values())

        check_whole(write(folder))
        assert max(under_way) == 2

    def test_a_service_that_takes_no_more_is_waited_for(self, service, folder, monkeypatch, caplog):
        caplog.set_level(logging.INFO)
        monkeypatch.setattr(gemini_batch, "REQUESTS_PER_JOB", 4)
        service.most_jobs = 1
        check_whole(write(folder))
        assert jobs_of(service) == [4, 4, 4]
        assert caplog.text.count("takes no more batch jobs") == 2

    def test_follow_ups_are_gathered_into_the_next_job(self, service, folder):
        def follow_up(reply):
            number = int(reply.id.split()[-1])
            return [Request(f"again {number}", "Once more.", number)] if reply.id.startswith("item") else []

        kept = write(folder, kept=Kept(follow_up))
        assert len(kept) == 24
        assert kept["again 3"].text == text_of("Once more.", 3)
        assert jobs_of(service) == [12, 12]

    def test_the_log_tells_changes_of_state(self, service, folder, caplog):
        caplog.set_level(logging.INFO)
        service.pending = 0.2
        write(folder)
        told = [message.split(":", 1)[1] for message in caplog.messages if message.startswith("batch job batches/0:")]
        assert told == [f" {state} (12 requests)" for state in ("submitted", "pending", "running", "succeeded")]

    def test_and_now_and_then_where_all_stands(self, service, folder, caplog, monkeypatch):
        caplog.set_level(logging.INFO)
        monkeypatch.setattr(gemini_batch, "LOG_INTERVAL_S", 0.1)
        service.pending = 0.3
        write(folder)
        told = [message for message in caplog.messages if message.startswith("batch jobs: ")]
        assert 3 <= len(told) <= 7
        assert told[0] == "batch jobs: 1 pending (12 requests); answered: 0; to be submitted: 0"


class TestTrouble:
    def test_with_a_third_of_everything(self, service, folder, monkeypatch):
        monkeypatch.setattr(gemini_batch, "REQUESTS_PER_JOB", 20)
        service.trouble, service.hang = 0.3, 2.0
        requests = [Request(f"item {number}", f"Write about {number}.", number) for number in range(100)]
        kept = write(folder, requests, timeout=0.5)
        assert kept.keys() == {request.id for request in requests}
        for request in requests:
            wrong = service.with_the_answer(request.prompt, request.seed)
            expected = None if wrong in ("blocked", "empty", "cut short") else text_of(request.prompt, request.seed)
            if wrong != "repeated":
                assert kept[request.id].text == expected
        answered = service.usable + service.unusable
        assert set(answered.values()) == {1}
        assert sum(len(reply.failures) for reply in kept.values()) == service.asked.total() - 100 > 10

    def test_unusable_answers_say_why(self, service, folder):
        service.trouble = 1e9
        service.on_the_way = lambda _: ""
        kept = write(folder, [Request(str(number), "Write 2 stories.", number, texts=2) for number in range(20)])
        problems = {reply.problem for reply in kept.values()}
        assert problems == {"prompt blocked: SAFETY", "no candidates", "truncated JSON", ""}
        assert all(reply.answered for reply in kept.values())

    def test_what_never_comes_is_unanswered(self, service, folder):
        service.on_the_way = lambda number: "503" if str(number).endswith("/0") else ""
        kept = write(folder, REQUESTS[:1])
        (reply,) = kept.values()
        assert (reply.answered, reply.problem, reply.failures) == (False, "14", ("14",) * 9)
        assert jobs_of(service) == [1] * 10

    def test_a_refused_request_is_answered_with_a_problem(self, service, folder):
        batched = service.RequestHandlerClass.batched

        class Refusing(service.RequestHandlerClass):
            def batched(self, item, job, place):
                if place == 3:
                    said = {"code": 3, "message": f"bad request\nof {KEY}"}
                    return {"metadata": item["metadata"], "error": said}
                return batched(self, item, job, place)

        service.RequestHandlerClass = Refusing
        kept = write(folder)
        assert kept["item 3"].problem == "error 3: bad request of [key]"
        assert kept["item 3"].answered
        assert kept["item 4"].text

    def test_what_a_job_leaves_out_is_submitted_again(self, service, folder):
        service.ending = lambda job: "SUCCEEDED" if job else "PARTIALLY_SUCCEEDED"
        check_whole(write(folder))
        assert jobs_of(service) == [12, 6]

    @pytest.mark.parametrize("state", ["EXPIRED", "CANCELLED"])
    def test_expired_and_cancelled_jobs_are_submitted_again(self, service, folder, state):
        service.ending = lambda job: "SUCCEEDED" if job else state
        kept = write(folder)
        check_whole(kept)
        assert jobs_of(service) == [12, 12]
        assert {reply.failures for reply in kept.values()} == {(f"batch job {state.lower()}",)}

    def test_but_not_for_ever(self, service, folder):
        service.ending = lambda _: "EXPIRED"
        with pytest.raises(UserError, match=r"ended 3 batch jobs in a row without an answer \(the last expired\)"):
            write(folder)
        assert jobs_of(service) == [12] * 3

    def test_a_failed_job_ends_it_in_the_service_s_words(self, service, folder):
        service.ending = lambda _: "FAILED"
        service.failure = {"code": 3, "message": f"your\nkey {KEY} is not to our liking"}
        expected = r"batch job batches/0 failed \(3: your key \[key\] is not to our liking\); check corpora\.\*\.writer"
        with pytest.raises(UserError, match=expected) as caught:
            write(folder)
        assert "\n" not in str(caught.value)
        service.ending = lambda _: "SUCCEEDED"
        check_whole(write(folder))

    def test_unless_it_failed_in_passing(self, service, folder):
        service.ending = lambda job: "SUCCEEDED" if job else "FAILED"
        service.failure = {"code": 13, "message": "internal"}
        check_whole(write(folder))

    def test_a_submission_whose_answer_is_lost_is_not_repeated(self, service, folder):
        service.on_the_way = lambda number: "reset" if number == 1 else ""
        check_whole(write(folder))
        assert jobs_of(service) == [12]

    def test_a_purse_that_is_empty(self, service, folder, monkeypatch):
        monkeypatch.setattr(gemini_batch, "REQUESTS_PER_JOB", 3)
        kept = Kept()

        class Purse:
            def allow(self, under_way):
                return len(kept) + under_way < 7

            def exhausted(self):
                return UserError("no money left")

        with pytest.raises(UserError, match="no money left"):
            write(folder, kept=kept, purse=Purse())
        check_whole(kept, REQUESTS[:7])
        assert jobs_of(service) == [3, 3, 1]


class TestInterruption:
    """What a rerun makes of whatever a process that was killed has left."""

    @pytest.fixture
    def interrupted(self, service, folder, monkeypatch):  # noqa: ARG002
        """A writing that ended after its jobs were submitted and before it looked at one."""

        def interrupt(requests=REQUESTS):
            with monkeypatch.context() as patch:
                patch.setattr(gemini_batch._Writing, "_look_at", die)
                with pytest.raises(Interrupted):
                    write(folder, requests)

        return interrupt

    def files(self, folder):
        return [json.loads(file.read_text()) for file in folder.iterdir()]

    def test_a_job_that_is_under_way_is_waited_for(self, service, folder, interrupted, caplog):
        caplog.set_level(logging.INFO)
        interrupted()
        (file,) = self.files(folder)
        assert file["name"] == "batches/0"
        assert len(file["requests"]) == 12
        check_whole(write(folder))
        assert jobs_of(service) == [12]
        assert "1 batch jobs of an earlier run are waited for (12 requests)" in caplog.text
        assert list(folder.iterdir()) == []

    def test_one_whose_name_was_not_written_down_yet_is_found(self, service, folder, interrupted, monkeypatch):
        monkeypatch.setattr(gemini_batch, "REQUESTS_PER_JOB", 2)
        interrupted()
        assert jobs_of(service) == [2] * 6
        for file in folder.iterdir():
            content = json.loads(file.read_text())
            file.write_text(json.dumps({**content, "name": None}))
        check_whole(write(folder))
        assert jobs_of(service) == [2] * 6

    def test_one_that_was_never_submitted_is_submitted(self, service, folder, interrupted):
        interrupted()
        service.jobs.clear()
        for file in folder.iterdir():
            file.write_text(json.dumps({**json.loads(file.read_text()), "name": None}))
        check_whole(write(folder))
        assert jobs_of(service) == [12]

    def test_one_that_the_service_has_forgotten_is_submitted(self, service, folder, interrupted):
        interrupted()
        service.jobs.clear()
        check_whole(write(folder))
        assert jobs_of(service) == [12]

    def test_half_collected(self, service, folder):
        kept = Kept()

        def stop(_):
            if len(kept) == 5:
                raise Interrupted
            return []

        kept.follow_up = stop
        with pytest.raises(Interrupted):
            write(folder, kept=kept)
        rest = [request for request in REQUESTS if request.id not in kept]
        assert len(rest) == 7
        check_whole({**kept, **write(folder, rest)})
        assert jobs_of(service) == [12]

    def test_with_other_requests_beside(self, service, folder, interrupted):
        interrupted()
        more = [Request("new", "Write about something new.", 5)]
        check_whole(write(folder, REQUESTS[4:] + more), REQUESTS[4:] + more)
        assert jobs_of(service) == [12, 1]

    @pytest.mark.parametrize("change", [{"temperature": 0.8}, {"gemini": "gemini-other"}, {"thinking_tokens": 0}])
    def test_is_none_of_a_changed_writer(self, service, folder, interrupted, change):
        interrupted()
        check_whole(write(folder, **change))
        assert jobs_of(service) == [12, 12]
        assert len(self.files(folder)) == 1

    def test_equal_requests_are_each_answered(self, service, folder, interrupted):
        requests = [Request(name, "The same.", 1) for name in "abc"]
        interrupted(requests)
        check_whole(write(folder, requests), requests)
        assert jobs_of(service) == [3]


class TestMistakes:
    @pytest.fixture(autouse=True)
    def _no_key_anywhere(self, caplog, tmp_path):
        caplog.set_level(logging.DEBUG)
        yield
        assert KEY not in caplog.text
        assert not any(KEY.encode() in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())

    def says(self, folder, match):
        with pytest.raises(UserError, match=match) as caught:
            write(folder)
        assert "\n" not in str(caught.value)
        assert KEY not in str(caught.value)

    def test_no_key(self, service, folder, monkeypatch):
        monkeypatch.delenv("GEMINI_API_KEY")
        self.says(folder, "GEMINI_API_KEY is not set")
        assert not service.arrivals

    def test_wrong_key(self, service, folder, monkeypatch):
        monkeypatch.setenv("GEMINI_API_KEY", "another-secret")
        self.says(folder, r"does not accept the key in GEMINI_API_KEY .*not valid: \[key\].*; set")
        assert len(service.arrivals) == 1
        monkeypatch.setenv("GEMINI_API_KEY", KEY)
        check_whole(write(folder))

    def test_a_key_that_may_not_see_the_job(self, service, folder):
        denied = {"error": {"code": 403, "status": "PERMISSION_DENIED", "message": f"not for {KEY}"}}
        service.wrong = lambda number: (403, denied, {}) if number == 2 else None
        self.says(folder, "may not see the batch job batches/0; set the one it was submitted with, or delete .*json")
        check_whole(write(folder))
        assert jobs_of(service) == [12]

    def test_unknown_model(self, service, folder):
        service.wrong = lambda _: (404, {"error": {"code": 404, "message": "no such model"}}, {})
        self.says(folder, r"knows no model 'gemini-test' \(404 : no such model\); correct corpora\.\*\.writer\.gemini")

    def test_used_up_quota(self, service, folder):
        service.wrong = lambda _: (429, {"error": {"code": 429, "message": "per day"}}, {"Retry-After": "40000"})
        self.says(folder, "asks to wait 40000 s")

    def test_unreachable(self, service, folder, monkeypatch):  # noqa: ARG002
        monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", "http://127.0.0.1:1")
        self.says(folder, r"the Gemini API cannot be reached \(ConnectError\); see that it is up, then rerun")

    def test_a_service_that_goes_down(self, service, folder):
        service.wrong = lambda number: (500, {}, {}) if number > 1 else None
        self.says(folder, r"the Gemini API answers nothing any more \(500, 10 times\); rerun when it does")
        service.wrong = lambda _: None
        check_whole(write(folder))
        assert jobs_of(service) == [12]
