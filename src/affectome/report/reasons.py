"""Why a text was dropped or written anew, in words for readers."""

REASONS = {
    "not_listed": "emotion not on the list",
    "duplicate": "repeats another text",
    "near_duplicate": "nearly repeats another text",
    "refusal": "a refusal",
    "preamble": "holds more than the text",
    "leak": "holds its emotion word",
    "language": "in another language",
    "truncated": "cut off",
    "loop": "repeats itself",
    "layout": "not laid out as a dialogue",
    "too_short": "too short",
    "too_long": "too long",
    "too_few_tokens": "too few tokens to average",
}
