"""Which texts of a corpus are dropped, and the count of every one by reason and emotion."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from affectome.corpus.screening.duplicates import near_duplicates
from affectome.corpus.screening.rules import REASONS, problem
from affectome.corpus.tables import empty_corpus, read_corpus, write_corpus
from affectome.errors import UserError
from affectome.files import read_json, write_json
from affectome.identity import fingerprint


def screen(
    texts: pd.DataFrame, emotions: list[str], rules: dict[str, Any], kind: str = "story"
) -> tuple[pd.DataFrame, pd.Series]:
    """The corpus table `texts` without dropped rows, and the reason per row of `texts` ("" where it is kept).

    `emotions` are those of the corpus, [""] for neutral texts, which have none; `rules` and `kind` are as for
    `rules.problem`. Where there is a column `other_emotion`, that word may not occur either.
    """
    others = texts["other_emotion"] if "other_emotion" in texts else [""] * len(texts)
    reasons: list[str] = []
    seen: set[str] = set()
    for emotion, other, text in zip(texts["emotion"], others, texts["text"], strict=True):
        if emotion not in emotions:
            reasons.append("not_listed")
        elif rules["duplicates"] and text in seen:
            reasons.append("duplicate")
        else:
            seen.add(text)
            reasons.append(problem(text, tuple(filter(None, (emotion, other))), rules, kind))
    if rules["near_duplicates"] is not None:
        fit = [row for row, reason in enumerate(reasons) if not reason]
        repeated = near_duplicates(texts["text"].iloc[fit].tolist(), rules["near_duplicates"])
        for row, earlier in zip(fit, repeated, strict=True):
            reasons[row] = "near_duplicate" if earlier >= 0 else ""
    found = pd.Series(reasons, index=texts.index, dtype=str)
    return texts[found == ""].reset_index(drop=True), found


def screen_corpus(
    raw_stories: Sequence[str | Path],
    raw_neutral: Sequence[str | Path],
    stories: str | Path,
    neutral: str | Path,
    report: str | Path,
    emotions: list[str],
    rules: dict[str, Any],
    written: Sequence[str | Path],
) -> None:
    """Screen the tables `raw_*`, each in parts, into `stories` and `neutral`, and write what was dropped to `report`.

    `written` are the accounts of the jobs that wrote the parts (`affectome.corpus.writing`), none for texts that were
    imported. Raises UserError where an emotion has no story left.
    """
    counts: dict[str, Any] = {"rules": rules}
    neutral_kind = "dialogue" if written else "text"
    for name, kind, sources, target in (
        ("stories", "story", raw_stories, stories),
        ("neutral", neutral_kind, raw_neutral, neutral),
    ):
        texts = _joined(sources)
        kept, reasons = screen(texts, emotions if name == "stories" else [""], rules, kind)
        counts[name] = _counts(texts, kept, reasons)
        if name == "stories":
            counts["kept_by_emotion"] = {emotion: int((kept["emotion"] == emotion).sum()) for emotion in emotions}
            empty = [emotion for emotion, count in counts["kept_by_emotion"].items() if count == 0]
            if empty:
                dropped = {reason: count for reason, count in counts[name]["by_reason"].items() if count}
                raise UserError(
                    f"no story is left for {', '.join(empty)} (dropped: {dropped}); add stories, relax "
                    f"corpora.*.screening, or take the words out of corpora.*.emotions"
                )
        write_corpus(kept, target)
    counts["writing"] = _writing([read_json(path) for path in written]) if written else None
    write_json(report, counts)


def _joined(sources: Sequence[str | Path]) -> pd.DataFrame:
    """The rows of several corpus tables, in order; extra columns are empty where a table lacks them."""
    tables = [table for table in map(read_corpus, sources) if len(table)]
    if not tables:
        return empty_corpus()
    joined = pd.concat(tables, ignore_index=True)
    words = [name for name in joined if pd.api.types.is_string_dtype(joined[name].dtype)]
    return joined.fillna(dict.fromkeys(words, ""))


def _counts(texts: pd.DataFrame, kept: pd.DataFrame, reasons: pd.Series) -> dict[str, Any]:
    dropped = Counter((reason, emotion) for reason, emotion in zip(reasons, texts["emotion"], strict=True) if reason)
    return {
        "read": len(texts),
        "kept": len(kept),
        "dropped": dropped.total(),
        "by_reason": dict.fromkeys(REASONS, 0) | _by_reason(dropped),
        "by_reason_and_emotion": _by_reason_and_emotion(dropped),
        "ids": {reason: texts["id"][reasons == reason].tolist() for reason in REASONS if (reasons == reason).any()},
    }


def _writing(accounts: list[dict[str, Any]]) -> dict[str, Any]:
    """What was asked of writers for stories and for neutral texts, summed over jobs; None for what no job wrote.

    `usd` is None where a price is not known, and `seconds` are those of all jobs together; `fingerprint` is of all that
    decided what was written, the text of the `prompts` among it.
    """
    return {kind: _sum([of for of in accounts if of["kind"] == kind]) for kind in ("stories", "neutral")}


def _sum(accounts: list[dict[str, Any]]) -> dict[str, Any] | None:
    if not accounts:
        return None
    asked: Counter[str] = sum((Counter(of["asked"]) for of in accounts), Counter())
    return {
        "planned": sum(of["planned"] for of in accounts),
        "asked": {"texts": asked.total(), "by_emotion": dict(sorted(asked.items()))},
        **{name: _failures([of[name] for of in accounts]) for name in ("rejected", "given_up")},
        "tokens": {way: sum(of["tokens"][way] for of in accounts) for way in ("read", "written")},
        "usd": None if any(of["usd"] is None for of in accounts) else sum(of["usd"] for of in accounts),
        "seconds": sum(of["seconds"] for of in accounts),
        "prompts": {kind: prompt for of in accounts for kind, prompt in of["prompts"].items()},
        "fingerprint": fingerprint([of["fingerprint"] for of in accounts]),
    }


def _failures(accounts: list[dict[str, dict[str, int]]]) -> dict[str, Any]:
    """Counts of jobs by emotion and reason, as those of what was dropped."""
    counts: Counter[tuple[str, str]] = Counter()
    for of in accounts:
        for emotion, reasons in of.items():
            counts.update({(reason, emotion): count for reason, count in reasons.items()})
    return {
        "texts": counts.total(),
        "by_reason": _by_reason(counts),
        "by_reason_and_emotion": _by_reason_and_emotion(counts),
    }


def _by_reason(counts: Counter[tuple[str, str]]) -> dict[str, int]:
    """Sums over emotions, the known reasons in their order and others by name."""
    sums: Counter[str] = Counter()
    for (reason, _), count in counts.items():
        sums[reason] += count
    return {reason: sums[reason] for reason in sorted(sums, key=_order)}


def _by_reason_and_emotion(counts: Counter[tuple[str, str]]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {reason: {} for reason in _by_reason(counts)}
    for (reason, emotion), count in sorted(counts.items()):
        found[reason][emotion] = count
    return found


def _order(reason: str) -> tuple[int, str]:
    return (REASONS.index(reason) if reason in REASONS else len(REASONS), reason)
