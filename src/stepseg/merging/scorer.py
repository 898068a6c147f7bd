"""Cropr's scorer: how useful a token is to queries that learn to read the image.

arXiv 2412.00965, Sec. 3. Learned queries look at the tokens; a token's score is the sum of its
products with all queries. So that queries learn what is useful, they are supervised in training:
cross-attention, an MLP and a linear layer tell from each query the classes in its part of the
image, a grid of `parts` x `parts`. No gradient reaches the tokens. At inference the sum over
queries is one vector, and nothing else of the scorer runs.

Letters: B images, T packed tokens, D channels, Q queries, C classes, H x W pixels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stepseg.ops.attention import varlen_attention
from stepseg.packed import PackedTokens, Segments

PARTS = 8
"""Rows and columns of the parts of an image; queries are their square."""


class TokenScorer(nn.Module):
    """Scores tokens before one block."""

    def __init__(self, *, dim: int, num_classes: int, parts: int = PARTS) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.query_QD = nn.Parameter(torch.empty(parts**2, dim))
        self.mlp_norm = nn.LayerNorm(dim, eps=1e-6)
        self.fc1 = nn.Linear(dim, dim)
        self.fc2 = nn.Linear(dim, dim)
        self.classify = nn.Linear(dim, num_classes)
        nn.init.normal_(self.query_QD, std=dim**-0.5)

    @torch.no_grad()
    def forward(self, x_TD: Tensor) -> Tensor:
        """Scores ``[T]``; the constant factor of an attention's logits changes no order."""
        return (self.norm(x_TD) @ self.query_QD.mean(0)[:, None])[:, 0]

    def vote(self, tokens: PackedTokens) -> Tensor:
        """Class logits of every part of each image, ``[B, Q, C]``; tokens get no gradient."""
        images, queries = tokens.segments.num_images, len(self.query_QD)
        x_TND = self.norm(tokens.values_TD.detach())[:, None]
        query_RD = self.query_QD.repeat(images, 1)
        asking = Segments.from_lengths([queries] * images, x_TND.device)
        seen_RD = varlen_attention(query_RD[:, None], x_TND, x_TND, asking, tokens.segments)[:, 0]
        seen_RD = seen_RD + self.fc2(F.gelu(self.fc1(self.mlp_norm(seen_RD))))
        return self.classify(seen_RD).unflatten(0, (images, queries))


def scorer_loss(votes_BQC: Tensor, labels_BHW: Tensor, ignore_index: int = 255) -> Tensor:
    """Cross-entropy with the shares of the classes in each part of the image; ignored parts drop.

    Every image weighs as many of its parts as have labels.
    """
    queries, classes = votes_BQC.shape[1:]
    parts = round(queries**0.5)
    valid = (labels_BHW != ignore_index)[:, None]
    kinds = torch.arange(classes, device=labels_BHW.device)[:, None, None]
    masks = ((labels_BHW[:, None] == kinds) & valid).float()
    shares_BCQ = F.adaptive_avg_pool2d(masks, parts).flatten(2)
    target_BQC = shares_BCQ.transpose(1, 2)
    total_BQ = target_BQC.sum(2)
    target_BQC = target_BQC / total_BQ.clamp(min=1e-6)[..., None]
    cost_BQ = -(target_BQC * votes_BQC.float().log_softmax(2)).sum(2)
    annotated_BQ = (total_BQ > 0).float()
    return (cost_BQ * annotated_BQ).sum() / annotated_BQ.sum().clamp(min=1)
