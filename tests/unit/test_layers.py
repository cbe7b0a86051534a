"""Every layer specification names the blocks that the table in `affectome.layers` says; anything else is refused.

| written | blocks, of 30 |
|---|---|
| `all` | 0 … 29 |
| `auto` | 20 |
| `early`, `mid`, `late` | 0 … 9, 10 … 19, 20 … 29 |
| `8:30:3`, `:3`, `27:`, `::10` | as Python slices them |
| `20` | 20 |
| `0.5`, `0.0`, `1.0` | 15, 0, 29 |
| a list | the union, ascending |
"""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from affectome.layers import auto_layer, resolve_layer, resolve_layers

BLOCKS = st.integers(min_value=3, max_value=200)


@pytest.mark.parametrize(
    ("spec", "layers"),
    [
        ("all", range(30)),
        ("auto", [20]),
        (" auto ", [20]),
        ("early", range(10)),
        ("mid", range(10, 20)),
        ("late", range(20, 30)),
        ("8:30:3", range(8, 30, 3)),
        (":3", range(3)),
        ("27:", [27, 28, 29]),
        ("::10", [0, 10, 20]),
        (":", range(30)),
        (20, [20]),
        (0, [0]),
        (0.5, [15]),
        (0.0, [0]),
        (1.0, [29]),
        (2 / 3, [20]),
        ([25, "auto", 0.5, "27:", 25], [15, 20, 25, 27, 28, 29]),
        ([["early"], 29], [*range(10), 29]),
    ],
)
def test_the_table(spec: Any, layers: Any) -> None:
    assert resolve_layers(spec, 30) == tuple(layers)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (30, "numbered 0 to 29"),
        (-1, "numbered 0 to 29"),
        (1.01, "0.0 to 1.0"),
        (-0.1, "0.0 to 1.0"),
        (float("nan"), "0.0 to 1.0"),
        (True, "names no layer"),
        (None, "names no layer"),
        ({}, "names no layer"),
        ("middle", "allowed: auto, all"),
        ("", "allowed: auto, all"),
        ("20", "allowed: auto, all"),
        ("-3:", "allowed: auto, all"),
        ("0:4:0", "step"),
        ("20:31", "at most 30"),
        ("5:5", "names no block"),
        ("30:", "names no block"),
        ([], "empty"),
        ([3, "x"], "allowed: auto, all"),
    ],
)
def test_anything_else_is_refused(spec: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        resolve_layers(spec, 30)


@pytest.mark.parametrize(("fraction", "blocks", "layer"), [(0.29, 100, 29), (0.57, 100, 57), (0.999, 100, 99)])
def test_a_fraction_names_the_block_it_means_despite_rounding(fraction: float, blocks: int, layer: int) -> None:
    # As floats 0.29 × 100 is 28.999999999999996.
    assert resolve_layers(fraction, blocks) == (layer,)


def test_one_layer_where_one_is_wanted() -> None:
    assert resolve_layer("auto", 30) == 20
    assert resolve_layer([7, 7], 30) == 7
    with pytest.raises(ValueError, match="names 10 layers"):
        resolve_layer("mid", 30)


@given(BLOCKS)
def test_thirds_make_up_the_whole_and_auto_is_two_thirds(blocks: int) -> None:
    thirds = [resolve_layers(name, blocks) for name in ("early", "mid", "late")]
    assert sum(thirds, ()) == resolve_layers("all", blocks)
    assert max(map(len, thirds)) - min(map(len, thirds)) <= 1
    assert resolve_layers(2 / 3, blocks) == (auto_layer(blocks),)


@given(BLOCKS, st.floats(0, 1), st.floats(0, 1))
def test_a_greater_fraction_is_never_an_earlier_block(blocks: int, a: float, b: float) -> None:
    low, high = (resolve_layer(fraction, blocks) for fraction in sorted((a, b)))
    assert 0 <= low <= high < blocks


@given(BLOCKS, st.lists(st.integers(0, 2), min_size=1))
def test_lists_are_ascending_and_without_repetition(blocks: int, layers: list[int]) -> None:
    assert resolve_layers(list(layers), blocks) == tuple(sorted(set(layers)))
