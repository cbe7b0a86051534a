"""A conversation as the text that a chat model was trained to see: its tokenizer's own template, and nothing else."""

from datetime import date
from typing import Any

from jinja2 import TemplateError

from affectome.errors import UserError

# Some templates write today's date into the system message; the same text is to give the same tokens every day.
_TODAY = date(2026, 1, 1)

# Stands for a text where the template's own words before and after it are looked for; a private-use character, so that
# no template holds it and none takes it for white space to strip.
_MARK = "\ue000"


def render(tokenizer: Any, messages: list[dict[str, str]], reply: bool, thinking: bool = True) -> str:
    """`messages` through the chat template, special tokens written out; with `reply` up to where the reply begins.

    Without `thinking`, models that think before they reply are asked not to. Raises jinja2.TemplateError where the
    template refuses them.
    """
    settings: dict[str, Any] = {"tokenize": False, "add_generation_prompt": reply}
    if not thinking:
        settings["enable_thinking"] = False
    return tokenizer.apply_chat_template(messages, **settings, strftime_now=_TODAY.strftime)


def as_turn(tokenizer: Any, role: str, texts: list[str], prompt: str | None = None) -> list[tuple[str, int, int]]:
    """Each of `texts` as a turn of `role`, "user" or "assistant": the conversation, and where in it the text stands.

    A user's turn is followed by the start of the reply; before an assistant's turn the user says `prompt`, if anything.
    A template may strip or change a text; the span [start, end), in characters, is that of what it made of it. Raises
    UserError where there is no template, or where it refuses such a conversation.
    """
    if not getattr(tokenizer, "chat_template", None):
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
