"""How services are asked: patience, its end, and what is kept whatever happens."""

import asyncio
import json
import time

import pytest

from affectome.corpus.writers import Reply, Request, asking, next_seed, persistent
from affectome.corpus.writers.asking import (
    FIRST_TRIES,
    TRIES,
    Answer,
    BusyError,
    ask_all,
    backoff,
    key_from_environment,
    on_one_line,
    texts_in,
)
from affectome.errors import UserError

REQUESTS = [Request(str(number), f"Prompt {number}", number) for number in range(10)]


class Service:
    """Answers with the prompt, except as `trouble` says: a function of the request and of how often it was asked."""

    def __init__(self, trouble=lambda *_: None):
        self.trouble = trouble
        self.asked = []
        self.under_way = self.most = 0

    async def __call__(self, request):
        self.asked.append(request.id)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await asyncio.sleep(0.001)
        self.under_way -= 1
        if (error := self.trouble(request, self.asked.count(request.id))) is not None:
            raise error
        return Answer((request.prompt,), read=2, written=3)


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(asking, "BACKOFF_S", 0.001)


def ask(service, requests=REQUESTS, keep=lambda _: [], concurrency=3, **more):
    """All replies by id."""
    replies = {}

    def kept(reply):
        assert reply.id not in replies
        replies[reply.id] = reply
        return keep(reply)

    try:
        asyncio.run(ask_all(service, requests, kept, concurrency, "the service", **more))
    finally:
        ask.replies = replies
    return replies


def busy(times, **more):
    return lambda _, turn: BusyError(f"busy {turn}", **more) if turn <= times else None


class TestReplies:
    def test_one_per_request(self):
        service = Service()
        replies = ask(service)
        assert replies == {request.id: Reply(request.id, (request.prompt,), read=2, written=3) for request in REQUESTS}
        assert sorted(service.asked) == [request.id for request in REQUESTS]

    @pytest.mark.parametrize("concurrency", [1, 4, 50])
    def test_as_many_are_under_way_as_allowed(self, concurrency):
        service = Service()
        ask(service, concurrency=concurrency)
        assert service.most == min(concurrency, len(REQUESTS))

    def test_what_is_kept_asks_for_more_and_that_comes_first(self):
        service = Service()

        def more(reply):
            return [Request(f"{reply.id}+", "More", 0)] if len(reply.id) == 1 else []

        replies = ask(service, keep=more, concurrency=1)
        assert len(replies) == 20
        assert service.asked[:4] == ["0", "0+", "1", "1+"]

    def test_the_last_may_ask_for_more_while_others_wait(self):
        def more(reply):
            return [Request(f"{reply.id}+", "More", 0)] if len(reply.id) < 6 else []

        assert len(ask(Service(), REQUESTS[:1], keep=more, concurrency=5)) == 6

    def test_nothing_to_ask_for(self):
        assert ask(Service(), []) == {}


class TestPatience:
    def test_a_busy_service_is_asked_again(self):
        replies = ask(Service(busy(3)))
        assert {reply.failures for reply in replies.values()} == {("busy 1", "busy 2", "busy 3")}
        assert all(reply.text for reply in replies.values())

    def test_for_as_long_as_it_asks_for(self):
        before = time.monotonic()
        ask(Service(busy(1, retry_after=0.3)), REQUESTS[:1])
        assert time.monotonic() - before >= 0.3

    def test_waits_double_up_to_the_longest(self, monkeypatch):
        monkeypatch.setattr(asking, "BACKOFF_S", 1.0)
        for attempt, seconds in enumerate([1, 2, 4, 8, 16, 32, 60, 60, 60], start=1):
            waits = {backoff(seed, attempt) for seed in range(50)}
            assert len(waits) == 50
            assert 0.5 * seconds <= min(waits) < 0.7 * seconds
            assert 1.3 * seconds < max(waits) <= 1.5 * seconds
        assert backoff(7, 3) == backoff(7, 3)

    def test_one_that_never_answers_is_given_up_while_others_are_answered(self):
        service = Service(lambda request, turn: BusyError(f"busy {turn}") if request.id == "0" else None)
        more = [Request(f"more {number}", "More", number) for number in range(100)]
        replies = ask(service, REQUESTS + more, concurrency=2)
        assert len(replies) == 110
        failures = tuple(f"busy {turn}" for turn in range(1, TRIES))
        assert replies["0"] == Reply("0", problem=f"busy {TRIES}", answered=False, failures=failures)
        assert all(reply.answered for name, reply in replies.items() if name != "0")

    def test_a_service_that_was_never_reached_is_not_waited_for(self):
        service = Service(lambda *_: BusyError("ConnectError", unreachable=True))
        with pytest.raises(UserError, match=r"^the service cannot be reached \(ConnectError\); see that it is up"):
            ask(service)
        assert FIRST_TRIES <= max(service.asked.count(str(number)) for number in range(3)) <= FIRST_TRIES
        assert set(service.asked) == {"0", "1", "2"}

    def test_one_that_was_reached_before_is(self):
        service = Service(lambda request, _: None if request.id == "0" else BusyError("Connect", unreachable=True))
        with pytest.raises(
            UserError, match=rf"^the service answers nothing any more \(Connect, {TRIES} times\); rerun"
        ):
            ask(service, concurrency=1)
        assert service.asked == ["0"] + ["1"] * TRIES
        assert list(ask.replies) == ["0"]

    def test_one_that_goes_down_ends_it_and_what_came_is_kept(self):
        service = Service(lambda request, _: BusyError("500") if int(request.id) >= 5 else None)
        with pytest.raises(UserError, match=rf"answers nothing any more \(500, {TRIES} times\)"):
            ask(service)
        assert sorted(ask.replies) == ["0", "1", "2", "3", "4"]


class TestEnds:
    @pytest.mark.parametrize("concurrency", [1, 5])
    def test_the_first_mistake_ends_everything(self, concurrency):
        service = Service(lambda *_: UserError("no such model"))
        with pytest.raises(UserError, match=r"^no such model$"):
            ask(service, concurrency=concurrency)
        assert len(service.asked) == concurrency

    def test_so_does_what_keep_raises(self):
        def full(_):
            raise OSError("no space left")

        service = Service()
        with pytest.raises(OSError, match="no space left"):
            ask(service, keep=full)
        assert len(service.asked) == 3

    def test_an_empty_purse_lets_what_is_under_way_arrive(self):
        def more(reply):
            return [Request(f"{reply.id}+", "More", 0)] if len(reply.id) == 1 else []

        class Purse:
            seen: list[int] = []  # noqa: RUF012

            def allow(self, under_way):
                self.seen.append(under_way)
                return len(service.asked) < 5

            def exhausted(self):
                return UserError("the budget is used up")

        service = Service()
        with pytest.raises(UserError, match="the budget is used up"):
            ask(service, keep=more, concurrency=4, purse=Purse())
        assert len(service.asked) == 5
        assert ask.replies.keys() == set(service.asked)
        assert Purse.seen[:4] == [0, 1, 2, 3]

    def test_a_purse_that_suffices_says_nothing(self):
        class Purse:
            def allow(self, _):
                return len(service.asked) < len(REQUESTS)

        service = Service()
        assert len(ask(service, purse=Purse())) == len(REQUESTS)


class TestPacing:
    class Pace:
        """Notes what it is told; makes everybody wait a little, and never two at once."""

        def __init__(self):
            self.waiting = self.most = 0
            self.sent, self.corrected = [], []

        async def wait(self, request):
            self.waiting += 1
            self.most = max(self.most, self.waiting)
            await asyncio.sleep(0.001)
            self.waiting -= 1
            self.sent.append(request.id)

        def correct(self, request, tokens):
            self.corrected.append((request.id, tokens))

    def test_every_try_waits_in_turn_and_every_answer_corrects(self):
        pace = self.Pace()
        service = Service(busy(2))
        ask(service, pace=pace)
        assert pace.most == 1
        assert sorted(pace.sent) == sorted(service.asked) == sorted([request.id for request in REQUESTS] * 3)
        assert sorted(pace.corrected) == [(request.id, 5) for request in REQUESTS]


class TestPersistent:
    """What judges use: an answer without use is asked for again, with another seed, a few times."""

    def asked(self, trouble, attempts=3):
        service = Service()
        seeds = []

        async def answer(request):
            seeds.append(request.seed)
            return trouble(request.seed) or await service(request)

        replies = []
        requests = [Request("a", "Prompt", 2**31 - 2)]
        asyncio.run(ask_all(answer, requests, persistent(requests, replies.append, attempts), 2, "the service"))
        (reply,) = replies
        return reply, seeds

    def test_a_text_is_kept_at_once(self):
        reply, seeds = self.asked(lambda _: None)
        assert (reply.text, reply.failures, seeds) == ("Prompt", (), [2**31 - 2])

    def test_an_answer_without_use_is_asked_for_with_the_next_seeds(self):
        reply, seeds = self.asked(lambda seed: None if seed == 0 else Answer(problem="blocked"))
        assert (reply.text, reply.problem, reply.failures) == ("Prompt", "", ("blocked", "blocked"))
        assert seeds == [2**31 - 2, 2**31 - 1, 0]

    def test_the_last_word_is_kept(self):
        reply, seeds = self.asked(lambda seed: Answer(problem=f"problem {seed}"))
        assert (reply.text, reply.problem, reply.answered) == (None, "problem 0", True)
        assert reply.failures == (f"problem {2**31 - 2}", f"problem {2**31 - 1}", "problem 0")
        assert len(seeds) == 3

    def test_no_answer_is_not_asked_for_again(self):
        kept = []
        keep = persistent([Request("a", "", 0)], kept.append, 3)
        assert list(keep(Reply("a", problem="500", answered=False, failures=("503",)))) == []
        assert [(reply.problem, reply.failures) for reply in kept] == [("500", ("503",))]

    def test_seeds_stay_within_31_bits(self):
        assert [next_seed(5), next_seed(2**31 - 1), next_seed(2**31 - 2, 3)] == [6, 0, 1]


class TestWords:
    @pytest.mark.parametrize("content", [["a", "b"], {"texts": ["a", "b"]}, {"stories": ["a", "b"]}])
    def test_lists_of_texts(self, content):
        assert texts_in(json.dumps(content), 2) == Answer(("a", "b"))

    @pytest.mark.parametrize(
        ("content", "problem"),
        [(["a"], "1 texts instead of 2"), (["a", " "], "no list of texts"), (["a", 2], "no list of texts"),
         ("ab", "no list of texts"), (None, "no list of texts"), ({"a": ["a"], "b": ["b"]}, "no list of texts")],
    )  # fmt: skip
    def test_other_content(self, content, problem):
        assert texts_in(json.dumps(content), 2) == Answer(problem=problem)

    def test_keys(self, monkeypatch):
        monkeypatch.setenv("SOME_KEY", " abc/+= \n")
        assert key_from_environment("SOME_KEY") == "abc/+="
        monkeypatch.delenv("SOME_KEY")
        assert key_from_environment("SOME_KEY") == ""
        monkeypatch.setenv("SOME_KEY", "abc\ndef")
        with pytest.raises(UserError, match="SOME_KEY holds characters") as caught:
            key_from_environment("SOME_KEY")
        assert "abc" not in str(caught.value)

    def test_a_service_s_words(self):
        assert on_one_line("Wrong\n key\tabc, abc", "abc") == "Wrong key [key], [key]"
        assert on_one_line("as it\nis", "") == "as it is"
        assert len(on_one_line("x" * 1000, "key")) == 300
