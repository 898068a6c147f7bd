"""The lightest exit head: one product per token, no queries.

A linear map of the normalised token to the classes; their softmax is p. It costs T * D * C where an
attention-to-mask head costs some ten times as much, but sees each token by itself and says nothing
of which classes the image holds: to it all are present, and p is the mask's probability.

Letters: T packed tokens, D channels of the encoder, C classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stepseg.heads.atm import AtmHead
from stepseg.heads.module import start_weights
from stepseg.heads.temperature import new_temperature
from stepseg.packed import PackedTokens

KINDS = ("atm", "atm1", "linear")
"""Of exit heads: as the decoder, as it with one layer, or a linear map."""
EPS = 1e-6
"""p stays so far from 0 and 1, so that mask logits are finite."""


class LinearHead(nn.Module):
    """A linear classifier of every token.

    Args:
        dim: channels of the encoder, D.
        num_classes: C.
        init: what training starts from, as of `AtmHead`.
        calibrated: whether the head has a temperature.

    """

    earlier_blocks: tuple[int, ...] = ()
    """As of `AtmHead`; it reads none."""
    among_all = False
    """As of `AtmHead`."""
    temperature: Tensor | None

    def __init__(
        self, *, dim: int, num_classes: int, init: str = "segvit", calibrated: bool = False
    ) -> None:
        super().__init__()
        self.dim, self.num_classes = dim, num_classes
        self.norm = nn.LayerNorm(dim)
        self.classify = nn.Linear(dim, num_classes)
        self.register_buffer("temperature", new_temperature() if calibrated else None)
        start_weights(self, init)

    def forward(self, tokens: PackedTokens) -> tuple[Tensor, None]:
        """Mask logits, float32 ``[T, C]``, whose sigmoids sum up to 1; nothing about presence."""
        return self.mask_logits(tokens.values_TD), None

    def answers(self, tokens: PackedTokens) -> list[tuple[Tensor, None]]:
        """What a training supervises."""
        return [self(tokens)]

    def mask_logits(self, x_TD: Tensor) -> Tensor:
        """The arithmetic of the head, on values ``[..., D]``."""
        x_TD = self.norm(x_TD)
        with torch.autocast(x_TD.device.type, enabled=False):
            # float32, as in an attention-to-mask head
            weight, bias = self.classify.weight.float(), self.classify.bias.float()
            return F.linear(x_TD.float(), weight, bias).softmax(-1).logit(EPS)


ExitHead = AtmHead | LinearHead
