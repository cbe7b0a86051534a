"""The conditions of a trial: every direction at every strength, and what each is compared with.

A *direction* is an emotion's vector or a control: `random:0`, `random:1`, … (isotropic), `shuffled:0`, … (made like an
emotion's vector from texts of any emotion), `topic:…` (what texts about one topic share). All are unit vectors, so one
strength adds the same length of each.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

Family = Literal["baseline", "emotion", "random", "shuffled", "topic", "asking"]

# Directions that carry no meaning by construction: what chance does.
NULL_FAMILIES = ("random", "shuffled")
CONTROL_FAMILIES = (*NULL_FAMILIES, "topic")

# Columns of a trial's table that are scores begin with this.
SCORE = "score:"


class Condition(NamedTuple):
    """One way to run the model; `direction` is empty for the baseline and the emotion asked for in family `asking`."""

    family: Family
    direction: str
    strength: float

    @property
    def steered(self) -> bool:
        return self.family not in ("baseline", "asking")


BASELINE = Condition("baseline", "", 0.0)


def family_of(direction: str) -> Family:
    """The family of a direction by its name."""
    prefix = direction.partition(":")[0]
    return prefix if direction != prefix and prefix in CONTROL_FAMILIES else "emotion"


def signed(strengths: Sequence[float]) -> list[float]:
    """`strengths` and their opposites, ascending, each once: the opposite sign is a control of every strength."""
    return sorted({sign * abs(strength) for strength in strengths for sign in (1, -1)})


def conditions(
    emotions: Sequence[str], controls: Sequence[str], strengths: Sequence[float], asking: bool
) -> list[Condition]:
    """The baseline, every emotion at every strength and its opposite, every control at the positive ones.

    The sign of a control has no meaning. With `asking`, a condition per emotion in which it is only asked for in words.
    """
    both = signed(strengths)
    return [
        BASELINE,
        *(Condition("emotion", emotion, strength) for emotion in emotions for strength in both),
        *(Condition(family_of(name), name, strength) for name in controls for strength in both if strength > 0),
        *(Condition("asking", emotion, 0.0) for emotion in emotions if asking),
    ]
