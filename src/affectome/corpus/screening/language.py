"""Whether a text is in the language it should be in, as far as its length allows to say."""

from functools import cache
from typing import TYPE_CHECKING

from affectome.errors import UserError

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

# Bytes of UTF-8 that it takes to be sure, some 20 words of English or 35 Chinese characters.
_FEWEST_BYTES = 100

# Signs that are looked at together, some 40 words of English.
_WINDOW = 200

# Share of letters below which a window has no language; that of scripts with signs for vowels is a half.
_FEWEST_LETTERS = 0.25

# Below this probability a window is in another language. Of the 5,765 windows of the shipped texts, lists of Latin
# cloud names among them, the least English one has 0.90; foreign sentences have less than 1e-6.
_LEAST = 0.05

# Languages that a paragraph may not tell apart.
_RELATIVES = (
    {"bs", "hr", "sr"},
    {"da", "nb", "nn", "no"},
    {"id", "ms"},
    {"cs", "sk"},
    {"gl", "pt"},
    {"wuu", "yue", "zh"},
    {"en", "pcm"},
    {"af", "nl"},
    {"bg", "mk"},
)


def is_foreign(text: str, language: str) -> bool:
    """Whether some part of `text`, of about 40 words, is not in `language` (ISO 639-1).

    Identified by py3langid (Lui & Baldwin 2012; Barbaresi), whose model is part of the package. Texts of less than 100
    bytes, about 20 words, are never foreign. Raises UserError where the language is not among the 140 of the model.
    """
    identifier = _identifier()
    accepted = {language}.union(*(group for group in _RELATIVES if language in group))
    if accepted.isdisjoint(identifier.labels):
        known = ", ".join(sorted(label for label in identifier.labels if len(label) == 2))
        raise UserError(f"screening.language: {language!r} is not identified; use one of {known}, or null for any")
    if len(text.encode()) < _FEWEST_BYTES:
        return False
    size = -(-len(text) // max(1, len(text) // _WINDOW))
    return any(_is_other(text[start : start + size], accepted) for start in range(0, len(text), size))


def _is_other(window: str, accepted: set[str]) -> bool:
    # Figures and signs are of no language; ranking takes longer, and hardly a window needs it.
    if sum(map(str.isalpha, window)) < _FEWEST_LETTERS * len(window) or _identifier().classify(window)[0] in accepted:
        return False
    return sum(share for label, share in _identifier().rank(window) if label in accepted) < _LEAST


@cache
def _identifier() -> "LanguageIdentifier":
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
