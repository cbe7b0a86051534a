"""What a language model says instead of a text, or around it: refusals, announcements, titles and comments.

Patterns are looked for where a model says such things (at the beginning, in a line of its own, at the end) and never
within quotation marks, so that a character may say them. They know English.
"""

import re

_CANNOT = (
    r"i(?:'m| am|'d| would|'ll| will)?\s+(?:really |simply |just )?(?:can't|cannot|can not|won't|will not|"
    r"(?:not |un)(?:going to be )?able to|(?:won't|will not) be able to|not comfortable(?: with)?|"
    r"(?:don't|do not) feel comfortable(?: with)?|rather not|prefer not to|"
    r"(?:must|have to|need to)(?: respectfully)? decline to|respectfully decline to)\s+"
)
_DO = (
    r"(?:write|writing|creat(?:e|ing)|generat(?:e|ing)|provid(?:e|ing)|produc(?:e|ing)|compos(?:e|ing)|craft(?:ing)?|"
    r"continu(?:e|ing)|complet(?:e|ing)|fulfil|comply|assist|help(?! it| but| \w+self)|engag(?:e|ing)|respond|"
    r"do (?:that|this|so)|process|discuss)"
)
_ORDERED = (
    r"[^.!?\n]{0,80}\b(?:stor(?:y|ies)|narratives?|dialogues?|conversation|fiction|content|material|requests?|prompt|"
    r"scenario|task|with (?:that|this))\b"
)
_MODEL = r"an? (?:ai|artificial intelligence|(?:large )?language model)\b"
_REFUSAL = re.compile(
    rf"\W*(?:(?:ai|assistant|model):\s*)?(?:"
    rf"(?:(?:i'm|i am)\s+(?:\w+\s+)?sorry|sorry|i apologi[sz]e|(?:my )?apologies|unfortunately|regrettably|"
    rf"(?:thank you|thanks|i understand|i appreciate)\b[^.!?\n]{{0,120}})[^\w\n]*(?:(?:but|however)\W+)?"
    rf"(?:as {_MODEL}[^,.\n]*,\s*)?{_CANNOT}{_DO}"
    rf"|{_CANNOT}{_DO}{_ORDERED}"
    rf"|(?:(?:\w+\W+){{0,8}}?as|i(?:'m| am) (?:just |only )?) ?{_MODEL}[^.!?\n]{{0,80}}\b(?:can't|cannot|can not|"
    rf"don't|do not|am not|i'm not|unable|not able|won't|have no)\b"
    rf"|(?:this|the|your) (?:request|prompt)\b[^.!?\n]{{0,60}}\b(?:violates?|goes against|conflicts? with|"
    rf"inappropriate|not appropriate|can't be|cannot be)"
    rf"|(?:it is|it's|it would) (?:not )?(?:be )?(?:(?:in|not )?appropriate|against my \w+)(?: for me)? to {_DO}"
    rf"|i (?:must|have to|need to|will have to|respectfully) decline (?:this|your) request"
    rf")",
    re.IGNORECASE,
)

_TEXT = (
    r"(?:stor(?:y|ies)|narrative|dialogues?|conversation|scene|tale|vignette|paragraph|passage|piece|text|version|draft|"
    r"attempt|exchange|response|example|rewrite|revision)"
)
_HERE = r"(?:here(?:'s| is| are)|below (?:is|are)|(?:the )?following (?:is|are))"
_OPENING = re.compile(
    r"\W*(?:"
    # Here is a short story about a happy man. / Here is the story: / Here is one that keeps to the rules:
    rf"{_HERE} (?:an?|another|one|your|my)\b[^.:!?\n]{{0,80}}?\b(?:story|narrative|dialogue|vignette)\b"
    rf"|{_HERE}[^.:!?\n]{{0,80}}\b{_TEXT}\b[^.:!?\n]{{0,40}}:"
    rf"|{_HERE}[^.!?\n]{{0,150}}:\s*\n"
    # Sure! Here's one. / Of course, I will write a story about ... / Certainly!
    r"|(?:sure(?: thing)?|certainly|of course|absolutely|okay|ok|great|gladly|understood|got it|alright|no problem|"
    r"with pleasure|happy to help|i(?:'d| would) be happy to(?: help)?)\b(?:"
    rf"[^\w\n]*{_HERE} (?:an?|the|your|my|one)\b[^\n]{{0,120}}\b{_TEXT}\b"
    rf"|[^\w\n]*(?:i'll|i will|let me|i can|to) (?:write|create|craft|provide|give|help)\b[^\n]{{0,120}}\b{_TEXT}\b"
    r"|[!.:,]*\s*\n)"
    # Title: The Empty Chair / **Story 2:**
    r"|(?:(?:sub)?title|(?:short |revised |rewritten )?(?:story|dialogue|narrative|version|draft)|genre|setting|"
    r"emotion|topic|subject|word count|chapter|part|scene|prompt|output|answer|response)"
    r"(?:\W{0,3}\b(?:\d+|one|two|three))?"
    r"\W{0,3}:"
    r")",
    re.IGNORECASE,
)
_ANYWHERE = re.compile(
    r"^[ \t]*#{1,6}[ \t]+\S"
    r"|^[ \t]*(?:\*\*|__)[^*_\n]+(?:\*\*|__):?[ \t]*$"
    r"|```"
    r"|</?(?:think|thinking|reasoning|answer|story)>"
    r"|<\|\w+\|>|<(?:start|end)_of_turn>|\[/?INST\]|</s>",
    re.IGNORECASE | re.MULTILINE,
)
_RULE = re.compile(r"\A[ \t]*(?:[-*_][ \t]*){3,}\n|\n[ \t]*(?:[-*_][ \t]*){3,}\Z")
_CLOSING = re.compile(
    r"[(\[]\s*(?:word count\W*|about |approximately |approx\. |~)?\d+ words\b[^)\]\n]*[)\]]\W*\Z"
    r"|(?:^|[(\[])[^\w\n]{0,8}(?:word|character) count\b[^\n]*\Z"
    r"|\n[^\w\n]{0,8}(?:the end|end of (?:story|dialogue)|fin)\W*\Z"
    r"|\n[^\w\n]{0,8}(?:note|this (?:very )?(?:short |brief )?(?:story|dialogue|narrative|piece|scene|vignette|"
    r"version))\b[^\n]*\Z"
    r"|(?:^|[.!?*)][ \t]+)[^\w\n]{0,8}(?:"
    r"i hope (?:this|that) (?:story|dialogue|text|piece|one|helps|meets|works|captures|fits|suits|is what)"
    r"|i hope you(?:'ll)? (?:enjoy(?:ed)?|liked?) (?:this|the|my)(?: \w+)? (?:story|dialogue|text|piece|scene)"
    r"|(?:please )?let me know if (?:you(?:'d| would) like|you (?:want|need) (?:me|any|more|another)|this \w+s|any)"
    r"|would you like (?:me|another|any|a different)|if you(?:'d| would) like (?:me|another|any)"
    r"|feel free to (?:ask|adjust|modify|change|use|let)"
    r")\b[^\n]*\Z",
    re.IGNORECASE | re.MULTILINE,
)

_MOST_WORDS_OF_A_TITLE = 10
_QUOTES = {"“": "”", "„": "“”", "«": "»", "‘": "’", '"': '"', "'": "'", "「": "」"}


def is_refusal(text: str) -> bool:
    """Whether `text` begins as a refusal to write it."""
    return not _opens_quoted(text) and bool(_REFUSAL.match(_plain(text)))


def has_preamble(text: str) -> bool:
    """Whether there is anything around the text itself.

    That is an announcement, a label, a title or heading, a comment on it, quotation marks or emphasis around the whole,
    a code fence, or what is left of a model's thoughts or of its chat template.
    """
    plain = _plain(text)
    return (
        (not _opens_quoted(text) and bool(_OPENING.match(plain)))
        or any(pattern.search(plain) for pattern in (_ANYWHERE, _RULE, _CLOSING))
        or bool(re.match(r'[{\[]\s*"', plain) or re.fullmatch(r"(\*{1,3}|_{1,3})[^*_]+\1", plain))
        or _has_title(plain)
        or _is_quoted(text.strip())
    )


def _plain(text: str) -> str:
    return text.strip().replace("’", "'")


def _opens_quoted(text: str) -> bool:
    return text.lstrip()[:1] in _QUOTES


def _has_title(text: str) -> bool:
    """Whether the first line is short, without the mark of a sentence's end, and set off from what follows."""
    first, _, rest = text.partition("\n")
    title = first.strip().strip("*_\"“”'")
    words = title.split()
    if not rest or not words or len(words) > _MOST_WORDS_OF_A_TITLE or not title[-1].isalnum():
        return False
    if re.match(r"[\w .'-]{1,30}:\s", title):
        return False  # a turn of a dialogue
    capitals = [word[0].isupper() for word in words if len(word) > 3]
    return not rest.split("\n")[0].strip() or (len(capitals) > 1 and all(capitals))


def _is_quoted(text: str) -> bool:
    """Whether the quotation mark that opens `text` is closed by its last sign and not before."""
    closing = _QUOTES.get(text[:1], "")
    if len(text) < 2 or not closing or text[-1] not in closing:
        return False
    depth = 1
    for place in range(1, len(text) - 1):
        sign, before, after = text[place], text[place - 1], text[place + 1]
        if sign in "'’" and before.isalnum() and after.isalnum():
            continue  # an apostrophe
        if sign == text[0] and (sign not in closing or before.isspace() or before in "([—–-"):
            depth += 1
        elif sign in closing:
            depth -= 1
            if not depth:
                return False
    return True
