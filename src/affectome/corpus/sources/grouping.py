"""Fine labels put into few emotions: GoEmotions in its Ekman grouping.

The groups are those of Demszky et al. (2020), "GoEmotions: A Dataset of Fine-Grained Emotions", ACL 2020,
arXiv 2005.00547, appendix on grouped labels.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator

from affectome.corpus.sources.cells import Record
from affectome.randomness import generator

log = logging.getLogger(__name__)

NEUTRAL = "neutral"

EKMAN = {
    "anger": ("anger", "annoyance", "disapproval"),
    "disgust": ("disgust",),
    "fear": ("fear", "nervousness"),
    "joy": (
        *("admiration", "amusement", "approval", "caring", "desire", "excitement", "gratitude", "joy", "love"),
        *("optimism", "pride", "relief"),
    ),
    "sadness": ("disappointment", "embarrassment", "grief", "remorse", "sadness"),
    "surprise": ("confusion", "curiosity", "realization", "surprise"),
}
_GROUP = {label: group for group, labels in EKMAN.items() for label in labels} | {NEUTRAL: NEUTRAL}

# How GoEmotions numbers its labels, for copies that have lost the names.
_NUMBERED = (*sorted(label for label in _GROUP if label != NEUTRAL), NEUTRAL)


def ekman_groups(labels: Iterable[str]) -> set[str]:
    """The groups that GoEmotions `labels` (names or numbers) fall into, `neutral` among them.

    Raises ValueError for a label that GoEmotions does not have.
    """
    return {_group(label.strip().lower()) for label in labels}


def ekman(records: Iterable[Record]) -> Iterator[Record]:
    """The records that belong to one of the six groups, equally many of each and in their order, labelled with it.

    Records without label, of several groups or neutral are left out. Of each group so many are drawn at random, the
    same at every call, as the smallest of those that occur has; this needs all records in memory.
    """
    found: list[Record] = []
    dropped: Counter[str] = Counter()
    for record in records:
        groups = ekman_groups(record.labels)
        if len(groups) == 1 and groups != {NEUTRAL}:
            found.append(record._replace(labels=tuple(groups)))
        else:
            dropped["neutral" if groups else "unlabelled"] += len(groups) < 2
            dropped["of several groups"] += len(groups) > 1
    sizes = Counter(record.labels[0] for record in found)
    each = min(sizes.values(), default=0)
    log.info(
        "grouping ekman: %s of each of %s are kept; left out: %s",
        f"{each:,}",
        ", ".join(f"{group} ({sizes[group]:,})" for group in EKMAN if group in sizes) or "no group",
        ", ".join(f"{count:,} {why}" for why, count in dropped.items() if count) or "none",
    )
    drawn = {
        group: set(generator(0, "ekman", group).choice(size, each, replace=False).tolist())
        for group, size in sizes.items()
    }
    seen: Counter[str] = Counter()
    for record in found:
        (group,) = record.labels
        if seen[group] in drawn[group]:
            yield record
        seen[group] += 1


def neutral(records: Iterable[Record]) -> Iterator[Record]:
    """The records whose only label is neutral, in their order."""
    return (record for record in records if ekman_groups(record.labels) == {NEUTRAL})


def _group(label: str) -> str:
    if label.isdecimal() and int(label) < len(_NUMBERED):
        label = _NUMBERED[int(label)]
    if label not in _GROUP:
        raise ValueError(f"GoEmotions has no label {label!r}")
    return _GROUP[label]
