"""Texts read as turns of a chat: the template's own tokens, one BOS, and the text found again in what it made of it.

The templates are short ones of our own that do what those of known models do: strip texts, put a system message or an
empty thought before them, write the date, or refuse a conversation that begins with the assistant.
"""

from datetime import datetime
from pathlib import Path
from typing import Any

import h5py
import pytest

from affectome.activations.tokens import pooled_span, tokenize
from affectome.errors import UserError
from affectome.models import chat
from affectome.models.chat import Prompt, as_prompt, as_turn
from tests.helpers import CHAT_TEMPLATE, STORIES, collect, collect_spec, tiny_model, tiny_tokenizer, write_corpora

TURNS = "{% for message in messages %}<{{ message.role }}>{{ message.content }}|{% endfor %}"
REPLY = "{% if add_generation_prompt %}<assistant>{% endif %}"
SYSTEM = "{% if messages[0].role != 'system' %}<system>Be kind.|{% endif %}"
THOUGHT = (
    "{% for m in messages %}<{{ m.role }}>"
    "{% if m.role == 'assistant' %}<think></think>{% endif %}{{ m.content }}|{% endfor %}"
)
DATED = "{{ strftime_now('%d %b %Y') }}|" + TURNS


@pytest.mark.parametrize(
    ("template", "role", "prompt", "text", "whole", "found"),
    [
        (TURNS + REPLY, "user", None, "abc", "<user>abc|<assistant>", "abc"),
        (TURNS + REPLY, "assistant", None, "abc", "<assistant>abc|", "abc"),
        (TURNS + REPLY, "assistant", "Go on.", "abc", "<user>Go on.|<assistant>abc|", "abc"),
        # Words of the template in the text are the text's.
        (
            TURNS + REPLY,
            "user",
            None,
            "<user>a|<assistant>",
            "<user><user>a|<assistant>|<assistant>",
            "<user>a|<assistant>",
        ),
        (TURNS + REPLY, "user", None, "", "<user>|<assistant>", ""),
        (TURNS + REPLY, "assistant", "abc", "abc", "<user>abc|<assistant>abc|", "abc"),
        (SYSTEM + TURNS, "user", None, "abc", "<system>Be kind.|<user>abc|", "abc"),
        (THOUGHT, "assistant", "x", "abc", "<user>x|<assistant><think></think>abc|", "abc"),
        (CHAT_TEMPLATE, "user", None, " abc\n", "<s>[user]abc</s>[assistant]", "abc"),
    ],
)
def test_the_text_is_found_in_the_conversation(
    template: str, role: str, prompt: str | None, text: str, whole: str, found: str
) -> None:
    ((made, start, end),) = as_turn(tiny_tokenizer(chat=template), role, [text], prompt)
    assert made == whole
    assert made[start:end] == found


def test_the_date_of_a_conversation_is_always_the_same() -> None:
    ((made, _, _),) = as_turn(tiny_tokenizer(chat=DATED), "user", ["abc"])
    assert made == f"{chat._TODAY:%d %b %Y}|<user>abc|"
    assert f"{datetime.now():%d %b %Y}" not in made


@pytest.mark.parametrize(
    ("template", "role", "prompt", "words"),
    [
        ("", "user", None, "no chat template, so texts cannot be read as turns; use the framing bare"),
        (
            CHAT_TEMPLATE,
            "assistant",
            None,
            r"refuses a turn of the assistant \(roles must alternate\); give .* a prompt",
        ),
        ("{{ messages[0].content | upper }}" + TURNS, "user", None, "does not keep a text of the user in one piece"),
        ("{% for m in messages %}{{ m.content.split('b') }}{% endfor %}", "user", None, "in one piece"),
        (SYSTEM, "user", None, "in one piece"),
    ],
)
def test_other_templates_are_refused(template: str, role: str, prompt: str | None, words: str) -> None:
    with pytest.raises(UserError, match=words):
        as_turn(tiny_tokenizer(chat=template), role, ["abc"], prompt)


@pytest.mark.parametrize("template", ["", "<s> <s> $A </s>"])
def test_a_chat_has_the_special_tokens_of_its_template_and_no_other(template: str) -> None:
    """Whatever the tokenizer puts around a bare text; the template begins with BOS."""
    tokenizer = tiny_tokenizer(chat=CHAT_TEMPLATE, template=template)
    (text,) = tokenize(tokenizer, ["abc"], 1024, "user")
    letters = tokenizer.convert_ids_to_tokens(text.ids)
    assert letters == ["<s>", *"[user]", *"abc", "</s>", *"[assistant]"]
    assert (text.start, text.stop, text.reply, text.cut) == (7, 10, 22, False)
    assert letters.count("<s>") == 1


def test_spans_in_a_chat() -> None:
    tokenizer = tiny_tokenizer(chat=CHAT_TEMPLATE)
    (user,) = tokenize(tokenizer, ["  abcdef "], 1024, "user")
    (assistant,) = tokenize(tokenizer, ["abcdef"], 1024, "assistant", "Hi")
    assert [user.ids[slice(*span)] for span in (user.spans, pooled_span(user, {"from": 4}))] == [
        user.ids[7:13],
        user.ids[11:13],
    ]
    assert tokenizer.decode(user.ids[slice(*pooled_span(user, {"mean": True}))]) == "abcdef"
    assert tokenizer.decode(user.ids[slice(*pooled_span(user, {"last": True}))]) == "f"
    assert pooled_span(user, {"position": "before_reply"}) == (len(user.ids) - 1, len(user.ids))
    assert tokenizer.decode(user.ids[slice(*pooled_span(user, {"position": "before_reply"}))]) == "]"
    assert tokenizer.decode(assistant.ids[slice(*assistant.spans)]) == "abcdef"
    assert assistant.reply == assistant.start


def test_long_texts_are_cut_and_their_turn_still_ends() -> None:
    tokenizer = tiny_tokenizer(chat=CHAT_TEMPLATE)
    long, exact = tokenize(tokenizer, ["abcdef", "abc"], 3, "user")
    assert long.ids == exact.ids
    assert (long.start, long.stop, long.cut, long.reply) == (7, 10, True, exact.reply)
    assert not exact.cut


def test_a_text_without_tokens_has_an_empty_span() -> None:
    (text,) = tokenize(tiny_tokenizer(chat=CHAT_TEMPLATE), ["  "], 1024, "user")
    assert (text.start, text.stop) == (7, 7)
    assert pooled_span(text, {"mean": True}) == (7, 7)


def test_a_letter_in_two_tokens_and_two_letters_in_one() -> None:
    """Letters beyond ASCII are several tokens here; all of them are the text's."""
    (text,) = tokenize(tiny_tokenizer(chat=CHAT_TEMPLATE), ["naïve"], 1024, "user")
    assert (text.start, text.stop) == (7, 7 + len("naïve".encode()))


@pytest.mark.parametrize("pooling", [{"position": "before_reply"}, {"mean": True}])
def test_texts_without_tokens_are_dropped(pooling: dict[str, Any], tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "model", tokenizer=tiny_tokenizer(chat=CHAT_TEMPLATE))
    corpora = write_corpora(tmp_path, [*STORIES, ("sad", " ")])
    shard = collect(model, *corpora, tmp_path / "0.h5", collect_spec([1], framing="user", pooling=pooling))
    with h5py.File(shard) as file:
        assert len(file["id"]) == len(STORIES)
        assert len(file["dropped"]) == 1


def test_readings_of_the_same_position_that_do_not_see_the_text_stop_the_job(tmp_path: Path) -> None:
    """The token before an assistant's turn is the same for all, so config refuses it; here it gets past config."""
    model = tiny_model(tmp_path / "model", tokenizer=tiny_tokenizer(chat=CHAT_TEMPLATE))
    spec = collect_spec([1], framing="assistant", prompt="Go on.", pooling={"position": "before_reply"})
    with pytest.raises(UserError, match=r"block 1 gives text .* and 4 others the same vector"):
        collect(model, *write_corpora(tmp_path, STORIES), tmp_path / "0.h5", spec)


# ---------------------------------------------------------------- conversations read at one place

TALK = [{"role": "user", "content": "ab"}, {"role": "assistant", "content": "ab "}, {"role": "user", "content": "ab"}]
THINKING = (
    TURNS
    + "{% if add_generation_prompt %}<assistant>{% if enable_thinking is false %}<think></think>{% endif %}{% endif %}"
)


@pytest.mark.parametrize(
    ("turn", "found", "before"), [(0, "ab", "<s>[user]"), (1, "ab", "</s>[assistant]"), (2, "ab", "</s>[user]")]
)
def test_each_turn_is_found_though_all_say_the_same(turn: int, found: str, before: str) -> None:
    text, start, end = as_prompt(tiny_tokenizer(chat=CHAT_TEMPLATE), Prompt(TALK, turn))
    assert text == "<s>[user]ab</s>[assistant]ab</s>[user]ab</s>[assistant]"
    assert text[start:end] == found
    assert text[:start].endswith(before)
    assert text[:start].count("]") == turn + 1


def test_a_reply_begins_without_thinking_and_after_a_reply_none_does() -> None:
    tokenizer = tiny_tokenizer(chat=THINKING)
    text, start, end = as_prompt(tokenizer, Prompt(TALK[:1]))
    assert text == "<user>ab|<assistant><think></think>"
    assert start == end == len(text)
    assert as_prompt(tokenizer, Prompt(TALK[:2], 1)) == ("<user>ab|<assistant>ab |", 20, 23)


def test_without_a_template_a_conversation_is_a_transcript() -> None:
    assert as_prompt(tiny_tokenizer(), Prompt(TALK, 1)) == (
        "Person: ab\n\nAI: ab \n\nPerson: ab\n\nAI:",
        16,
        19,
    )
