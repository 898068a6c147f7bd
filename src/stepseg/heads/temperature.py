"""Temperatures of exit heads: what makes the confidence that an exit compares a probability.

A token of confidence .9 should have its class right in 90 % of its pixels; trained heads are surer
than that, or less sure. One number per head mends most of it (Guo et al., arXiv 1706.04599). It
counts where tokens leave and nowhere else: maps and losses do without. The order of confidences
stays, so that what is calibrated is the threshold.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

HOTTEST = 20.0
"""Temperatures lie between this and its inverse."""
HALVINGS = 60
"""Of the interval of inverse temperatures."""


def new_temperature() -> Tensor:
    """``[1]``; of a head that has not been calibrated."""
    return torch.ones(1)


def tempered(p: Tensor, temperature: Tensor | None) -> Tensor:
    """Probabilities at a temperature: odds to the power of its inverse; None changes nothing."""
    return p if temperature is None else (p.logit() / temperature).sigmoid()


def fit_temperatures(
    logits: Sequence[Tensor],
    right: Sequence[Tensor],
    total: Callable[[Tensor], Tensor] = lambda sums: sums,
) -> Tensor:
    """The temperature of every head at which its confidences are most likely.

    Maximises the likelihood over inverse temperatures, with a normal prior of mean and deviation 1:
    so it is 1 without tokens. By halving an interval, in as many steps on all ranks.

    Args:
        logits: per head those of the confidences of any number of tokens, at temperature 1, finite.
        right: the share of its pixels in which each token has the right class.
        total: sums a vector over the ranks.

    Returns:
        float64, one per head.

    """
    low_H = torch.full((len(logits),), 1 / HOTTEST, dtype=torch.float64, device=logits[0].device)
    high_H = torch.full_like(low_H, HOTTEST)
    for _ in range(HALVINGS):
        middle_H = (low_H + high_H) / 2
        slopes = [
            (x.double() * ((x.double() * inverse).sigmoid() - y.double())).sum()
            for x, y, inverse in zip(logits, right, middle_H, strict=True)
        ]
        too_high_H = total(torch.stack(slopes)) + middle_H > 1
        low_H = torch.where(too_high_H, low_H, middle_H)
        high_H = torch.where(too_high_H, middle_H, high_H)
    return 2 / (low_H + high_H)
