"""Random generators that depend on what is drawn for, not on when."""

import hashlib

import numpy as np


def generator(seed: int, *item: object) -> np.random.Generator:
    """A generator for one item of work, the same whatever order, batch or job the item is done in."""
    text = "\0".join(map(str, (seed, *item)))
    return np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "big"))
