"""Prompts become the tokens that the model was trained to see, and words in them are found again."""

import pytest
from tokenizers import normalizers
from transformers import PreTrainedTokenizerFast

from affectome.errors import UserError
from affectome.steering.framing import Framed, continuation, frame
from affectome.steering.sets import Message, Prompt
from tests.helpers import tiny_tokenizer

BARE = Prompt(id="bare", text="He feels")
CHAT = Prompt(
    id="chat",
    messages=[Message(role="system", content="Be brief."), Message(role="user", content="Tea or coffee?")],
    reply="I take",
)
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + TEMPLATE


def tokenizer(template: str = "", **settings: bool) -> PreTrainedTokenizerFast:
    made = tiny_tokenizer(**settings)
    made.chat_template = template or None
    return made


def words(made: PreTrainedTokenizerFast, ids: tuple[int, ...]) -> str:
    return made.decode(ids)


def test_bare_text_gets_what_stands_before_a_text_and_not_what_stands_after_it() -> None:
    made = tokenizer(bos=True, eos=True)
    framed = frame(made, BARE)
    assert framed.text == "He feels"
    assert words(made, framed.ids) == "<s>He feels"
    assert words(made, frame(tokenizer(bos=False), BARE).ids) == "He feels"


def test_asking_stands_before_bare_text() -> None:
    assert frame(tokenizer(), BARE, "You feel calm.").text == "You feel calm. He feels"


def test_a_chat_has_the_special_tokens_of_its_template_once() -> None:
    made = tokenizer(TEMPLATE)
    framed = frame(made, CHAT)
    assert framed.text == "<s>[system]Be brief.[user]Tea or coffee?[assistant]I take"
    assert framed.ids.count(made.bos_token_id) == 1
    assert words(made, framed.ids) == framed.text


def test_asking_joins_the_system_message_of_a_chat() -> None:
    made = tokenizer(TEMPLATE)
    assert "[system]Be brief. You feel calm.[user]" in frame(made, CHAT, "You feel calm.").text
    alone = Prompt(id="alone", messages=[Message(role="user", content="Hello.")])
    assert frame(made, alone, "You feel calm.").text == "<s>[system]You feel calm.[user]Hello.[assistant]"


def test_a_template_without_system_messages_gets_their_words_from_the_user() -> None:
    framed = frame(tokenizer(NO_SYSTEM), CHAT)
    assert framed.text == "<s>[user]Be brief.\n\nTea or coffee?[assistant]I take"


def test_a_model_without_a_template_reads_a_dialogue() -> None:
    framed = frame(tokenizer(), CHAT)
    assert framed.text == "Be brief.\n\nPerson: Tea or coffee?\n\nAI: I take"
    assert framed.ids[0] == tokenizer().bos_token_id
    no_reply = CHAT.model_copy(update={"reply": None})
    assert frame(tokenizer(), no_reply).text.endswith("\n\nAI:")


def test_a_span_holds_the_tokens_of_its_words() -> None:
    made = tokenizer(TEMPLATE)
    framed = frame(made, CHAT)
    first, end = framed.span("coffee")
    assert words(made, framed.ids[first:end]) == "coffee"
    # Tokens that hold a part of the words and something else belong to them.
    merged = Framed("a tea b", (1, 2, 3), ((0, 3), (3, 6), (6, 7)))
    assert merged.span("tea") == (0, 2)


def test_the_first_or_the_last_of_repeated_words() -> None:
    framed = frame(tokenizer(), Prompt(id="p", text="tea, then tea"))
    assert framed.span("tea") == (1, 4)
    assert framed.span("tea", last=True) == (11, 14)


def test_words_that_are_not_in_the_prompt_cannot_be_steered() -> None:
    with pytest.raises(UserError, match="the words 'milk' are not in the prompt"):
        frame(tokenizer(), CHAT).span("milk")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("He feels", " sad"), ("He feels ", "sad"), ("The answer is (", "sad"), ("He is, well,", " sad")],
)
def test_a_continuation_begins_with_a_space_where_a_word_ends(text: str, wanted: str) -> None:
    made = tokenizer(eos=True)
    framed = frame(made, Prompt(id="p", text=text))
    assert words(made, continuation(made, framed, "sad")) == wanted


def test_a_prompt_without_tokens_is_refused() -> None:
    made = tokenizer(bos=False)
    made.backend_tokenizer.normalizer = normalizers.Replace("x", "")
    with pytest.raises(UserError, match="has no tokens"):
        frame(made, Prompt(id="p", text="x"))
