"""Why a text is not fit for a corpus: the reasons, and which of them applies first to a text."""

from collections.abc import Callable
from typing import Any

from affectome.corpus.screening.assistant import has_preamble, is_refusal
from affectome.corpus.screening.form import has_loop, has_turns, is_truncated
from affectome.corpus.screening.language import is_foreign
from affectome.corpus.screening.leaks import leaks

_Check = Callable[[str, tuple[str, ...], dict[str, Any], str], bool]

# In the order in which they are looked for: what is wrong with a reply as a whole comes before what is wrong with a
# story, so that a refusal is not counted as a short one.
_CHECKS: dict[str, _Check] = {
    "refusal": lambda text, _, rules, __: rules["refusals"] and is_refusal(text),
    "preamble": lambda text, _, rules, kind: rules["preambles"] and kind != "text" and has_preamble(text),
    "layout": lambda text, _, rules, kind: rules["layout"] and kind == "dialogue" and not has_turns(text),
    "leak": lambda text, emotions, rules, _: rules["leaks"] and any(leaks(emotion, text) for emotion in emotions),
    "language": lambda text, _, rules, __: bool(rules["language"]) and is_foreign(text, rules["language"]),
    "truncated": lambda text, _, rules, kind: rules["truncated"] and kind != "text" and is_truncated(text),
    "loop": lambda text, _, rules, __: rules["loops"] and has_loop(text),
    "too_short": lambda text, _, rules, __: len(text.split()) < rules["min_words"],
    "too_long": lambda text, _, rules, __: len(text.split()) > rules["max_words"],
}

# Near-duplicates come last: a text that is dropped for its own faults does not take another with it.
REASONS = ("not_listed", "duplicate", *_CHECKS, "near_duplicate")


def problem(text: str, emotions: tuple[str, ...], rules: dict[str, Any], kind: str = "story") -> str:
    """The first of `REASONS` that applies to `text` by itself, "" if none does.

    `emotions` are the words that it may not contain; `rules` are those of `corpora.*.screening`. `kind` is story, or
    dialogue for what was written as turns of a person and an AI model, or text for what nobody wrote to order: that may
    have a title, and may stop anywhere. Raises UserError where the language asked for is not known.
    """
    return next((reason for reason, applies in _CHECKS.items() if applies(text, emotions, rules, kind)), "")
