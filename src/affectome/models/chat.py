"""A conversation as the text that a chat model was trained to see: its tokenizer's own template, and nothing else.

A base model has no template; where it is to read a conversation all the same, it gets a plain transcript.
"""

from dataclasses import dataclass
from datetime import date
from typing import Any

from jinja2 import TemplateError

from affectome.errors import UserError

# Some templates write today's date into the system message; the same text is to give the same tokens every day.
_TODAY = date(2026, 1, 1)

# Stands for a text where the template's own words before and after it are looked for; a private-use character, so that
# no template holds it and none takes it for white space to strip.
_MARK = "\ue000"

# How a model without a template reads a conversation, as steering writes it too; the tokenizer adds a BOS to it.
_PLAIN = (
    "{% for message in messages %}{{ {'user': 'Person: ', 'assistant': 'AI: '}.get(message.role, '') }}"
    "{{ message.content }}{% if not loop.last %}{{ '\\n\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '\\n\\n' }}AI:{% endif %}"
)


@dataclass(frozen=True)
class Prompt:
    """A conversation, messages with `role` and `content`, and what is read of it.

    That is message number `turn`, counted from 0, or, where `turn` is None, the last token before the model's reply,
    to which the conversation must lead up. Raises ValueError for a conversation that has no such thing.
    """

    messages: list[dict[str, str]]
    turn: int | None = None

    def __post_init__(self) -> None:
        roles = [message["role"] for message in self.messages]
        if self.turn is None and roles[-1:] != ["user"]:
            raise ValueError(f"a reply follows the user's message, and the roles are {', '.join(roles) or 'none'}")
        if self.turn is not None and not 0 <= self.turn < len(roles):
            raise ValueError(f"there is no message {self.turn} among {len(roles)}")


def has_template(tokenizer: Any) -> bool:
    """Whether the tokenizer brings a chat template of its own."""
    return bool(getattr(tokenizer, "chat_template", None))


def render(
    tokenizer: Any, messages: list[dict[str, str]], reply: bool, thinking: bool = True, template: str | None = None
) -> str:
    """`messages` through the chat template, special tokens written out; with `reply` up to where the reply begins.

    Without `thinking`, models that think before they reply are asked not to. `template` takes the place of the
    tokenizer's own. Raises jinja2.TemplateError where the template refuses them.
    """
    settings: dict[str, Any] = {"tokenize": False, "add_generation_prompt": reply}
    if not thinking:
        settings["enable_thinking"] = False
    if template:
        settings["chat_template"] = template
    return tokenizer.apply_chat_template(messages, **settings, strftime_now=_TODAY.strftime)


def as_reply(tokenizer: Any, messages: list[dict[str, str]], thinking: bool = True) -> str:
    """`messages` as `render` gives them, up to where the reply to them begins.

    Some templates know no system message; its words then open the first user's. Raises jinja2.TemplateError where the
    template refuses that too.
    """
    try:
        return render(tokenizer, messages, reply=True, thinking=thinking)
    except TemplateError:
        if [message["role"] for message in messages[:2]] != ["system", "user"]:
            raise
        first = {"role": "user", "content": f"{messages[0]['content']}\n\n{messages[1]['content']}"}
        return render(tokenizer, [first, *messages[2:]], reply=True, thinking=thinking)


def as_turn(tokenizer: Any, role: str, texts: list[str], prompt: str | None = None) -> list[tuple[str, int, int]]:
    """Each of `texts` as a turn of `role`, "user" or "assistant": the conversation, and where in it the text stands.

    A user's turn is followed by the start of the reply; before an assistant's turn the user says `prompt`, if anything.
    A template may strip or change a text; the span [start, end), in characters, is that of what it made of it. Raises
    UserError where there is no template, or where it refuses such a conversation.
    """
    if not has_template(tokenizer):
        raise UserError("the tokenizer has no chat template, so texts cannot be read as turns; use the framing bare")
    opening = [{"role": "user", "content": prompt}] if prompt is not None else []

    def rendered(text: str) -> str:
        return render(tokenizer, [*opening, {"role": role, "content": text}], reply=role == "user")

    try:
        before, mark, after = rendered(_MARK).rpartition(_MARK)
        framed = [rendered(text) for text in texts]
    except TemplateError as error:
        hint = "; give the reading a prompt, which the user says first" if role == "assistant" and not opening else ""
        raise UserError(f"the model's chat template refuses a turn of the {role} ({error}){hint}") from error
    turns = [(text, len(before), len(text) - len(after)) for text in framed]
    strange = next(
        (text for text, start, end in turns if start > end or text[:start] != before or text[end:] != after), None
    )
    if not mark or strange is not None:
        raise UserError(
            f"the model's chat template does not keep a text of the {role} in one piece; use another framing"
        )
    return turns


def as_prompt(tokenizer: Any, prompt: Prompt) -> tuple[str, int, int]:
    """The conversation of `prompt` as the model sees it, and the span [start, end), in characters, of what is read.

    Where that is the token before the reply, the text ends there and the span is empty, at its end. A model that thinks
    before it replies begins without thinking. A tokenizer without a template gets a plain transcript, to which it has
    yet to add its special tokens. Raises UserError where the template refuses the conversation or changes the message
    beyond recognition.
    """
    template = None if has_template(tokenizer) else _PLAIN
    reply = prompt.messages[-1]["role"] == "user"

    def rendered(messages: list[dict[str, str]]) -> str:
        return render(tokenizer, messages, reply, thinking=False, template=template)

    try:
        text = rendered(prompt.messages)
        if prompt.turn is None:
            return text, len(text), len(text)
        marked = {**prompt.messages[prompt.turn], "content": _MARK}
        around = rendered([*prompt.messages[: prompt.turn], marked, *prompt.messages[prompt.turn + 1 :]])
    except TemplateError as error:
        roles = ", ".join(message["role"] for message in prompt.messages)
        raise UserError(
            f"the model's chat template refuses a conversation of {roles} ({error}); rewrite it with user and "
            f"assistant in turn and without a system message, or use another model"
        ) from error
    before, mark, after = around.rpartition(_MARK)
    start, end = len(before), len(text) - len(after)
    if not mark or start > end or text[:start] != before or text[end:] != after:
        role = prompt.messages[prompt.turn]["role"]
        raise UserError(
            f"the model's chat template does not keep message {prompt.turn}, of the {role}, in one piece, so it cannot "
            f"be read; use another model"
        )
    return text, start, end
