"""What a preference trial offers: the pairs of activities. Nothing here loads a model."""

from collections.abc import Sequence

from affectome.errors import UserError
from affectome.randomness import generator


def pairs(activities: Sequence[tuple[str, str]], n: int, seed: int) -> list[tuple[str, str]]:
    """`n` pairs (steered, other) out of all, as evenly as can be over the steered half of `activities`.

    Activities are (name, category); of an odd category the smaller half is steered.
    """
    draw = generator(seed, "pairs")
    categories: dict[str, list[str]] = {}
    for name, category in activities:
        categories.setdefault(category, []).append(name)
    steered, others = [], []
    for members in categories.values():
        drawn = [members[i] for i in draw.permutation(len(members))]
        # A category of one goes to the half that is smaller so far.
        half = len(drawn) // 2 + (len(drawn) % 2 and len(steered) < len(others))
        steered += drawn[:half]
        others += drawn[half:]
    offers = {name: [others[i] for i in draw.permutation(len(others))] for name in steered}
    dealt = [(name, offers[name][turn]) for turn in range(len(others)) for name in steered]
    return dealt[:n]


def couples(activities: int, n: int | None, seed: int) -> list[tuple[int, int]]:
    """Pairs of numbers below `activities`, each once in either order: all, or `n` in which every activity occurs.

    Raises UserError where n is too small for that.
    """
    if n is not None and n < activities:
        raise UserError(f"choices: {n} pairs are too few to rank {activities} activities; use {activities} or more")
    circle = generator(seed, "choices").permutation(activities).tolist()
    # Around a circle, every step of one width meets each activity; only the widest can meet a pair twice.
    met = {
        frozenset((circle[place], circle[(place + step) % activities])): None
        for step in range(1, activities // 2 + 1)
        for place in range(activities)
    }
    return [tuple(sorted(pair)) for pair in met][:n]
