"""A conversation in the terminal: commands change the next request, replies are shown as they come, nothing else is."""

import asyncio
import json

import pytest

from affectome.serve.chat import HELP, Chat, painted
from affectome.serve.client import curl
from affectome.serve.plan import Refused
from affectome.terminal import printable

LISTED = {
    "run": "tiny run",
    "model": "tiny",
    "layers": [0, 1, 2],
    "data": [{"name": name, "family": "emotion"} for name in ("calm", "at ease", "afraid")]
    + [{"name": "random:0", "family": "random"}],
}


class Scripted:
    """A source of replies that says what it was asked, word by word, and reads 0.01, 0.02, … in the words."""

    url = "http://127.0.0.1:8000"

    def __init__(self, words=("one", " two", " three")):
        self.words, self.asked, self.closed = words, [], 0

    async def emotions(self):
        return LISTED

    async def stream(self, body):
        self.asked.append(json.loads(json.dumps(body)))
        try:
            for number, word in enumerate(self.words):
                if isinstance(word, Exception):
                    raise word
                yield {"choices": [{"delta": {"content": word}, "tokens": [word]}]}
                if "readout" in body and number:
                    readout = {"first": number - 1, "values": [[0.01 * number]]}
                    yield {"object": "affectome.readout", "choices": [], "readout": readout}
        finally:
            self.closed += 1


@pytest.fixture
def source():
    return Scripted()


@pytest.fixture
def chat(source):
    said = []
    chat = Chat(source, LISTED, said.append)
    chat.said = said
    return chat


def tell(chat, *lines):
    """What is said to each line, put together."""
    chat.said.clear()
    for line in lines:
        assert asyncio.run(chat.answer(line))
    return "".join(chat.said)


def test_a_reply_is_shown_and_remembered(chat, source):
    assert tell(chat, "Hello") == "one two three\n"
    tell(chat, "And?")
    assert source.asked[1]["messages"] == [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "one two three"},
        {"role": "user", "content": "And?"},
    ]
    assert "steering" not in source.asked[1]


def test_steering_lasts_until_it_is_changed(chat, source):
    assert "calm +0.05, at ease -0.02" in tell(chat, "/steer calm", "/steer at ease -0.02")
    tell(chat, "/layer 1", "/positions all", "Hello")
    common = {"positions": "all", "layers": 1}
    assert source.asked[-1]["steering"] == [
        {"emotion": "calm", "strength": 0.05, **common},
        {"emotion": "at ease", "strength": -0.02, **common},
    ]
    assert "allow_unsafe" not in source.asked[-1]
    tell(chat, "/steer calm 0", "/unsafe", "/layer auto", "Hello")
    assert [item["emotion"] for item in source.asked[-1]["steering"]] == ["at ease"]
    assert source.asked[-1]["steering"][0]["layers"] == "auto"
    assert source.asked[-1]["allow_unsafe"] is True
    assert "not steered" in tell(chat, "/off")


def test_a_comparison_asks_the_same_twice(chat, source):
    said = tell(chat, "/steer calm 0.1", "/compare", "Hello")
    plain, steered = source.asked
    assert steered.pop("steering")
    assert plain == steered
    assert "unsteered: one two three\nsteered:   one two three\n" in said
    assert len(chat.messages) == 2


def test_colours_come_with_the_values(chat, source):
    chat.colours = True
    said = tell(chat, "/colour calm", "Hello")
    assert source.asked[0]["readout"] == {"emotions": ["calm"]}
    assert said == painted("one", 0.01, True) + painted(" two", 0.02, True) + " three\n"
    tell(chat, "/colour", "Hello")
    assert "readout" not in source.asked[1]


def test_colours_say_which_way():
    assert "2;255;60;60m" in painted("x", 0.5, True)
    assert "2;60;60;255m" in painted("x", -0.5, True)
    assert "2;255;255;255m" in painted("x", 0.0, True)
    assert painted("x", 0.5, False) == "x"


def test_what_is_refused_is_said_and_forgotten(source, chat):
    source.words = ("one", Refused(400, "strength 3 is too much"))
    assert tell(chat, "Hello").endswith("strength 3 is too much\n")
    assert chat.messages == []
    source.words = ("one",)
    tell(chat, "Hello")
    assert source.asked[-1]["messages"] == [{"role": "user", "content": "Hello"}]


def test_a_reply_that_is_stopped_is_closed_and_forgotten(chat, source):
    async def stop():
        task = asyncio.ensure_future(chat.answer("Hello"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        return await task

    async def stream(_):
        try:
            yield {"choices": [{"delta": {"content": "one"}}]}
            await asyncio.sleep(3600)
        finally:
            source.closed += 1

    source.stream = stream
    assert asyncio.run(stop()) is True
    assert source.closed == 1
    assert chat.messages == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("/steer clam 0.1", "no emotion has 'clam'"),
        ("/steer", "not steered"),
        ("/emotions a", "calm, at ease, afraid"),
        ("/emotions eas", "at ease"),
        ("/positions first", "generated, prompt, all"),
        ("/layer 3", "auto and 0 to 2"),
        ("/set temperature hot", "/set NAME NUMBER"),
        ("/set mood 3", "/set NAME NUMBER"),
        ("/steer 'calm", "No closing quotation"),
        ("/dance", "no command /dance; /help"),
        ("/help", HELP),
    ],
)
def test_mistakes_are_answered_in_words(chat, source, line, said):
    assert said in tell(chat, line)
    assert not source.asked


def test_settings_undo_and_new(chat, source):
    tell(chat, "/set temperature 0", "/set max_tokens 5", "/set seed 9", "Hello", "Again", "/undo", "Third")
    assert {name: source.asked[-1][name] for name in ("temperature", "max_tokens", "seed")} == {
        "temperature": 0.0,
        "max_tokens": 5,
        "seed": 9,
    }
    assert [message["content"] for message in source.asked[-1]["messages"]] == ["Hello", "one two three", "Third"]
    tell(chat, "/new", "Fourth")
    assert len(source.asked[-1]["messages"]) == 1


def test_quitting(chat):
    assert asyncio.run(chat.answer("/quit")) is False


def test_what_steers_a_terminal_is_not_printed(source, chat):
    source.words = ("a\x1b]0;title\x07b\r", "\u202ec\n\td")
    said = tell(chat, "Hello")
    assert not set(said) & set("\x1b\x07\r\u202e")
    assert said.endswith("c\n\td\n")
    assert printable("ünïcode — ok\n") == "ünïcode — ok?"


def test_the_next_request_as_a_command(source, chat):
    said = tell(chat, "/steer calm 0.1", "/curl")
    assert said.endswith(curl(chat.body(), source.url, key=True) + "\n")
    assert "curl -sS http://" in said
    assert '"emotion": "calm"' in said
