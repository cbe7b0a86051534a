"""Which tokens are a text's own, which are pooled, and how texts share a batch: all answers worked out by hand."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from affectome.activations.tokens import (
    TokenText,
    pad_right,
    plan_batches,
    pooled_span,
    tokenize,
    tokenize_prompts,
)
from affectome.models.chat import Prompt
from tests.helpers import BOS, EOS, FIRST_BYTE, PAD, tiny_tokenizer

# The tiny tokenizer numbers printable ASCII first.
A, B, C = (FIRST_BYTE + ord(letter) - ord("!") for letter in "abc")


@pytest.mark.parametrize(
    ("tokenizer", "ids", "start", "stop"),
    [
        (tiny_tokenizer(bos=False), (A, B, C), 0, 3),
        (tiny_tokenizer(bos=True), (1, A, B, C), 1, 4),
        (tiny_tokenizer(bos=True, padding_side="left"), (1, A, B, C), 1, 4),
        # What follows a text cannot change its residuals, and is not read.
        (tiny_tokenizer(bos=False, eos=True), (A, B, C), 0, 3),
        (tiny_tokenizer(bos=True, eos=True), (1, A, B, C), 1, 4),
        (tiny_tokenizer(template=f"{PAD} {BOS} $A {EOS}"), (0, 1, A, B, C), 2, 5),
    ],
)
def test_special_tokens_around_a_text_are_not_its_own(tokenizer, ids: tuple[int, ...], start: int, stop: int) -> None:
    assert tokenize(tokenizer, ["abc"], 1024) == [TokenText(ids, start, stop)]


@pytest.mark.parametrize("pad", [PAD, EOS])
def test_special_tokens_written_in_a_text_are_its_own(pad: str) -> None:
    """SmolLM2 pads with its end-of-text token: told by the id, the end of such a text would be lost."""
    tokenizer = tiny_tokenizer(bos=True, eos=True, pad=pad)
    texts = tokenize(tokenizer, [f"a{EOS}b", f"ab{EOS}{EOS}", f"{BOS}{BOS}a", EOS, f"{pad}a{pad}"], 1024)
    number = tokenizer.pad_token_id
    assert [text.ids for text in texts] == [(1, A, 2, B), (1, A, B, 2, 2), (1, 1, 1, A), (1, 2), (1, number, A, number)]
    assert [(text.start, text.stop) for text in texts] == [(1, 4), (1, 5), (1, 4), (1, 2), (1, 4)]


def test_a_text_without_tokens_has_an_empty_span() -> None:
    for tokenizer in (tiny_tokenizer(bos=False), tiny_tokenizer(bos=True), tiny_tokenizer(bos=True, eos=True)):
        (text,) = tokenize(tokenizer, [""], 1024)
        assert text.start == text.stop == len(text.ids)
        for pooling in ({"from": 0}, {"from": 50}, {"mean": True}, {"last": True}):
            first, end = pooled_span(text, pooling)
            assert first == end


def test_long_texts_keep_their_first_tokens_and_are_marked() -> None:
    tokenizer = tiny_tokenizer(bos=True, eos=True)
    short, exact, long = tokenize(tokenizer, ["ab", "abc", "abca"], 3)
    assert short == TokenText((1, A, B), 1, 3, cut=False)
    assert exact == TokenText((1, A, B, C), 1, 4, cut=False)
    assert long == TokenText((1, A, B, C), 1, 4, cut=True)


def test_padding_and_truncation_saved_with_a_tokenizer_are_not_applied(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.enable_padding(length=8, pad_id=0, pad_token=PAD, direction="left")
    tokenizer.backend_tokenizer.enable_truncation(2)
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert [text.ids for text in tokenize(loaded, ["abc", "a"], 1024)] == [(1, A, B, C), (1, A)]


@pytest.mark.parametrize(
    ("start", "tokens", "pooling", "span"),
    [
        # With BOS at 0, text token k stands at k + 1.
        (1, 8, {"from": 5}, (6, 9)),
        (1, 8, {"from": 0}, (1, 9)),
        (1, 8, {"from": 7}, (8, 9)),
        (1, 8, {"from": 8}, (9, 9)),
        (1, 8, {"from": 50}, (51, 51)),
        (1, 8, {"mean": True}, (1, 9)),
        (1, 8, {"last": True}, (8, 9)),
        # Without BOS the text's own first token opens the sequence, and is left out.
        (0, 8, {"from": 5}, (5, 8)),
        (0, 8, {"from": 0}, (1, 8)),
        (0, 8, {"mean": True}, (1, 8)),
        (0, 8, {"last": True}, (7, 8)),
        (0, 1, {"last": True}, (1, 1)),
        (0, 1, {"mean": True}, (1, 1)),
        (1, 1, {"last": True}, (1, 2)),
        (1, 1, {"mean": True}, (1, 2)),
        (2, 3, {"from": 1}, (3, 5)),
        (2, 3, {"mean": True}, (2, 5)),
    ],
)
def test_pooled_span(start: int, tokens: int, pooling: dict, span: tuple[int, int]) -> None:
    text = TokenText(tuple(range(start + tokens)), start, start + tokens)
    assert pooled_span(text, pooling) == span


def test_batches_are_planned_by_hand() -> None:
    # Longest first, ties in order; 2 × 9 > 16, so the first is alone; 3 × 5 ≤ 16 and 4 × 5 > 16.
    assert plan_batches([5, 2, 9, 5, 5, 5, 1], 16) == [[2], [0, 3, 4], [5, 1, 6]]
    assert plan_batches([], 16) == []
    assert plan_batches([40, 30], 16) == [[0], [1]]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 60), max_size=40), st.integers(1, 120))
def test_every_text_is_in_one_batch_within_the_budget(lengths: list[int], budget: int) -> None:
    batches = plan_batches(lengths, budget)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= budget


def test_padding_is_on_the_right_and_made_of_the_text_itself() -> None:
    texts = [TokenText((1, 7, 8, 9), 1, 4), TokenText((1, 5), 1, 2)]
    assert pad_right(texts).tolist() == [[1, 7, 8, 9], [1, 5, 5, 5]]


def test_conversations_end_where_what_is_read_of_them_ends() -> None:
    """A message keeps what stands before it; a tokenizer adds to a transcript what it puts before a text, once."""
    talk = [{"role": "user", "content": "abc"}, {"role": "assistant", "content": "ab"}]
    chat = tiny_tokenizer(bos=True, eos=True, chat="<s>{% for m in messages %}{{ m.content }}|{% endfor %}")
    bar = chat.convert_tokens_to_ids("|")
    assert tokenize_prompts(chat, [Prompt(talk, 0), Prompt(talk, 1), Prompt(talk[:1])]) == [
        TokenText((1, A, B, C), 1, 4),
        TokenText((1, A, B, C, bar, A, B), 5, 7),
        TokenText((1, A, B, C, bar), 0, 5, reply=5),
    ]
    plain = tiny_tokenizer(template=f"{PAD} {BOS} $A {EOS}")
    message, reply = tokenize_prompts(plain, [Prompt(talk, 0), Prompt(talk[:1])])
    assert message.ids[:2] == reply.ids[:2] == (0, 1)
    assert plain.decode(message.ids[2:]) == "Person: abc"
    assert (message.start, message.stop, message.ids[message.start :]) == (10, 13, (A, B, C))
    assert plain.decode(reply.ids[2:]) == "Person: abc\n\nAI:"
    assert reply.reply == len(reply.ids)
