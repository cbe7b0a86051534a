"""What the page of coloured passages shows, in a sentence or two."""

from typing import Any

from affectome.figures.wording import interval, number, p_equation


def said(found: dict[str, Any], layer: int) -> str:
    """What was coloured, and how often the emotion of a story came out highest in it."""
    n = found["n"]
    first = (
        f"{n['passages']} passages ({n['tokens']:,} tokens) are coloured token by token by their projections on "
        f"{len(found['emotions'])} emotion vectors at layer {layer}."
    )
    own = found["own"]
    if own is None:
        return f"{first} They are the passages from elsewhere with the highest projections, chosen by what they show."
    return (
        f"{first} The emotion that a story was written for has the highest mean in {own['hits']} of {own['n']} (share "
        f"{number(own['hits'] / own['n'])}, 95 % interval {interval(own['ci'])}, chance {number(own['chance'])}, "
        f"{p_equation(own['p'])}); the vectors were made from these stories, so this is an illustration and no test."
    )
