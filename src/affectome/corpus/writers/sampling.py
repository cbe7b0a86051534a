"""Drawing a token so that it depends on the text and its seed, not on the batch in which the text is written.

A token is drawn by the Gumbel-max trick: argmax of logits / temperature + Gumbel noise is a sample of their softmax
(Maddison et al., 2014, "A* Sampling"). The noise is a pure function of seed, step and token, so a batch brings nothing
of its own but rounding; where rounding could decide, `choose` says so.
"""

from dataclasses import dataclass
from typing import Any

import torch

# Candidates of a model that does not say how many it is to be sampled with.
_TOP_K = 50

# Tokens looked at beyond the candidates, since rounding may bring them in.
_BEYOND = 8

# The constants of splitmix64 (Steele, Lea & Flood, 2014, "Fast splittable pseudorandom number generators").
_GOLDEN = 0x9E3779B97F4A7C15
_ROUNDS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))


@dataclass(frozen=True)
class Manner:
    """How a model is sampled: from its `top_k` likeliest tokens, of those the likeliest that make up `top_p`.

    Temperature 0 takes the likeliest token.
    """

    temperature: float
    top_k: int
    top_p: float = 1.0


def manner_of(model: Any, temperature: float) -> Manner:
    """The model's own top-k and top-p; penalties for repetition, which a few models ask for too, are left out."""
    settings = model.generation_config
    top_k = settings.top_k if settings.top_k and settings.top_k > 0 else _TOP_K
    top_p = 1.0 if settings.top_p is None else float(settings.top_p)
    return Manner(temperature, top_k, top_p)


def gumbel(seeds: torch.Tensor, steps: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Standard Gumbel noise (rows, k), float64, of `tokens` (rows, k) at `steps` (rows,) under `seeds` (rows,)."""
    stream = _mixed(_mixed(seeds + _signed(_GOLDEN)) + steps * _signed(_GOLDEN))
    bits = _mixed(stream[:, None] + (tokens + 1) * _signed(_GOLDEN))
    # The upper 53 bits, as many as a float64 holds, at the middle of their interval: neither 0 nor 1.
    uniform = (_shifted(bits, 11).double() + 0.5) * 2.0**-53
    return -torch.log(-torch.log(uniform))


def _mixed(state: torch.Tensor) -> torch.Tensor:
    """The output function of splitmix64, in int64, whose products wrap as those of unsigned numbers do."""
    for shift, factor in _ROUNDS:
        state = (state ^ _shifted(state, shift)) * _signed(factor)
    return state ^ _shifted(state, 31)


def _shifted(state: torch.Tensor, by: int) -> torch.Tensor:
    """A logical shift to the right; that of int64 would draw the sign after it."""
    return (state >> by) & ((1 << (64 - by)) - 1)


def _signed(number: int) -> int:
    return number - 2**64 if number >= 2**63 else number


def choose(
    logits: torch.Tensor, seeds: torch.Tensor, steps: torch.Tensor, manner: Manner, tolerance: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The next token (rows,) after each row's logits (rows, vocabulary), and whether rounding could change it (rows,).

    `seeds` and `steps` are int64 (rows,). Logits that are off by less than half of `tolerance` choose the same token
    unless the row is marked: another candidate comes as near to winning, or the boundary of top-k or top-p, where the
    winner could be left out, or one let in that wins.
    """
    values, tokens = logits.float().topk(min(manner.top_k + _BEYOND, logits.shape[-1]), dim=-1)
    values = values.double()
    rank = torch.arange(values.shape[1], device=values.device)
    allowed = (rank < (manner.top_k if manner.temperature else 1)).expand_as(values)
    near = torch.zeros_like(allowed)
    if manner.temperature and manner.top_p < 1:
        shares = torch.softmax((values / manner.temperature).masked_fill(~allowed, -torch.inf), dim=-1)
        before = shares.cumsum(dim=-1) - shares
        near = allowed & (rank > 0) & ((before - manner.top_p).abs() < tolerance / manner.temperature)
        allowed = allowed & ((rank == 0) | (before < manner.top_p))
    # Where the boundary may move, what is as likely as those that it may pass is no surer than they are.
    last_in = values.masked_fill(~(allowed | near), torch.inf).amin(dim=-1, keepdim=True)
    first_out = values.masked_fill(allowed & ~near, -torch.inf).amax(dim=-1, keepdim=True)
    near |= torch.where(allowed, values - first_out, last_in - values) < tolerance
    scores = values + manner.temperature * gumbel(seeds, steps, tokens)
    best, winner = scores.masked_fill(~allowed, -torch.inf).max(dim=-1, keepdim=True)
    others = scores.masked_fill(~(allowed | near), -torch.inf).scatter(1, winner, -torch.inf)
    unsure = near.gather(1, winner) | (best - others.amax(dim=-1, keepdim=True) < tolerance)
    return tokens.gather(1, winner)[:, 0], unsure[:, 0]
